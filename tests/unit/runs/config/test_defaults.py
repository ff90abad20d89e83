"""Settings: defaults, YAML by agent and environment, what was asked for."""

from __future__ import annotations

from importlib import resources

import gymnasium as gym
import pytest
import yaml

from icnn_rl.runs.config import defaults
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.defaults import constructor_defaults, resolve_settings


def test_layers_agent_then_environment_then_overrides(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "td3.yml").write_text(
        yaml.safe_dump(
            {
                "default": {"gamma": 0.9, "tau": 0.1, "policy_kwargs": {"net_arch": [1], "n_critics": 3}},
                "Hopper-v5": {"tau": 0.2, "learning_rate": "1e-4", "policy_kwargs": {"net_arch": [2, 2]}},
            }
        )
    )
    monkeypatch.setattr(defaults.importlib.resources, "files", lambda package: tmp_path)
    assert resolve_settings("td3", "Hopper-v5", {"gamma": 0.8}) == {
        "gamma": 0.8,
        "tau": 0.2,
        "learning_rate": 1e-4,
        "policy_kwargs": {"net_arch": [2, 2], "n_critics": 3},
    }
    assert resolve_settings("td3", "Walker2d-v5", {})["tau"] == 0.1


def test_resolving_does_not_change_what_it_was_given():
    overrides = {"policy_kwargs": {"net_arch": [4]}}
    resolved = resolve_settings("td3", "Pendulum-v1", overrides)
    resolved["policy_kwargs"]["net_arch"].append(5)
    assert overrides == {"policy_kwargs": {"net_arch": [4]}}
    assert resolve_settings("td3", "Pendulum-v1", {})["policy_kwargs"] == {"net_arch": [256, 256]}


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_shipped_table_is_valid_for_its_agent(agent, build):
    text = (resources.files("icnn_rl.agents") / "configs" / f"{agent}.yml").read_text()
    table = yaml.safe_load(text)
    assert "default" in table
    for env in table:
        resolve_settings(agent, env, {})  # raises where a key is unknown
        if env != "default":
            assert env in gym.registry, f"{agent}.yml: no environment {env}"
    assert isinstance(build(agent), AGENTS[agent])


def test_every_agent_has_a_table_and_every_table_an_agent():
    shipped = {path.name for path in (resources.files("icnn_rl.agents") / "configs").iterdir()} - {
        "__init__.py",
        "__pycache__",
    }
    assert shipped == {f"{agent}.yml" for agent in AGENTS}


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_the_defaults_on_record_are_those_in_force(agent, build):
    defaults = constructor_defaults(agent)
    assert yaml.safe_load(yaml.safe_dump(defaults)) == defaults
    assert " at 0x" not in repr(defaults)
    built = build(agent, env="Pendulum-v1")
    for name in (
        "gamma",
        "tau",
        "policy_delay",
        "gae_lambda",
        "reward_scale",
        "exploration_noise",
        "target_policy_noise",
    ):
        if name in defaults:
            assert getattr(built, name) == defaults[name], name


def test_the_network_of_the_default_critic_is_on_record(build):
    defaults = constructor_defaults("icnn")["policy_kwargs"]
    policy = build().policy
    assert policy.critic.net.strong_convexity == defaults["picnn_kwargs"]["strong_convexity"]
    assert policy.n_critics == defaults["n_critics"]
    assert defaults["normalize_observations"] is True
    assert defaults["solver"].startswith("ProjectedNewton(tol=0.0003, max_steps=6")
