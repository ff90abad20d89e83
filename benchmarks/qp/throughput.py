"""Rows a second against the batch size, on the processor or a GPU. Only packages that take CUDA tensors: the rest stay
on the processor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.clock import elapsed
from benchmarks.qp import peers
from benchmarks.qp.adapter import quiet
from benchmarks.qp.cases import CASES, Arguments
from icnn_rl.qp import Diagonal

#: The first of each is the one that is compared.
CASE_BATCHES = {
    "a": (256, 4096, 65536, 16, 1),
    "b128": (128, 1024, 16, 1),
    "c": (150, 2048, 8192, 16, 1),
    "portfolio": (32, 512, 2048, 1),
}


def rows(device: str, cases: list[str], budget: float, largest: int) -> Iterator[dict[str, object]]:
    """Of every case, batch and package: rows a second of the forward pass and of both, the best of several calls by the
    clock, the rows not solved, and qpth's time over the package's.

    Args:
        budget: seconds for each of the two.
        largest: no batch above it, but one for each case.
    """
    among = [peer for peer in (peers.Qpth, peers.Ours, peers.OursWarm) if peer in peers.installed()]
    for case in cases:
        first, *others = CASE_BATCHES[case]
        for batch in (min(first, largest), *(other for other in others if other <= largest)):
            arguments = _moved(CASES[case].arguments(batch), device)
            weights = torch.ones(batch, dtype=torch.float64, device=device)
            base = math.nan
            for peer in among:
                try:
                    with quiet():
                        runner = peer(arguments, CASES[case].wanted, weights)
                        failed = int(runner.answer().failed.sum())
                        forward, both = (_seconds(call, device, budget) for call in (runner.forward, runner.both))
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    continue
                if peer is peers.Qpth:
                    base = both
                yield {
                    "case": case,
                    "batch": batch,
                    "package": peer.name,
                    "forward, rows/s": batch / forward,
                    "both, rows/s": batch / both,
                    "not solved": failed,
                    "qpth / this, both": base / both,
                }


def _moved(arguments: Arguments, device: str) -> Arguments:
    moved = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            moved[name] = value.to(device)
        elif isinstance(value, Diagonal):
            moved[name] = Diagonal(value.d.to(device))
    return moved


def _seconds(function: Callable[[], object], device: str, budget: float) -> float:
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < budget:
        best = min(best, elapsed(function, device))
    return best
