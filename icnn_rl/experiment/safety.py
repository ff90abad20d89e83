"""What became of the constraint while training: counted from the infos of :class:`icnn_rl.envs.ProjectAction`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from icnn_rl.experiment.files import write_text
from icnn_rl.solution import Status

__all__ = ["TOLERANCE", "ConstraintCallback"]

#: Violations up to this distance are rounding.
TOLERANCE = 1e-6


class ConstraintCallback(BaseCallback):
    """Count and log, for all environment steps of the training:

    constraint/violations: steps whose executed action violates by more than 1e-6; constraint/largest_violation;
    constraint/active_fraction: share of steps with the executed action on the border; constraint/distance_moved: mean
    distance between the action that came and the one executed; constraint/empty: states without an allowed action;
    constraint/state_violations where the environment tells, projected or not. Totals are written to
    RUN/constraint.json every ``every`` steps and at the end. They are the model's ``constraint_totals``, so that a
    checkpoint holds those of its own steps and a resumed run goes on counting from there.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.file, self.every = folder / "constraint.json", every
        self._next = 0
        self.totals: dict[str, float] = {}

    def _on_training_start(self) -> None:
        self._next = (self.num_timesteps // self.every + 1) * self.every
        self.totals = vars(self.model).setdefault("constraint_totals", _nothing())

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._write()
            self._next = (self.num_timesteps // self.every + 1) * self.every

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
        if self._tells_of_state:
            self.logger.record("constraint/state_violations", t["state_violations"])
        if not t["steps"]:
            return True
        for name in ("violations", "empty"):
            self.logger.record(f"constraint/{name}", t[name])
        self.logger.record("constraint/largest_violation", t["largest_violation"])
        return True

    def _on_training_end(self) -> None:
        self._write()

    @property
    def _tells_of_state(self) -> bool:
        """Whether the environment has told of its state, as it does too where nothing projects the actions."""
        return self.totals["largest_state_violation"] > -np.inf

    def _write(self) -> None:
        if self.totals["steps"] or self._tells_of_state:
            plain = {key: float(value) for key, value in self.totals.items() if value != -np.inf}
            # JSON has no infinity: it is a text there
            write_text(self.file, json.dumps({k: v if np.isfinite(v) else str(v) for k, v in plain.items()}) + "\n")


def _nothing() -> dict[str, float]:
    """The totals before the first step."""
    counts = dict.fromkeys(("steps", "violations", "active", "moved", "empty", "state_violations"), 0.0)
    return {**counts, "largest_violation": -np.inf, "largest_state_violation": -np.inf}
