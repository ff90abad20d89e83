"""What the multipliers of a minimum over rows, bounds and ellipsoid prove of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icnn_rl.sets.ellipsoid import Ellipsoid, times
from icnn_rl.sets.minimum import Minimum
from icnn_rl.sets.own_axes import Noise
from icnn_rl.sets.rows import vector_of
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["least_form", "verified"]

_HOLDS = 1e-9  # by how much, relative to their sizes, rows and ellipsoid may be violated by a point that is a SUCCESS
_GAP = 1e-6  # relative, in the objective, that the certificate of a minimum over an ellipsoid may leave
_ROUNDING = 64.0  # units of eps, of the terms of a sum, that it may be off
_ANYWHERE = 1e6  # sizes within which a set without bounds is looked for


def verified(C: ConvexSet, found: Minimum, only: Tensor, Q: Tensor, p: Tensor) -> Minimum:
    """NUMERICAL in place of SUCCESS where rows, bounds or ellipsoid do not hold, or where a better point could be,
    but in the rows in which the set has no second one, ``only``."""
    with torch.no_grad():
        good = _holds(C, found) & (only | (_gap(C, found, Q, p) <= _GAP))
        wrong = (found.status == Status.SUCCESS) & ~good
        status = torch.where(wrong, int(Status.NUMERICAL), found.status)
    return found._replace(solution=dataclasses.replace(found.solution, status=status))


def _holds(C: ConvexSet, found: Minimum) -> Tensor:
    """Whether rows, bounds and ellipsoid do: (...)."""
    assert C.ellipsoid is not None
    z = found.solution.value
    size = z.abs().amax(-1)
    holds = C.ellipsoid.holds(found.value)
    for matrix, right, both in ((C.G, C.h, False), (C.A, C.b, True)):
        if matrix is not None and right is not None and right.shape[-1]:
            out = times(matrix, z) - right
            scale = torch.where(torch.isfinite(right), right.abs(), 0.0) + matrix.norm(dim=-1) * size[..., None]
            holds = holds & ((out.abs() if both else out) <= _HOLDS * scale).all(-1)
    for bound, sign in ((C.lb, -1.0), (C.ub, 1.0)):
        if bound is not None:
            holds = holds & (sign * (z - bound) <= _HOLDS * size.unsqueeze(-1)).all(-1)
    return holds


def _gap(C: ConvexSet, found: Minimum, Q: Tensor, p: Tensor) -> Tensor:
    """By how much the objective could be lower at another point of the set, by weak duality with the multipliers
    found, relative to its size and beyond what rounding makes of it: (...)."""
    ellipsoid, s, z, y = C.ellipsoid, found.solution, found.solution.value, found.value
    assert ellipsoid is not None
    lam, away = found.multiplier.clamp(min=0.0), y - ellipsoid.center
    lengths, pull = y.abs() + ellipsoid.center.abs(), lam.unsqueeze(-1) * times(ellipsoid.M.abs(), away.abs())
    slope = times(Q, y) + p + lam.unsqueeze(-1) * times(ellipsoid.M, away)
    terms = times(Q.abs(), y.abs()) + p.abs() + lam.unsqueeze(-1) * times(ellipsoid.M.abs(), lengths)
    slope, terms = (torch.nn.functional.pad(t, (0, C.lifted)) for t in (slope, terms))
    rounding = _ROUNDING * torch.finfo(y.dtype).eps
    gap = 0.5 * (lam * (ellipsoid.size - ellipsoid.form(y)).abs() - rounding * (pull * lengths).sum(-1)).clamp(min=0.0)
    for matrix, right, dual in ((C.G, C.h, s.dual_ineq.clamp(min=0.0)), (C.A, C.b, s.dual_eq)):
        if matrix is not None and right is not None:
            slope, terms = slope + times(matrix.mT, dual), terms + times(matrix.abs().mT, dual.abs())
            gap = gap + torch.where(dual != 0, dual * (right - times(matrix, z)), 0.0).abs().sum(-1)
    low, high = _room(C, z, ellipsoid, C.lb, -1.0), _room(C, z, ellipsoid, C.ub, 1.0)
    left = (slope.abs() - rounding * terms).clamp(min=0.0)
    gap = gap + torch.where(slope > 0, left * low, left * high).sum(-1)
    scale: Tensor = (lengths * (0.5 * times(Q.abs(), lengths) + p.abs())).sum(-1)
    return gap / scale.clamp(min=torch.finfo(scale.dtype).tiny)


@torch.no_grad()
def least_form(C: ConvexSet, ellipsoid: Ellipsoid, nearest: Minimum, noise: Noise) -> Tensor:
    """A lower bound of (y - c)^T M (y - c) / size over rows and bounds, by weak duality: (...).

    The form is convex, so that for any point y' of them and multipliers mu, nu, lam, kap of G y <= h, A y = b,
    lb <= y and y <= ub, with the residual r = M (y - c) + G^T mu + A^T nu - lam + kap,

        1/2 form(y') >= 1/2 form(y) + mu.(G y - h) + nu.(A y - b) + lam.(lb - y) + kap.(y - ub) + r.(y' - y),

    and |y' - y| is at most what bounds leave, or the ellipsoid, outside of which nothing has to be proven.
    """
    s, z = nearest.solution, nearest.solution.value
    eps, k = torch.finfo(z.dtype).eps, C.lifted
    slope = torch.nn.functional.pad(times(ellipsoid.M, nearest.value - ellipsoid.center), (0, k))
    terms = [ellipsoid.form(nearest.value).unsqueeze(-1)]  # twice the bound, summed
    sizes = [terms[0].abs()]
    for matrix, right, dual, made in (
        (C.G, C.h, s.dual_ineq, noise[0]),
        (C.A, C.b, s.dual_eq, noise[1]),
    ):
        if matrix is not None and right is not None:
            dual = dual.clamp(min=0.0) if matrix is C.G else dual
            used = dual != 0  # of an infinite side there is no multiplier
            slope = slope + times(matrix.mT, dual)
            terms.append(torch.where(used, 2.0 * dual * (times(matrix, z) - right), 0.0))
            about = right.abs() if made is None else made
            sizes.append(torch.where(used, dual.abs() * (times(matrix.abs(), z.abs()) + about), 0.0))
    # no multiplier of a bound is better than the one that takes up what is left of the slope
    room_low = _room(C, z, ellipsoid, C.lb, -1.0)
    room_high = _room(C, z, ellipsoid, C.ub, 1.0)
    terms.append(-2.0 * torch.where(slope > 0, slope * room_low, -slope * room_high))
    sizes.append(terms[-1].abs())
    total, off = (sum(part.sum(-1) for part in parts) for parts in (terms, sizes))
    bound: Tensor = (total - _ROUNDING * eps * off) / ellipsoid.size
    return bound


def _room(C: ConvexSet, z: Tensor, ellipsoid: Ellipsoid, bound: float | Tensor | None, sign: float) -> Tensor:
    """How far points of the set may be from z (..., n + k) in every variable, upwards or downwards."""
    k = C.lifted
    reach = torch.nn.functional.pad(ellipsoid.reach(), (0, k), value=torch.inf)
    center = torch.nn.functional.pad(ellipsoid.center, (0, k))
    anywhere = _ANYWHERE * (1.0 + z.abs().amax(-1, keepdim=True))
    room = torch.minimum(sign * (center - z) + reach, anywhere)
    if bound is not None:
        room = torch.minimum(room, sign * (vector_of(bound, z.shape[-1], z) - z))
    return room.clamp(min=0.0)
