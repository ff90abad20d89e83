"""Environments of a run: made by id, with the constraint of the run around them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import icnn_rl.envs  # noqa: F401  (registers the environments of the package)
from icnn_rl.envs.project_action import ProjectAction
from icnn_rl.experiment.errors import UserError
from icnn_rl.qp.constraints import ActionConstraint
from icnn_rl.qp.spec import parse_constraint

__all__ = ["NO_CONSTRAINT", "constraint_of", "import_env", "make_env", "make_single_env", "read_constraints"]

#: As a run's constraint: the agent is told of none, not even of the environment's own, whose wrapper still enforces it.
NO_CONSTRAINT = "none"


def read_constraints(items: Sequence[str]) -> Any:
    """What --constraint was given: texts, and names of YAML files that hold such; None if nothing.

    Raises:
        UserError: a file is missing or is not YAML, or "none" is not alone.
    """
    if NO_CONSTRAINT in items:
        if len(items) > 1:
            raise UserError(f"--constraint none: together with others, {', '.join(items)}. Leave one of them out.")
        return NO_CONSTRAINT
    return [_read_file(Path(item)) if item.endswith((".yml", ".yaml")) else item for item in items] or None


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"--constraint {path}: no such file.")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"--constraint {path}: not valid YAML ({error}).") from error


def import_env(option: str, env_id: str) -> str:
    """The part of an id that gymnasium's registry knows. Of "my_module:Name-v0" the module is imported, which registers
    the environment; it is looked for in the working folder too, as ``python -m`` does.

    Raises:
        UserError: there is no such module, or it does not import; ``option`` is what named it.
    """
    module, _, name = env_id.rpartition(":")
    if not module:
        return name
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            hint = ". Run the command in the folder that holds the module, or name that folder in PYTHONPATH"
        raise UserError(f"{option} {env_id}: {error}{hint}.") from error
    return name


def make_single_env(env_id: str, constraint: Any, **options: Any) -> gym.Env[Any, Any]:
    """One environment; what a constraint's specification allows is all that reaches it.

    Raises:
        UserError: gymnasium does not know the environment or cannot build it, or the constraint is wrong.
    """
    name = import_env("--env", env_id)
    try:
        env = gym.make(name, **options)
    except (gym.error.Error, ImportError) as error:  # ImportError: of what the environment itself needs
        raise UserError(f"--env {env_id}: {error}") from error
    if constraint is None or constraint == NO_CONSTRAINT:
        return env
    settings: dict[str, Any] = {}
    try:
        wanted = parse_constraint(constraint)
        own = _projection(env)
        if own is not None:  # one projection onto both sets: two in turn would leave the first
            env.close()
            wanted, settings = own.constraint & wanted, own.settings
            env = gym.make(name, project=False, **options)
        return ProjectAction(env, wanted, **settings)
    except TypeError as error:
        raise UserError(
            f"--constraint: {env_id} has a constraint of its own that cannot be joined ({error})."
        ) from error
    except ValueError as error:
        env.close()
        raise UserError(f"--constraint: {str(error).removeprefix('constraint: ')}") from error


def _projection(env: Any) -> ProjectAction | None:
    """The wrapper among those around the environment."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, ProjectAction):
            return env
        env = env.env
    return None


@functools.cache
def _hear_mujoco_once() -> None:
    """MuJoCo repeats a warning about a model for every copy; every text is told once."""
    if importlib.util.find_spec("mujoco") is not None:
        import mujoco

        mujoco.set_mju_user_warning(functools.cache(lambda text: print(f"MuJoCo: {text}", file=sys.stderr)))


def make_env(env_id: str, n_envs: int, seed: int, constraint: Any = None) -> VecEnv:
    """``n_envs`` monitored copies, see :func:`make_single_env`."""
    _hear_mujoco_once()
    # given the id, SB3 would ask for pictures, and gymnasium warns where there are none
    return make_vec_env(functools.partial(make_single_env, env_id, constraint), n_envs=n_envs, seed=seed)


def constraint_of(env: VecEnv) -> ActionConstraint | None:
    """What is enforced by the wrapper around the environments."""
    assert isinstance(env.unwrapped, DummyVecEnv)
    found = _projection(env.unwrapped.envs[0])
    return None if found is None else found.constraint
