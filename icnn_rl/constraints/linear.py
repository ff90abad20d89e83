"""Rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_numbers, evaluate, frozen
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.sets import ConvexSet

__all__ = ["linear"]


@register_constraint("linear")
def linear(G: Any, h: Any) -> ActionConstraint:
    """G a <= h.

    Args:
        G: m rows of n numbers, or a function of the observations (B, d) that gives (B, m, n).
        h: m numbers, or a function that gives (B, m).
    """
    if not callable(G):
        rows = check_numbers("linear.G", G)
        if rows.dim() != 2:
            raise ValueError(f"linear.G: expected rows, shape (m, n), got {tuple(rows.shape)}.")
        if not bool(rows.isfinite().all()):
            raise ValueError("linear.G: contains an infinite number. A row without effect has h = inf.")
        if not callable(h) and (right := check_numbers("linear.h", h)).shape != rows.shape[:1]:
            raise ValueError(
                f"linear.h: expected {rows.shape[0]} numbers, one for each row of G, got shape {tuple(right.shape)}."
            )
    if not callable(h):
        check_numbers("linear.h", h)
    return _Linear(frozen(G), frozen(h))


@dataclass(frozen=True)
class _Linear(ActionConstraint):
    G: Any
    h: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.G) or callable(self.h)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = self.observed(obs)
        G = evaluate("linear.G", self.G, obs, "m", str(n))
        if G.shape[-1] != n:
            raise ValueError(f"linear.G: expected rows of {n} numbers, one for each action, got {G.shape[-1]}.")
        h = evaluate("linear.h", self.h, obs, "m")
        if G.dim() < 2 or h.shape[-1:] != G.shape[-2:-1]:
            raise ValueError(
                f"linear: expected G (..., m, {n}) and h (..., m), got {tuple(G.shape)} and {tuple(h.shape)}."
            )
        return ConvexSet(G=G, h=h)
