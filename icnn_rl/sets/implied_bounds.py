"""Bounds of every variable that a set implies, whether it gives them or not."""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.qp.api import solve_qp
from icnn_rl.sets.convex_set import ConvexSet
from icnn_rl.sets.rows import join, vector_of
from icnn_rl.solution import Status

__all__ = ["implied_bounds"]

_ROUNDING = 1e-12  # of a bound that was computed, not given
_PASSES = 2  # through the rows, one by one


def implied_bounds(s: ConvexSet, like: Tensor) -> tuple[Tensor, Tensor]:
    """(lower, upper) of every variable: as given; where there is none, from the ellipsoid, from rows one by one, and at
    last from linear programmes."""
    width = like.shape[-1] + s.lifted
    lower = like.new_full((width,), -torch.inf) if s.lb is None else vector_of(s.lb, width, like)
    upper = like.new_full((width,), torch.inf) if s.ub is None else vector_of(s.ub, width, like)
    if _bounded(lower, upper):
        return lower, upper
    if s.ellipsoid is not None:
        reach = s.ellipsoid.reach()
        low, high = _pad(s.ellipsoid.center - reach, s.lifted), _pad(s.ellipsoid.center + reach, s.lifted)
        lower, upper = _fill(lower, _known(low, -torch.inf), upper, _known(high, torch.inf))
    rows = _rows(s)
    if rows is None:
        return lower, upper
    for _ in range(_PASSES):
        if not _bounded(lower, upper):
            lower, upper = _fill(lower, *_by_row(*rows, lower, upper))
    return (lower, upper) if _bounded(lower, upper) else _fill(lower, *_by_programme(s, lower, upper, like))


def _pad(t: Tensor, k: int) -> Tensor:
    """NaN for the auxiliary variables."""
    return torch.nn.functional.pad(t, (0, k), value=torch.nan) if k else t


def _known(bound: Tensor, missing: float) -> Tensor:
    return bound.nan_to_num(missing, torch.inf, -torch.inf)


def _bounded(lower: Tensor, upper: Tensor) -> bool:
    return bool((upper - lower < torch.inf).all())


def _fill(lower: Tensor, low: Tensor, upper: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds where there were none."""
    return (
        torch.where(lower == -torch.inf, low - _ROUNDING * (1 + low.abs()), lower),
        torch.where(upper == torch.inf, high + _ROUNDING * (1 + high.abs()), upper),
    )


def _rows(s: ConvexSet) -> tuple[Tensor, Tensor] | None:
    """All rows as G x <= h."""
    rows, right = [], []
    if s.G is not None and s.h is not None:
        rows, right = [s.G], [s.h]
    if s.A is not None and s.b is not None:
        rows, right = [*rows, s.A, -s.A], [*right, s.b, -s.b]
    return (join(rows, -2), join(right, -1)) if rows else None


def _by_row(G: Tensor, h: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each row alone says of each variable: G_ij x_j <= h_i - min of the other terms over their bounds."""
    lower, upper = lower.unsqueeze(-2), upper.unsqueeze(-2)
    least = torch.where(G > 0, G * lower, G * upper).masked_fill(G == 0, 0.0)  # of G_ij x_j
    missing = least == -torch.inf
    known = least.masked_fill(missing, 0.0)
    free = missing.sum(-1, keepdim=True) - missing.long()  # terms without a minimum among the others
    most = (h.unsqueeze(-1) - (known.sum(-1, keepdim=True) - known)).masked_fill(free > 0, torch.inf) / G
    high = torch.where(G > 0, most, torch.inf).amin(-2)
    low = torch.where(G < 0, most, -torch.inf).amax(-2)
    return low.nan_to_num(-torch.inf, torch.inf, -torch.inf), upper.squeeze(-2), high.nan_to_num(torch.inf)


def _by_programme(s: ConvexSet, lower: Tensor, upper: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max and min of every variable that is unbounded in some row of the batch; the ellipsoid is left out."""
    width = lower.shape[-1]
    ends = []
    for bound, sign in ((lower, 1.0), (upper, -1.0)):
        where = torch.isinf(bound).reshape(-1, width).any(0).nonzero().squeeze(-1)
        end = bound.new_full(bound.shape, -sign * torch.inf).expand(*like.shape[:-1], width).clone()
        if where.numel():
            price = torch.zeros(len(where), width, dtype=like.dtype, device=like.device)
            price[torch.arange(len(where)), where] = sign
            price = price.reshape(len(where), *(1,) * (like.dim() - 1), width)
            found = solve_qp(0.0, price, s.G, s.h, s.A, s.b, s.lb, s.ub, throw=False)
            least = found.fun - found.gap.abs() - 1e-8 * (1 + found.fun.abs())
            least = torch.where(found.status == Status.SUCCESS, least, -torch.inf)
            end[..., where] = sign * least.movedim(0, -1).expand(*like.shape[:-1], len(where))
        ends.append(end)
    return ends[0], upper, ends[1]
