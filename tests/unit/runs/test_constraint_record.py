"""The safety tasks keep their promise: no limit is crossed and there is always an action, whoever acts."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from icnn_rl.envs import VecProjectAction
from icnn_rl.envs.pendulum_angle import BRAKING, LIMIT, PendulumAngle, angle_limit
from icnn_rl.envs.point_discs import DISCS, PointDiscs, stay_clear

TASKS = {"Pendulum-Angle": (PendulumAngle, angle_limit), "Point-Discs": (PointDiscs, stay_clear)}
NUMBER = 250


def _random(obs, i, rng):
    return rng.uniform(-1.0, 1.0, (len(obs), 1 if obs.shape[1] == 3 else 2))


def _outward(obs, i, rng):
    """Towards the limit, or the nearest disc, with all there is."""
    if obs.shape[1] == 3:
        return np.where(obs[:, :1] >= 0, 1.0, -1.0)
    discs = np.array(DISCS)
    away = discs[:, :2] - obs[:, None, :2]
    nearest = (np.linalg.norm(away, axis=-1) - discs[:, 2]).argmin(-1)
    towards = away[np.arange(len(obs)), nearest]
    return towards / np.abs(towards).max(-1, keepdims=True)


def _swinging(obs, i, rng):
    """From one side to the other as fast as it goes; the environments out of step with each other."""
    phase = np.sin(2 * np.pi * (i / 40.0 + np.arange(len(obs)) / 17.0))[:, None]
    if obs.shape[1] == 3:
        return np.where(phase >= 0, 1.0, -1.0)
    return np.where(np.concatenate((phase, phase[::-1]), 1) >= 0, 1.0, -1.0)


def _speeding(obs, i, rng):
    """Along the velocity."""
    v = obs[:, 1:2] if obs.shape[1] == 3 else obs[:, 2:4]
    return np.where(v >= 0, 1.0, -1.0)


def _around(obs, i, rng):
    """Around the nearest disc, pressing against it."""
    towards = _outward(obs, i, rng)
    if obs.shape[1] == 3:
        return towards
    return np.clip(0.6 * towards + np.stack((-towards[:, 1], towards[:, 0]), 1), -1.0, 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_no_limit_is_crossed_in_a_hundred_thousand_steps(task):
    make, constraint = TASKS[task]
    env = VecProjectAction(DummyVecEnv([make] * NUMBER), constraint(), fallback="error")  # an empty set would raise
    rng, worst, moved = np.random.default_rng(0), -np.inf, 0
    env.seed(0)
    for policy in (_random, _outward, _swinging, _speeding, _around):
        obs = env.reset()
        for i in range(80):
            obs, _, _, infos = env.step(policy(obs, i, rng).astype(np.float32))
            worst = max(worst, *(info["constraint/state_violation"] for info in infos))
            moved += sum(info["constraint/moved"] > 1e-3 for info in infos)
    assert worst <= 0.0
    assert worst > -1e-3  # the limits were reached, the test can tell
    assert moved > 10 * NUMBER


@pytest.mark.parametrize("task", TASKS)
def test_without_the_wrapper_limits_are_crossed(task):
    env = gym.make(f"icnn_rl/{task}-v0", project=False)
    crossed = 0
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        assert info["constraint/state_violation"] < 0
        for _ in range(60):  # straight to the goal
            action = np.sign(obs[2:3]) if len(obs) == 3 else (4 * (obs[4:6] - obs[:2]) - 2 * obs[2:4]).clip(-1, 1)
            obs, *_, info = env.step(action.astype(np.float32))
            crossed += info["constraint/state_violation"] > 0.01
    assert crossed > 10


@pytest.mark.parametrize("task", TASKS)
def test_starts_are_safe_and_differ(task):
    env = TASKS[task][0]()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(300)], np.float64)
    assert (starts.std(0) > 0.1).sum() >= 3
    if task == "Pendulum-Angle":
        angle, rate = starts[:, 0], starts[:, 1]
        assert (BRAKING * rate <= LIMIT - angle).all()
        assert (-BRAKING * rate <= LIMIT + angle).all()
        assert (np.abs(starts[:, 2]) > LIMIT).all()  # the goal lies beyond the limit
    else:
        assert (starts[:, 2:4] == 0).all()
        assert np.abs(starts[:, :2]).max() < 2.0


def test_the_best_safe_place_is_the_limit():
    env = gym.make("icnn_rl/Pendulum-Angle-v0")
    for seed in range(4):
        obs, _ = env.reset(seed=seed)
        for _ in range(120):
            obs, _, _, _, info = env.step(np.sign(obs[2:3]).astype(np.float32))
        assert info["constraint/state_violation"] == pytest.approx(-1e-4, abs=1e-3)
        assert info["constraint/active"]


def test_the_straight_way_to_the_goal_is_barred():
    discs = np.array(DISCS)
    env = PointDiscs()
    barred = 0
    for seed in range(50):
        obs = env.reset(seed=seed)[0]
        way = obs[:2] + np.linspace(0, 1, 200)[:, None] * (obs[4:6] - obs[:2])
        depth = discs[:, 2] - np.linalg.norm(way[:, None] - discs[:, :2], axis=-1)
        barred += depth.max() > 0.02
    assert barred >= 45
