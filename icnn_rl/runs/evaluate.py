"""Evaluation during and after training: deterministic episodes on a separate environment."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from icnn_rl.runs.checkpoint import BEST, save_agent
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import write_text

__all__ = [
    "EvalRow",
    "EvaluationCallback",
    "evaluate",
    "make_evaluation_env",
    "plural",
    "read_evaluations",
    "run_episodes",
]

#: Evaluation episodes start from these seeds whatever the training seed, so that runs are compared on equal starts.
EVAL_SEED = 10_000
_EVAL_ENVS = 10


class EvalRow(NamedTuple):
    """One evaluation: return per episode, mean and standard deviation."""

    timesteps: int
    mean: float
    std: float
    episodes: int
    mean_length: float

    @classmethod
    def read(cls, row: Mapping[str, str]) -> EvalRow:
        """From a row of a CSV file; other columns are ignored.

        Raises:
            KeyError: a column is missing.
            ValueError: not a number.
        """
        return cls(
            int(row["timesteps"]),
            float(row["mean"]),
            float(row["std"]),
            int(row["episodes"]),
            float(row["mean_length"]),
        )


def evaluate(
    model: BaseAlgorithm, env_id: str, episodes: int, statistics: Path | None = None, **surroundings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of ``episodes`` deterministic episodes, several in parallel, batched through one predict.

    Args:
        model: the agent.
        env_id, surroundings: as for :func:`make_env`.
        episodes: how many.
        statistics: file of the statistics that normalise the agent's observations.
    """
    env = make_evaluation_env(env_id, episodes, statistics, **surroundings)
    try:
        return run_episodes(model, env, episodes)
    finally:
        env.close()


def make_evaluation_env(env_id: str, episodes: int, statistics: Path | None = None, **surroundings: Any) -> VecEnv:
    """As many copies as ``episodes`` need, ten at most; rewards are not normalised."""
    env = make_env(env_id, min(episodes, _EVAL_ENVS), EVAL_SEED, **surroundings)
    if isinstance(env, VecNormalize):
        env = env if statistics is None else VecNormalize.load(str(statistics), env.venv)
        env.training = env.norm_reward = False
    return env


def run_episodes(model: BaseAlgorithm, env: VecEnv, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """:func:`evaluate` in an existing environment, from the same starts every time."""
    env.seed(EVAL_SEED)
    returns, lengths = evaluate_policy(
        model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True
    )
    return np.asarray(returns), np.asarray(lengths)


def plural(count: int, what: str) -> str:
    """1 episode, 2 episodes."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def read_evaluations(path: Path) -> list[EvalRow]:
    """Rows of an eval.csv.

    Raises:
        UserError: the file is missing or not an eval.csv.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. The run has not been evaluated yet, or the folder is not a run.")
    try:
        with path.open(newline="") as stream:
            return [EvalRow.read(row) for row in csv.DictReader(stream)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not an evaluation table with the columns {', '.join(EvalRow._fields)} ({error!r})."
        ) from error


def write_evaluations(path: Path, rows: Sequence[EvalRow]) -> None:
    """Write the whole table in one step."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(EvalRow._fields)
    writer.writerows(rows)
    write_text(path, text.getvalue())


class EvaluationCallback(BaseCallback):
    """Evaluate every ``every`` environment steps; keep the table and the best model in the run folder, and print how
    long it took."""

    def __init__(self, folder: Path, env_id: str, every: int, episodes: int, **surroundings: Any) -> None:
        super().__init__()
        self.folder, self.env_id, self.every, self.episodes = folder, env_id, every, episodes
        self.surroundings = surroundings
        self.rows: list[EvalRow] = []
        self.env: VecEnv | None = None  # one for all evaluations: some simulators start slowly, and print messages
        self.seconds = 0.0
        self._next, self._started = 0, 0.0

    def _on_training_start(self) -> None:
        table = self.folder / "eval.csv"
        if table.is_file():  # a resumed run repeats what came after the checkpoint
            self.rows = [row for row in read_evaluations(table) if row.timesteps <= self.num_timesteps]
        self._next, self._started = (self.num_timesteps // self.every + 1) * self.every, time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = (self.num_timesteps // self.every + 1) * self.every
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        start = time.monotonic()
        self.env = self.env or make_evaluation_env(self.env_id, self.episodes, **self.surroundings)
        if isinstance(self.env, VecNormalize):
            sync_envs_normalization(self.training_env, self.env)
        returns, lengths = run_episodes(self.model, self.env, self.episodes)
        seconds = time.monotonic() - start
        self.seconds += seconds
        row = EvalRow(
            self.num_timesteps, float(returns.mean()), float(returns.std()), len(returns), float(lengths.mean())
        )
        best = max((r.mean for r in self.rows), default=-np.inf)
        if row.mean > best:  # first: a run killed here must not have a row without its model
            save_agent(self.model, self.folder / BEST)
        self.rows.append(row)
        write_evaluations(self.folder / "eval.csv", self.rows)
        self.logger.record("eval/mean_reward", row.mean)
        self.logger.record("eval/mean_ep_length", row.mean_length)
        self.logger.record("eval/seconds", seconds)
        tqdm.write(
            f"{row.timesteps:>9} steps: return {row.mean:.1f} ± {row.std:.1f} over {plural(row.episodes, 'episode')}, "
            f"{seconds:.1f} s"
        )

    def _on_training_end(self) -> None:
        if self.seconds:
            whole = time.monotonic() - self._started
            tqdm.write(f"{whole:.0f} s of training, {self.seconds:.0f} s of them evaluations")

    def close(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()
            self.env = None
