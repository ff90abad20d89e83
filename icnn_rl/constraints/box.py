"""Bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_vector, evaluate_vector, frozen
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.sets import ConvexSet

__all__ = ["box"]


@register_constraint("box")
def box(lower: Any = -torch.inf, upper: Any = torch.inf) -> ActionConstraint:
    """lower <= a <= upper, elementwise.

    Args:
        lower, upper: a number, n numbers, or a function of the observations (B, d) that gives (B, n).
    """
    bounds = [
        None if callable(bound) else check_vector(f"box.{name}", bound)
        for name, bound in (("lower", lower), ("upper", upper))
    ]
    low, high = bounds
    if low is not None and high is not None:
        if low.dim() and high.dim() and low.shape != high.shape:
            raise ValueError(f"box: expected bounds of one length, got lower {len(low)} and upper {len(high)}.")
        if bool((low == torch.inf).any() | (high == -torch.inf).any()):
            raise ValueError(f"box: no number lies beyond infinity: lower {lower}, upper {upper}. No bound: -inf, inf.")
        if bool((low > high).any()):
            raise ValueError(f"box: a lower bound exceeds its upper bound: lower {lower}, upper {upper}.")
    return _Box(frozen(lower), frozen(upper))


@dataclass(frozen=True)
class _Box(ActionConstraint):
    lower: Any
    upper: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.lower) or callable(self.upper)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = self.observed(obs)
        return ConvexSet(
            lb=None if self.lower == -torch.inf else evaluate_vector("box.lower", self.lower, obs, n),
            ub=None if self.upper == torch.inf else evaluate_vector("box.upper", self.upper, obs, n),
        )
