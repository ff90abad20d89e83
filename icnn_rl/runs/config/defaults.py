"""Settings: the constructors' defaults, overridden by YAML per agent and environment, then by the user."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml

from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.policy import LEFT_TO_PICNN
from icnn_rl.nn import PICNN
from icnn_rl.runs.arguments import argument_defaults, merge_settings, numbers
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.check import OWN_ARGUMENTS, check_settings, is_integer

__all__ = ["constructor_defaults", "default_episodes", "resolve_settings"]


def resolve_settings(agent: str, env: str, *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the agent, then those for the environment, then ``overrides`` in turn; all keys checked.

    Raises:
        UserError: an unknown key, with the nearest known ones, or a value of the wrong kind.
    """
    source = importlib.resources.files("icnn_rl.agents") / "configs" / f"{agent}.yml"
    table = yaml.safe_load(source.read_text()) or {}
    settings: dict[str, Any] = {}
    for layer in (table.get("default") or {}, table.get(env) or {}, *overrides):
        settings = merge_settings(settings, numbers(layer))
    check_settings(agent, settings)
    return _whole_numbers(agent, settings)


def _whole_numbers(agent: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn 1e5 into 100000 where the constructor takes an integer."""
    return {
        key: int(value) if is_integer(agent, key) and isinstance(value, float) else value
        for key, value in settings.items()
    }


def constructor_defaults(agent: str) -> dict[str, Any]:
    """Defaults of the constructors of an agent, its policy and its input-convex network as plain data: classes by name,
    other objects by their repr."""
    algorithm = AGENTS[agent]
    policy = argument_defaults(algorithm.policy_aliases["MlpPolicy"])
    if algorithm is ICNNQ:
        network = argument_defaults(PICNN)
        policy["picnn_kwargs"] = {name: network[name] for name in LEFT_TO_PICNN}
    found = {**argument_defaults(algorithm), "policy_kwargs": policy}
    return {key: _plain(value) for key, value in found.items() if key not in OWN_ARGUMENTS}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def default_episodes(timesteps: int) -> tuple[int, int]:
    """Episodes of an evaluation during training and of the final one: 5 and 20, fewer for runs so short that
    evaluations would take most of the time."""
    return max(1, min(5, timesteps // 2000)), max(2, min(20, timesteps // 500))
