"""Film an agent."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3.common.base_class import BaseAlgorithm

from icnn_rl.constraints import ActionConstraint
from icnn_rl.runs.environments import make_single_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EVAL_SEED
from icnn_rl.runs.folder import write_file
from icnn_rl.solution import Status

__all__ = ["record"]

_FREE_CAMERA = -1  # MuJoCo's id for the camera that belongs to no model


def record(
    model: BaseAlgorithm,
    env_id: str,
    out: Path,
    steps: int,
    constraint: ActionConstraint | None = None,
    normalize: Callable[[Any], Any] = lambda obs: obs,
    **surroundings: Any,
) -> float:
    """Write at most ``steps`` frames of one deterministic episode to an .mp4 or .gif; returns the return so far.

    Under a constraint every picture shows its state: a green border inside the set, orange on its boundary, red where
    no action was allowed; and how far the action was moved. ``normalize`` turns observations into the model's inputs;
    ``surroundings`` are for :func:`icnn_rl.runs.environments.make_single_env`.

    Raises:
        UserError: the name ends in neither .mp4 nor .gif, or the environment cannot draw.
    """
    if out.suffix not in (".mp4", ".gif"):
        raise UserError(f"--out {out}: expected a name ending in .mp4 or .gif.")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # no display
    total = 0.0
    frames: list[Any] = []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # said better below
            env = make_single_env(env_id, constraint, render_mode="rgb_array", **surroundings)
        follow(env)
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise UserError(f"{env_id}: cannot be filmed, the environment draws no pictures (render mode rgb_array).")
        obs, _ = env.reset(seed=EVAL_SEED)
        env.render()  # some environments fail only here
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"{env_id}: cannot be filmed. {error}") from error
    for _ in range(steps):
        frame: Any = env.render()
        action, _ = model.predict(normalize(obs), deterministic=True)
        obs, reward, terminated, truncated, info = env.step(action)
        frames.append(annotate(frame, info) if "constraint/status" in info else frame)
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


def follow(env: gym.Env[Any, Any]) -> None:
    """Use the model's camera called "track" in a MuJoCo environment, if there is one: the default camera stands still,
    and a running robot leaves the picture."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    model = getattr(env.unwrapped, "model", None)
    if renderer is None or model is None or renderer.camera_id != _FREE_CAMERA:
        return
    names = [model.camera(i).name for i in range(model.ncam)]
    if "track" in names:
        renderer.camera_id = names.index("track")


def annotate(frame: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """The frame with the constraint's state in the step that follows it, see :func:`record`."""
    if info["constraint/status"] == Status.PRIMAL_INFEASIBLE:
        color, text = (200, 30, 30), "no action allowed"
    elif info["constraint/active"]:
        color, text = (230, 140, 20), f"constraint active, moved {info['constraint/moved']:.2g}"
    else:
        color, text = (40, 150, 60), f"inside, {-info['constraint/violation']:.2g} left"
    state = info.get("constraint/state_violation")
    if state is not None:
        text += f", state {-state:.2g} from its limit" if state <= 0 else f", STATE {state:.2g} BEYOND ITS LIMIT"
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=color, width=4)
    draw.rectangle((4, 4, image.width - 5, 22), fill=color)
    draw.text((10, 7), text, fill=(255, 255, 255))
    return np.asarray(image)
