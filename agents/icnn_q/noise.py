"""Exploration noise that users bring: checked before a run rather than in it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise

from icnn_rl.agents.icnn_q.stacked_data import Streams

__all__ = ["check_noise", "noise_for"]


def check_noise(noise: object, shape: tuple[int, ...], device: torch.device) -> None:
    """Whether the noise is one of SB3's kind that draws finite numbers of an action's shape. One is drawn from a copy;
    the process's random generators stay where they are.

    Raises:
        ValueError: it is not.
    """
    base = noise.base_noise if isinstance(noise, VectorizedActionNoise) else noise
    instead = f"exploration_noise=0.1, or NormalActionNoise(np.zeros({shape}), np.full({shape}, 0.1)) of SB3"
    if not isinstance(base, ActionNoise):
        raise ValueError(f"action_noise: expected an ActionNoise of SB3, got {base!r}. Give {instead}.")
    expected = f"action_noise: expected finite numbers of the action's shape {shape}, {base!r}"
    try:
        with Streams(device).installed():
            drawn = np.asarray(copy.deepcopy(base)(), dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:  # SB3's with numbers where it expects arrays
        raise ValueError(f"{expected} draws none: {error}. Give {instead}.") from error
    if drawn.shape != shape or not np.isfinite(drawn).all():
        raise ValueError(f"{expected} draws {drawn} of shape {drawn.shape}. Give {instead}.")


def noise_for(n_envs: int, noise: ActionNoise | None) -> ActionNoise | None:
    """The noise, or what it was made of where it was made for another number of environments: SB3 copies that anew."""
    if isinstance(noise, VectorizedActionNoise) and noise.n_envs != n_envs:
        return noise.base_noise
    return noise
