"""Sets that y may range over, and what a convex function's gradient certifies on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from icnn_rl.checks import check_range
from icnn_rl.sets.convex_set import ConvexSet
from icnn_rl.sets.ellipsoid import Ellipsoid

__all__ = ["Ball", "Box", "Polytope", "Simplex", "Unconstrained"]

Bound = float | Tensor

_LARGEST = 1e150  # the squares of larger numbers are not finite


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
        _check_rows("Polytope", self.G, self.h, self.A, self.b)

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
    :class:`icnn_rl.sets.convex_set.ConvexSet`.

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


def fit_set(name: str, region: ConvexSet, y: Tensor) -> ConvexSet:
    """``region`` with the dtype and device of ``y`` (..., n).

    Raises:
        ValueError: a shape does not fit ``y``; names what came and what was expected.
    """
    _check_rows(name, region.G, region.h, region.A, region.b)
    region, n, k = region.to(y), y.shape[-1], region.lifted
    parts = [(f"{name}.{part}", getattr(region, part), 2, "m, ") for part in ("G", "A")]
    parts += [(f"{name}.{part}", getattr(region, part), 1, "") for part in ("lb", "ub")]
    width = f"{n + k}" if k else f"{n}"
    if region.ellipsoid is not None:
        _check_core(f"{name}.ellipsoid.M", region.ellipsoid.M, 2, "n, ", n, str(n), y)
        _check_core(f"{name}.ellipsoid.center", region.ellipsoid.center, 1, "", n, str(n), y)
        _check_batch(f"{name}.ellipsoid.size", region.ellipsoid.size, 0, y)
    for label, part, core, rows in parts:
        if isinstance(part, Tensor) and part.dim() > 0:
            _check_core(label, part, core, rows, n + k, width, y)
    for label, part in ((f"{name}.h", region.h), (f"{name}.b", region.b)):
        if part is not None:
            _check_batch(label, part, 1, y)
    for label, bound in ((f"{name}.lb", region.lb), (f"{name}.ub", region.ub)):
        if bound is not None and bool(torch.as_tensor(bound).isnan().any()):
            raise ValueError(f"{label}: contains NaN. Use -inf or inf for a missing bound.")
    return region


def _check_rows(name: str, *parts: Tensor | None) -> None:
    """G with h, A with b, as many numbers as rows."""
    for matrix, right, m, v in (("G", "h", *parts[:2]), ("A", "b", *parts[2:])):
        if (m is None) != (v is None):
            missing = matrix if m is None else right
            raise ValueError(f"{name}.{missing}: missing. {matrix} and {right} go together; give both or neither.")
        if m is None or v is None:
            continue
        if not isinstance(m, Tensor) or not isinstance(v, Tensor) or m.dim() < 2 or v.dim() < 1:
            raise ValueError(f"{name}.{matrix}, {name}.{right}: expected tensors of shape (..., m, n) and (..., m).")
        if m.shape[-2] != v.shape[-1]:
            raise ValueError(
                f"{name}.{right}: expected shape (..., {m.shape[-2]}), a number for each row of {matrix}, got "
                f"{tuple(v.shape)}."
            )


def _check_core(label: str, part: Tensor, core: int, rows: str, n: int, width: str, y: Tensor) -> None:
    if part.shape[-1] != n and not (core == 1 and part.shape[-1] == 1):
        raise ValueError(
            f"{label}: expected shape (..., {rows}{width}) for y {tuple(y.shape)}, got {tuple(part.shape)}."
        )
    _check_batch(label, part, core, y)


def _check_batch(label: str, part: Tensor, core: int, y: Tensor) -> None:
    own, batch = part.shape[: part.dim() - core], y.shape[:-1]
    if len(own) > len(batch) or any(a not in (1, b) for a, b in zip(own[::-1], batch[::-1], strict=False)):
        raise ValueError(
            f"{label}: batch dimensions {tuple(own)} do not broadcast to those of y {tuple(y.shape)}. Leave them out "
            "for what all rows share."
        )


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
