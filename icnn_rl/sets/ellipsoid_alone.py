"""The minimum over an ellipsoid that nothing else cuts: one eigendecomposition instead of quadratic programmes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.sets.ellipsoid import times
from icnn_rl.sets.minimum import Minimum
from icnn_rl.sets.trust_region import trust_region
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["is_alone", "on_ellipsoid"]

_DEFINITE = 1e10  # condition number of M, its variables scaled, up to which it is factored
_STATIONARY = 1e-9  # relative residual of the minimiser over an ellipsoid alone


def is_alone(C: ConvexSet) -> bool:
    """Whether the ellipsoid says it all: no row, and no bound that it does not keep."""
    ellipsoid = C.ellipsoid
    if C.lifted or C.A is not None or (C.h is not None and C.h.shape[-1]) or ellipsoid is None:
        return False
    if not all(bool(torch.isfinite(t).all()) for t in ellipsoid) or not bool((ellipsoid.size > 0).all()):
        return False
    if not bool(ellipsoid.spectrum().definite(_DEFINITE).all()):
        return False
    if C.lb is None and C.ub is None:
        return True
    reach = ellipsoid.reach()
    low, high = ellipsoid.center - reach, ellipsoid.center + reach
    return bool((low >= (-torch.inf if C.lb is None else C.lb)).all()) and bool(
        (high <= (torch.inf if C.ub is None else C.ub)).all()
    )


def on_ellipsoid(C: ConvexSet, Q: Tensor, p: Tensor) -> Minimum:
    """The minimum where the ellipsoid says it all, without derivatives."""
    assert C.ellipsoid is not None
    M, center, size = C.ellipsoid
    finite = torch.isfinite(p).all(-1) & torch.isfinite(Q).all(-1).all(-1)
    row = finite.unsqueeze(-1)
    y, lam = trust_region(torch.where(row.unsqueeze(-1), Q, 0.0), torch.where(row, p, 0.0), M, center, size)
    y, lam = torch.where(row, y, torch.nan), torch.where(finite, lam, torch.nan)
    slope = times(Q, y) + p
    left = (slope + lam.unsqueeze(-1) * times(M, y - center)).norm(dim=-1)
    residual = left / (slope.norm(dim=-1) + p.norm(dim=-1)).clamp(min=torch.finfo(p.dtype).tiny)
    status = torch.where(residual <= _STATIONARY, int(Status.SUCCESS), int(Status.NUMERICAL))
    status = torch.where(finite, status, int(Status.NONFINITE_INPUT))
    nothing, none = torch.zeros_like(lam), torch.zeros_like(y)
    rows, no_bound = none[..., :0], torch.zeros_like(y, dtype=torch.bool)
    solution = QPSolution(
        value=y,
        fun=(y * (0.5 * times(Q, y) + p)).sum(-1),
        gap=nothing,
        status=status,
        num_steps=torch.ones_like(status),
        residual=residual,
        dual_ineq=rows,
        dual_ineq_low=rows,
        dual_eq=rows,
        dual_lb=none,
        dual_ub=none,
        slack=rows,
        slack_low=rows,
        violation_ineq=rows,
        violation_eq=rows,
        primal_residual=C.ellipsoid.violation(y).clamp(min=0.0),
        dual_residual=residual,
        active=ActiveSet(no_bound[..., :0], no_bound, no_bound),
        ray=none,
    )
    return Minimum(y, lam, solution)
