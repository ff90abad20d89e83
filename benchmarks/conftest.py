"""Shared by the benchmarks: one thread, a critic trained on HalfCheetah, and states that it has seen.

Run with `make bench`. The critic is trained for 15 000 steps (some minutes); ICNN_RL_BENCH_RUN=RUN takes that of a
run folder instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from icnn_rl.agents import ICNNQ
from icnn_rl.experiment.training import load_model

ENV = "HalfCheetah-v5"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def agent() -> ICNNQ:
    """A trained agent."""
    run = os.environ.get("ICNN_RL_BENCH_RUN")
    if run:
        _, model = load_model(Path(run))
        assert isinstance(model, ICNNQ)
        return model
    return ICNNQ("MlpPolicy", ENV, seed=0, device="cpu", learning_starts=3000, buffer_size=20_000).learn(15_000)


@pytest.fixture(scope="session")
def observations(agent: ICNNQ) -> np.ndarray:
    """256 states along the agent's own noisy path."""
    env = gym.make(ENV)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    seen = []
    for _ in range(1024):
        action, _ = agent.predict(obs)
        obs, _, terminated, truncated, _ = env.step(
            np.clip(action + rng.normal(0, 0.1, action.shape), -1, 1).astype(np.float32)
        )
        seen.append(obs)
        if terminated or truncated:
            obs, _ = env.reset()
    return np.array(seen)[rng.choice(1024, 256, replace=False)]


def cpu_time(function: Callable[[], object]) -> float:
    """Seconds of processor time of one call: other programs on the machine count for little."""
    start = time.process_time()
    function()
    return time.process_time() - start
