"""The point of rows and bounds that is deepest in the ellipsoid of a set."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.sets.duality import least_form
from icnn_rl.sets.ellipsoid import Ellipsoid, times, trace
from icnn_rl.sets.minimum import Minimum
from icnn_rl.sets.own_axes import Noise, back, is_flat, own_axes
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["nearest_to_center"]

_LITTLE = 1e-10  # of the trace of M


def nearest_to_center(
    C: ConvexSet, ellipsoid: Ellipsoid, like: Tensor, noise: Noise = (None, None)
) -> tuple[Minimum, Tensor]:
    """The point of rows and bounds with the smallest (y - c)^T M (y - c), and a number (...) that this is proven
    not to be below, in units of the size. ``noise``: sizes of the terms that right-hand sides were made of."""
    flat = dataclasses.replace(C, ellipsoid=ellipsoid)
    if is_flat(flat):
        own, W, noise = own_axes(flat, ellipsoid)
        assert own.ellipsoid is not None
        origin = _deepest(dataclasses.replace(own, ellipsoid=None), own.ellipsoid.M, torch.zeros_like(like))
        return back(C, origin, ellipsoid, W), least_form(own, own.ellipsoid, origin, noise)
    p = -times(ellipsoid.M, ellipsoid.center).expand(like.shape)
    nearest = _deepest(dataclasses.replace(C, ellipsoid=None), ellipsoid.M, p)
    return nearest, least_form(C, ellipsoid, nearest, noise)


def _deepest(C: ConvexSet, M: Tensor, p: Tensor) -> Minimum:
    """argmin 1/2 y^T M y + p^T y; where M is singular and that is not found, with a little of the identity."""
    found = C.minimise(M, p, throw=False)
    if transformed() or not bool(((found.status == Status.NUMERICAL) | (found.status == Status.MAX_STEPS)).any()):
        return found
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    return found.or_else(C.minimise(M + _LITTLE * trace(M)[..., None, None] * eye, p, throw=False))
