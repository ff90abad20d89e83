"""Checkpoints that a run can go on from: nets, optimiser, replay buffer, counters and random states."""

from __future__ import annotations

import functools
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import read_manifest, write_file, write_folder

__all__ = [
    "CheckpointCallback",
    "discard_unfinished",
    "grow_buffer",
    "latest_checkpoint",
    "list_checkpoints",
    "load_agent",
    "restore",
    "restore_best",
    "save_agent",
    "save_checkpoint",
    "statistics_of",
]

_KEEP = 2

#: A run's best model so far, in its folder and in its checkpoints.
BEST = "best_model.zip"


def statistics_of(model: Path) -> Path:
    """The file of VecNormalize's statistics beside a model's."""
    return model.with_name(f"{model.stem}_vecnormalize.pkl")


def save_agent(model: BaseAlgorithm, path: Path) -> None:
    """Write a model, whole or not at all, after the statistics that normalise its observations."""
    if (normalizer := model.get_vec_normalize_env()) is not None:
        write_file(statistics_of(path), lambda temporary: normalizer.save(str(temporary)))
    write_file(path, model.save)


def save_checkpoint(model: BaseAlgorithm, folder: Path) -> Path:
    """Write ``folder/step_N``, N the environment steps so far, whole or not at all, with a copy of the best model; only
    the newest two are kept."""
    path = folder / f"step_{model.num_timesteps:09d}"
    with write_folder(path) as temporary:
        model.save(temporary / "model.zip")
        if (normalizer := model.get_vec_normalize_env()) is not None:
            normalizer.save(str(statistics_of(temporary / "model.zip")))
        if isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(temporary / "replay_buffer.pkl")
        (temporary / "random.pkl").write_bytes(pickle.dumps(_random_states(model)))
        for best in (folder.parent / BEST, statistics_of(folder.parent / BEST)):
            if best.is_file():
                shutil.copyfile(best, temporary / best.name)
    for old in list_checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old)
    return path


def restore_best(checkpoint: Path, folder: Path) -> None:
    """Put back the run's best model as of the checkpoint: a later one belongs to steps that are lost."""
    for best in (statistics_of(checkpoint / BEST), checkpoint / BEST):
        if best.is_file():
            write_file(folder / best.name, functools.partial(shutil.copyfile, best))


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def discard_unfinished(folder: Path) -> None:
    """Delete what a killed :func:`save_checkpoint` has left half-written."""
    for path in folder.glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint, verified against its manifest.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = list_checkpoints(folder)
    if not found:
        raise UserError(f"{folder}: no checkpoint. The run was stopped before its first one; start it anew.")
    read_manifest(found[-1])
    return found[-1]


def load_agent(algorithm: type[BaseAlgorithm], path: Path, **options: Any) -> BaseAlgorithm:
    """SB3's load without a false warning: it mistakes the n-step buffer that it chose itself for the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*n_steps=.* is ignored because a custom")
        return algorithm.load(path, **options)


def restore(algorithm: type[BaseAlgorithm], path: Path, env: VecEnv, device: str) -> BaseAlgorithm:
    """The agent as of the checkpoint, at the start of a new episode: the interrupted one is dropped."""
    if isinstance(env, VecNormalize):
        env = VecNormalize.load(str(statistics_of(path / "model.zip")), env.venv)
    model = load_agent(algorithm, path / "model.zip", env=env, device=device)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(path / "replay_buffer.pkl")
        _end_last_episode(model)
    # consumes the seeds that loading set, so that the states restored below stay; without updating any statistics
    (env.venv if isinstance(env, VecNormalize) else env).reset()
    states = pickle.loads((path / "random.pkl").read_bytes())
    _restore_random_states(states, model, env)
    return model


def grow_buffer(model: BaseAlgorithm, size: int) -> None:
    """Make room for ``size`` transitions in the replay buffer, if any; its contents stay, oldest first."""
    buffer = model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None
    if buffer is None or (rows := max(size // buffer.n_envs, 1)) <= buffer.buffer_size:
        return
    old = buffer.buffer_size
    # a full buffer without next observations keeps the newest one's in the slot of the oldest transition
    dropped = int(buffer.optimize_memory_usage)
    order = (np.arange(old) + (buffer.pos + dropped if buffer.full else 0)) % old

    def grown(part: np.ndarray) -> np.ndarray:
        new = np.zeros((rows, *part.shape[1:]), part.dtype)
        new[:old] = part[order]
        return new

    for name, value in list(vars(buffer).items()):
        if isinstance(value, np.ndarray):
            setattr(buffer, name, grown(value))
        elif isinstance(value, dict) and all(isinstance(part, np.ndarray) for part in value.values()):
            setattr(buffer, name, {key: grown(part) for key, part in value.items()})
    if buffer.full:
        buffer.pos, buffer.full = old - dropped, False
    buffer.buffer_size = rows
    model.buffer_size = size  # type: ignore[attr-defined]


def _end_last_episode(model: OffPolicyAlgorithm) -> None:
    """Mark the last stored transition as the end of its episode: n-step returns must not run across."""
    buffer = model.replay_buffer
    if buffer is not None and buffer.handle_timeout_termination and (buffer.full or buffer.pos > 0):
        last = buffer.pos - 1
        unfinished = buffer.dones[last] == 0
        buffer.timeouts[last] = np.maximum(buffer.timeouts[last], unfinished)


def _env_generators(env: VecEnv) -> list[np.random.Generator]:
    return [unwrapped.np_random for unwrapped in env.get_attr("unwrapped")]


def _random_states(model: BaseAlgorithm) -> dict[str, Any]:
    assert model.env is not None
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  (SB3 draws from the global generator)
        "torch": torch.get_rng_state(),
        "action_space": model.action_space.np_random.bit_generator.state,  # warm-up actions are drawn here
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "envs": [generator.bit_generator.state for generator in _env_generators(model.env)],
    }


def _restore_random_states(states: dict[str, Any], model: BaseAlgorithm, env: VecEnv) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    model.action_space.np_random.bit_generator.state = states["action_space"]
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    for generator, state in zip(_env_generators(env), states["envs"], strict=True):
        generator.bit_generator.state = state


class CheckpointCallback(BaseCallback):
    """Save a checkpoint every ``every`` environment steps, with ``save``."""

    def __init__(
        self, folder: Path, every: int, save: Callable[[BaseAlgorithm, Path], object] = save_checkpoint
    ) -> None:
        super().__init__()
        self.folder, self.every, self.save = folder, every, save
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = (self.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # between rollouts: the last transition is stored and its update done
        if self.num_timesteps >= self._next:
            self.save(self.model, self.folder)
            self._next = (self.num_timesteps // self.every + 1) * self.every
