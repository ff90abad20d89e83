"""Settings, checked against the constructors that take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from icnn_rl.agents.icnn_q.policy import LEFT_TO_PICNN
from icnn_rl.runs.arguments import argument_defaults, check_keys, parameters
from icnn_rl.runs.config.agents import AGENTS, CONSTRAINED_POLICIES
from icnn_rl.runs.errors import UserError

__all__ = ["OWN_ARGUMENTS", "check_settings", "is_integer", "read_schedule"]

#: Arguments that the command line passes itself.
OWN_ARGUMENTS = {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}

#: Arguments that are objects or classes, which text cannot express.
_OBJECTS = {"action_noise", "replay_buffer_class"}

#: Settings that may decay over the run, written lin_3e-4.
_SCHEDULED = ("learning_rate", "clip_range")


def check_settings(agent: str, settings: Mapping[str, Any]) -> None:
    """Every key must be an argument of the agent's constructor, and those of policy_kwargs of its policy's; where the
    default is a number, so must the value be."""
    algorithm = AGENTS[agent]
    known = set(parameters(algorithm)) - OWN_ARGUMENTS
    if issubclass(algorithm, TD3):
        known.add("exploration_noise")  # build_agent turns it into an action noise
    check_keys(settings, known, f"agent {agent!r}")
    for key in _OBJECTS & settings.keys():
        raise UserError(
            f"{key}: takes an object, which a setting cannot be: build the agent in Python. For Gaussian noise of td3, "
            "ddpg, icnn and naf: exploration_noise=0.1."
        )
    _check_kinds(settings, algorithm)
    policy_kwargs = _mapping("policy_kwargs", settings.get("policy_kwargs"))
    policy = settings.get("policy", "MlpPolicy")
    if policy not in list(algorithm.policy_aliases):
        raise UserError(f"policy: expected one of {', '.join(sorted(algorithm.policy_aliases))}, got {policy!r}.")
    known = set(parameters(algorithm.policy_aliases[policy]))
    if agent in CONSTRAINED_POLICIES:
        known |= set(parameters(CONSTRAINED_POLICIES[agent]))
    check_keys(
        policy_kwargs,
        known - {"self", "observation_space", "action_space", "lr_schedule", "constraint"},
        f"policy_kwargs of {agent!r}",
    )
    check_keys(
        _mapping("policy_kwargs.picnn_kwargs", policy_kwargs.get("picnn_kwargs")),
        set(LEFT_TO_PICNN),
        "picnn_kwargs, the input-convex network",
    )


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: expected key: value pairs, got {value!r}. For one of them: --set {name}.KEY=VALUE.")
    return value


def _check_kinds(given: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> None:
    """Booleans and numbers, where the default is one; lists and the like are left to the constructor."""
    defaults = {"exploration_noise": 0.1, **argument_defaults(algorithm)}
    optional_integers = _optional_integers(algorithm)
    for key, value in given.items():
        default = defaults.get(key)
        if key in optional_integers:
            if not (value is None or type(value) is int or (isinstance(value, float) and value.is_integer())):
                raise UserError(f"{key}: expected an integer or null, got {value!r}.")
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{key}: expected true or false, got {value!r}.")
        elif isinstance(default, int | float) and read_schedule(key, value) is None:
            if value is None or isinstance(value, bool | str | Mapping):
                raise UserError(f"{key}: expected a number, got {value!r}. The default is {default}.")
            if isinstance(default, int) and isinstance(value, float) and not value.is_integer():
                raise UserError(f"{key}: expected an integer, got {value!r}. The default is {default}.")


def is_integer(agent: str, key: str) -> bool:
    """Whether an argument of the agent's constructor is an integer, or an integer or None."""
    algorithm = AGENTS[agent]
    return type(argument_defaults(algorithm).get(key)) is int or key in _optional_integers(algorithm)


def _optional_integers(algorithm: type[BaseAlgorithm]) -> set[str]:
    return {name for name, parameter in parameters(algorithm).items() if str(parameter.annotation) == "int | None"}


def read_schedule(key: str, value: Any) -> LinearSchedule | None:
    """lin_3e-4, RL Baselines3 Zoo's notation: linear from 3e-4 at the start of the run to 0 at its end. None for other
    values, and for settings without schedules.

    Raises:
        UserError: what follows lin_ is not a positive number.
    """
    if key not in _SCHEDULED or not (isinstance(value, str) and value.startswith("lin_")):
        return None
    try:
        start = float(value.removeprefix("lin_"))
    except ValueError:
        start = np.nan
    if not 0 < start < np.inf:
        raise UserError(f"{key}: expected a positive number after lin_, for instance lin_3e-4, got {value!r}.")
    return LinearSchedule(start, 0.0, 1.0)
