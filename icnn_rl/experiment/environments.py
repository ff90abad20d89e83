"""Environments of a run: made by id, with the constraint of the run around them."""

from __future__ import annotations

import functools
import operator
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import icnn_rl.envs  # noqa: F401  (registers the environments of the package)
from icnn_rl.envs.project_action import ProjectAction
from icnn_rl.experiment.errors import UserError
from icnn_rl.qp.constraints import ActionConstraint, parse_constraint

__all__ = ["NO_CONSTRAINT", "constraint_of", "make_env", "make_single_env"]

#: As a run's constraint: the agent is told of none, not even of the environment's own, whose wrapper still enforces it.
NO_CONSTRAINT = "none"


def make_single_env(env_id: str, constraint: str | None, **options: Any) -> gym.Env[Any, Any]:
    """One environment; what a constraint's specification allows is all that reaches it.

    Raises:
        UserError: gymnasium does not know the environment or cannot build it, or the constraint is wrong.
    """
    try:
        env = gym.make(env_id, **options)
    except (gym.error.Error, ImportError) as error:  # ImportError: the module of an id such as "module:Name-v0"
        raise UserError(f"--env {env_id}: {error}") from error
    if constraint is None or constraint == NO_CONSTRAINT:
        return env
    try:
        return ProjectAction(env, parse_constraint(constraint))
    except ValueError as error:
        env.close()
        raise UserError(f"--constraint {constraint}: {error}") from error


def make_env(env_id: str, n_envs: int, seed: int, constraint: str | None = None) -> VecEnv:
    """``n_envs`` monitored copies, see :func:`make_single_env`."""
    # given the id, SB3 would ask for pictures, and gymnasium warns where there are none
    return make_vec_env(functools.partial(make_single_env, env_id, constraint), n_envs=n_envs, seed=seed)


def constraint_of(env: VecEnv) -> ActionConstraint | None:
    """All that is enforced by wrappers around the environments."""
    assert isinstance(env.unwrapped, DummyVecEnv)
    found, layer = [], env.unwrapped.envs[0]
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, ProjectAction):
            found.append(layer.constraint)
        layer = layer.env
    return functools.reduce(operator.and_, found) if found else None
