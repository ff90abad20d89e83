"""Updates per second of stacked learners against lone ones: processor time of one thread, rounds alternating.

    python benchmarks/stacked.py --seeds 1 4 10

Every learner has its own 1 300 transitions of the environment; what is timed is the update alone, and a step of
all environments with the update after it. Learners alone take turns within a round, as they would in processes of their
own on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from icnn_rl.agents import ICNNQ, StackedICNNQ

WARM_UP = 1_000


def make(env: str, seed: int, device: str) -> ICNNQ:
    """A learner with the defaults, about to make its first update."""
    return ICNNQ("MlpPolicy", env, seed=seed, device=device, learning_starts=WARM_UP, buffer_size=100_000)


def seconds(function: Callable[[], object], device: str) -> float:
    """Processor time on the CPU; elapsed time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def measure(env: str, seeds: int, device: str, rounds: int, updates: int, **options: bool) -> dict[str, np.ndarray]:
    """Updates (or steps) per second, all learners together, for every round."""
    lone = [make(env, seed, device).learn(WARM_UP + 300) for seed in range(seeds)]
    stack = StackedICNNQ(lambda seed: make(env, seed, device), range(seeds), **options).learn(WARM_UP + 300)
    jobs: dict[str, Callable[[], object]] = {
        "update, lone": lambda: [agent.train(updates) for agent in lone],
        "update, stacked": lambda: stack.train(updates),
        "step and update, lone": lambda: [agent.learn(updates, reset_num_timesteps=False) for agent in lone],
        "step and update, stacked": lambda: stack.learn(updates, reset_num_timesteps=False),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job, device))
    return {name: seeds * updates / np.array(taken) for name, taken in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=30, help="of every learner, in a round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fixed-steps", action="store_true", help="always all steps of the solver, as on a GPU")
    parser.add_argument("--cuda-graph", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {"cuda_graph": True} if args.cuda_graph else {"fixed_steps": True} if args.fixed_steps else {}
    for count in args.seeds:
        speeds = measure(args.env, count, args.device, args.rounds, args.updates, **options)
        for what in ("update", "step and update"):
            alone, together = speeds[f"{what}, lone"], speeds[f"{what}, stacked"]
            ratio = together / alone
            print(
                f"S = {count:3d}, {what:16s}: lone {np.median(alone):7.1f} /s, stacked {np.median(together):7.1f} /s, "
                f"ratio {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
