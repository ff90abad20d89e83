"""The sets that a step's actions have to be in, one for each of a batch, in NumPy.

For the few numbers of one action torch's price per operation would be most of the time. Polytopes, which most
constraints give, are looked at in NumPy alone and projected on by a compiled kernel; the others go through torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from icnn_rl.qp.kernel import dispatch
from icnn_rl.sets import ConvexSet, intersect
from icnn_rl.sets.nearest_of_ellipsoid import nearest_of_ellipsoid
from icnn_rl.solution import Status

__all__ = ["ActionSet", "Array", "action_sets"]

Array = np.ndarray[Any, np.dtype[Any]]


class ActionSet(Protocol):
    """A constraint's sets, cut with the bounds of the action space; actions are (B, n) float64."""

    def violation(self, a: Array) -> Array:
        """Of the constraint alone, as a distance: (B,)."""
        ...

    def nearest(self, a: Array) -> tuple[Array, Array]:
        """Projections and statuses."""
        ...

    def interior(self, like: Array) -> tuple[Array, Array]:
        """Points away from the borders, and by how much."""
        ...

    def least_violating(self, proposal: Tensor, /) -> Tensor:
        """See :meth:`icnn_rl.sets.ConvexSet.least_violating`."""
        ...


def action_sets(
    own: ConvexSet, batch: int, low: Array, high: Array, violation: Callable[[Tensor], Tensor]
) -> ActionSet:
    """
    Args:
        own: the constraint's sets, in float64.
        batch: B.
        low, high: (n,) bounds of the action space.
        violation: the constraint's, (B, n) -> (B,): sets with auxiliary variables have none of their own.

    Raises:
        ValueError: an ellipsoid's M has a negative eigenvalue.
    """
    if own.ellipsoid is None and not own.lifted and own.A is None:
        return _Polytopes(own, batch, low, high)
    return _Others(own, batch, low, high, violation)


class _Polytopes:
    """{ a : G a <= h, lb <= a <= ub }, and the bounds of the action space, a row each."""

    def __init__(self, own: ConvexSet, batch: int, low: Array, high: Array) -> None:
        n = len(low)
        self.G, self.h = np.empty((batch, 0, n)), np.empty((batch, 0))
        if own.G is not None and own.h is not None:
            own, _ = own.in_unit_rows()
            self.G, self.h = _rows(own.G, batch, 2), _rows(own.h, batch, 1)
        self.norm = np.sqrt(np.einsum("bij,bij->bi", self.G, self.G))
        self.lb = None if own.lb is None else _rows(own.lb, batch, 1)
        self.ub = None if own.ub is None else _rows(own.ub, batch, 1)
        self._low, self._high = low, high

    @property
    def lower(self) -> Array:
        """Bounds of either kind: (B, n)."""
        lower = np.maximum(self._low, -np.inf if self.lb is None else self.lb)
        return np.broadcast_to(lower, (len(self.h), len(self._low)))

    @property
    def upper(self) -> Array:
        """Likewise."""
        upper = np.minimum(self._high, np.inf if self.ub is None else self.ub)
        return np.broadcast_to(upper, (len(self.h), len(self._low)))

    def violation(self, a: Array) -> Array:
        worst = np.full(len(a), -np.inf)
        if self.h.shape[-1]:
            away = np.matmul(self.G, a[:, :, None])[:, :, 0] - self.h
            norm = self.norm
            if norm.all():
                away /= norm
            else:  # a row of zeros holds or does not; a norm that is NaN is no 0
                zero = np.where(np.isnan(self.h), np.nan, np.where(self.h >= 0, -np.inf, np.inf))
                away = np.where(norm == 0, zero, away / np.where(norm == 0, 1.0, norm))
            worst = away.max(-1)
        if self.lb is not None:
            worst = np.maximum(worst, (self.lb - a).max(-1))
        if self.ub is not None:
            worst = np.maximum(worst, (a - self.ub).max(-1))
        return worst

    def nearest(self, a: Array) -> tuple[Array, Array]:
        lower, upper = self.lower, self.upper
        if not self.h.shape[-1]:
            status = np.where((lower > upper).any(-1), int(Status.PRIMAL_INFEASIBLE), int(Status.SUCCESS))
            return np.minimum(np.maximum(a, lower), upper), status
        quick = dispatch.nearest(a, self.G, self.h, lower, upper)
        if quick is not None and quick[1].all():
            return quick[0], np.zeros(len(a), np.int64)
        found = self.both().project(torch.from_numpy(a), throw=False)
        return found.value.numpy(), found.status.numpy().copy()

    def interior(self, like: Array) -> tuple[Array, Array]:
        point, depth = self.both().interior(torch.from_numpy(like))
        return point.numpy(), depth.numpy()

    def least_violating(self, proposal: Tensor, /) -> Tensor:
        return self.both().least_violating(proposal)

    def both(self) -> ConvexSet:
        """As a ConvexSet."""
        some = self.h.shape[-1] > 0
        return ConvexSet(
            G=torch.tensor(self.G) if some else None,
            h=torch.tensor(self.h) if some else None,
            lb=torch.tensor(self.lower),
            ub=torch.tensor(self.upper),
        )


