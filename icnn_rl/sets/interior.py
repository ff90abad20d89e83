"""Points of a set away from its borders, and of an empty one those that violate it least."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.api import solve_qp
from icnn_rl.sets.deepest import nearest_to_center
from icnn_rl.sets.ellipsoid import times
from icnn_rl.sets.programme import without_zeros
from icnn_rl.sets.rows import join, row_violation, vector_of
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["Interior", "interior_point", "least_violating_point"]

#: How far towards the centre of the polytope interior points of its intersection with an ellipsoid are looked for.
_SHARES = (0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 0.0)
_RELAXED = 1e-11  # of the sizes: by how much more than by the least violation rows are relaxed
_LARGEST = 1e9  # proposals further away count as this


class Interior(NamedTuple):
    """A point far from the borders of a set.

    point (B, n); depth (B,): by how much, measured as a distance, every row, bound and ellipsoid holds there, 1 at
    most. It is 0 where the set has no interior, or next to none, and < 0 where the set is empty: ``point`` is then one
    that violates the worst constraint least, or, with depth -inf, one of no meaning. Auxiliary variables keep their
    distance too, so the true depth of a lifted set may be larger.
    """

    point: Tensor
    depth: Tensor


def interior_point(C: ConvexSet, like: Tensor) -> Interior:
    """See :meth:`icnn_rl.sets.ConvexSet.interior`."""
    tame, units = C.in_unit_rows()
    if units is not None:
        return tame.interior(like)
    middle = _centre(C, like)
    if C.ellipsoid is None:
        return middle
    # the point of the polytope deepest in the ellipsoid, moved a little towards the centre of the polytope
    ellipsoid, indefinite = C.ellipsoid.sound(torch.finfo(like.dtype).eps)
    nearest, _ = nearest_to_center(C, ellipsoid, like)
    known = (middle.depth >= 0) & (nearest.status == Status.SUCCESS)  # else there is the centre alone
    deepest = torch.where(known.unsqueeze(-1), nearest.value, middle.point)
    shares = like.new_tensor(_SHARES).reshape(-1, *(1,) * like.dim())
    points = deepest + shares * (middle.point - deepest)
    share = torch.where(known, shares.squeeze(-1), 1.0)
    depths = torch.minimum(share * middle.depth, _snapped(ellipsoid.depth(points), points))
    depth, best = depths.max(0)
    point = points.gather(0, best.unsqueeze(-1).expand_as(middle.point).unsqueeze(0)).squeeze(0)
    depth = torch.minimum(depth, middle.depth)
    return Interior(point, depth if indefinite is None else torch.where(indefinite, -torch.inf, depth))


def least_violating_point(C: ConvexSet, proposal: Tensor) -> Tensor:
    """See :meth:`icnn_rl.sets.ConvexSet.least_violating`."""
    if proposal.dtype != torch.float64:
        return C.to(proposal.double()).least_violating(proposal.double()).to(proposal)
    tame, units = C.in_unit_rows()
    if units is not None:
        return tame.least_violating(proposal)
    proposal = proposal.nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)
    flat, _ = without_zeros(dataclasses.replace(C, ellipsoid=None))
    kept = _centre(flat, proposal, hard=True)
    hard = torch.isfinite(kept.depth)
    loose = kept if bool(hard.all()) else _centre(flat, proposal)
    point = torch.where(hard.unsqueeze(-1), kept.point, loose.point)
    least = -torch.where(hard, kept.depth, loose.depth)
    least = least.clamp(min=0.0) + _RELAXED * (1.0 + least.abs() + point.abs().amax(-1))
    relaxed = _relaxed(flat, least, torch.where(hard, 0.0, least))
    near = relaxed.project(proposal, throw=False)
    point = torch.where((near.status == Status.SUCCESS).unsqueeze(-1), near.value, point)
    if C.ellipsoid is None:
        return point
    ellipsoid, _ = C.ellipsoid.sound()  # of an indefinite M the positive part: within it the form holds too
    nearest, _ = nearest_to_center(flat, ellipsoid, proposal)
    held = nearest.status == Status.SUCCESS
    # from there towards the point of the polytope that is nearest to the proposal, as far as the ellipsoid goes
    start, step = nearest.value, point - nearest.value
    pull = times(ellipsoid.M, step)
    a, b = (pull * step).sum(-1), (pull * (start - ellipsoid.center)).sum(-1)
    room = (ellipsoid.size - ellipsoid.form(start)).clamp(min=0.0)
    share = ((-b + (b * b + a * room).sqrt()) / a).nan_to_num(0.0).clamp(0.0, 1.0)
    share = torch.where(room > 0, share, 0.0).unsqueeze(-1)
    return torch.where(held.unsqueeze(-1), start + share * step, point)


def _centre(C: ConvexSet, like: Tensor, hard: bool = False) -> Interior:
    """The linear programme max t: G y + ||g|| t <= h, A y = b, lb + t <= y <= ub - t, t <= 1; ``hard`` bounds hold
    without t. depth is -inf where no t will do, NaN where the set is not finite."""
    if like.dtype != torch.float64:  # in float32 thin sets are lost in the rounding of rows and prices
        point, depth = _centre(C.to(like.double()), like.double(), hard)
        return Interior(point.to(like), depth.to(like))
    n, k = like.shape[-1], C.lifted
    width, eye = n + k, torch.eye(n + k, dtype=like.dtype, device=like.device)
    rows, right = [], []
    if C.G is not None and C.h is not None:
        norm = C.G.norm(dim=-1, keepdim=True)
        scale = torch.where(norm > 0, norm, 1.0)
        rows.append(torch.cat((C.G / scale, norm / scale), -1))
        # a row of zeros says nothing about where
        right.append(torch.where(norm.squeeze(-1) > 0, C.h / scale.squeeze(-1), C.h.clamp(min=0.0)))
    most = like.new_full((width + 1,), torch.inf)
    least = -most
    most[-1] = 1.0
    for bound, sign in ((C.lb, -1.0), (C.ub, 1.0)):
        if bound is not None:
            rows.append(torch.cat((sign * eye, eye.new_full((width, 1), float(not hard))), -1))
            right.append(sign * vector_of(bound, width, like))
    G = join(rows, -2) if rows else None
    h = join(right, -1) if right else None
    A = None if C.A is None else torch.nn.functional.pad(C.A, (0, 1))
    price = like.new_zeros(*like.shape[:-1], width + 1)
    price[..., -1] = -1.0
    found = solve_qp(0.0, price, G, h, A, C.b, lb=least, ub=most, throw=False)
    # where nearly equal widths compete the programme may end short of its tolerance: what counts is the point
    depth = torch.where(found.status == Status.SUCCESS, found.value[..., -1], _depth(C, found.value[..., :-1], hard))
    depth = torch.where(found.status == Status.PRIMAL_INFEASIBLE, -torch.inf, depth)
    if not hard and (hopeless := without_zeros(C)[1]) is not None:
        depth = torch.where(hopeless, -torch.inf, depth)
    return Interior(found.value[..., :n], _snapped(depth, found.value[..., :n]))


def _depth(C: ConvexSet, z: Tensor, hard: bool) -> Tensor:
    """By how much rows, and bounds unless ``hard``, hold at z (..., n + k), 1 at most: (...)."""
    room = [torch.ones_like(z[..., 0])]
    if C.G is not None and C.h is not None and C.h.shape[-1]:
        room.append(-row_violation(C.G, C.h, z).amax(-1))
    if C.A is not None and C.b is not None and C.b.shape[-1]:
        room.append(-row_violation(C.A, C.b, z).abs().amax(-1))
    if not hard:
        room += [(z - C.lb).amin(-1)] if C.lb is not None else []
        room += [(C.ub - z).amin(-1)] if C.ub is not None else []
    return functools.reduce(torch.minimum, room)


def _relaxed(C: ConvexSet, rows: Tensor, bounds: Tensor) -> ConvexSet:
    """Rows and bounds moved outwards, by distances (...)."""
    change: dict[str, Any] = {}
    if C.G is not None and C.h is not None:
        change["h"] = C.h + C.G.norm(dim=-1) * rows.unsqueeze(-1)
    for name, sign in (("lb", -1.0), ("ub", 1.0)):
        if (bound := getattr(C, name)) is not None:
            change[name] = bound + sign * bounds.unsqueeze(-1)
    return dataclasses.replace(C, **change)


def _snapped(depth: Tensor, point: Tensor) -> Tensor:
    """A depth that is but rounding is 0."""
    rounding = 16 * torch.finfo(point.dtype).eps * (1.0 + point.abs().amax(-1))
    return torch.where(depth.abs() <= rounding, 0.0, depth)
