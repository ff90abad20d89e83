"""What a report knows of a run, and which runs it compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from icnn_rl.runs.config.record import Config
from icnn_rl.runs.environments import NO_CONSTRAINT
from icnn_rl.runs.evaluate import EvalRow

__all__ = ["FinishedRun", "Task"]


class Task(NamedTuple):
    """What runs must share to be compared. Steps are those asked for: PPO may overshoot by up to one rollout."""

    env: str
    constraint: str  # of --constraint; "": none but the environment's own
    steps: int
    episodes: int  # of the final evaluation

    @property
    def place(self) -> str:
        return f"{self.env} under {self.constraint}" if self.constraint else self.env


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been evaluated at its end.

    folder: its name, with the folder of the table in front where it comes from one. record: all of its config.yml.
    evaluations: those while training. final: that of the last model. totals: what became of the constraint
    (constraint.json), if it was counted.
    """

    folder: Path
    record: Mapping[str, Any]
    evaluations: list[EvalRow]
    final: EvalRow
    totals: Mapping[str, Any] | None = None

    @property
    def config(self) -> Config:
        return Config.of(self.record)

    @property
    def task(self) -> Task:
        config = self.config
        return Task(config.task, _constraint(config.constraint), config.timesteps, self.final.episodes)


def _constraint(given: Any) -> str:
    """As --constraint takes it. An agent that is told of none acts under the same limits as one that is told."""
    if given is None or given == NO_CONSTRAINT:
        return ""
    parts = given if isinstance(given, list) else [given]
    return " and ".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
