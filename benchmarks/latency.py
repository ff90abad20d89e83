"""What `predict` takes for one observation, ICNNQ beside SB3's TD3 in one process, their calls in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.latency --run RUN      # RUN: an ICNNQ run folder of HalfCheetah-v5
    OMP_NUM_THREADS=1 python -m benchmarks.latency --steps 15000  # trains one first
    ... --constraint power_limit:velocity_index=11:17,max_power=20  # and the same critic under a constraint

TD3 is untrained (`net_arch=[256, 256]`): its time does not depend on its weights. ICNNQ's depends on how many steps its
search makes, so that its critic should have learned. Processor time by the call, which other programs on the machine
touch least: the median, the 99th percentile and the least.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.rows import Rows
from icnn_rl.agents import ICNNQ
from icnn_rl.constraints import parse_constraint

ENV = "HalfCheetah-v5"


def trained(run: Path | None, steps: int) -> ICNNQ:
    """The agent of a run folder, or a new one."""
    if run is not None:
        return ICNNQ.load(run / "model.zip", device="cpu")
    agent = ICNNQ("MlpPolicy", ENV, seed=0, device="cpu", learning_starts=steps // 5, buffer_size=steps)
    return agent.learn(steps)


def constrained(agent: ICNNQ, spec: str) -> ICNNQ:
    """The same critic, its actions in a set."""
    kwargs = {**agent.policy_kwargs, "constraint": parse_constraint(spec)}
    env = gym.make(ENV)
    other = ICNNQ("MlpPolicy", env, seed=0, device="cpu", buffer_size=1, policy_kwargs=kwargs)
    other.policy.load_state_dict(agent.policy.state_dict())
    return other


def path(agent: ICNNQ, steps: int) -> np.ndarray:
    """States along the agent's own noisy path: (steps, o), as the environment gives them."""
    env = gym.make(ENV)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    seen = []
    for _ in range(steps):
        seen.append(obs)
        action, _ = agent.predict(obs)
        noisy = np.clip(action + rng.normal(0, 0.1, action.shape), -1, 1).astype(np.float32)
        obs, _, terminated, truncated, _ = env.step(noisy)
        if terminated or truncated:
            obs, _ = env.reset()
    return np.array(seen)


def milliseconds(agents: dict[str, BaseAlgorithm], states: np.ndarray, rounds: int) -> dict[str, np.ndarray]:
    """Of every call, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in agents}
    for state in np.tile(states, (rounds, 1)):
        for name, agent in agents.items():
            start = time.process_time()
            agent.predict(state, deterministic=True)
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: np.array(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of an ICNNQ agent; without one it is trained")
    parser.add_argument("--steps", type=int, default=15_000, help="steps to train for (default 15000)")
    parser.add_argument("--states", type=int, default=1000, help="states on the agent's path (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="calls for each state (default 5)")
    parser.add_argument("--constraint", help="as text, see docs/constraints.md: the same critic under it, too")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    icnn = trained(arguments.run, arguments.steps)
    td3 = TD3("MlpPolicy", ENV, seed=0, device="cpu", buffer_size=1, policy_kwargs={"net_arch": [256, 256]})
    states = path(icnn, arguments.states)
    agents: dict[str, BaseAlgorithm] = {"SB3 TD3": td3, "ICNNQ": icnn}
    if arguments.constraint is not None:
        agents["ICNNQ, constrained"] = constrained(icnn, arguments.constraint)
    milliseconds(agents, states[:50], 1)
    times = milliseconds(agents, states, arguments.rounds)
    rows, base = Rows(arguments.csv), _quantiles(times["SB3 TD3"])
    for name, own in times.items():
        found = _quantiles(own)
        ratios = {f"{what} times TD3": of / base[what] for what, of in found.items()}
        rows.add(agent=name, **{f"{what}, ms": of for what, of in found.items()}, **ratios)


def _quantiles(times: np.ndarray) -> dict[str, float]:
    return {"p50": float(np.median(times)), "p99": float(np.quantile(times, 0.99)), "least": float(times.min())}


if __name__ == "__main__":
    main()
