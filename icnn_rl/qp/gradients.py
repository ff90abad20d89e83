"""Gradients of a solution, of any order.

On a given active set the solution (x, nu, z) is that of a symmetric linear system,

    [ Q   A^T  C_i^T ] [x  ]   [-p ]
    [ A    0     0   ] [nu ] = [ b ]          C_i the active rows of C; z = 0 on the others.
    [ C_i  0     0   ] [z_i]   [d_i]

that is, K y = r. With dy the gradient of a loss in y, its gradients in r and K are

    dr = K^{-1} dy,    dK = -dr y^T,

the paper's equations (7) and (8), and derivatives of derivatives are solves with the same factor. Where the active set
changes (a row with z = s = 0) the solution has a kink; what is returned there belongs to the set that was found, an
element of the generalised Jacobian. Where rows of the active set depend on each other, K is singular and its
regularised inverse keeps the gradient finite.

References:
    B. Amos, J. Z. Kolter, OptNet, ICML 2017, equations (6) to (8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.qp.linear.base import System, Triple
from icnn_rl.qp.outcome import Solved
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import leaves, unflatten
from icnn_rl.qp.sparse import SparseRows, split
from icnn_rl.solution import Status

#: Corrections of a derivative by its residual.
_CORRECTIONS = 2


def differentiable(solved: Solved, problem: Problem) -> tuple[Triple, Tensor | None]:
    """The point found with a graph: as a function of Q, G, A, p, b and d of the live ``problem``.

    Returns:
        x, nu and z, and which rows carry a graph (B, 1); None: all of them.
    """
    outcome = solved.outcome
    found = outcome.x, outcome.nu, outcome.z
    if solved.success and not transformed():
        return _solution(found, solved.system, problem), None
    good = (outcome.status == Status.SUCCESS).unsqueeze(-1)
    kept = _where(good, found, (0.0, 0.0, 0.0))
    return _where(good, _solution(kept, solved.system, problem), found), good


def _where(rows: Tensor, new: Triple, old: tuple[Tensor | float, ...]) -> Triple:
    (x, nu, z), (old_x, old_nu, old_z) = new, old
    return torch.where(rows, x, old_x), torch.where(rows, nu, old_nu), torch.where(rows, z, old_z)


def needs_graph(problem: Problem) -> bool:
    """Whether somebody may want derivatives."""
    if transformed():
        return True
    if not torch.is_grad_enabled():
        return False
    matrices = (part.values if isinstance(part, SparseRows) else part for part in (problem.G, problem.A))
    parts = (problem.Q, problem.p, *matrices, problem.b, problem.d)
    return any(t is not None and t.requires_grad for t in parts)


def _solution(point: Triple, system: System, problem: Problem) -> Triple:
    """``point``, all of whose rows carry a graph."""
    right = (-problem.p, problem.b, problem.d)
    parts, patterns = zip(*(split(part) for part in (problem.coupling, problem.G, problem.A)), strict=True)
    # only torch.func has to see the tensors of the system; they depend on nothing
    tensors = leaves(system) if transformed() else []
    x, nu, z = _Solve.apply(system, patterns, *point, problem.Q, *parts, *right, *tensors)  # type: ignore[no-untyped-call]
    return x, nu, z


class _Solve(torch.autograd.Function):
    """K^{-1} r, or what is known to be it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        template: System,
        patterns: tuple[SparseRows | None, ...],
        # x, nu, z or None, q, coupling, g, a, rx, ra, rc, *tensors: torch inspects the signature at every call
        *parts: Any,
    ) -> Triple:
        x, nu, z, _, _, _, _, rx, ra, rc, *tensors = parts
        if x is not None:
            return x.clone(), nu.clone(), z.clone()
        return _system(template, tensors).refined(rx, ra, rc, _CORRECTIONS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
        ctx.template, ctx.patterns, _, _, _, q, coupling, g, a, _, _, _, *tensors = inputs
        ctx.save_for_backward(q, coupling, g, a, *output, *tensors)
        if not transformed():  # there every gradient must be a tensor
            ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, coupling, g, a, x, nu, z, *tensors = ctx.saved_tensors
        if all(grad is None for grad in grads):  # from the optimal value, which asks for no solve
            return (None,) * (12 + len(tensors))
        rx, ra, rc = (torch.zeros_like(y) if t is None else t for t, y in zip(grads, (x, nu, z), strict=True))
        if torch.is_grad_enabled() or transformed():
            dx, dnu, dz = _Solve.apply(  # type: ignore[no-untyped-call]
                ctx.template, ctx.patterns, None, None, None, q, coupling, g, a, rx, ra, rc, *tensors
            )
        else:
            dx, dnu, dz = _system(ctx.template, tensors).refined(rx, ra, rc, _CORRECTIONS)
        wanted = ctx.needs_input_grad
        coupling, g, a = (
            part if pattern is None else pattern for pattern, part in zip(ctx.patterns, (coupling, g, a), strict=True)
        )
        system: System = ctx.template
        dq = dq_off = dg = da = None
        if wanted[5]:
            dq = _diagonal_product(-dx, x, q) if q.dim() == 2 else _minus_outers(0.5 * dx, x, x, 0.5 * dx, q, system)
        if coupling is not None and wanted[6]:
            dq_off = _minus_outers(0.5 * dx, x, x, 0.5 * dx, coupling, system)
        if g is not None and wanted[7]:
            m = g.shape[-2]
            dg = _minus_outers(dz.narrow(-1, 0, m), x, z.narrow(-1, 0, m), dx, g, system)
        if a is not None and wanted[8]:
            da = _minus_outers(dnu, x, nu, dx, a, system)
        return (None, None, None, None, None, dq, dq_off, dg, da, dx, dnu, dz, *(None for _ in tensors))


def _system(template: System, tensors: Sequence[Tensor]) -> System:
    return unflatten(template, iter(tensors)) if tensors else template


def _minus_outers(u: Tensor, v: Tensor, s: Tensor, t: Tensor, like: Tensor | SparseRows, system: System) -> Tensor:
    """-(u v^T + s t^T) (B, k, n) a row, or the sum over the batch (1, k, n) where the rows share the matrix; of a
    sparse matrix only the entries (1|B, nnz)."""
    if isinstance(like, SparseRows):
        return -(like.outer(u, v) + like.outer(s, t))
    if like.shape[0] == 1:
        return -(torch.matmul(u.mT, v) + torch.matmul(s.mT, t)).unsqueeze(0)
    return system.minus_outers(u, v, s, t)


def _diagonal_product(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    """u v, element by element, or its sum over the batch."""
    return (u * v).sum(0, keepdim=True) if like.shape[0] == 1 else u * v
