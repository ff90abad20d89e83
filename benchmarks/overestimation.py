"""How far ICNNQ's critic believes in more than its rewards allow, while it learns.

    OMP_NUM_THREADS=1 python -m benchmarks.overestimation HumanoidStandup-v5 --timesteps 20000 \\
        [--set reward_scale=0.01 action_smoothing=0.3 ...]

Every 2500 steps, on 256 transitions drawn from the replay buffer, in units of 1 / reward_scale: the mean value of the
greedy action; what the rewards seen allow a value to be, max r / (1 - gamma); how much more the greedy action is
believed to bring than a random one; and the mean critic loss since the last line.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps

from icnn_rl.agents import ICNNQ
from icnn_rl.runs.arguments import parse_overrides


class Report(BaseCallback):
    """Prints a line whenever it is called."""

    model: ICNNQ

    def _on_step(self) -> bool:
        if self.model._n_updates == 0:
            return True
        buffer, critic = self.model.replay_buffer, self.model.critic
        assert buffer is not None
        data = buffer.sample(256)
        with torch.inference_mode():
            energy = critic.bind(data.observations)
            greedy = critic.maximise(energy, self.model.policy.act_solver, data.observations)
            random = torch.rand_like(greedy.value) * 2 - 1
            advantage = (energy.member_values(random).mean(0) - greedy.fun).mean()
        bound = self.model.reward_scale * buffer.rewards[: buffer.size()].max() / (1 - self.model.gamma)
        loss = self.logger.name_to_value["train/critic_loss"]
        self.logger.name_to_count["train/critic_loss"] = 0  # its mean starts anew, as it does where the log is written
        print(
            f"{self.num_timesteps:7d} steps: value {-greedy.fun.mean():9.1f}   at most {bound:9.1f}   "
            f"above a random action {advantage:7.2f}   loss {loss:9.3g}",
            flush=True,
        )
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--timesteps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="the agent's settings")
    args = parser.parse_args()
    settings: dict[str, Any] = parse_overrides(args.set)
    agent = ICNNQ("MlpPolicy", args.env, learning_starts=10_000, seed=args.seed, device="cpu", **settings)
    agent.learn(args.timesteps, EveryNTimesteps(2500, Report()), log_interval=None)


if __name__ == "__main__":
    main()
