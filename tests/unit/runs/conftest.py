"""Tiny runs that take about a second each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

_OFF_POLICY = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "batch_size": 8}
_SMALL: dict[str, dict[str, Any]] = {
    "icnn": {**_OFF_POLICY, "policy_kwargs": {"net_arch": [8], "hidden": [4]}},
    "naf": _OFF_POLICY,
    "ddpg": _OFF_POLICY,
    "td3": _OFF_POLICY,
    "sac": _OFF_POLICY,
    "ppo": {"policy_kwargs": {"net_arch": [8]}, "n_steps": 32, "batch_size": 16, "n_epochs": 2},
}


@pytest.fixture
def make_config() -> Callable[..., Any]:
    """make_config("icnn", timesteps=80, n_steps=3): a Config; unknown keywords are settings."""
    from icnn_rl.runs.config.defaults import resolve_settings
    from icnn_rl.runs.config.record import Config

    fields = {
        "env": "InvertedPendulum-v5",
        "timesteps": 80,
        "seed": 3,
        "n_envs": 1,
        "device": "cpu",
        "eval_freq": 40,
        "eval_episodes": 1,
        "checkpoint_freq": 40,
    }

    def make(agent: str = "icnn", **given: Any) -> Config:
        own = {**fields, **{key: given.pop(key) for key in list(given) if key in fields}}
        overrides = {**deepcopy(_SMALL[agent]), **given}
        return Config(agent=agent, settings=resolve_settings(agent, str(own["env"]), overrides), **own)

    return make
