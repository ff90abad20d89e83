"""What the projection of actions adds to a step of the environment: ``python benchmarks/constraints/wrapper.py``.

Time in ProjectAction.step that is not spent in the environment's own step, random actions, one thread; steps whose
action came feasible and steps that had to move it apart. The last rows: VecProjectAction, for each environment. With
--cpu the time of the thread, to which neighbours on the machine add less.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from icnn_rl.envs import ENVIRONMENTS, ProjectAction, VecProjectAction
from icnn_rl.qp import solve_qp

CLOCK = time.perf_counter


class Stopwatch(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the time that the environment's own step took."""

    seconds = 0.0

    def step(self, action: Any) -> Any:
        start = CLOCK()
        result = self.env.step(action)
        self.seconds = CLOCK() - start
        return result


def measure(identifier: str, steps: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Seconds added to each step, and whether its action was moved."""
    bare = gym.make(identifier, project=False, disable_env_checker=True)
    inner = Stopwatch(bare)
    env = ProjectAction(inner, bare.get_wrapper_attr("constraint"))
    env.action_space.seed(0)
    env.reset(seed=0)
    added, moved = np.empty(steps), np.empty(steps, bool)
    for i in range(-20, steps):  # the first are to warm up
        action = env.action_space.sample().astype(dtype)
        start = CLOCK()
        *_, terminated, truncated, info = env.step(action)
        added[i] = CLOCK() - start - inner.seconds
        moved[i] = info["constraint/moved"] > 0
        if terminated or truncated:
            env.reset()
    return added, moved


def measure_together(identifier: str, number: int, steps: int) -> float:
    """Mean seconds that VecProjectAction adds for each environment."""
    bare = gym.make(identifier, project=False)
    venv = DummyVecEnv([lambda: gym.make(identifier, project=False)] * number)
    env = VecProjectAction(venv, bare.get_wrapper_attr("constraint"))
    rng, space, seconds = np.random.default_rng(0), env.action_space, []
    assert isinstance(space, gym.spaces.Box)
    env.reset()
    for _ in range(steps):
        actions = rng.uniform(space.low, space.high, (number, *space.shape)).astype(np.float32)
        start = CLOCK()
        env.step_async(actions)
        seconds.append(CLOCK() - start)
        env.step_wait()
    return float(np.mean(seconds[steps // 10 :])) / number


def one_solve(steps: int) -> float:
    """For comparison: mean seconds of one ``solve_qp`` for HalfCheetah-O's projection, 64 rows and 12 bounds."""
    constraint = gym.make("icnn_rl/HalfCheetah-O-v0", project=False).get_wrapper_attr("constraint")
    part = constraint.at(5.0 * torch.ones(1, 17, dtype=torch.float64), 6)
    price, seconds = -torch.ones(1, 6, dtype=torch.float64), []
    for _ in range(steps):
        start = CLOCK()
        solve_qp(1.0, price, part.G, part.h, lb=-1.0, ub=1.0)
        seconds.append(CLOCK() - start)
    return float(np.mean(seconds[steps // 10 :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--environments", nargs="*", default=list(ENVIRONMENTS))
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if options.cpu:
        global CLOCK
        CLOCK = time.thread_time
    torch.set_num_threads(1)
    print("| environment | moved | mean, ms | p99, ms | mean where feasible | p99 | mean where moved | p99 |")
    print("|---|---|---|---|---|---|---|---|")
    for identifier in options.environments:
        added, moved = measure(identifier, options.steps, np.float32)
        cells = []
        for part in (added, added[~moved], added[moved]):
            cells += [f"{1e3 * part.mean():.3f}", f"{1e3 * np.quantile(part, 0.99):.3f}"] if len(part) else ["-", "-"]
        print(f"| {identifier} | {moved.mean():.0%} | " + " | ".join(cells) + " |", flush=True)
    for number in (4, 16):
        mean = measure_together("icnn_rl/HalfCheetah-O-v0", number, max(options.steps // number, 50))
        print(f"| HalfCheetah-O, {number} at once, each | | {1e3 * mean:.3f} | | | | | |")
    print(f"| for comparison: one solve_qp | | {1e3 * one_solve(max(options.steps // 4, 50)):.3f} | | | | | |")


if __name__ == "__main__":
    main()
