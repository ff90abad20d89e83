"""The minimum of a quadratic over a set with an ellipsoid: which way it is looked for, and whether it was found."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.qp.external import External
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.sets.boundary import BoundarySearch
from icnn_rl.sets.duality import verified
from icnn_rl.sets.ellipsoid import times
from icnn_rl.sets.ellipsoid_alone import is_alone, on_ellipsoid
from icnn_rl.sets.minimum import Minimum
from icnn_rl.sets.own_axes import back, is_flat, own_axes
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["minimise_over_ellipsoid"]


def minimise_over_ellipsoid(
    C: ConvexSet,
    Q: Tensor,
    p: Tensor,
    solver: PrimalDual | External | None,
    warm_start: ActiveSet | None,
    traced: bool,
) -> Minimum:
    """The minimum over a set with an ellipsoid, in float64: in the coordinates that promise most, then in the
    others where they did not keep it."""
    ellipsoid = C.ellipsoid
    assert ellipsoid is not None
    if not traced and is_alone(C):
        found = on_ellipsoid(C, Q, p)
        if bool((found.status != Status.NUMERICAL).all()):
            return found
    ways = [
        lambda: BoundarySearch(C, ellipsoid, Q, p, solver, warm_start).run(),
        lambda: _in_own_axes(C, Q, p, solver),
    ]
    if flat := is_flat(C):
        ways.reverse()
    found = verified(C, *ways[0](), Q, p)
    # under a transform there is no looking at the status
    if flat or not transformed():
        short = (found.status == Status.NUMERICAL) | (found.status == Status.MAX_STEPS)
        if bool(short.any()):
            found = found.or_else(verified(C, *ways[1](), Q, p))
    return found


def _in_own_axes(C: ConvexSet, Q: Tensor, p: Tensor, solver: PrimalDual | External | None) -> tuple[Minimum, Tensor]:
    """The minimum, found in the ellipsoid's coordinates, and where it is the only point."""
    ellipsoid = C.ellipsoid
    assert ellipsoid is not None
    steepest = Q.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    force = p.detach() + times(Q.detach(), ellipsoid.center.detach())
    own, W, noise = own_axes(C, ellipsoid, force.norm(dim=-1) / steepest)
    assert own.ellipsoid is not None
    pull = times(W.mT, p + times(Q, ellipsoid.center))
    found, only = BoundarySearch(own, own.ellipsoid, W.mT @ Q @ W, pull, solver, None, noise).run()
    found = back(C, found, ellipsoid, W)
    y = found.value
    solution = dataclasses.replace(found.solution, fun=(y * (0.5 * times(Q, y) + p)).sum(-1))
    return Minimum(y, found.multiplier / ellipsoid.size, solution), only
