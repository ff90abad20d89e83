"""The two halves of a constraint: none is forgotten without a word, and both are on the same actions."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch import Tensor

import icnn_rl
from icnn_rl.agents import (
    ICNNQ,
    NAF,
    ConstrainedPPOPolicy,
    ConstrainedSACPolicy,
    ConstrainedTD3Policy,
    ConstraintCallback,
    ExecutedActionReplayBuffer,
    check_agent,
)
from icnn_rl.constraints import ActionConstraint, ConstraintWarning, ball, box, l1_ball, linear, rate_limit
from icnn_rl.envs import ProjectAction, VecProjectAction, WithConstraint
from tests.unit.agents.constrained_env import BUDGET, HIGH, LOW, DriftEnv

LIMIT = box(-1.0, 1.0)
SMALL: dict[Any, dict[str, Any]] = {
    PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    A2C: {},
    **{kind: {"learning_starts": 10, "batch_size": 8, "buffer_size": 200} for kind in (TD3, DDPG, SAC, ICNNQ, NAF)},
}


@pytest.mark.parametrize("agent", [ICNNQ, NAF, TD3, DDPG, SAC, PPO, A2C])
@pytest.mark.parametrize("as_dict", [False, True])
def test_one_call_makes_both_halves(agent: type[BaseAlgorithm], as_dict: bool) -> None:
    constraint = BUDGET.reading("raw") if as_dict else BUDGET
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstraintWarning)
        env, kwargs = icnn_rl.constrain(DriftEnv(as_dict), constraint, agent, policy_kwargs={"net_arch": [8]})
        model = agent(env=env, **kwargs, **SMALL[agent], device="cpu", seed=0)
        assert model.policy_kwargs["net_arch"] == [8]
        model.learn(24, callback=ConstraintCallback())
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        action, _ = model.predict(obs, deterministic=True)
        raw = torch.as_tensor(obs["raw"] if as_dict else obs).double().unsqueeze(0)
        assert float(BUDGET.violation(raw, torch.as_tensor(action).double().unsqueeze(0))) <= 1e-5
        obs, _, _, _, info = env.step(action)
        assert info["constraint/violation"] <= 1e-6
    if issubclass(agent, TD3 | SAC):
        assert isinstance(model.replay_buffer, ExecutedActionReplayBuffer)


@pytest.mark.parametrize("agent", [ICNNQ, SAC])
def test_the_last_action_in_a_part_of_a_dict(agent: type[BaseAlgorithm]) -> None:
    limit = (rate_limit(0.25) & BUDGET).reading("raw")
    env, kwargs = icnn_rl.constrain(DriftEnv(True), limit, agent, policy_kwargs={"net_arch": [8]})
    model = agent(env=env, **kwargs, **SMALL[agent], device="cpu", seed=0).learn(24)
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        action, _ = model.predict(obs, deterministic=True)
        assert float(np.abs(action - obs["raw"][-2:]).max()) <= 0.25 + 1e-5
        obs, *_ = env.step(action)


def test_the_constraint_belongs_to_the_policy() -> None:
    for agent in (ICNNQ, NAF):
        with pytest.raises(TypeError, match=r"constraint: not an argument of .*policy_kwargs=.*icnn_rl.constrain"):
            agent("MlpPolicy", "Pendulum-v1", constraint=LIMIT)  # type: ignore[call-arg]
    for kind, policy in ((TD3, ConstrainedTD3Policy), (SAC, ConstrainedSACPolicy), (PPO, ConstrainedPPOPolicy)):
        with pytest.raises(TypeError, match=r"constaint: not an argument of .*Policy. Did you mean 'constraint'"):
            kind(policy, "Pendulum-v1", policy_kwargs={"constaint": LIMIT})


def test_predict_tells_of_an_empty_set() -> None:
    model = icnn_agent("Pendulum-v1", constraint=linear([[1.0]], nothing), trust_actions=True)
    with pytest.warns(ConstraintWarning, match="no action satisfies it in 1 of 1 states"):
        model.predict(np.zeros(3, np.float32))


def nothing(obs: Tensor) -> Tensor:
    return torch.full_like(obs[:, :1], -9.0)


def test_what_the_constraint_did_is_logged() -> None:
    env, kwargs = icnn_rl.constrain(DriftEnv(), BUDGET, TD3, policy_kwargs={"net_arch": [8]})
    model = TD3(env=env, **kwargs, **SMALL[TD3], seed=0)
    callback = ConstraintCallback()
    model.learn(24, callback=callback)
    assert callback.totals["steps"] == 24
    assert callback.totals["violations"] == callback.totals["empty"] == 0
    assert callback.totals["active"] > 0
    logged = model.logger.name_to_value
    assert logged["constraint/active_fraction"] > 0
    assert logged["constraint/largest_violation"] == callback.totals["largest_violation"] <= 1e-6
    env.reset(seed=0)
    info = env.step(env.action_space.high)[-1]
    assert info["constraint/status"] == 0
    assert str(info["constraint/status"]) == f"{info['constraint/status']}" == "SUCCESS"
    assert json.dumps(info["constraint/status"]) == "0"


def test_one_call_around_many_environments_and_an_id() -> None:
    venv, kwargs = icnn_rl.constrain(DummyVecEnv([DriftEnv, DriftEnv]), BUDGET, SAC, fallback=[0.0, 1.0], tol=1e-5)
    assert isinstance(venv, VecProjectAction)
    assert kwargs["policy_kwargs"]["fallback"] == [0.0, 1.0]
    env, kwargs = icnn_rl.constrain("Pendulum-v1", LIMIT)
    assert isinstance(env, ProjectAction)
    assert kwargs == {"policy": "MlpPolicy", "policy_kwargs": {"constraint": LIMIT, "fallback": "least_violation"}}
    for wrong, message in ((gym.Env, "agent: expected one of the classes ICNNQ, NAF, DDPG, TD3"), (1, "agent: ")):
        with pytest.raises(ValueError, match=message):
            icnn_rl.constrain("Pendulum-v1", LIMIT, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy_kwargs: leave constraint out"):
        icnn_rl.constrain("Pendulum-v1", LIMIT, policy_kwargs={"constraint": LIMIT})


def made(agent: type[BaseAlgorithm], env: Any, **policy_kwargs: Any) -> BaseAlgorithm:
    return icnn_agent(env, **policy_kwargs) if agent is ICNNQ else td3(env, **policy_kwargs)


def icnn_agent(env: Any, **policy_kwargs: Any) -> ICNNQ:
    return ICNNQ("MlpPolicy", env, buffer_size=10, policy_kwargs={"net_arch": [8], **policy_kwargs})


def td3(env: Any, buffer: type[ReplayBuffer] | None = ExecutedActionReplayBuffer, **policy_kwargs: Any) -> TD3:
    policy_kwargs = {"net_arch": [8], **policy_kwargs}
    model = TD3(ConstrainedTD3Policy, env, buffer_size=10, replay_buffer_class=buffer, policy_kwargs=policy_kwargs)
    check_agent(model)
    return model


@pytest.mark.parametrize("agent", [ICNNQ, TD3])
def test_a_forgotten_wrapper_is_told_once(agent: type[BaseAlgorithm]) -> None:
    for env in (gym.make("Pendulum-v1"), WithConstraint(gym.make("Pendulum-v1"), LIMIT)):
        with pytest.warns(ConstraintWarning, match=r"no wrapper enforces it.*icnn_rl.constrain\(env") as caught:
            made(agent, env, constraint=LIMIT)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConstraintWarning)
            made(agent, env, constraint=LIMIT, trust_actions=True)


def test_a_forgotten_agent_is_told() -> None:
    env = ProjectAction(gym.make("Pendulum-v1"), LIMIT)
    with pytest.warns(ConstraintWarning, match="enforces one that the agent does not know.*policy_kwargs"):
        model = icnn_agent(env)
    with pytest.warns(ConstraintWarning, match="enforces one that the agent does not know"):
        model.set_env(env)


def test_a_plain_buffer_is_told() -> None:
    env = ProjectAction(gym.make("Pendulum-v1"), LIMIT)
    with pytest.warns(ConstraintWarning, match="replay_buffer_class=icnn_rl.agents.ExecutedActionReplayBuffer"):
        td3(env, None, constraint=LIMIT)


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        (LIMIT, box(-1.0, 0.5), True),
        (LIMIT & l1_ball(1.0), l1_ball(1.0) & box(-1.0, 1.0), False),
        (LIMIT & l1_ball(1.0), LIMIT, True),
        (linear([[1.0]], lambda o: o[:, :1] + 9.0), linear([[1.0]], lambda o: o[:, :1] + 8.0), True),
    ],
)
def test_halves_that_differ_are_told(one: ActionConstraint, other: ActionConstraint, differ: bool) -> None:
    env = ProjectAction(gym.make("Pendulum-v1"), one)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConstraintWarning)
        icnn_agent(env, constraint=other)
    assert ["differ" in str(w.message) for w in caught] == [True] * differ


def row(obs: Tensor) -> Tensor:
    return obs[:, :1] + 9.0


def test_the_wrapper_in_another_process_is_found() -> None:
    venv = SubprocVecEnv(
        [lambda: ProjectAction(gym.make("Pendulum-v1"), linear([[1.0]], lambda o: o[:, :1] + 9.0))] * 2
    )
    try:
        with pytest.warns(ConstraintWarning, match="does not know"):
            icnn_agent(venv)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConstraintWarning)
            icnn_agent(venv, constraint=linear([[1.0]], row), trust_actions=True)
        with pytest.warns(ConstraintWarning, match="differ"):
            icnn_agent(venv, constraint=linear([[1.0]], row))
    finally:
        venv.close()


class Halved(gym.Wrapper[Any, Any, Any, Any]):
    """Changes actions without being an ActionWrapper."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def step(self, action: Any) -> Any:
        return self.env.step(LOW + 0.5 * (HIGH - LOW) * (action + 1.0))


