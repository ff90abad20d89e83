"""What a constraint costs the agents: time of one step of learning, and of one greedy action.

    python -m benchmarks.constraints.agent [--env icnn_rl/HalfCheetah-O-v0] [--warm 3000] [--rounds 8]

ICNNQ and Stable-Baselines3's TD3 with their defaults (TD3 with two layers of 256) learn on the same task, each once
under the constraint and once without it on the bare task. After ``--warm`` steps they take turns of 100 steps each,
environment, action and update included; the medians of their processor times per step are compared. Then ``predict``
for single observations, with its 99th percentile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import icnn_rl.envs  # noqa: F401  (registers the tasks)
from icnn_rl.agents import ICNNQ, ConstrainedTD3Policy

_TURN = 100


def make_agent(name: str, env_id: str, *, constrained: bool, warm: int) -> OffPolicyAlgorithm:
    env = gym.make(env_id, project=constrained)
    kwargs = {"constraint": env.get_wrapper_attr("constraint")} if constrained else {}
    common = {"seed": 0, "device": "cpu", "learning_starts": warm // 3}
    if name == "icnn":
        return ICNNQ("MlpPolicy", env, policy_kwargs=kwargs or None, **common).learn(warm)
    n = env.action_space.shape[0]
    policy = ConstrainedTD3Policy if constrained else "MlpPolicy"
    noise = NormalActionNoise(np.zeros(n), np.full(n, 0.1))
    return TD3(policy, env, action_noise=noise, policy_kwargs={"net_arch": [256, 256], **kwargs}, **common).learn(warm)


def milliseconds(work: Callable[[], object]) -> float:
    """Processor and wall time are the same on a quiet machine; on others the former is less disturbed."""
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def predictions(agent: OffPolicyAlgorithm, env_id: str, number: int) -> np.ndarray:
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
        (name, kind): make_agent(name, args.env, constrained=kind == "constrained", warm=args.warm)
        for name in ("icnn", "td3")
        for kind in ("free", "constrained")
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in agents}
    for _ in range(args.rounds):
        for key, agent in agents.items():
            times[key].append(milliseconds(lambda a=agent: a.learn(_TURN, reset_num_timesteps=False)) / _TURN)
    print(args.env)
    print("| agent | | step of learning, ms | speed against the free agent | predict, ms: median | 99th percentile |")
    print("|---|---|---|---|---|---|")
    for (name, kind), agent in agents.items():
        free, own = (float(np.median(times[name, k])) for k in ("free", kind))
        found = predictions(agent, args.env, 1000)
        row = f"| {name} | {kind} | {own:.2f} | {free / own:.2f} |"
        print(f"{row} {np.median(found):.2f} | {np.percentile(found, 99):.2f} |")


if __name__ == "__main__":
    main()
