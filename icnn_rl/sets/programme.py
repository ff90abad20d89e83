"""The quadratic programme over the rows and bounds of a set."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.qp.api import solve_qp
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.solution import QPSolution
from icnn_rl.sets.rows import join, pad_quadratic
from icnn_rl.solution import SolveError, Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["own_part", "solve", "without_zeros"]


def solve(
    C: ConvexSet,
    Q: Tensor | Diagonal | float,
    p: Tensor,
    tangent: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> QPSolution:
    """The QP over rows and bounds; ``tangent`` (..., n) and (...) is one more row over y, the last."""
    n, k = p.shape[-1], C.lifted
    helped, hopeless = without_zeros(C)
    if hopeless is not None:  # solved without these rows, and said to have no solution
        throw = options.pop("throw", True)
        solution = solve(helped, Q, p, tangent, throw=False, **options)
        status = torch.where(hopeless, int(Status.PRIMAL_INFEASIBLE), solution.status)
        value = torch.where(hopeless.unsqueeze(-1), solution.value.detach(), solution.value)
        fun = torch.where(hopeless, solution.fun.detach(), solution.fun)
        solution = dataclasses.replace(solution, value=value, fun=fun, status=status)
        if throw and bool(status.any()):
            raise SolveError(solution)
        return solution
    G, h = C.G, C.h
    if tangent is not None:
        row, right = torch.nn.functional.pad(tangent[0], (0, k)).unsqueeze(-2), tangent[1].unsqueeze(-1)
        G = row if G is None else join([G, row], -2)
        h = right if h is None else join([h, right], -1)
    if k:
        Q = pad_quadratic(Q, n, k, p)
        p = torch.nn.functional.pad(p, (0, k))
    return solve_qp(Q, p, G, h, C.A, C.b, C.lb, C.ub, **options)


def without_zeros(C: ConvexSet) -> tuple[ConvexSet, Tensor | None]:
    """Without the rows of zeros that no point meets, and where there are some; None: nowhere."""
    if C.G is None or C.h is None or transformed():
        return C, None
    G, h = C.G.detach(), C.h.detach()
    if not bool((negative := h < 0).any()):
        return C, None
    hopeless = negative & (G == 0).all(-1)
    if not bool(hopeless.any()):
        return C, None
    return dataclasses.replace(C, h=torch.where(hopeless, torch.inf, C.h)), hopeless.any(-1)


def own_part(C: ConvexSet, z: Tensor) -> Tensor:
    return z[..., : z.shape[-1] - C.lifted] if C.lifted else z
