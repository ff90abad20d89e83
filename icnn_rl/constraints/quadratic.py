"""Balls and ellipsoids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from icnn_rl.checks import check_range
from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_numbers, check_vector, evaluate, evaluate_vector, frozen
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.sets import ConvexSet, Ellipsoid

__all__ = ["ball", "ellipsoid"]

#: Radii whose squares are normal numbers.
_SHORTEST, _LONGEST = 1e-150, 1e150


@register_constraint("ball")
def ball(radius: float, center: Any = 0.0) -> ActionConstraint:
    """||a - center|| <= radius, a radius from 1e-150 to 1e150."""
    check_range("ball.radius", radius, _SHORTEST, _LONGEST)
    check_vector("ball.center", center)
    return _Quadratic("ball", None, float(radius) ** 2, frozen(center))


@register_constraint("ellipsoid")
def ellipsoid(M: Any, size: float = 1.0, center: Any = 0.0) -> ActionConstraint:
    """(a - center)^T M (a - center) <= size.

    Args:
        M: n x n numbers, symmetric and positive semidefinite, or a function of the observations (B, d): (B, n, n).
            Where it is singular, as J^T J of a redundant arm, the set has no end in some directions. In states where it
            has a negative eigenvalue, beyond rounding, the status is NUMERICAL, and the fallback of heads satisfies the
            constraint all the same; the wrapper raises. Where it is not finite the status is NONFINITE_INPUT.
        size: > 0.
        center: a number, n numbers, or a function that gives (B, n).
    """
    check_range("ellipsoid.size", size, 0.0, float("inf"), open_low=True)
    if not callable(M):
        matrix = check_numbers("ellipsoid.M", M)
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"ellipsoid.M: expected shape (n, n), got {tuple(matrix.shape)}.")
        if not bool(matrix.isfinite().all()) or not torch.allclose(matrix, matrix.mT, atol=0.0):
            raise ValueError("ellipsoid.M: expected a symmetric matrix of finite numbers.")
        found = Ellipsoid(matrix, matrix[0], matrix[0, 0])
        if bool(found.indefinite(spectrum := found.spectrum())):
            raise ValueError(
                f"ellipsoid.M: expected a positive semidefinite matrix, got one with a negative eigenvalue: with its "
                f"diagonal scaled to 1, {float(spectrum.values[0]):.3g}. For A^T A compute it as A.T @ A."
            )
        if not bool(matrix.any()):
            raise ValueError("ellipsoid.M: all zero, which constrains nothing. Leave the ellipsoid out.")
    if not callable(center):
        check_vector("ellipsoid.center", center)
    return _Quadratic("ellipsoid", frozen(M), float(size), frozen(center))


@dataclass(frozen=True)
class _Quadratic(ActionConstraint):
    name: str
    M: Any  # None: the identity
    size: float
    center: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.M) or callable(self.center)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = self.observed(obs)
        M = (
            torch.eye(n, dtype=obs.dtype, device=obs.device)
            if self.M is None
            else evaluate("ellipsoid.M", self.M, obs, str(n), str(n))
        )
        if M.shape[-2:] != (n, n):
            raise ValueError(f"ellipsoid.M: expected shape (..., {n}, {n}), got {tuple(M.shape)}.")
        center = evaluate_vector(f"{self.name}.center", self.center, obs, n)
        return ConvexSet(ellipsoid=Ellipsoid(M, center, obs.new_tensor(self.size)))
