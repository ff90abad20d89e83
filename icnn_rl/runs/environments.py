"""Environments of a run: made by id, and wrapped in the run's constraint."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import icnn_rl.envs  # noqa: F401  (registers the environments of the package)
from icnn_rl.constraints import ActionConstraint, parse_constraint
from icnn_rl.envs.project_action import ProjectAction
from icnn_rl.runs.arguments import check_keys, names_of, parameters, parse_overrides
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.wrappers import import_users, wrap

__all__ = [
    "NO_CONSTRAINT",
    "constraint_of",
    "import_env",
    "make_env",
    "make_single_env",
    "parse_limit",
    "read_constraints",
    "read_vec_normalize",
]

#: As a run's constraint: the agent is not told of any. The environment's own is still enforced by its wrapper.
NO_CONSTRAINT = "none"


def read_constraints(items: Sequence[str]) -> Any:
    """Values of --constraint, texts or names of YAML files, as plain data; None if there are none.

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


def parse_limit(given: Any) -> ActionConstraint | None:
    """The constraint that :func:`read_constraints` has read; None for none, and for "none".

    Raises:
        UserError: it is not one.
    """
    if given is None or given == NO_CONSTRAINT:
        return None
    try:
        return parse_constraint(given)
    except ValueError as error:
        raise UserError(_of_constraint(error)) from error


def _of_constraint(error: ValueError) -> str:
    return f"--constraint: {str(error).removeprefix('constraint: ')}"


def import_env(option: str, env_id: str) -> str:
    """The part of an id that gymnasium's registry knows. For "my_module:Name-v0" the module, which registers the
    environment, is imported; it may be in the working folder, as with ``python -m``.

    Raises:
        UserError: there is no such module, or it does not import; starts with ``option``.
    """
    module, _, name = env_id.rpartition(":")
    if not module:
        return name
    try:
        import_users(module)
    except ImportError as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            hint = ". Run the command in the folder that holds the module, or name that folder in PYTHONPATH"
        raise UserError(f"{option} {env_id}: {error}{hint}.") from error
    return name


def make_single_env(
    env_id: str,
    constraint: ActionConstraint | None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] | None = None,
    **options: Any,
) -> gym.Env[Any, Any]:
    """One environment; only actions that the constraint allows reach it.

    The constraint is in the environment's own units: wrappers go around its projection. Agents refuse a constraint if
    wrappers have changed the units they see.

    Args:
        env_id: for ``gymnasium.make``, see :func:`import_env`.
        constraint: enforced together with the environment's own; None: the environment's own, if any.
        env_kwargs: arguments of the environment's constructor, or max_episode_steps.
        wrappers: from :func:`icnn_rl.runs.wrappers.read_wrappers`, innermost first.
        options: further arguments of the constructor, not chosen by the user.

    Raises:
        UserError: gymnasium does not know the environment or cannot build it, or an argument, the constraint or a
            wrapper is wrong.
    """
    env = _make_projected(env_id, constraint, dict(env_kwargs or {}), options)
    for wrapper in wrappers or ():
        env = wrap(env, wrapper)
    return env


def _make(env_id: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    name = import_env("--env", env_id)
    try:
        if given:
            _check_env_kwargs(env_id, name, given)
        return gym.make(name, **given, **options)
    except (gym.error.Error, ImportError) as error:  # ImportError: the environment needs a package
        raise UserError(f"--env {env_id}: {error}") from error
    except (TypeError, ValueError) as error:
        if not given:
            raise
        raise UserError(f"--env-kwargs: {env_id} does not take {dict(given)}. {error}") from error


def _check_env_kwargs(env_id: str, name: str, given: Mapping[str, Any]) -> None:
    entry = gym.spec(name).entry_point
    known, more = names_of(load_env_creator(entry) if isinstance(entry, str) else entry) if entry else (set(), True)
    if not more:
        check_keys(given, known - {"self", "render_mode"} | {"max_episode_steps"}, f"environment {env_id}")


def _make_projected(
    env_id: str, constraint: ActionConstraint | None, given: Mapping[str, Any], options: Mapping[str, Any]
) -> gym.Env[Any, Any]:
    """The environment with the projection onto the constraint around it."""
    env = _make(env_id, given, options)
    if constraint is None:
        return env
    settings: dict[str, Any] = {}
    try:
        own = _projection(env)
        if own is not None:  # one projection onto the intersection: two in turn would leave the first set
            env.close()
            constraint, settings = own.constraint & constraint, own.settings
            env = _make(env_id, {**given, "project": False}, options)
        return ProjectAction(env, constraint, **settings)
    except UserError as error:
        raise UserError(
            f"--constraint: {env_id} has a constraint of its own that cannot be joined ({error})."
        ) from error
    except ValueError as error:
        env.close()
        raise UserError(_of_constraint(error)) from error


def _projection(env: Any) -> ProjectAction | None:
    """The projecting wrapper around the environment, if any."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, ProjectAction):
            return env
        env = env.env
    return None


@functools.cache
def _hear_mujoco_once() -> None:
    """Print each of MuJoCo's warnings about a model once, not once per copy."""
    if importlib.util.find_spec("mujoco") is not None:
        import mujoco

        mujoco.set_mju_user_warning(functools.cache(lambda text: print(f"MuJoCo: {text}", file=sys.stderr)))


def make_env(
    env_id: str,
    n_envs: int,
    seed: int,
    constraint: ActionConstraint | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] | None = None,
    vec_normalize: Mapping[str, Any] | None = None,
) -> VecEnv:
    """``n_envs`` monitored copies, see :func:`make_single_env`; inside SB3's VecNormalize if its arguments are given as
    ``vec_normalize``."""
    _hear_mujoco_once()
    make = functools.partial(make_single_env, env_id, constraint, env_kwargs=env_kwargs, wrappers=wrappers)
    # not by id: SB3 would ask for a render mode, and gymnasium warns if there is none
    env = make_vec_env(make, n_envs=n_envs, seed=seed)
    if vec_normalize is None:
        return env
    try:
        return VecNormalize(env, **vec_normalize)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--vec-normalize: {error}") from error


def read_vec_normalize(given: Any) -> dict[str, Any] | None:
    """Arguments of VecNormalize from KEY=VALUE texts, a mapping, or true for its defaults; None: no VecNormalize.

    Raises:
        UserError: an unknown key, or something else.
    """
    if given is None or given is False:
        return None
    options = {} if given is True else parse_overrides(given, "--vec-normalize") if isinstance(given, list) else given
    if not isinstance(options, Mapping):
        raise UserError(f"--vec-normalize: expected true, or KEY: VALUE pairs, got {given!r}.")
    check_keys(options, set(parameters(VecNormalize)) - {"self", "venv", "training"}, "VecNormalize")
    return dict(options)


def constraint_of(env: VecEnv) -> ActionConstraint | None:
    """The constraint that the wrappers around the environments enforce. The environment's own part is known only to the
    environment; it is the same in all copies."""
    assert isinstance(env.unwrapped, DummyVecEnv)
    found = _projection(env.unwrapped.envs[0])
    return None if found is None else found.constraint
