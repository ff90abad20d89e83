"""The learner on its own: what it keeps, and what it tells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from icnn_rl.agents import ICNNQ, StackedICNNQ
from icnn_rl.agents.icnn_q.learner import FRESH

SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "policy_kwargs": {"context": (16,), "hidden": (8,)}}


def make(seed: int, **settings: Any) -> ICNNQ:
    return ICNNQ("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu", **{**SMALL, **settings})


def test_every_window_the_range_is_that_of_the_targets_in_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(0, target_window=10)
    learner, seen = agent.learner, []
    told = learner._note_range

    def spy(target: torch.Tensor, usable: torch.Tensor) -> None:
        seen.append(target[usable])
        told(target, usable)

    monkeypatch.setattr(learner, "_note_range", spy)
    agent.learn(45)  # 25 updates
    assert learner.settings.value_range is not None
    second = torch.cat(seen[10:20])
    assert learner.settings.value_range[0].tolist() == pytest.approx([float(second.min()), float(second.max())])
    third = torch.cat(seen[20:])
    assert learner._seen[0].tolist() == pytest.approx([float(third.min()), float(third.max())])


def test_without_a_window_there_is_no_range() -> None:
    agent = make(0).learn(40)
    assert agent.learner.settings.value_range is None
    assert agent.kept()["value_range"] == [-math.inf, math.inf]
    assert make(0).kept() == FRESH


def test_what_is_kept_is_saved_and_goes_on(tmp_path: Path) -> None:
    agent = make(0, target_window=10).learn(45)
    agent.save(tmp_path / "agent")
    loaded = ICNNQ.load(tmp_path / "agent", env=gym.make("Pendulum-v1"))
    assert loaded.kept() == agent.kept()
    assert loaded.learner.keep(0) == agent.kept()


def test_one_stacked_learner_is_the_lone_one_exactly() -> None:
    lone = make(1, target_window=10, action_smoothing=0.1, target_members=1).learn(80)
    (agent,) = (
        StackedICNNQ(lambda s: make(s, target_window=10, action_smoothing=0.1, target_members=1), [1])
        .learn(80)
        .unstack()
    )
    pairs = zip(lone.policy.parameters(), agent.policy.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert agent.kept() == lone.kept()


def test_learners_of_a_stack_keep_ranges_of_their_own() -> None:
    lone = [make(s, target_window=10).learn(60) for s in range(2)]
    for one, agent in zip(
        lone, StackedICNNQ(lambda s: make(s, target_window=10), [0, 1]).learn(60).unstack(), strict=True
    ):
        assert agent.kept()["value_range"] == pytest.approx(one.kept()["value_range"], rel=1e-4)


@pytest.mark.parametrize("window", [-1, 1.5])
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    with pytest.raises(ValueError, match="target_window"):
        make(0, target_window=window)
