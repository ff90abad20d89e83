"""Environment steps per second of stacked learners, all of them together, with one update a step.

    python -m benchmarks.device.steps --device cuda --seeds 16 10 --csv steps.csv

By the clock, the learners' environments in one process and in one each. Beside it what a step of all of them takes, and
its parts by themselves: the environments' step, the greedy actions with their noise, the update; what is left is Python
between them. ``hours`` is what a million steps of each learner would take.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from benchmarks.clock import elapsed
from benchmarks.rows import Rows
from benchmarks.stacked import WAYS
from icnn_rl.agents import ICNNQ, StackedICNNQ

MILLION = 1_000_000
#: Where the environments are, each learner's by itself.
PLACES: dict[str, Callable[[Any], Any]] = {
    "one process": DummyVecEnv,
    "a process each": functools.partial(SubprocVecEnv, start_method="forkserver"),
}


def make(env: str, device: str, place: str, starts: int, seed: int) -> ICNNQ:
    return ICNNQ(
        "MlpPolicy",
        PLACES[place]([functools.partial(gym.make, env)]),
        seed=seed,
        device=device,
        learning_starts=starts,
        buffer_size=100_000,
    )


def together(stack: StackedICNNQ[int], steps: int) -> None:
    """Steps of all environments with sampled actions, and nothing else."""
    for _ in range(steps):
        for agent in stack.agents:
            agent.env.step_async(agent.action_space.sample()[None])  # type: ignore[union-attr]
        for agent in stack.agents:
            agent.env.step_wait()  # type: ignore[union-attr]


def measure(stack: StackedICNNQ[int], device: str, rounds: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step of all environments, with all that belongs to it, and of its parts; the least of a few
    rounds."""
    parts: dict[str, Callable[[], object]] = {
        "ms a step of all": lambda: stack.learn(steps, reset_num_timesteps=False),
        "acting, ms": lambda: [stack._explore() for _ in range(steps)],
        "update, ms": lambda: stack.train(steps),
        "environments, ms": lambda: together(stack, steps),  # last: the learners are not told of these steps
    }
    return {name: 1e3 / steps * min(elapsed(part, device) for _ in range(rounds)) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=[way for way in WAYS if WAYS[way] is not None], default="stacked")
    parser.add_argument("--seeds", type=int, nargs="+", default=[16, 10])
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--starts", type=int, default=200, help="sampled actions before the first update")
    parser.add_argument("--warm", type=int, default=100, help="updates before the first round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of every environment, in a round")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.csv)
    for seeds in args.seeds:
        for place in args.places:
            learner = functools.partial(make, args.env, args.device, place, args.starts)
            stack = StackedICNNQ(learner, range(seeds), **(WAYS[args.way] or {})).learn(args.starts + args.warm)
            found = measure(stack, args.device, args.rounds, args.steps)
            whole = found["ms a step of all"] / 1e3
            rows.add(
                env=args.env,
                seeds=seeds,
                environments=place,
                way=args.way,
                **{"steps/s": seeds / whole, **found, "hours": MILLION * whole / 3600},
            )
            for agent in stack.agents:
                agent.env.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
