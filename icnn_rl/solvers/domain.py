"""Sets that y may range over, and what a convex function's gradient certifies on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Box", "Unconstrained"]

Bound = float | Tensor


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


@dataclass(frozen=True)
class Unconstrained:
    """All of R^n."""

    lower: float = field(default=-math.inf, init=False)
    upper: float = field(default=math.inf, init=False)

    def bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(-inf, inf), as tensors of the dtype and device of ``y``."""
        return y.new_tensor(self.lower), y.new_tensor(self.upper)


def certificate(grad: Tensor, low: Tensor, high: Tensor, curvature: Tensor | None, *, strict: bool = False) -> Tensor:
    """Upper bound on f(y) - min f over the box, from one gradient: (..., n) -> (...).

    With f - 1/2 sum_j m_j y_j^2 convex (m = ``curvature``, or 0),

        f(y + d) >= f(y) + g . d + 1/2 sum_j m_j d_j^2,        low <= d <= high,

    and the right-hand side separates: minimise it over every coordinate's interval. For m = 0 this is the Frank-Wolfe
    gap sum_j max( -g_j low_j, -g_j high_j ); without bounds it is sum_j g_j^2 / (2 m_j). Infinite where neither helps.
    ``grad`` may be any subgradient at y; ``low`` <= 0 <= ``high`` are the bounds minus y; ``curvature`` >= 0 or None;
    ``strict`` says that it is positive everywhere.
    """
    if curvature is None:
        # a flat coordinate offers no decrease, however long its interval (0 * inf would be NaN)
        step = torch.where(grad > 0, low, high).masked_fill(grad == 0, 0.0)
        return -(grad * step).sum(-1)
    down = -grad
    step = torch.clamp(down / curvature, low, high)
    if strict:
        return (torch.addcmul(down, curvature, step, value=-0.5) * step).sum(-1)
    step = step.masked_fill(grad == 0, 0.0)  # 0 / 0
    bend = (curvature * step).masked_fill(curvature == 0, 0.0)  # 0 * inf
    return (torch.sub(down, bend, alpha=0.5) * step).sum(-1)