class _Others:
    """Sets with an ellipsoid, equations or auxiliary variables: the same by torch."""

    def __init__(
        self, own: ConvexSet, batch: int, low: Array, high: Array, violation: Callable[[Tensor], Tensor]
    ) -> None:
        box = ConvexSet(lb=torch.from_numpy(low), ub=torch.from_numpy(high))
        self._both = intersect([own, box], len(low))
        self._violation, self._batch, self._low, self._high = violation, batch, low, high
        self._ellipsoid = own.ellipsoid
        if own.ellipsoid is not None:
            indefinite = own.ellipsoid.indefinite(own.ellipsoid.spectrum())
            if bool(indefinite.any()):
                M = own.ellipsoid.M if own.ellipsoid.M.dim() == 2 else own.ellipsoid.M[indefinite.reshape(-1)][0]
                raise ValueError(
                    f"constraint: the ellipsoid's M has a negative eigenvalue, expected a positive semidefinite "
                    f"matrix: {M.tolist()}."
                )

    def violation(self, a: Array) -> Array:
        return self._violation(torch.from_numpy(a)).expand(self._batch).numpy()

    def nearest(self, a: Array) -> tuple[Array, Array]:
        quick = self._on_ellipsoid(a)
        if quick is not None:
            return quick, np.zeros(len(a), np.int64)
        found = self._both.project(torch.from_numpy(a), throw=False)
        return found.value.numpy(), found.status.numpy().copy()

    def _on_ellipsoid(self, a: Array) -> Array | None:
        """The projection on the ellipsoid, if all else holds there: then it is the projection on the set."""
        if self._ellipsoid is None:
            return None
        M, centre, size = self._ellipsoid
        point = nearest_of_ellipsoid(M.numpy(), centre.numpy(), size.numpy(), a)
        inside = ((point >= self._low) & (point <= self._high)).all()
        return point if inside and (self.violation(point) <= 1e-9).all() else None

    def interior(self, like: Array) -> tuple[Array, Array]:
        point, depth = self._both.interior(torch.from_numpy(like))
        return point.expand(like.shape).numpy(), depth.expand(self._batch).numpy()

    def least_violating(self, proposal: Tensor, /) -> Tensor:
        return self._both.least_violating(proposal)


def _rows(part: Any, batch: int, core: int) -> Array:
    """Numbers as an array with a batch dimension and ``core`` others."""
    array: Array = np.atleast_1d(torch.as_tensor(part).to(torch.float64).numpy())
    if array.ndim == core + 1 and len(array) == batch:
        return array
    return np.broadcast_to(array, (batch, *array.shape[array.ndim - core :]))
