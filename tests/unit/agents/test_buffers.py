"""The replay buffer of executed actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from icnn_rl.agents import (
    ExecutedActionDictReplayBuffer,
    ExecutedActionNStepReplayBuffer,
    ExecutedActionReplayBuffer,
)
from tests.unit.agents.constrained_env import BUDGET, HIGH, LOW, DriftEnv, Projecting

OBS, ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(LOW, HIGH)
SMALL: dict[str, Any] = {"net_arch": [8], "n_critics": 1}


def _add(buffer: ExecutedActionReplayBuffer, infos: list[dict[str, Any]], asked: Any) -> None:
    n = len(infos)
    buffer.add(np.zeros((n, 3)), np.zeros((n, 3)), np.asarray(asked), np.zeros(n), np.zeros(n, bool), infos)


def test_stores_what_was_executed_in_scaled_units_per_environment() -> None:
    buffer = ExecutedActionReplayBuffer(10, OBS, ACTION, n_envs=2)
    asked = np.array([[0.5, 0.5], [0.25, -1.0]], np.float32)
    _add(buffer, [{"action/executed": np.array([1.0, 2.5])}, {}], asked)
    np.testing.assert_allclose(buffer.actions[0], [[0.0, 0.5], [0.25, -1.0]])  # the second env said nothing
    _add(buffer, [{"action/executed": np.array([4.0 + 1e-6, 1.0 - 1e-6])}, {"action/executed": LOW}], asked)
    np.testing.assert_allclose(buffer.actions[1], [[1.0, -1.0], [-1.0, -1.0]])
    np.testing.assert_array_equal(asked, [[0.5, 0.5], [0.25, -1.0]])  # the caller's array is left alone


def test_a_fixed_coordinate_is_refused() -> None:
    fixed = spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([1.0, 0.5], np.float32))
    with pytest.raises(ValueError, match="action_space: expected a finite Box, low < high in every coordinate"):
        ExecutedActionReplayBuffer(10, spaces.Box(-1.0, 1.0, (3,)), fixed)


def test_can_insist_on_the_executed_action() -> None:
    buffer = ExecutedActionReplayBuffer(10, OBS, ACTION, missing="error")
    with pytest.raises(ValueError, match=r"infos\[0\]: lacks 'action/executed'. Wrap the environment"):
        _add(buffer, [{}], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"action/executed: expected 2 finite numbers, got \[nan"):
        _add(buffer, [{"action/executed": np.array([np.nan, 1.0])}], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"missing: expected one of 'given', 'error'"):
        ExecutedActionReplayBuffer(10, OBS, ACTION, missing="zero")
    with pytest.raises(ValueError, match=r"action_space: expected a finite Box"):
        ExecutedActionReplayBuffer(10, OBS, spaces.Discrete(3))


@pytest.mark.parametrize("algorithm", [TD3, SAC])
@pytest.mark.parametrize("buffer", [ExecutedActionReplayBuffer, ExecutedActionNStepReplayBuffer])
def test_in_an_algorithm(algorithm: Any, buffer: Any) -> None:
    env = Projecting(DriftEnv(), BUDGET)
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.5))
    kwargs = {"n_steps": 3} if buffer is ExecutedActionNStepReplayBuffer else {"missing": "error"}
    agent = algorithm(
        "MlpPolicy",
        env,
        learning_starts=20,
        batch_size=8,
        buffer_size=100,
        action_noise=noise,
        seed=0,
        replay_buffer_class=buffer,
        replay_buffer_kwargs=kwargs,
        policy_kwargs=dict(SMALL),
    ).learn(40)
    stored = agent.replay_buffer.actions[:40, 0]
    np.testing.assert_allclose(agent.policy.unscale_action(stored), np.array(env.executed), atol=1e-5)
    assert env.worst < 1e-6
    assert (agent.replay_buffer.sample(10).discounts is not None) == (buffer is ExecutedActionNStepReplayBuffer)


def test_dict_observations_and_several_environments() -> None:
    constraint = BUDGET.reading("raw")
    env = make_vec_env(lambda: Projecting(DriftEnv(as_dict=True), constraint), n_envs=2, seed=0)
    agent = SAC(
        "MultiInputPolicy",
        env,
        learning_starts=10,
        batch_size=8,
        buffer_size=100,
        replay_buffer_class=ExecutedActionDictReplayBuffer,
        policy_kwargs=dict(SMALL),
        seed=0,
    ).learn(30)
    executed = np.stack([env.get_attr("executed", i)[0][0] for i in range(2)])
    np.testing.assert_allclose(agent.policy.unscale_action(agent.replay_buffer.actions[0]), executed, atol=1e-5)
