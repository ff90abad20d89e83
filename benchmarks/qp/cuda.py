"""On a GPU: rows a second against the batch size. Packages that take CUDA tensors; the rest stay on the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.qp import peers
from benchmarks.qp.cases import CASES, Arguments
from icnn_rl.qp import Diagonal

CASE_BATCHES = {
    "a": (1, 16, 256, 4096, 65536),
    "b128": (1, 16, 128, 1024),
    "c": (1, 16, 150, 2048, 8192),
}
SECONDS = 2.0


def rows() -> Iterator[tuple[str, int, str, float, float]]:
    """Case, batch, package, rows a second of the forward pass and of both; the best of several calls by the clock."""
    among = [peer for peer in peers.installed() if peer in (peers.Ours, peers.OursWarm, peers.Qpth)]
    for case, batches in CASE_BATCHES.items():
        for batch in batches:
            arguments = _on_gpu(CASES[case].arguments(batch))
            weights = torch.ones(batch, dtype=torch.float64, device="cuda")
            for peer in among:
                try:
                    runner = peer(arguments, CASES[case].wanted, weights)
                    yield case, batch, peer.name, batch / _seconds(runner.forward), batch / _seconds(runner.both)
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()


def _on_gpu(arguments: Arguments) -> Arguments:
    moved = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            moved[name] = value.cuda()
        elif isinstance(value, Diagonal):
            moved[name] = Diagonal(value.d.cuda())
    return moved


def _seconds(function: object) -> float:
    function()  # type: ignore[operator]
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()  # type: ignore[operator]
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
