"""Settings checked against constructors."""

from __future__ import annotations

import pytest

from icnn_rl.runs.arguments import parse_overrides
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.defaults import resolve_settings
from icnn_rl.runs.errors import UserError


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