def rescaled() -> gym.Env[Any, Any]:
    return gym.wrappers.RescaleAction(DriftEnv(), np.float32(-1.0), np.float32(1.0))


@pytest.mark.parametrize("make", [rescaled, lambda: Halved(DriftEnv()), lambda: gym.wrappers.ClipAction(DriftEnv())])
def test_wrappers_that_change_actions_are_refused_on_either_side(make: Any) -> None:
    for wrap, env in ((ProjectAction, make()), (VecProjectAction, DummyVecEnv([make]))):
        with pytest.raises(ValueError, match=r"env: the constraint is on the environment's own actions.*trust_actions"):
            wrap(env, ball(0.5, 1.0))
        assert wrap(env, ball(0.5, 1.0), trust_actions=True).constraint == ball(0.5, 1.0)
    env = make()
    if not env.action_space.is_bounded():
        return
    for agent in (icnn_agent, td3):
        with pytest.raises(ValueError, match=r"constraint: a wrapper of the environment .*changes its actions"):
            agent(env, constraint=ball(0.5, 0.5))
        agent(env, constraint=ball(0.5, 0.5), trust_actions=True)


def test_a_wrapper_that_changes_actions_outside_of_the_projection_is_refused_by_the_agent() -> None:
    env = gym.wrappers.RescaleAction(ProjectAction(DriftEnv(), BUDGET), np.float32(-1.0), np.float32(1.0))
    for agent in (icnn_agent, td3):
        with pytest.raises(ValueError, match="changes its actions"):
            agent(env, constraint=BUDGET)
