"""config.yml of a run."""

from __future__ import annotations

import pytest
import yaml

from icnn_rl.runs.config.provenance import versions
from icnn_rl.runs.config.record import Config
from icnn_rl.runs.errors import UserError


def test_a_configuration_survives_its_file(tmp_path, make_config):
    config = make_config("icnn", learning_rate=1e-5, policy_kwargs={"solver": {"name": "ProjectedNewton", "tol": 1e-6}})
    path = tmp_path / "config.yml"
    path.write_text(config.to_yaml({"versions": versions(), "revision": "unknown"}))
    assert Config.load(path) == config
    written = yaml.safe_load(path.read_text())
    assert written["seed"] == config.seed
    assert {"python", "torch", "stable-baselines3", "icnn-rl", "gymnasium", "mujoco", "numpy"} <= set(
        written["versions"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent: icnn\n", "lacks env, timesteps"),
        ("", "lacks agent, env"),
        ("[1, 2]", "lacks agent, env"),
        ("{", "not valid YAML"),
        ("agent: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_broken_config_is_named(tmp_path, text, message):
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"config.yml: {message}"):
        Config.load(path)


def test_an_unknown_agent_in_a_config_is_named(tmp_path, make_config):
    path = tmp_path / "config.yml"
    path.write_text(make_config().to_yaml({}).replace("agent: icnn", "agent: dqn"))
    with pytest.raises(UserError, match=r"config.yml: unknown agent 'dqn'; expected one of ddpg, icnn"):
        Config.load(path)
