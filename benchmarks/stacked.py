"""Updates per second of stacked learners, all together, against agents that learn alone.

    OMP_NUM_THREADS=1 python -m benchmarks.stacked --seeds 1 4 10
    python -m benchmarks.stacked --device cuda --ways "fixed steps" "CUDA graph" --csv updates.csv

Every learner has its own transitions of the environment. Timed are the update by itself, and a step of all environments
with the update after it. Agents alone take turns within a round, as they would in processes of their own on one core;
rounds of the ways alternate, so that what else the machine does meets all of them. On the CPU the time is the
processor's, on a GPU the clock's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.clock import elapsed
from benchmarks.rows import Rows
from icnn_rl.agents import ICNNQ, StackedICNNQ

#: How learners are trained, and what StackedICNNQ is told; None: each by itself.
WAYS: dict[str, dict[str, bool] | None] = {
    "alone": None,
    "stacked": {"fixed_steps": False},
    "fixed steps": {"fixed_steps": True},
    "CUDA graph": {"cuda_graph": True},
}
UPDATE, STEP = "update", "step and update"


class Size(NamedTuple):
    """Of the learners: how many, the widths of both context layers, the rows of a batch."""

    seeds: int
    context: int
    batch: int


def maker(env: str, device: str, size: Size, starts: int) -> Callable[[int], ICNNQ]:
    """Seed -> a learner with the defaults apart from its size, which samples its first ``starts`` actions."""
    settings: dict[str, Any] = {"batch_size": size.batch, "learning_starts": starts, "buffer_size": 100_000}
    kwargs = {"context": (size.context, size.context)}
    return lambda seed: ICNNQ("MlpPolicy", env, seed=seed, device=device, policy_kwargs=kwargs, **settings)


def jobs(way: str, make: Callable[[int], ICNNQ], seeds: int, steps: int) -> dict[str, Callable[[int], object]]:
    """What is timed, each a function of the number of updates, of learners that have made ``steps`` steps."""
    options = WAYS[way]
    if options is None:
        agents = [make(seed).learn(steps) for seed in range(seeds)]
        return {
            UPDATE: lambda updates: [agent.train(updates, agent.batch_size) for agent in agents],
            STEP: lambda updates: [agent.learn(updates, reset_num_timesteps=False) for agent in agents],
        }
    stack = StackedICNNQ(make, range(seeds), **options).learn(steps)
    return {UPDATE: stack.train, STEP: lambda updates: stack.learn(updates, reset_num_timesteps=False)}


def seconds(function: Callable[[], object], device: str) -> float:
    """Processor time on the CPU, elapsed time on a GPU."""
    if device != "cpu":
        return elapsed(function, device)
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(
    env: str, device: str, size: Size, ways: list[str], starts: int, warm: int, rounds: int, updates: int
) -> dict[tuple[str, str], np.ndarray]:
    """(way, what) -> updates (or steps) per second of all learners together, for every round."""
    make = maker(env, device, size, starts)
    ready = {way: jobs(way, make, size.seeds, starts + warm) for way in ways}
    times: dict[tuple[str, str], list[float]] = {(way, what): [] for way in ways for what in (UPDATE, STEP)}
    for _ in range(rounds):
        for way, what in times:
            job = ready[way][what]
            times[way, what].append(seconds(lambda job=job: job(updates), device))  # type: ignore[misc]
    return {key: size.seeds * updates / np.array(taken) for key, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["alone", "stacked"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--contexts", type=int, nargs="+", default=[256], help="widths of both context layers")
    parser.add_argument("--batches", type=int, nargs="+", default=[256])
    parser.add_argument("--starts", type=int, default=1_000, help="sampled actions before the first update")
    parser.add_argument("--warm", type=int, default=300, help="updates before the first round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=30, help="of every learner, in a round")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.csv)
    sizes = [Size(*of) for of in ((s, c, b) for s in args.seeds for c in args.contexts for b in args.batches)]
    for size in sizes:
        speeds = measure(args.env, args.device, size, args.ways, args.starts, args.warm, args.rounds, args.updates)
        for (way, what), own in speeds.items():
            found = {"per second": float(np.median(own)), "least": float(own.min()), "most": float(own.max())}
            if len(args.ways) > 1:
                found[f"times {args.ways[0]}"] = float(np.median(own / speeds[args.ways[0], what]))
            rows.add(**size._asdict(), what=what, way=way, **found)


if __name__ == "__main__":
    main()
