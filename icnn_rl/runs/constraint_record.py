"""Constraint violations during training, counted in a file of the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from icnn_rl.agents.constrained import callback as constraint_log
from icnn_rl.agents.constrained.callback import TOLERANCE
from icnn_rl.runs.folder import write_text

__all__ = ["TOLERANCE", "ConstraintCallback"]


class ConstraintCallback(constraint_log.ConstraintCallback):
    """Also writes the totals to RUN/constraint.json, every ``every`` steps and at the end. A checkpoint holds the
    totals up to its own step, from which a resumed run continues."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.file, self.every = folder / "constraint.json", every
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = (self.num_timesteps // self.every + 1) * self.every
        super()._on_training_start()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._write()
            self._next = (self.num_timesteps // self.every + 1) * self.every

    def _on_training_end(self) -> None:
        self._write()

    def _write(self) -> None:
        if self.totals["steps"] or self.tells_of_state:
            plain = {key: float(value) for key, value in self.totals.items() if value != -np.inf}
            # JSON has no infinity: written as a string
            write_text(self.file, json.dumps({k: v if np.isfinite(v) else str(v) for k, v in plain.items()}) + "\n")
