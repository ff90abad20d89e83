"""Film an agent."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
from stable_baselines3.common.base_class import BaseAlgorithm

from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.evaluation import EVAL_SEED
from icnn_rl.experiment.files import write_file

__all__ = ["record"]


def record(model: BaseAlgorithm, env_id: str, out: Path, steps: int) -> float:
    """Write ``steps`` frames at most of one deterministic episode to an .mp4 or .gif; returns the return so far.

    Raises:
        UserError: another ending than .mp4 or .gif, or the environment cannot draw.
    """
    if out.suffix not in (".mp4", ".gif"):
        raise UserError(f"--out {out}: expected a name ending in .mp4 or .gif.")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # no screen: draw off screen
    total = 0.0
    frames: list[Any] = []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # said better below
            env = gym.make(env_id, render_mode="rgb_array")
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise UserError(f"{env_id}: cannot be filmed, the environment draws no pictures (render mode rgb_array).")
        obs, _ = env.reset(seed=EVAL_SEED)
        env.render()  # some find out only here that they cannot
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"{env_id}: cannot be filmed. {error}") from error
    for _ in range(steps):
        frames.append(env.render())
        action, _ = model.predict(obs, deterministic=True)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    fps = int(env.metadata.get("render_fps", 30))
    env.close()
    options: dict[str, Any] = {"fps": fps} if out.suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
    if out.suffix == ".mp4":
        options["macro_block_size"] = 2
    write_file(out, lambda path: imageio.mimsave(path, frames, **options))
    return total
