"""Sets that y may range over, from which a :class:`ConvexSet` for points of a given shape is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from icnn_rl.checks import check_range
from icnn_rl.sets.convex_set import ConvexSet
from icnn_rl.sets.ellipsoid import Ellipsoid
from icnn_rl.sets.fit import check_rows, fit_set

__all__ = ["Ball", "Box", "Domain", "Polytope", "Simplex", "Unconstrained"]

Bound = float | Tensor

_LARGEST = 1e150  # the squares of larger numbers are not finite


@runtime_checkable
class Domain(Protocol):
    """What ``minimize`` ranges over: whatever says which set it is."""

    def as_set(self, y: Tensor) -> ConvexSet:
        """The set for points like ``y`` (..., n), live where its tensors are.

        Raises:
            ValueError: it does not fit ``y``.
        """
        ...


def _describe(bound: Bound) -> str:
    return f"tensor of shape {tuple(bound.shape)}" if isinstance(bound, Tensor) else str(bound)


@dataclass(frozen=True)
class Box:
    """{ y : lower <= y <= upper }, elementwise. Infinite bounds and fixed coordinates (lower = upper) are allowed.

    Args:
        lower: a number, a tensor (n,), or one bound per row (B, n).
        upper: likewise.

    Raises:
        ValueError: a bound is NaN, or a lower bound exceeds its upper bound.
    """

    lower: Bound
    upper: Bound

    def __post_init__(self) -> None:
        lower, upper = torch.as_tensor(self.lower), torch.as_tensor(self.upper)
        if bool(lower.isnan().any()) or bool(upper.isnan().any()):
            raise ValueError("Box: a bound is NaN. Use -inf or inf for a missing bound.")
        if bool((lower > upper).any()):
            raise ValueError(
                f"Box: a lower bound exceeds its upper bound (lower {_describe(self.lower)}, upper "
                f"{_describe(self.upper)})."
            )

    def bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(lower, upper) with the dtype and device of ``y``, broadcastable to its shape.

        Raises:
            ValueError: a bound does not broadcast to the shape of ``y``.
        """
        sides = []
        for name, bound in (("lower", self.lower), ("upper", self.upper)):
            side = bound.to(y) if isinstance(bound, Tensor) else y.new_full((), bound)
            if side.dim() > y.dim() or any(
                own not in (1, size) for own, size in zip(side.shape[::-1], y.shape[::-1], strict=False)
            ):
                raise ValueError(f"Box.{name}: shape {tuple(side.shape)} does not broadcast to y's {tuple(y.shape)}.")
            sides.append(side)
        return sides[0], sides[1]

    def as_set(self, y: Tensor) -> ConvexSet:
        """The set, with the dtype and device of ``y`` (..., n)."""
        lower, upper = self.bounds(y)
        return ConvexSet(lb=lower, ub=upper)


@dataclass(frozen=True)
class Unconstrained:
    """All of R^n."""

    lower: float = field(default=-math.inf, init=False)
    upper: float = field(default=math.inf, init=False)

    def bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(-inf, inf), as tensors of the dtype and device of ``y``."""
        return y.new_tensor(self.lower), y.new_tensor(self.upper)

    def as_set(self, y: Tensor) -> ConvexSet:
        """Bounds that are infinite."""
        lower, upper = self.bounds(y)
        return ConvexSet(lb=lower, ub=upper)


@dataclass(frozen=True)
class Polytope:
    """{ y : G y <= h, A y = b, lb <= y <= ub }. What is left out does not constrain.

    Args:
        G, h: (m, n) or one per row of the batch (B, m, n), and (m,) or (B, m); +inf in h: no constraint.
        A, b: (q, n) or (B, q, n), and (q,) or (B, q).
        lb, ub: a number, (n,) or (B, n); -inf and +inf: no bound.

    Raises:
        ValueError: G without h or A without b, or the other way round; shapes that do not fit together.

    Example:
        >>> half = Polytope(G=torch.tensor([[1.0, 1.0]]), h=torch.tensor([1.0]), lb=0.0)
        >>> minimize(lambda y: ((y - 1.0) ** 2).sum(-1), ProjectedNewton(), torch.zeros(1, 2), domain=half).value
        tensor([[0.5000, 0.5000]])
    """

    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lb: Bound | None = None
    ub: Bound | None = None

    def __post_init__(self) -> None:
        check_rows("Polytope", self.G, self.h, self.A, self.b)

    def as_set(self, y: Tensor) -> ConvexSet:
        """The set, with the dtype and device of ``y`` (..., n).

        Raises:
            ValueError: it does not fit ``y``.
        """
        return fit_set("Polytope", ConvexSet(self.G, self.h, self.A, self.b, self.lb, self.ub), y)


@dataclass(frozen=True)
class Simplex:
    """{ y : y >= 0, sum_j y_j = total }: shares, probabilities, an amount to be divided.

    Args:
        total: > 0.
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        check_range("Simplex.total", self.total, 0.0, _LARGEST, open_low=True)

    def as_set(self, y: Tensor) -> ConvexSet:
        """The set in R^n for ``y`` (..., n)."""
        ones = y.new_ones(1, y.shape[-1])
        return ConvexSet(A=ones, b=y.new_full((1,), self.total), lb=0.0, ub=self.total)


@dataclass(frozen=True)
class Ball:
    """{ y : ||y - center|| <= radius }. For (y - c)^T M (y - c) <= r, or a ball cut by rows, hand ``minimize`` a
    :class:`icnn_rl.sets.ConvexSet`.

    Args:
        radius: > 0.
        center: a number, (n,) or (B, n).
    """

    radius: float
    center: Bound = 0.0

    def __post_init__(self) -> None:
        check_range("Ball.radius", self.radius, 0.0, _LARGEST, open_low=True)

    def as_set(self, y: Tensor) -> ConvexSet:
        """The set in R^n for ``y`` (..., n).

        Raises:
            ValueError: the centre does not fit ``y``.
        """
        n = y.shape[-1]
        center = torch.as_tensor(self.center, dtype=y.dtype, device=y.device)
        center = center.expand(*center.shape[:-1], n) if center.dim() and center.shape[-1] == 1 else center
        center = center.expand(n) if center.dim() == 0 else center
        eye = torch.eye(n, dtype=y.dtype, device=y.device)
        return fit_set("Ball", ConvexSet(ellipsoid=Ellipsoid(eye, center, y.new_tensor(self.radius**2))), y)
