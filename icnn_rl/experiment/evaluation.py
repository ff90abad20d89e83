"""Evaluation during and after training: deterministic episodes on a separate environment."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

from icnn_rl.experiment.checkpoint import BEST
from icnn_rl.experiment.environments import make_env
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.files import write_file, write_text

__all__ = ["EvalRow", "EvaluationCallback", "evaluate", "read_evaluations"]

#: Evaluation episodes start from these seeds, whatever the training seed: runs are compared on the same starts.
EVAL_SEED = 10_000
_EVAL_ENVS = 10
COLUMNS = ("timesteps", "mean", "std", "episodes", "mean_length")


class EvalRow(NamedTuple):
    """One evaluation: return per episode, mean and standard deviation."""

    timesteps: int
    mean: float
    std: float
    episodes: int
    mean_length: float


def evaluate(model: BaseAlgorithm, env_id: str, episodes: int, constraint: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of ``episodes`` deterministic episodes, several side by side: one predict serves them all."""
    env = make_env(env_id, min(episodes, _EVAL_ENVS), EVAL_SEED, constraint)
    try:
        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True
        )
    finally:
        env.close()
    return np.asarray(returns), np.asarray(lengths)


def read_evaluations(path: Path) -> list[EvalRow]:
    """Rows of an eval.csv.

    Raises:
        UserError: the file is missing or not an eval.csv.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. The run has not been evaluated yet, or the folder is not a run.")
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [
            EvalRow(int(r["timesteps"]), float(r["mean"]), float(r["std"]), int(r["episodes"]), float(r["mean_length"]))
            for r in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not an evaluation table with the columns {', '.join(COLUMNS)} ({error!r})."
        ) from error


def write_evaluations(path: Path, rows: Sequence[EvalRow]) -> None:
    """Write the whole table in one step."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(path, text.getvalue())


class EvaluationCallback(BaseCallback):
    """Evaluate every ``every`` environment steps; keep the table and the best model in the run folder."""

    def __init__(self, folder: Path, env_id: str, every: int, episodes: int, constraint: Any = None) -> None:
        super().__init__()
        self.folder, self.env_id, self.every, self.episodes = folder, env_id, every, episodes
        self.constraint = constraint
        self.rows: list[EvalRow] = []
        self._next = 0

    def _on_training_start(self) -> None:
        table = self.folder / "eval.csv"
        if table.is_file():  # a resumed run: what came after the checkpoint is done again
            self.rows = [row for row in read_evaluations(table) if row.timesteps <= self.num_timesteps]
        self._next = (self.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = (self.num_timesteps // self.every + 1) * self.every
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        returns, lengths = evaluate(self.model, self.env_id, self.episodes, self.constraint)
        row = EvalRow(
            self.num_timesteps, float(returns.mean()), float(returns.std()), len(returns), float(lengths.mean())
        )
        best = max((r.mean for r in self.rows), default=-np.inf)
        if row.mean > best:  # first, so that a run killed here has no row whose model is missing
            write_file(self.folder / BEST, self.model.save)
        self.rows.append(row)
        write_evaluations(self.folder / "eval.csv", self.rows)
        self.logger.record("eval/mean_reward", row.mean)
        self.logger.record("eval/mean_ep_length", row.mean_length)
        tqdm.write(f"{row.timesteps:>9} steps: return {row.mean:.1f} ± {row.std:.1f} over {row.episodes} episodes")
