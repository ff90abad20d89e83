"""What a constraint costs ICNNQ: time of one step of learning, and of one greedy action.

    python -m benchmarks.constraints.agent [--env icnn_rl/HalfCheetah-O-v0] [--warm 3000] [--rounds 8]

Two agents with the defaults learn on the same task: one under the constraint, one without it and on the bare task.
After ``--warm`` steps they take turns of 100 steps each, environment, action and update included; the medians of their
processor times per step are compared. Then ``predict`` for single observations, with its 99th percentile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch

import icnn_rl.envs  # noqa: F401  (registers the tasks)
from icnn_rl.agents import ICNNQ

_TURN = 100


def make_agent(env_id: str, *, constrained: bool, warm: int) -> ICNNQ:
    env = gym.make(env_id, project=constrained)
    kwargs = {"constraint": env.get_wrapper_attr("constraint")} if constrained else None
    agent = ICNNQ("MlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", learning_starts=warm // 3)
    return agent.learn(warm)


def milliseconds(work: Callable[[], object]) -> float:
    """Processor and wall time are the same on a quiet machine; on others the former is less disturbed."""
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def predictions(agent: ICNNQ, env_id: str, number: int) -> np.ndarray:
    """Times of ``predict``, ms, along the agent's own way."""
    env = gym.make(env_id, project=False)
    obs, _ = env.reset(seed=1)
    times = []
    for _ in range(number):
        begin = time.process_time()
        action, _ = agent.predict(obs, deterministic=True)
        times.append(1e3 * (time.process_time() - begin))
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
    return np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="icnn_rl/HalfCheetah-O-v0")
    parser.add_argument("--warm", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    agents = {
        name: make_agent(args.env, constrained=name == "constrained", warm=args.warm)
        for name in ("free", "constrained")
    }
    times: dict[str, list[float]] = {name: [] for name in agents}
    for _ in range(args.rounds):
        for name, agent in agents.items():
            times[name].append(milliseconds(lambda a=agent: a.learn(_TURN, reset_num_timesteps=False)) / _TURN)
    free, constrained = (float(np.median(times[name])) for name in ("free", "constrained"))
    print(
        f"{args.env}: step of learning {free:.2f} ms free, {constrained:.2f} ms constrained: {free / constrained:.2f} x"
    )
    for name, agent in agents.items():
        found = predictions(agent, args.env, 1000)
        print(f"predict, {name}: median {np.median(found):.2f} ms, 99th percentile {np.percentile(found, 99):.2f} ms")


if __name__ == "__main__":
    main()
