"""Greedy actions per second against batch size and number of actions, cold start, on the CPU or a GPU.

    python -m benchmarks.argmax_throughput [--device cuda] [--actions 1 6 17 100] [--batches 1 16 256 4096 65536]

Random critics of ICNNQ's default shape (two members, context 256-256, convex path of 64) with weights of the context's
last layer four times their start, so that the actions matter; the context counts. Every row says how many of the
greedy actions were certified to the tolerance.
"""

from __future__ import annotations

import argparse
import time

import torch

from icnn_rl.nn import PICNN
from icnn_rl.sets import Box
from icnn_rl.solvers import Problem, ProjectedNewton
from icnn_rl.solvers.minimize import solve

OBSERVATION = 17
SOLVER = ProjectedNewton(tol=3e-4, max_steps=6)


def critic(n: int, device: str) -> PICNN:
    torch.manual_seed(0)
    net = PICNN(OBSERVATION, n, (256, 256), (64,), activation="squareplus", context_norm=True, ensemble=2)
    with torch.no_grad():
        net.heads.weight.mul_(4.0)
    return net.to(device)


@torch.inference_mode()
def measure(net: PICNN, batch: int, device: str, budget: float) -> tuple[float, float]:
    """(actions per second at the fastest of some calls, share certified)."""
    obs = torch.randn(batch, OBSERVATION, device=device)
    best, spent, share = float("inf"), 0.0, 0.0
    while spent < budget or best == float("inf"):
        begin = time.perf_counter()
        energy = net.bind(obs, "mean")
        found = solve(Problem(energy, Box(-1.0, 1.0), energy.start()), SOLVER, energy.start(), averages=True)
        share = float(found.success.double().mean())  # waits for the device
        took = time.perf_counter() - begin
        best, spent = min(best, took), spent + took
    return batch / best, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--actions", type=int, nargs="+", default=[1, 6, 17, 100])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256, 4096, 65536])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| actions | " + " | ".join(f"batch {batch}" for batch in args.batches) + " |")
    print("|---" * (len(args.batches) + 1) + "|")
    for n in args.actions:
        net, cells = critic(n, args.device), []
        for batch in args.batches:
            rate, share = measure(net, batch, args.device, args.seconds)
            cells.append(f"{rate:.0f}/s ({100 * share:.1f} %)")
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
