"""Bounds around the action executed last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_vector, evaluate_vector, frozen
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.sets import ConvexSet

__all__ = ["rate_limit"]


@register_constraint("rate_limit")
def rate_limit(max_change: Any) -> ActionConstraint:
    """|a - a_last| <= max_change, elementwise, with a_last the action executed before (0 after a reset).

    The observation must end with a_last: :class:`icnn_rl.envs.ProjectAction` appends it; of a Dict to the vector that
    ``rate_limit(...).reading(key)`` names.

    Args:
        max_change: a number or n numbers, per step.
    """
    if bool((check_vector("rate_limit.max_change", max_change) < 0).any()):
        raise ValueError(f"rate_limit.max_change: expected numbers >= 0, got {max_change}.")
    return _Rate(frozen(max_change))


@dataclass(frozen=True)
class _Rate(ActionConstraint):
    max_change: Any
    needs_last_action = True

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = self.observed(obs)
        if obs.shape[-1] < n:
            raise ValueError(
                f"rate_limit: expected observations that end with the {n} numbers of the last action, got "
                f"{obs.shape[-1]} numbers. ProjectAction appends it."
            )
        last, most = obs[..., -n:], evaluate_vector("rate_limit.max_change", self.max_change, obs, n)
        return ConvexSet(lb=last - most, ub=last + most)
