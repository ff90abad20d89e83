"""``python -m benchmarks.constraints.projection``: projections of actions beside cvxpylayers and qpth, on one thread.

6 actions in float64; a set of 24 half-spaces a row, and the 64 patterns of a power limit within a box.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import statistics  # noqa: E402  # after the number of threads is set
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.qp import peers  # noqa: E402
from icnn_rl.constraints import box, power_limit  # noqa: E402
from icnn_rl.sets import ConvexSet  # noqa: E402
from icnn_rl.testing import cone_references as cones  # noqa: E402

ROUNDS, BUDGET = 15, 3.0  # calls at most, and seconds after which there are no more


class Ours(peers._Torch):
    """``ConvexSet.project``."""

    name = "ConvexSet.project"

    def __init__(self, arguments: dict[str, Any], wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        self.leaves = {name: arguments[name].clone().requires_grad_() for name in wanted}
        self.arguments = {**arguments, **self.leaves}

    def solve(self) -> tuple[Tensor, None]:
        a = self.arguments
        return ConvexSet(a["G"], a["h"]).project(-a["p"]).value, None


def halfspaces(batch: int) -> dict[str, Any]:
    """24 rows of length 1 around the origin."""
    random = torch.Generator().manual_seed(0)
    G = torch.nn.functional.normalize(torch.randn(batch, 24, 6, generator=random, dtype=torch.float64), dim=-1)
    h = 0.2 + torch.randn(batch, 24, generator=random, dtype=torch.float64).abs()
    return {"Q": 1.0, "p": -2.0 * torch.randn(batch, 6, generator=random, dtype=torch.float64), "G": G, "h": h}


def power(batch: int) -> dict[str, Any]:
    """sum |w_i a_i| <= 1 and |a_i| <= 1 as rows."""
    random = torch.Generator().manual_seed(1)
    w, point = torch.randn(2, batch, 6, generator=random, dtype=torch.float64)
    s = (power_limit("0:6", 1.0) & box(-1.0, 1.0)).at(w, 6)
    eye = torch.eye(6, dtype=torch.float64).expand(batch, 6, 6)
    assert s.G is not None and s.h is not None  # noqa: PT018
    G = torch.cat((s.G, -eye, eye), -2)
    return {
        "Q": 1.0,
        "p": -2.0 * point,
        "G": G,
        "h": torch.cat((s.h, torch.ones(12, dtype=torch.float64))).expand(batch, -1),
    }


def median(function: Callable[[], object]) -> float:
    """Milliseconds of processor time of a call."""
    times, start = [], time.perf_counter()
    while len(times) < ROUNDS and (time.perf_counter() - start < BUDGET or len(times) < 3):
        before = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - before))
    return statistics.median(times)


def main() -> None:
    print(", ".join(peers.versions()))
    print("| case | package | forward ms | ratio | forward + backward ms | ratio | largest error |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    cases = (("24 rows", halfspaces, 256), ("24 rows", halfspaces, 1), ("power", power, 256), ("power", power, 1))
    for name, build, batch in cases:
        arguments = build(batch)
        s = ConvexSet(arguments["G"], arguments["h"])
        exact = np.stack([cones.minimiser(s, np.eye(6), arguments["p"][i].numpy(), i) for i in range(batch)])
        ours: list[float] = []
        for peer in (Ours, peers.CvxpyLayer, peers.Qpth):
            try:
                runner = peer(arguments, ("p", "G", "h"), torch.ones(batch, dtype=torch.float64))
                error = float(np.abs(runner.answer().value.numpy() - exact).max())
                times = [median(runner.forward), median(runner.both)]
            except Exception as problem:  # whatever another package raises is its result
                print(f"| {name}, batch {batch} | {peer.name} | {type(problem).__name__}: {str(problem)[:60]} |||||")
                continue
            ours = ours or times
            cells = " | ".join(f"{t:.3g} | {t / o:.2g}" for t, o in zip(times, ours, strict=True))
            print(f"| {name}, batch {batch} | {peer.name} | {cells} | {error:.0e} |", flush=True)


if __name__ == "__main__":
    main()
