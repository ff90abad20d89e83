"""Exploration: the noise that was asked for, in every kind that there is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.exploration import KINDS, CurvatureNoise, GaussianNoise, HeldNoise, read_exploration

SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "policy_kwargs": {"context": (16,), "hidden": (8,)}}


def flat() -> Any:
    raise AssertionError("asked for the curvature")


def curved(rows: int) -> np.ndarray:
    return np.tile(np.diag([1.0, 4.0, 100.0]), (rows, 1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_square_is_the_one_asked_for(kind: str) -> None:
    exploration = KINDS[kind](std=0.3)
    actions = np.zeros((20_000, 3), np.float32)
    noise = exploration(actions, lambda: curved(len(actions)), np.random.RandomState(0))
    assert noise.dtype == np.float32
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.3, rel=0.02)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.01)


def test_gaussian_noise_does_not_ask_the_critic() -> None:
    random = np.random.RandomState(0)
    assert GaussianNoise()(np.zeros((1, 2), np.float32), flat, random).any()


def test_held_noise_stays_for_so_many_steps() -> None:
    exploration, random = HeldNoise(std=1.0, steps=3), np.random.RandomState(0)
    seen = [exploration(np.zeros((2, 2), np.float32), flat, random) for _ in range(7)]
    same = [bool((one == other).all()) for one, other in itertools.pairwise(seen)]
    assert same == [True, True, False, True, True, False]
    assert exploration(np.zeros((5, 2), np.float32), flat, random).shape == (5, 2)


def test_curvature_noise_is_wide_where_the_critic_is_flat() -> None:
    actions = np.zeros((50_000, 3), np.float32)
    noise = CurvatureNoise(std=0.2, floor=1e-9)(actions, lambda: curved(len(actions)), np.random.RandomState(0))
    covariance = np.cov(noise.T)
    expected = np.linalg.inv(curved(1)[0])
    np.testing.assert_allclose(covariance, 0.04 * 3 * expected / np.trace(expected), atol=2e-3)


def test_a_critic_that_is_flat_everywhere_gets_round_noise() -> None:
    actions = np.zeros((10, 2), np.float32)
    noise = CurvatureNoise()(actions, lambda: np.zeros((10, 2, 2)), np.random.RandomState(0))
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_explores_by_it(kind: str) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", exploration={"kind": kind, "std": 0.5}, seed=0, **SMALL).learn(60)
    assert agent.replay_buffer is not None
    tried = agent.replay_buffer.actions[30:60, 0]
    assert np.abs(tried).max() <= 1.0
    assert tried.std() > 0.05


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"std": 0.1}, r"exploration: expected an Exploration, or .* got \{'std'"),
        ({"kind": "levy"}, "exploration.kind: expected .*gaussian.* got 'levy'"),
        ({"kind": "held", "step": 2}, "exploration.step: held has no such argument. It has std, steps."),
        ({"kind": "held", "steps": 0}, "steps: expected"),
        (0.1, "exploration: expected an Exploration"),
    ],
)
def test_what_is_wrong_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_exploration(given)
