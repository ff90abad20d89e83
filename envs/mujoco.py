"""What gymnasium's MuJoCo tasks (v5) under limits on their actuators share.

The limits of the Reacher-O, HalfCheetah-O, Hopper-M, Walker2d-M, HalfCheetah-MA and Reacher-L2 tasks are those of the
benchmark of Kasaura et al.; w are joint velocities (rad/s) and a the actions, as the observation and the action space
have them. The observations and rewards are gymnasium's.

Every function of a family (reacher.py, half_cheetah.py, hopper.py, walker2d.py) makes the environment and wraps it in
:class:`icnn_rl.envs.ProjectAction`; with ``project=False`` the environment is as gymnasium made it, with the constraint
as an attribute. Other keyword arguments go to gymnasium's environment, ``fallback`` and ``tol`` to the wrapper. Limits
that read the state know where it stands in gymnasium's own observation: with
``exclude_current_positions_from_observation=False`` they raise a ValueError.

References:
    K. Kasaura, S. Miura, T. Kozuno, R. Yonetani, K. Hoshino, Y. Hosoe, Benchmarking actor-critic deep reinforcement
    learning algorithms for robotics control with action constraints, IEEE Robotics and Automation Letters 8, 2023.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from icnn_rl.constraints import ActionConstraint
from icnn_rl.envs.project_action import constrained

__all__ = ["Env", "drawn", "limited"]

Env = gym.Env[Any, Any]

_RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")

#: Gymnasium's argument that moves the entries of an observation.
_MOVES = "exclude_current_positions_from_observation"


def drawn(make: Callable[..., Env]) -> Callable[..., Env]:
    """Tells gymnasium.make how the environment draws itself, before there is one: as all of gymnasium's for MuJoCo."""
    make.metadata = {"render_modes": list(_RENDER_MODES)}  # type: ignore[attr-defined]
    return make


def limited(module: str, name: str, constraint: ActionConstraint, settings: dict[str, Any]) -> Env:
    """Gymnasium's environment under a constraint."""
    if constraint.depends_on_state and not settings.get(_MOVES, True):
        raise ValueError(
            f"{_MOVES}: expected True, got {settings[_MOVES]}. With the position in front every velocity stands "
            "elsewhere than the constraint reads it. Take gymnasium's environment in ProjectAction, with a constraint "
            "of your own."
        )
    ours = {key: settings.pop(key) for key in ("project", "fallback", "tol") if key in settings}
    environment = getattr(importlib.import_module(f"gymnasium.envs.mujoco.{module}"), name)
    return constrained(environment(**settings), constraint, **ours)
