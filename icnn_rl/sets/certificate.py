"""What one gradient of a convex function certifies on a box."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["certificate"]


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
