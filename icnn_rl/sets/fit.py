"""Whether the shapes of a set fit points, and what to say where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["check_rows", "fit_set"]


def fit_set(name: str, C: ConvexSet, y: Tensor) -> ConvexSet:
    """``C`` with the dtype and device of ``y`` (..., n).

    Raises:
        ValueError: a shape does not fit ``y``; names what came and what was expected.
    """
    check_rows(name, C.G, C.h, C.A, C.b)
    C, n, k = C.to(y), y.shape[-1], C.lifted
    parts = [(f"{name}.{part}", getattr(C, part), 2, "m, ") for part in ("G", "A")]
    parts += [(f"{name}.{part}", getattr(C, part), 1, "") for part in ("lb", "ub")]
    width = f"{n + k}" if k else f"{n}"
    if C.ellipsoid is not None:
        _check_core(f"{name}.ellipsoid.M", C.ellipsoid.M, 2, "n, ", n, str(n), y)
        _check_core(f"{name}.ellipsoid.center", C.ellipsoid.center, 1, "", n, str(n), y)
        _check_batch(f"{name}.ellipsoid.size", C.ellipsoid.size, 0, y)
    for label, part, core, rows in parts:
        if isinstance(part, Tensor) and part.dim() > 0:
            _check_core(label, part, core, rows, n + k, width, y)
    for label, part in ((f"{name}.h", C.h), (f"{name}.b", C.b)):
        if part is not None:
            _check_batch(label, part, 1, y)
    for label, bound in ((f"{name}.lb", C.lb), (f"{name}.ub", C.ub)):
        if bound is not None and bool(torch.as_tensor(bound).isnan().any()):
            raise ValueError(f"{label}: contains NaN. Use -inf or inf for a missing bound.")
    return C


def check_rows(name: str, *parts: Tensor | None) -> None:
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
