"""The optimal value as a function of the problem.

By the envelope theorem its derivatives are those of the Lagrangian at the solution, where x, nu and z do not move:

    dF = x^T dp + 1/2 x^T dQ x + nu^T (dA x - db) + z^T (dC x - dd).

They need no linear solve. Derivatives of these do: they follow x, nu and z, whose derivatives are those of a solve.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Triple
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows, split

__all__ = ["optimal_value"]


def optimal_value(problem: Problem, point: Triple, found: Tensor, good: Tensor | None) -> Tensor:
    """(B,): 1/2 x^T Q x + p^T x.

    Args:
        problem: the live problem.
        point: x, nu and z with their graph.
        found: (B, n), x without.
        good: (B, 1), the rows that have a graph: the others pass none on, nor the NaN that they may hold. None: all.
    """
    if good is not None:
        point = (torch.where(good, point[0], 0.0), torch.where(good, point[1], 0.0), torch.where(good, point[2], 0.0))
    with torch.no_grad():
        value = problem.objective(found)
    matrices, patterns = zip(*(split(part) for part in (problem.coupling, problem.G, problem.A)), strict=True)
    parts = problem.Q, problem.p, *matrices, problem.b, problem.d, *point
    live: Tensor = _Value.apply(patterns, value, *parts)  # type: ignore[no-untyped-call]
    return live if good is None else torch.where(good.squeeze(-1), live, value)


class _Value(torch.autograd.Function):
    """The value that is given, with the derivatives above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        patterns: tuple[SparseRows | None, ...],
        value: Tensor,
        *parts: Any,  # q, p, coupling, g, a, b, d, x, nu, z
    ) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.patterns, _, q, _, _, g, a, _, _, *point = inputs
        ctx.shared = tuple(m is not None and m.shape[0] == 1 for m in (q, g, a))
        ctx.diagonal = q.dim() == 2
        ctx.rows = 0 if g is None else g.shape[-2] if ctx.patterns[1] is None else ctx.patterns[1].shape[0]
        ctx.save_for_backward(*point)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, z = ctx.saved_tensors
        t = grad.unsqueeze(-1)
        dp, db, dd = t * x, -t * nu, -t * z
        wanted = ctx.needs_input_grad[2:]
        q_shared, g_shared, a_shared = ctx.shared
        pattern_off, pattern_g, pattern_a = ctx.patterns
        dq = dq_off = dg = da = None
        if wanted[0] and ctx.diagonal:
            dq = 0.5 * dp * x
            dq = dq.sum(0, keepdim=True) if q_shared else dq
        elif wanted[0]:
            dq = _outer(0.5 * dp, x, None, q_shared)
        if wanted[2]:
            dq_off = pattern_off.outer(0.5 * dp, x)
        if wanted[3]:
            dg = _outer(-dd.narrow(-1, 0, ctx.rows), x, pattern_g, g_shared)
        if wanted[4]:
            da = _outer(-db, x, pattern_a, a_shared)
        return None, None, dq, dp, dq_off, dg, da, db, dd, None, None, None


def _outer(u: Tensor, v: Tensor, pattern: SparseRows | None, shared: bool) -> Tensor:
    """u v^T (B, k, n) a row, or the sum over the batch (1, k, n) where the rows share the matrix; of a sparse matrix
    only the entries (1|B, nnz)."""
    if pattern is not None:
        return pattern.outer(u, v)
    return torch.matmul(u.mT, v).unsqueeze(0) if shared else u.unsqueeze(-1) * v.unsqueeze(-2)
