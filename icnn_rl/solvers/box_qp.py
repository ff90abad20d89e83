"""The quadratic model on a box, for a whole batch: a primal-dual active-set method with a budget of linear solves.

    minimise g . d + 1/2 d^T H d    over    low <= d <= high,        H positive definite.

d is the solution exactly if it is a fixed point of the projected scaled gradient step,

    d = P( d - (g + H d) / diag H ),        P(x) = clip(x, low, high).

Where P clips, a coordinate is held on that bound; the others solve a linear system; then the sets are read off again. A
free coordinate that left its interval is so put on the bound, and a bound whose multiplier has the wrong sign released.
This is a semi-smooth Newton method: for most problems two or three solves are exact, whatever the number of bounds that
change.

References:
    M. Hintermueller, K. Ito, K. Kunisch, The primal-dual active set strategy as a semismooth Newton method, SIAM J.
    Optim. 13, 2002.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from icnn_rl.solvers.shortcuts import known_equal


def box_qp(g: Tensor, h: Tensor, low: Tensor, high: Tensor, solves: int) -> tuple[Tensor, Tensor]:
    """Minimise the model with at most ``solves`` linear solves.

    Args:
        g: (..., n) gradient at d = 0.
        h: (..., n, n) Hessian.
        low: (..., n) lower bounds, <= 0.
        high: (..., n) upper bounds, >= 0.
        solves: number of linear solves; the sets of most problems settle within three.

    Returns:
        d (..., n), inside the bounds up to rounding, and -(g + H d). Of no use where H is not positive definite.
    """
    identity = _identity(g.shape[-1], g.dtype, g.device)
    scale = h.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(h.dtype).tiny)
    down = -g
    moved = down / scale  # the scaled gradient step from d = 0
    rhs: Tensor | None = None
    for _ in range(solves):
        bound = torch.clamp(moved, low, high)
        held = bound != moved
        before, rhs = rhs, torch.where(held, bound, down)
        if before is not None and known_equal(rhs, before):
            break
        # rows of H for the free coordinates, d_j = bound_j for the others
        d, _ = torch.linalg.solve_ex(torch.where(held.unsqueeze(-1), identity, h), rhs)
        residual = down - times(h, d)
        moved = torch.addcdiv(d, residual, scale)
    else:
        d = torch.clamp(d, low, high)
        residual = down - times(h, d)
    return d, residual


@functools.cache
def _identity(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept for good: a captured CUDA graph goes on reading it where it lies."""
    with torch.inference_mode(False):
        return torch.eye(n, dtype=dtype, device=device)


def times(h: Tensor, d: Tensor) -> Tensor:
    """H d: (..., n, n), (..., n) -> (..., n)."""
    return torch.matmul(h, d.unsqueeze(-1)).squeeze(-1)
