"""Agents of tiny configurations."""

from __future__ import annotations

import pytest

from icnn_rl.runs.config.build import build_agent
from icnn_rl.runs.environments import make_env


@pytest.fixture
def build(make_config):
    """build("icnn", key=value): the agent of a tiny configuration on one environment."""
    opened = []

    def make(agent="icnn", **given):
        config = make_config(agent, **given)
        opened.append(make_env(config.env, config.n_envs, config.seed))
        return build_agent(config, opened[-1], None)

    yield make
    for env in opened:
        env.close()
