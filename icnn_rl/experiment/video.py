"""Film an agent."""

from __future__ import annotations

import os
import sys
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
    try:
        env = gym.make(env_id, render_mode="rgb_array")
    except gym.error.Error as error:
        raise UserError(f"--env {env_id}: {error}") from error
    total = 0.0
    frames: list[Any] = []
    obs, _ = env.reset(seed=EVAL_SEED)
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
