"""Configuration: merging, checking, building."""

from __future__ import annotations

from importlib import resources

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from icnn_rl import solvers
from icnn_rl.runs import config as config_module
from icnn_rl.runs.config import (
    AGENTS,
    Config,
    build_agent,
    constructor_defaults,
    parse_overrides,
    resolve_settings,
    versions,
)
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError


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


# --set


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["learning_rate=3e-4"], {"learning_rate": 3e-4}),
        (["learning_rate=1E-3"], {"learning_rate": 1e-3}),
        (["batch_size=64"], {"batch_size": 64}),
        (["use_sde=true"], {"use_sde": True}),
        (["policy=CnnPolicy"], {"policy": "CnnPolicy"}),
        (["buffer_size=null"], {"buffer_size": None}),
        (["policy_kwargs.hidden=[64, 32]"], {"policy_kwargs": {"hidden": [64, 32]}}),
        (["a.b.c=1", "a.b.d=2", "a.e=3"], {"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
        (["a=1", "a=2"], {"a": 2}),
        (["a.b=1", "a=2"], {"a": 2}),
        (["a=x=y"], {"a": "x=y"}),
        (["kw={eps: 1e-5, betas: [9e-1, 0.99]}"], {"kw": {"eps": 1e-5, "betas": [0.9, 0.99]}}),
    ],
)
def test_overrides_are_read_as_yaml(items, expected):
    assert parse_overrides(items) == expected


@pytest.mark.parametrize("item", ["learning_rate", "=3", ""])
def test_an_override_needs_a_key_and_a_value(item):
    with pytest.raises(UserError, match=r"expected key=value, for instance --set learning_rate=3e-4"):
        parse_overrides([item])


