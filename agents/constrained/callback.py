"""What became of the constraint while training, from the infos of the wrapper, in the logger."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from icnn_rl.agents.constrained.base import check_agent
from icnn_rl.solution import Status

__all__ = ["TOLERANCE", "ConstraintCallback"]

#: Violations up to this distance are rounding.
TOLERANCE = 1e-6


class ConstraintCallback(BaseCallback):
    """Count and log, for all environment steps of the training, what :class:`icnn_rl.envs.ProjectAction` reports:

    constraint/violations: steps whose executed action violates by more than 1e-6; constraint/largest_violation;
    constraint/active_fraction: share of steps with the executed action on the border; constraint/distance_moved: mean
    distance between the action that came and the one executed; constraint/empty: states without an allowed action;
    constraint/state_violations where the environment tells, projected or not. Totals are the model's
    ``constraint_totals``, so that they are saved with it and go on from there.

    Before the first step it looks whether a constrained policy and the environment fit together, and raises where they
    do not, see :meth:`icnn_rl.agents.constrained.base.ConstrainedPolicy.check_environment`.

    Example:
        >>> agent.learn(10_000, callback=ConstraintCallback())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self.totals: dict[str, float] = {}

    def _on_training_start(self) -> None:
        check_agent(self.model)
        self.totals = vars(self.model).setdefault("constraint_totals", _nothing())

    def _on_step(self) -> bool:
        t = self.totals
        for info in self.locals["infos"]:
            state = info.get("constraint/state_violation")
            if state is not None:
                t["state_violations"] += bool(state > TOLERANCE)
                t["largest_state_violation"] = max(t["largest_state_violation"], float(state))
            if "constraint/violation" not in info:
                continue
            t["steps"] += 1
            t["violations"] += bool(info["constraint/violation"] > TOLERANCE)
            t["largest_violation"] = max(t["largest_violation"], float(info["constraint/violation"]))
            t["active"] += bool(info["constraint/active"])
            t["moved"] += bool(info["constraint/moved"] > TOLERANCE)
            t["empty"] += bool(info["constraint/status"] == Status.PRIMAL_INFEASIBLE)
            self.logger.record_mean("constraint/distance_moved", float(info["constraint/moved"]))
            self.logger.record_mean("constraint/active_fraction", float(info["constraint/active"]))
        if self.tells_of_state:
            self.logger.record("constraint/state_violations", t["state_violations"])
        if not t["steps"]:
            return True
        for name in ("violations", "empty"):
            self.logger.record(f"constraint/{name}", t[name])
        self.logger.record("constraint/largest_violation", t["largest_violation"])
        return True

    @property
    def tells_of_state(self) -> bool:
        """Whether the environment has told of its state, as it does too where nothing projects the actions."""
        return self.totals["largest_state_violation"] > -np.inf


def _nothing() -> dict[str, float]:
    """The totals before the first step."""
    counts = dict.fromkeys(("steps", "violations", "active", "moved", "empty", "state_violations"), 0.0)
    return {**counts, "largest_violation": -np.inf, "largest_state_violation": -np.inf}
