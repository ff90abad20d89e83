"""Shared by the benchmarks: one thread, a critic trained on HalfCheetah, and states that it has seen.

Run with `make bench`. The critic is trained for 15 000 steps (some minutes); ICNN_RL_BENCH_RUN=RUN takes that of a
run folder instead. `--device cuda` (`make bench DEVICE=cuda`) puts agents and critics on a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from icnn_rl.agents import ICNNQ

ENV = "HalfCheetah-v5"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="of the agents and critics")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """cpu, cuda, .."""
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def agent(device: str) -> ICNNQ:
    """A trained agent."""
    run = os.environ.get("ICNN_RL_BENCH_RUN")
    if run:
        return ICNNQ.load(Path(run) / "model.zip", device=device)
    return ICNNQ("MlpPolicy", ENV, seed=0, device=device, learning_starts=3000, buffer_size=20_000).learn(15_000)


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
