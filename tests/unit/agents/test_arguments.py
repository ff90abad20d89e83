"""Misspelt and misplaced arguments of constructors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from icnn_rl.agents import ICNNQ, ConstrainedPPOPolicy, ConstrainedSACPolicy, ConstrainedTD3Policy, ICNNQPolicy
from icnn_rl.constraints import l1_ball
from tests.unit.agents.concave import CONCAVE

SET = l1_ball(1.0)


@pytest.mark.parametrize("algorithm", CONCAVE)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"constraint": SET}, r"constraint: not an argument of \w+\. It belongs to the policy: policy_kwargs="),
        ({"constaint": SET}, r"constaint: .* Did you mean 'constraint'\? It belongs to the policy: policy_kwargs="),
        ({"learning_rat": 1e-3}, r"learning_rat: not an argument of \w+\. Did you mean 'learning_rate'\?"),
        ({"qwxz": 1}, r"qwxz: not an argument of \w+\. Known: .*gamma.*learning_rate"),
        (
            {"policy_kwargs": {"constaint": SET}},
            r"constaint: not an argument of .*Policy\. Did you mean 'constraint'\?",
        ),
        ({"policy_kwargs": {"gamma": 0.9}}, r"gamma: not an argument of .*Policy\. It belongs to the agent"),
        ({"policy_kwargs": {"qwxz": 1}}, r"qwxz: not an argument of .*Policy\. Known: .*context.*net_arch"),
    ],
)
def test_the_argument_that_was_meant_is_named(algorithm: type[ICNNQ], given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        algorithm("MlpPolicy", "Pendulum-v1", buffer_size=10, **given)


@pytest.mark.parametrize(
    ("algorithm", "policy"), [(TD3, ConstrainedTD3Policy), (SAC, ConstrainedSACPolicy), (PPO, ConstrainedPPOPolicy)]
)
def test_policies_of_sb3s_agents_do_so_too(algorithm: type[BaseAlgorithm], policy: Any) -> None:
    message = rf"constaint: not an argument of {policy.__name__}\. Did you mean 'constraint'\?"
    with pytest.raises(TypeError, match=message):
        algorithm(policy, "Pendulum-v1", policy_kwargs={"constaint": SET})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"activaton_fn: .* Did you mean 'activation_fn'\?"):
        algorithm(policy, "Pendulum-v1", policy_kwargs={"constraint": SET, "activaton_fn": 1})  # type: ignore[call-arg]


def test_loading_does_not_forget_a_setting_it_does_not_know(tmp_path: Path) -> None:
    ICNNQ("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs={"context": (8,)}).save(tmp_path / "agent")
    with pytest.raises(TypeError, match=r"constraint: not an argument of ICNNQ.load\. It belongs to the policy"):
        ICNNQ.load(tmp_path / "agent", constraint=SET)
    with pytest.raises(TypeError, match=r"gama: .* Did you mean 'gamma'\?"):
        ICNNQ.load(tmp_path / "agent", gama=0.9)
    assert ICNNQ.load(tmp_path / "agent", gamma=0.9, env=gym.make("Pendulum-v1")).gamma == 0.9


def test_a_subclass_may_have_arguments_of_its_own() -> None:
    class OwnPolicy(ICNNQPolicy):
        def __init__(self, *args: Any, width: int, **kwargs: Any) -> None:
            super().__init__(*args, context=(width,), **kwargs)

    class Own(ICNNQ):
        def __init__(self, env: str, width: int) -> None:
            super().__init__(OwnPolicy, env, buffer_size=10, policy_kwargs={"width": width})

    assert Own("Pendulum-v1", width=8).policy.context == (8,)
