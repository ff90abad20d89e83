"""Environment steps per second while learning, and the time of one action: ICNNQ beside the TD3 of other libraries.

    OMP_NUM_THREADS=1 python -m benchmarks.learners [--env HalfCheetah-v5] [--rounds 5] [--steps 500] [--csv FILE]

Every learner has two hidden layers of 256 units. All take turns in one process on one core, round by round, so that
what else the machine does meets all of them; ratios are of the rounds' medians. sbx (JAX) comes with the extra
``bench`` and is left out where it is missing. Before the first round each has learned for ``--warm`` steps: the search
for the greedy action takes longer in the first thousand updates than ever after.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before JAX and torch are imported: one core for all of them, since JAX takes as many threads as there are cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import torch
from stable_baselines3 import SAC, TD3

from icnn_rl.agents import ICNNQ

WIDTHS = {"policy_kwargs": {"net_arch": [256, 256]}}


def make_learners(env: str, warm_up: int) -> dict[str, Any]:
    """A learner by name, none of which has taken a step."""
    shared: dict[str, Any] = {"env": env, "learning_starts": warm_up, "seed": 0, "device": "cpu"}
    learners: dict[str, Any] = {
        "ICNNQ": ICNNQ("MlpPolicy", **shared),
        "ICNNQ, batch 128": ICNNQ("MlpPolicy", batch_size=128, **shared),
        "SB3 TD3": TD3("MlpPolicy", batch_size=256, **WIDTHS, **shared),
        "SB3 SAC": SAC("MlpPolicy", batch_size=256, **WIDTHS, **shared),
    }
    try:
        import sbx
    except ImportError:
        return learners
    del shared["device"]
    both = {"net_arch": {"pi": [256, 256], "qf": [256, 256]}}
    learners["sbx TD3"] = sbx.TD3("MlpPolicy", batch_size=256, policy_kwargs=both, **shared)
    learners["sbx SAC"] = sbx.SAC("MlpPolicy", batch_size=256, policy_kwargs=both, **shared)
    return learners


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def latencies(agent: Any, observations: np.ndarray) -> list[float]:
    """Seconds of ``predict`` for each observation alone."""
    return [seconds(lambda obs=obs: agent.predict(obs, deterministic=True)) for obs in observations]  # type: ignore[misc]


def measure(env: str, rounds: int, steps: int, warm: int) -> list[dict[str, float | str]]:
    """A row for each learner."""
    learners = make_learners(env, warm_up=200)
    speed: dict[str, list[float]] = {name: [] for name in learners}
    for name, agent in learners.items():
        print(f"warming up {name}", file=sys.stderr)
        agent.learn(warm)
    observations = np.random.default_rng(0).normal(size=(2000, *learners["ICNNQ"].observation_space.shape))
    observations = observations.astype(learners["ICNNQ"].observation_space.dtype)
    one: dict[str, list[float]] = {name: [] for name in learners}
    for _ in range(rounds):
        for name, agent in learners.items():
            took = seconds(lambda agent=agent: agent.learn(steps, reset_num_timesteps=False))  # type: ignore[misc]
            speed[name].append(steps / took)
            one[name] += latencies(agent, observations)[100:]
    base = statistics.median(speed["SB3 TD3"])
    base_50, base_99 = np.percentile(one["SB3 TD3"], (50, 99))
    rows: list[dict[str, float | str]] = []
    for name in learners:
        median = statistics.median(speed[name])
        p50, p99 = np.percentile(one[name], (50, 99))
        rows.append(
            {
                "learner": name,
                "steps/s": round(median, 1),
                "least": round(min(speed[name]), 1),
                "most": round(max(speed[name]), 1),
                "times SB3 TD3": round(median / base, 2),
                "predict p50 ms": round(1e3 * p50, 3),
                "predict p99 ms": round(1e3 * p99, 3),
                "p50 times TD3": round(p50 / base_50, 2),
                "p99 times TD3": round(p99 / base_99, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of each learner in a round")
    parser.add_argument("--warm", type=int, default=3000, help="steps before the first round")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(given.env, given.rounds, given.steps, given.warm)
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
