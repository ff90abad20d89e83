"""Modules and wrappers that users name."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import gymnasium as gym
import gymnasium.wrappers
import yaml

from icnn_rl.runs.arguments import check_keys, names_of, numbers
from icnn_rl.runs.errors import UserError
from icnn_rl.spelling import did_you_mean

__all__ = ["import_users", "read_wrappers", "wrap"]


def import_users(module: str) -> ModuleType:
    """Import a module that is installed or in the working folder, as ``python -m`` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module)


def wrap(env: gym.Env[Any, Any], wrapper: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment in a wrapper from :func:`read_wrappers`.

    Raises:
        UserError: the wrapper refuses it.
    """
    ((name, given),) = wrapper.items()
    try:
        wrapped: gym.Env[Any, Any] = _find_wrapper(name)(env, **given)
    except (TypeError, ValueError, AssertionError, gym.error.Error) as error:
        raise UserError(f"--wrapper {name}: {error}") from error
    return wrapped


def read_wrappers(items: Sequence[Any]) -> list[dict[str, dict[str, Any]]] | None:
    """Values of --wrapper, NAME[:KEY=VALUE,...], or entries of a file, {NAME: {KEY: VALUE}}, all in the second form;
    None if there are none.

    A name is one of gymnasium.wrappers, or module.Class.

    Raises:
        UserError: there is no such wrapper, or it takes no such argument.
    """
    read = []
    for item in items:
        name, given = next(iter(item.items())) if isinstance(item, Mapping) and len(item) == 1 else _from_text(item)
        known, more = names_of(_find_wrapper(name))
        if not more:
            check_keys(given or {}, known - {"self", "env"}, f"wrapper {name}")
        read.append({str(name): dict(given or {})})
    return read or None


def _from_text(item: Any) -> tuple[str, Any]:
    name, _, rest = str(item).partition(":")
    try:
        given = yaml.safe_load("{" + re.sub(r"(^|,)\s*(\w+)=", r"\1\2: ", rest) + "}")
    except yaml.YAMLError:
        given = {"": None}
    if "" in given or None in given.values():
        raise UserError(
            f"--wrapper {item}: expected NAME or NAME:KEY=VALUE,... such as TimeLimit:max_episode_steps=100."
        )
    return name, numbers(given)


def _find_wrapper(name: Any) -> Any:
    module, _, attribute = str(name).rpartition(".")
    try:
        return getattr(import_users(module) if module else gym.wrappers, attribute)
    except (ImportError, AttributeError) as error:
        hint = "" if module else did_you_mean(attribute, gym.wrappers.__all__, most=2)
        hint = hint or " Expected one of gymnasium.wrappers, or module.Class."
        raise UserError(f"--wrapper {name}: {error}.{hint}") from error
