"""What it saves to stop the target's argmax where its certified gap is small beside the TD error.

    python -m benchmarks.target_gap RUN ... [--shares 0 0.01 0.1] [--batches 40] [--rounds 3]

On batches of 256 from the replay buffer in the last checkpoint of each run: steps a row, mean gap in units of the TD
error's root mean square, elapsed time of the least of some rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from benchmarks.last_checkpoint import load
from icnn_rl.agents import ICNNQ
from icnn_rl.solution import Solution


@torch.no_grad()
def td_error(agent: ICNNQ, batches: list[ReplayBufferSamples]) -> float:
    """Root mean square over batches and members."""
    squares = []
    for data in batches:
        target, _ = agent._target(data)
        squares.append((agent.critic.bind(data.observations).member_values(data.actions) + target).square().mean())
    return float(torch.stack(squares).mean().sqrt())


@torch.inference_mode()
def solve(agent: ICNNQ, batches: list[ReplayBufferSamples], atol: float) -> tuple[list[Solution], float]:
    """Every batch's argmax, and the seconds that one takes without its context."""
    spent, found = 0.0, []
    for data in batches:
        energy = agent.critic_target.bind(data.next_observations)
        begin = time.perf_counter()
        found.append(agent.critic_target.maximise(energy, agent.policy.solver, data.next_observations, atol=atol))
        spent += time.perf_counter() - begin
    return found, spent / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.01, 0.1])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | target_gap | steps a row | gap / TD error | ms |\n|---|---|---|---|---|")
    for run in args.runs:
        agent = load(run)
        agent.set_random_seed(0)
        assert agent.replay_buffer is not None
        batches = [agent.replay_buffer.sample(256) for _ in range(args.batches)]
        error = td_error(agent, batches)
        for share in args.shares:
            rounds = [solve(agent, batches, share * error) for _ in range(args.rounds)]
            found, best = rounds[0][0], min(seconds for _, seconds in rounds)
            steps = torch.cat([solution.num_steps for solution in found]).double().mean()
            gap = torch.cat([solution.gap for solution in found]).mean() / error
            print(f"| {run.name} | {share:g} | {steps:.2f} | {gap:.4f} | {1e3 * best:.2f} |", flush=True)


if __name__ == "__main__":
    main()
