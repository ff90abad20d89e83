"""A quadratic over an ellipsoid alone: one eigendecomposition, then Newton's method in one number.

    min 1/2 y^T Q y + p^T y    subject to    (y - c)^T M (y - c) <= r,        Q positive semidefinite.

In coordinates w with y = c + L^-T V w, where M = L L^T and L^-1 Q L^-T = V diag(d) V^T, both forms are diagonal:

    w_i(lam) = -q_i / (d_i + lam),    q = V^T L^-1 (Q c + p),    ||w||^2 <= r.

lam = 0 if w(0) is inside, else the root of 1 / ||w(lam)|| = 1 / sqrt(r), which is nearly a line: Newton's method from
the left meets it in a few steps and never oversteps.

References:
    J. J. More, D. C. Sorensen, Computing a trust region step, SIAM J. Sci. Stat. Comput. 4, 1983.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["trust_region"]

_STEPS = 60  # Newton steps at most; five are the rule
_ROUNDING = 4.0  # of lam, in units of eps: steps below change nothing


def trust_region(Q: Tensor, p: Tensor, M: Tensor, center: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The minimisers y (..., n) and the multipliers lam >= 0 (...) with (Q + lam M) y = lam M c - p.

    Args:
        Q: (..., n, n) symmetric, positive semidefinite.
        p, center: (..., n).
        M: (..., n, n) symmetric, positive definite.
        size: r > 0, (...). All float64 and finite.
    """
    L = torch.linalg.cholesky(M)
    half = torch.linalg.solve_triangular(L, Q, upper=False)
    d, V = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mT, upper=False))
    to_w = torch.linalg.solve_triangular(L.mT, V, upper=True)  # L^-T V
    d = d.clamp(min=0.0)
    q = torch.matmul(to_w.mT, (torch.matmul(Q, center.unsqueeze(-1)) + p.unsqueeze(-1))).squeeze(-1)
    lam = _multiplier(d, q, size.sqrt())
    w = -q / (d + lam.unsqueeze(-1))
    w = w.masked_fill(q == 0, 0.0)  # 0 / 0
    return center + torch.matmul(to_w, w.unsqueeze(-1)).squeeze(-1), lam


def _multiplier(d: Tensor, q: Tensor, radius: Tensor) -> Tensor:
    """The root lam: (..., n), (..., n), (...) -> (...); 0 where w(0) is inside."""
    tiny, eps = torch.finfo(q.dtype).tiny, torch.finfo(q.dtype).eps
    inside = (q / d).masked_fill(q == 0, 0.0).norm(dim=-1) <= radius
    # ||w|| >= ||q|| / (max d + lam): the root is not to the left of this
    force = q.norm(dim=-1) / radius
    lam = (force - d.amax(-1)).clamp(min=0.0)
    lam = torch.where(lam > 0, lam, eps * eps * force)
    for _ in range(_STEPS):
        shifted = d + lam.unsqueeze(-1)
        square = (q / shifted).square().clamp(min=tiny)
        norm = square.sum(-1).sqrt()
        step = norm.square() / (square / shifted).sum(-1) * (norm - radius) / radius
        lam = torch.where(inside, 0.0, lam + step.clamp(min=0.0))
        if bool((inside | (step <= _ROUNDING * eps * lam)).all()):
            break
    return torch.where(inside, 0.0, lam)
