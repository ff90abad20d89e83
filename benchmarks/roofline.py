"""The matrix products of an update by themselves, beside the update: how near it comes to what the core can do.

    OMP_NUM_THREADS=1 python -m benchmarks.roofline [--env HalfCheetah-v5] [--batch 256] [--csv FILE]

An update of the usual critic is eleven products for each member: three for the next states, three for the states, three
for the gradients of the weights and two for what goes back through the layers (nothing goes back into the observation).
``ms at peak`` is what they would take at the rate of a large product in the same run; the least of many calls, on one
core: its processor time.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import torch
from torch import Tensor

from benchmarks.clock import large_product, seconds
from benchmarks.rows import Rows
from icnn_rl.agents import ICNNQ
from icnn_rl.nn import PICNN


def products(net: PICNN, batch: int, device: str) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The factors of every product, with random numbers."""
    widths = [net.x_features, *net.context_widths, net.heads.out_features]

    def random(*shape: int) -> Tensor:
        return torch.randn(net.ensemble or 1, *shape, device=device)

    layers = list(itertools.pairwise(widths))
    forward = [(random(batch, before), random(before, after)) for before, after in layers]
    weights = [(random(after, batch), random(batch, before)) for before, after in layers]
    back = [(random(batch, after), random(after, before)) for before, after in layers[1:]]
    return {
        "next states": forward,
        "states": forward,
        "gradients of the weights": weights,
        "gradients of the layers": back,
    }


def operations(left: Tensor, right: Tensor) -> float:
    return 2.0 * left.numel() * right.shape[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--warm", type=int, default=2_000, help="steps that the agent has learned for")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    agent = ICNNQ("MlpPolicy", args.env, batch_size=args.batch, learning_starts=200, seed=0, device=args.device)
    agent.learn(args.warm)
    net = agent.critic.net
    assert isinstance(net, PICNN)
    parts = products(net, args.batch, args.device)
    jobs: dict[str, Callable[[], object]] = {
        name: lambda pairs=pairs: [torch.bmm(*pair) for pair in pairs]  # type: ignore[misc]
        for name, pairs in parts.items()
    }
    every = [pair for pairs in parts.values() for pair in pairs]
    jobs["all products"] = lambda: [torch.bmm(*pair) for pair in every]
    jobs["update"] = lambda: agent.train(1, args.batch)
    jobs["peak"], large = large_product(args.device)
    least = dict.fromkeys(jobs, float("inf"))
    for _ in range(args.rounds):  # in turns, so that what else the machine does meets all of them
        for name, job in jobs.items():
            least[name] = min(least[name], seconds(job, args.device))
    top, rows = large / least.pop("peak"), Rows(args.csv)
    print(f"peak: {top / 1e9:.0f} GFLOP/s in float32")
    for name, took in least.items():
        flops = sum(itertools.starmap(operations, parts.get(name, every)))
        rows.add(
            **{
                "part": name,
                "products": len(parts.get(name, every)),
                "MFLOP": flops / 1e6,
                "ms at peak": 1e3 * flops / top,
                "ms": 1e3 * took,
                "share of peak, %": 100 * flops / top / took,
            }
        )


if __name__ == "__main__":
    main()
