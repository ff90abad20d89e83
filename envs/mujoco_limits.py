"""Gymnasium's MuJoCo tasks (v5) under limits on what the actuators may do.

The limits of the Reacher-O, HalfCheetah-O, Hopper-M, Walker2d-M, HalfCheetah-MA and Reacher-L2 tasks are those of the
benchmark of Kasaura et al.; w are joint velocities (rad/s) and a the actions, as the observation and the action space
have them. The observations and rewards are gymnasium's.

Every function makes the environment and wraps it in :class:`icnn_rl.envs.ProjectAction`; with ``project=False`` the
environment is as gymnasium made it, with the constraint as an attribute. Other keyword arguments go to gymnasium's
environment, ``fallback`` and ``tol`` to the wrapper. Limits that read the state know where it stands in gymnasium's own
observation: with ``exclude_current_positions_from_observation=False`` they raise a ValueError.

References:
    K. Kasaura, S. Miura, T. Kozuno, R. Yonetani, K. Hoshino, Y. Hosoe, Benchmarking actor-critic deep reinforcement
    learning algorithms for robotics control with action constraints, IEEE Robotics and Automation Letters 8, 2023.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from icnn_rl.constraints import ActionConstraint, ball, box, linear, power_limit
from icnn_rl.envs.project_action import ProjectAction, WithConstraint

Env = gym.Env[Any, Any]

_RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")

#: Where the velocities of the driven joints stand in the observation.
REACHER_VELOCITIES = slice(6, 8)  # joint0, joint1
HALF_CHEETAH_VELOCITIES = slice(11, 17)  # bthigh, bshin, bfoot, fthigh, fshin, ffoot
HOPPER_VELOCITIES = slice(8, 11)  # thigh, leg, foot
WALKER_VELOCITIES = slice(11, 17)  # thigh, leg, foot of either side


#: Gymnasium's argument that moves the entries of an observation.
_MOVES = "exclude_current_positions_from_observation"


def constrained(env: Env, constraint: ActionConstraint, *, project: bool = True, **settings: Any) -> Env:
    """The environment in a :class:`ProjectAction`, or as it is with the constraint as an attribute."""
    if project:
        return ProjectAction(env, constraint, **settings)
    return WithConstraint(env, constraint)


def _drawn(make: Callable[..., Env]) -> Callable[..., Env]:
    """Tells gymnasium.make how the environment draws itself, before there is one: as all of gymnasium's for MuJoCo."""
    make.metadata = {"render_modes": list(_RENDER_MODES)}  # type: ignore[attr-defined]
    return make


def _made(module: str, name: str, constraint: ActionConstraint, settings: dict[str, Any]) -> Env:
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


@_drawn
def reacher_o(max_power: float, **settings: Any) -> Env:
    """Reacher-v5 under |w_1 a_1| + |w_2 a_2| <= max_power; reads the observation's entries 6 and 7: qvel[0:2].

    Args:
        max_power: 0.3, 1 and 3 in Reacher-O03, -O10 and -O30.
    """
    return _made("reacher_v5", "ReacherEnv", power_limit(REACHER_VELOCITIES, max_power), settings)


@_drawn
def reacher_l2(size: float = 0.05, **settings: Any) -> Env:
    """Reacher-v5 under ||a||^2 <= size; the same in every state, reads nothing."""
    return _made("reacher_v5", "ReacherEnv", ball(size**0.5), settings)


@_drawn
def half_cheetah_o(max_power: float = 20.0, **settings: Any) -> Env:
    """HalfCheetah-v5 under sum_i |w_i a_i| <= max_power; reads the observation's entries 11 to 16: qvel[3:9]."""
    return _made("half_cheetah_v5", "HalfCheetahEnv", power_limit(HALF_CHEETAH_VELOCITIES, max_power), settings)


@_drawn
def half_cheetah_ma(max_power: float = 5.0, **settings: Any) -> Env:
    """HalfCheetah-v5 under w_1 a_1 sin(t_1 + t_2 + t_3) + w_4 a_4 sin(t_4 + t_5 + t_6) <= max_power.

    t are the angles of the joints bthigh, bshin, bfoot, fthigh, fshin, ffoot, entries 2 to 7 of the observation
    (qpos[3:9]); w_1 and w_4 are entries 11 and 14 (qvel[3] and qvel[6]).
    """
    return _made("half_cheetah_v5", "HalfCheetahEnv", linear(_Lifting(), (max_power,)), settings)


@_drawn
def half_cheetah_box(limit: float = 0.5, **settings: Any) -> Env:
    """HalfCheetah-v5 under |a_i| <= limit; the same in every state, reads nothing.

    The action space stays [-1, 1]^6. Fast gaits of the cheetah drive most joints with all they have (about half of the
    coordinates of greedy actions lie on +-1), so at half the torque the optimum lies on the limit in most states.
    """
    return _made("half_cheetah_v5", "HalfCheetahEnv", box(-limit, limit), settings)


@_drawn
def hopper_m(max_power: float = 10.0, **settings: Any) -> Env:
    """Hopper-v5 under sum_i max(w_i a_i, 0) <= max_power; reads the observation's entries 8 to 10: qvel[3:6].

    Hopper's observation clips velocities to +-10 rad/s, and the limit is on the power that the clipped velocities say:
    of a joint that turns faster the true power, |qvel| a, may exceed it. So it is in the benchmark.
    """
    limit = power_limit(HOPPER_VELOCITIES, max_power, motoring_only=True)
    return _made("hopper_v5", "HopperEnv", limit, settings)


@_drawn
def hopper_box(lower: float = -0.4, upper: float = 0.6, **settings: Any) -> Env:
    """Hopper-v5 under lower <= a_i <= upper; the same in every state, reads nothing.

    The action space stays [-1, 1]^3. A hop is a push with all the torque there is, in either direction, so the optimum
    lies on the limits; they are not symmetric, so that the middle of the set is not 0.
    """
    return _made("hopper_v5", "HopperEnv", box(lower, upper), settings)


@_drawn
def walker2d_m(max_power: float = 10.0, **settings: Any) -> Env:
    """Walker2d-v5 under sum_i max(w_i a_i, 0) <= max_power; reads the observation's entries 11 to 16: qvel[3:9].

    The velocities are clipped to +-10 rad/s, as for :func:`hopper_m`.
    """
    limit = power_limit(WALKER_VELOCITIES, max_power, motoring_only=True)
    return _made("walker2d_v5", "Walker2dEnv", limit, settings)


@dataclass(frozen=True)
class _Lifting:
    """The row of :func:`half_cheetah_ma`: observations (B, 17) -> (B, 1, 6)."""

    def __call__(self, obs: Tensor) -> Tensor:
        row = torch.zeros(*obs.shape[:-1], 1, 6, dtype=obs.dtype, device=obs.device)
        row[..., 0, 0] = obs[..., 11] * obs[..., 2:5].sum(-1).sin()
        row[..., 0, 3] = obs[..., 14] * obs[..., 5:8].sum(-1).sin()
        return row