@pytest.mark.parametrize(
    "text", ["[1, 2", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/tuple [1, 2]"]
)
def test_an_override_is_data_only(text):
    with pytest.raises(UserError, match="not valid YAML"):
        parse_overrides([f"learning_rate={text}"])


# layers


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
    monkeypatch.setattr(config_module.importlib.resources, "files", lambda package: tmp_path)
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


# unknown keys


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_an_unknown_key_is_named_with_the_nearest_ones(agent):
    with pytest.raises(UserError, match=rf"learning_rat: not an argument of agent '{agent}'.*learning_rate"):
        resolve_settings(agent, "Pendulum-v1", {"learning_rat": 1e-3})
    with pytest.raises(UserError, match=rf"net_arc: not an argument of policy_kwargs of '{agent}'.*net_arch"):
        resolve_settings(agent, "Pendulum-v1", {"policy_kwargs": {"net_arc": [8]}})


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_key_unlike_any_other_gets_the_list(agent):
    with pytest.raises(UserError, match=r"zzzz: .* Known: .*gamma"):
        resolve_settings(agent, "Pendulum-v1", {"zzzz": 1})


@pytest.mark.parametrize("key", ["env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model", "self"])
def test_arguments_of_the_command_line_cannot_be_set_twice(key):
    with pytest.raises(UserError, match=f"^{key}: not an argument"):
        resolve_settings("icnn", "Pendulum-v1", {key: 1})


@pytest.mark.parametrize("key", ["solver", "act_solver"])
def test_an_unknown_solver_option_is_named(build, key):
    with pytest.raises(UserError, match=r"max_step: not an argument of solver ProjectedNewton. .*max_steps"):
        build(policy_kwargs={key: {"name": "ProjectedNewton", "max_step": 3}})


def test_an_unknown_network_option_is_named():
    with pytest.raises(UserError, match=r"gat: not an argument of picnn_kwargs.*gate"):
        resolve_settings("icnn", "Pendulum-v1", {"policy_kwargs": {"picnn_kwargs": {"gat": "softplus"}}})
    with pytest.raises(UserError, match=r"hidden: not an argument of picnn_kwargs"):  # the policy's own
        resolve_settings("icnn", "Pendulum-v1", {"policy_kwargs": {"picnn_kwargs": {"hidden": [4]}}})


def test_exploration_noise_belongs_to_the_agents_that_have_it():
    for agent in ("icnn", "naf", "ddpg", "td3"):
        assert resolve_settings(agent, "Pendulum-v1", {"exploration_noise": 0.3})["exploration_noise"] == 0.3
    for agent in ("sac", "ppo"):
        with pytest.raises(UserError, match="exploration_noise: not an argument"):
            resolve_settings(agent, "Pendulum-v1", {"exploration_noise": 0.3})


# values


@pytest.mark.parametrize(
    ("agent", "key", "value", "message"),
    [
        ("icnn", "learning_rate", "abc", "expected a number, got 'abc'"),
        ("icnn", "buffer_size", "abc", "expected a number"),
        ("naf", "buffer_size", None, "expected a number, got None. The default is 1000000"),
        ("sac", "gamma", True, "expected a number"),
        ("sac", "batch_size", 2.5, "expected an integer, got 2.5"),
        ("td3", "exploration_noise", "abc", "expected a number"),
        ("ppo", "use_sde", "maybe", "expected true or false"),
        ("icnn", "learning_rate", "lin_abc", "expected a positive number after lin_, .*got 'lin_abc'"),
        ("icnn", "learning_rate", "lin_-1", "expected a positive number after lin_"),
        ("icnn", "learning_rate", "lin_nan", "expected a positive number after lin_"),
        ("icnn", "gamma", "lin_0.9", "expected a number, got 'lin_0.9'"),
        ("icnn", "policy_kwargs", 3, "expected key: value pairs, got 3"),
        ("icnn", "learning_starts", "abc", "expected an integer or null, got 'abc'"),
        ("naf", "target_members", 1.5, "expected an integer or null, got 1.5"),
        ("td3", "action_noise", 0.5, "takes an object, which a setting cannot be.*exploration_noise=0.1"),
        ("icnn", "replay_buffer_class", "HerReplayBuffer", "takes an object"),
        ("icnn", "policy", "Mlp", "expected one of CnnPolicy, MlpPolicy, MultiInputPolicy"),
        ("icnn", "policy", ["MlpPolicy"], "expected one of"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(agent, key, value, message):
    with pytest.raises(UserError, match=f"^{key}: {message}"):
        resolve_settings(agent, "Pendulum-v1", {key: value})


def test_whole_numbers_may_be_written_as_powers_of_ten():
    given = ["buffer_size=1e5", "learning_rate=1e0", "learning_starts=1e3"]
    settings = resolve_settings("icnn", "Pendulum-v1", parse_overrides(given))
    assert settings["buffer_size"] == 100_000
    assert type(settings["learning_starts"]) is int
    assert type(settings["buffer_size"]) is int
    assert type(settings["learning_rate"]) is float


def test_a_value_that_the_constructor_refuses_names_agent_and_environment(build):
    with pytest.raises(UserError, match=r"agent 'icnn' on InvertedPendulum-v5: .*target_policy_noise"):
        build(target_policy_noise=-1.0)


# building


def test_policy_kwargs_may_be_nothing(build):
    assert build(policy_kwargs=None).policy.context == (256, 256)


def test_a_solver_by_name_or_by_mapping(build):
    by_name = build(policy_kwargs={"net_arch": [8], "solver": "ProjectedGradient"}).policy
    assert by_name.solver == solvers.ProjectedGradient()
    options = {"name": "ProjectedNewton", "max_steps": 7, "tol": 1e-3}
    by_mapping = build(policy_kwargs={"net_arch": [8], "solver": options}).policy
    assert by_mapping.solver == solvers.ProjectedNewton(max_steps=7, tol=1e-3)
    for_kinks = build(policy_kwargs={"net_arch": [8], "activation": "relu", "solver": "ProximalBundle"}).policy
    assert for_kinks.solver == solvers.ProximalBundle()
    nameless = build(policy_kwargs={"net_arch": [8], "act_solver": {"max_steps": 9}}).policy
    assert nameless.act_solver == solvers.ProjectedNewton(max_steps=9)


def test_an_unknown_solver_is_named_with_the_known_ones(build):
    with pytest.raises(UserError, match=r"policy_kwargs.solver.name: expected one of ProjectedNewton.*got 'Newton'"):
        build(policy_kwargs={"solver": "Newton"})


def test_a_solver_option_out_of_range_is_named(build):
    with pytest.raises(UserError, match=r"policy_kwargs.solver: .*max_steps"):
        build(policy_kwargs={"solver": {"max_steps": 0}})


@pytest.mark.parametrize("agent", ["icnn", "sac"])
def test_an_activation_by_its_name_in_torch(build, agent):
    agent = build(agent, policy_kwargs={"net_arch": [8], "activation_fn": "ELU"})
    assert agent.policy.activation_fn is nn.ELU


def test_an_optimiser_is_given_by_its_name_in_torch(build):
    agent = build("td3", policy_kwargs={"net_arch": [8], "optimizer_class": "AdamW"})
    assert type(agent.critic.optimizer) is torch.optim.AdamW
    with pytest.raises(UserError, match=r"policy_kwargs\.optimizer_class: torch\.optim has no class 'Sgd'"):
        build(policy_kwargs={"optimizer_class": "Sgd"})


@pytest.mark.parametrize("name", ["Elu", "functional"])
def test_an_unknown_activation_is_named(build, name):
    with pytest.raises(UserError, match=f"policy_kwargs.activation_fn: torch.nn has no class '{name}'"):
        build(policy_kwargs={"activation_fn": name})


@pytest.mark.parametrize("agent", ["icnn", "naf", "ddpg", "td3", "sac"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_replay_buffer_is_no_larger_than_the_run(build, agent, n_envs):
    buffer = build(agent, timesteps=500, n_envs=n_envs).replay_buffer
    assert 500 <= buffer.buffer_size * n_envs <= 500 + n_envs


def test_a_smaller_replay_buffer_stays(build):
    assert build(timesteps=500, buffer_size=100).replay_buffer.buffer_size == 100


def test_exploration_noise_becomes_an_action_noise(build):
    assert build("td3", exploration_noise=0.25).action_noise._sigma == pytest.approx(np.full(1, 0.25))
    assert build("td3", exploration_noise=0).action_noise is None


def test_a_list_for_train_freq(build):
    freq = build("td3", train_freq=[2, "episode"]).train_freq
    assert (freq.frequency, freq.unit.value) == (2, "episode")


class _Unbounded(gym.Env):
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_an_unbounded_action_space_is_refused_with_a_remedy(agent, make_config):
    with pytest.raises(UserError, match=r"--env Odd-v0: the action space is unbounded .*TransformAction"):
        build_agent(make_config(agent, env="Odd-v0"), _Unbounded(), None)


def test_discrete_actions_are_refused(build):
    with pytest.raises(UserError, match=r"agent 'icnn' on CartPole-v1: .*Discrete\(2\)"):
        build(env="CartPole-v1")


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "--device gpu: no such device"), ("cuda:99", "--device cuda:99: torch finds ")]
)
def test_a_device_that_is_not_there_is_named(build, device, message):
    with pytest.raises(UserError, match=message):
        build(device=device)


# config.yml


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


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_learning_rate_may_fall_over_the_run(agent, build):
    schedule = build(agent, **parse_overrides(["learning_rate=lin_3e-4"])).lr_schedule
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([3e-4, 1.5e-4, 0.0])


# the record of a run


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
