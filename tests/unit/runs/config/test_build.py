"""Agents built from plain data."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from icnn_rl import solvers
from icnn_rl.runs.arguments import parse_overrides
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.build import build_agent
from icnn_rl.runs.errors import UserError


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


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_learning_rate_may_fall_over_the_run(agent, build):
    schedule = build(agent, **parse_overrides(["learning_rate=lin_3e-4"])).lr_schedule
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([3e-4, 1.5e-4, 0.0])
