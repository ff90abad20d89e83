"""Quadratic models on a box, solved for a whole batch by a primal-dual active-set method.

    min_d  g . d + 1/2 d^T H d    subject to    low <= d <= high,        H positive definite.

Given a guess of which coordinates sit on which bound, the free ones solve a linear system; a free coordinate that
leaves its interval is put on the bound, a bound whose multiplier has the wrong sign is released, and the system is
solved again. This is a semi-smooth Newton method: for most problems two or three solves are exact, whatever the number
of bounds that change.

References:
    M. Hintermueller, K. Ito, K. Kunisch, The primal-dual active set strategy as a semismooth Newton method, SIAM J.
    Optim. 13, 2002.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_free(h: Tensor, rhs: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """Solve H_FF x_F = rhs_F with x = 0 on the coordinates marked in ``fixed``: h (..., n, n), rhs and fixed (..., n).

    Returns x, and the Cholesky code per row: not zero where H_FF is not positive definite.
    """
    masked = h.masked_fill(fixed.unsqueeze(-1) | fixed.unsqueeze(-2), 0.0)
    masked.diagonal(dim1=-2, dim2=-1).add_(fixed)
    factor, info = torch.linalg.cholesky_ex(masked)
    return torch.cholesky_solve(rhs.masked_fill(fixed, 0.0).unsqueeze(-1), factor).squeeze(-1), info


def box_qp(g: Tensor, h: Tensor, low: Tensor, high: Tensor, solves: int) -> tuple[Tensor, Tensor]:
    """Minimise the model with at most ``solves`` linear solves.

    Args:
        g: (..., n) gradient at d = 0.
        h: (..., n, n) Hessian.
        low: (..., n) lower bounds, <= 0.
        high: (..., n) upper bounds, >= 0.
        solves: number of linear solves; the sets of most problems settle within three.

    Returns:
        d (..., n), clipped into the bounds, and the Cholesky code per row: where it is not zero, H was not positive
        definite and d is of no use.
    """
    at_low, at_high = (low >= 0) & (g > 0), (high <= 0) & (g < 0)
    step, info = solve_free(h, -g, at_low | at_high)  # fixed coordinates sit on their bounds: d = 0 there
    for _ in range(1, solves):
        multiplier = g + torch.matmul(h, step.unsqueeze(-1)).squeeze(-1)
        was_low, was_high = at_low, at_high
        at_low = (step < low) | (was_low & (multiplier > 0))
        at_high = (step > high) | (was_high & (multiplier < 0))
        if bool(((at_low == was_low) & (at_high == was_high)).all()):
            break
        fixed = at_low | at_high
        bound = torch.clamp(step, low, high).masked_fill(~fixed, 0.0)
        pull = g + torch.matmul(h, bound.unsqueeze(-1)).squeeze(-1)
        x, code = solve_free(h, -pull, fixed)
        step, info = x + bound, info + code
    return torch.clamp(step, low, high), info
