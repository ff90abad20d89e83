"""Gradients of a solution, of any order.

On a given active set the solution (x, nu, z) is that of a symmetric linear system,

    [ Q   A^T  C_i^T ] [x  ]   [-p ]
    [ A    0     0   ] [nu ] = [ b ]          C_i the active rows of C; z = 0 on the others.
    [ C_i  0     0   ] [z_i]   [d_i]

so its derivatives are those of a linear solve K y = r: dr = K^{-1} dy and dK = -dr y^T, the paper's equations (7) and
(8), and derivatives of derivatives are solves with the same factor. Where the active set changes (a row with z = s = 0)
the solution has a kink; what is returned there belongs to the set that was found, an element of the generalised
Jacobian. Where rows of the active set depend on each other, K is singular and its regularised inverse keeps the
gradient finite.

References:
    B. Amos, J. Z. Kolter, OptNet, ICML 2017, equations (6) to (8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from icnn_rl.qp.functorch import transformed
from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.kkt import Primal, System, Triple
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows, split
from icnn_rl.qp.tensor_tree import leaves, rebuild

#: Corrections of a derivative by its residual.
_CORRECTIONS = 2


def differentiable(point: Triple, system: System, problem: Problem) -> Triple:
    """``point`` with a graph: as a function of Q, G, A, p, b and d of the live ``problem``."""
    right = (-problem.p, problem.b, problem.d)
    (g, pattern_g), (a, pattern_a) = split(problem.G), split(problem.A)
    # only torch.func has to see the tensors of the system; they depend on nothing
    tensors = leaves(system) if transformed() else []
    x, nu, z = _Solve.apply(system, (pattern_g, pattern_a), *point, problem.Q, g, a, *right, *tensors)  # type: ignore[no-untyped-call]
    return x, nu, z


class _Solve(torch.autograd.Function):
    """K^{-1} r, or what is known to be it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        template: System,
        patterns: tuple[SparseRows | None, ...],
        *parts: Any,  # x, nu, z or None, q, g, a, rx, ra, rc, *tensors: torch inspects the signature at every call
    ) -> Triple:
        x, nu, z, _, _, _, rx, ra, rc, *tensors = parts
        if x is not None:
            return x.clone(), nu.clone(), z.clone()
        return _corrected(_system(template, tensors), rx, ra, rc)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
        ctx.template, ctx.patterns, _, _, _, q, g, a, _, _, _, *tensors = inputs
        ctx.save_for_backward(q, g, a, *output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, g, a, x, nu, z, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed():
            dx, dnu, dz = _Solve.apply(  # type: ignore[no-untyped-call]
                ctx.template, ctx.patterns, None, None, None, q, g, a, *grads, *tensors
            )
        else:
            dx, dnu, dz = _corrected(_system(ctx.template, tensors), *grads)
        wanted = ctx.needs_input_grad
        g, a = (part if pattern is None else pattern for pattern, part in zip(ctx.patterns, (g, a), strict=True))
        dq = None
        if wanted[5]:
            dq = _diagonal_product(-dx, x, q) if q.dim() == 2 else _symmetric_product(dx, x, q)
        dg = None
        if g is not None and wanted[6]:
            m = g.shape[-2]
            parts = dz[:, :m], x, z[:, :m], dx
            fast = _in_kernel(ctx.template) and g.shape[0] > 1 and not torch.is_grad_enabled()
            dg = dispatch.minus_outers(*parts) if fast else _minus_outers(*parts, g)
        da = _minus_outers(dnu, x, nu, dx, a) if a is not None and wanted[7] else None
        return (None, None, None, None, None, dq, dg, da, dx, dnu, dz, *(None for _ in tensors))


def _system(template: System, tensors: Sequence[Tensor]) -> System:
    return rebuild(template, iter(tensors)) if tensors else template


def _in_kernel(system: System) -> TypeGuard[Primal]:
    """Whether the compiled kernel can do it."""
    return isinstance(system, Primal) and system.compiled and not transformed()


def _corrected(system: System, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
    """The solve with its regularisation corrected away."""
    if _in_kernel(system):
        return dispatch.inverse(system, rx, ra, rc, _CORRECTIONS)
    problem = system.problem
    x, nu, z = system.solve(rx, ra, rc)
    for _ in range(_CORRECTIONS):
        dx, dnu, dz = system.solve(*problem.products(x, nu, z).left(-rx, ra, rc))
        x, nu, z = x + dx, nu + dnu, z + dz
    return x, nu, z


def _outer(u: Tensor, v: Tensor, like: Tensor | SparseRows) -> Tensor:
    """u v^T (B, k, n) a row, or their sum over the batch (1, k, n) where the rows share the matrix; of a sparse matrix
    only the entries (1, nnz)."""
    if isinstance(like, SparseRows):
        return like.outer(u, v)
    if like.shape[0] == 1:
        return torch.matmul(u.mT, v).unsqueeze(0)
    return u.unsqueeze(-1) * v.unsqueeze(-2)


def _minus_outers(u: Tensor, v: Tensor, s: Tensor, t: Tensor, like: Tensor | SparseRows) -> Tensor:
    """-(u v^T + s t^T), in two passes over the result."""
    if isinstance(like, SparseRows) or like.shape[0] == 1:
        return -(_outer(u, v, like) + _outer(s, t, like))
    return torch.addcmul(_outer(-u, v, like), s.unsqueeze(-1), t.unsqueeze(-2), value=-1.0)


def _symmetric_product(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    """-(u v^T + v u^T) / 2."""
    return _minus_outers(0.5 * u, v, v, 0.5 * u, like)


def _diagonal_product(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return (u * v).sum(0, keepdim=True) if like.shape[0] == 1 else u * v
