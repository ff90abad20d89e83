"""Stable-Baselines3's TD3 with observations normalised by VecNormalize: what of ICNNQ's return is the normalisation.

    OMP_NUM_THREADS=1 python -m benchmarks.td3_normalized Hopper-v5 --timesteps 100000 --seed 0

Network, exploration noise and warm-up are those of the TD3 in docs/results.md. Prints an evaluation of five
deterministic episodes every 10 000 steps, and one of twenty at the end.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Evaluate(BaseCallback):
    """Evaluates five episodes whenever it is called."""

    def __init__(self, env: VecNormalize) -> None:
        super().__init__()
        self.env = env

    def _on_step(self) -> bool:
        evaluate(self.model, self.env, 5)
        return True


def evaluate(agent: BaseAlgorithm, env: VecNormalize, episodes: int) -> None:
    """Print a line: the steps so far, mean and standard deviation of the return under the agent's present moments."""
    training = agent.get_vec_normalize_env()
    assert training is not None
    env.obs_rms = training.obs_rms
    mean, std = evaluate_policy(agent, env, episodes)
    print(f"{agent.num_timesteps:7d} steps: return {mean:.1f} +- {std:.1f} over {episodes} episodes", flush=True)


def environment(name: str, training: bool) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(name))]), training, norm_reward=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    env, other = (environment(args.env, training) for training in (True, False))
    shape = env.action_space.shape
    agent = TD3(
        "MlpPolicy",
        env,
        learning_starts=min(10_000, args.timesteps // 10),
        action_noise=NormalActionNoise(np.zeros(shape), np.full(shape, 0.1)),  # type: ignore[arg-type]
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        device="cpu",
    )
    other.seed(args.seed + 1)
    agent.learn(args.timesteps, EveryNTimesteps(10_000, Evaluate(other)))
    evaluate(agent, other, 20)


if __name__ == "__main__":
    main()
