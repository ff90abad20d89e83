"""Greedy actions per second against batch size and number of actions, cold start, on the CPU or a GPU.

    python -m benchmarks.argmax_throughput [--device cuda] [--actions 1 6 17 100] [--batches 1 16 256 4096 65536]

Random critics of ICNNQ's default shape (two members, context 256-256, convex path of 64) with weights of the context's
last layer four times their start, so that the actions matter; the context counts. Every row says how many of the
greedy actions were certified to the tolerance, and which share of the device's peak (a large product in float32, in the
same run) the matrix products and the linear solves of the search by torch's operations make up; where compiled code
searches, it takes fewer, and there is no share.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import elapsed, peak
from benchmarks.rows import Rows
from icnn_rl.nn import PICNN
from icnn_rl.sets import Box
from icnn_rl.solution import Solution
from icnn_rl.solvers import Problem, ProjectedNewton
from icnn_rl.solvers.minimize import solve
from icnn_rl.solvers.newton import dispatch

OBSERVATION = 17
SOLVER = ProjectedNewton(tol=3e-4, max_steps=6)


def critic(n: int, device: str) -> PICNN:
    torch.manual_seed(0)
    net = PICNN(OBSERVATION, n, (256, 256), (64,), activation="squareplus", context_norm=True, ensemble=2)
    with torch.no_grad():
        net.heads.weight.mul_(4.0)
    return net.to(device)


def search(net: PICNN, obs: torch.Tensor) -> Solution:
    energy = net.bind(obs, "mean")
    return solve(Problem(energy, Box(-1.0, 1.0), energy.start()), SOLVER, energy.start(), averages=True)


def operations(net: PICNN, obs: torch.Tensor) -> float:
    """Floating-point operations of the search's matrix products and linear solves; NaN where compiled code does it."""
    energy = net.bind(obs, "mean")
    if dispatch.fits(Problem(energy, Box(-1.0, 1.0), energy.start()), energy.start()):
        return math.nan
    count = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._linalg_solve_ex: _solve})
    with count:
        search(net, obs)
    return float(count.get_total_flops())


def _solve(shape: Any, *others: Any, **options: Any) -> int:
    """LU factors of (..., n, n), and two triangular solves."""
    *batch, n, _ = shape
    return math.prod(batch) * (2 * n**3 // 3 + 2 * n**2)


@torch.inference_mode()
def measure(net: PICNN, batch: int, device: str, budget: float) -> tuple[float, float, float]:
    """(actions per second at the fastest of some calls, share certified, floating-point operations of a call)."""
    obs = torch.randn(batch, OBSERVATION, device=device)
    share = float(search(net, obs).success.double().mean())
    flops = operations(net, obs)
    best, spent = float("inf"), 0.0
    while spent < budget:
        took = elapsed(lambda: search(net, obs), device)
        best, spent = min(best, took), spent + took
    return batch / best, share, flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--actions", type=int, nargs="+", default=[1, 6, 17, 100])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256, 4096, 65536])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    top, rows = peak(args.device), Rows(args.csv)
    print(f"peak: {top / 1e12:.3g} TFLOP/s in float32")
    for n in args.actions:
        net = critic(n, args.device)
        for batch in args.batches:
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                rate, share, flops = measure(net, batch, args.device, args.seconds)
                used = flops * rate / batch / top
                rows.add(
                    **{
                        "actions": n,
                        "batch": batch,
                        "per second": rate,
                        "certified, %": 100 * share,
                        "share of peak, %": 100 * used,
                    }
                )


if __name__ == "__main__":
    main()
