"""How long a call takes on any device, and how fast the device multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def elapsed(function: Callable[[], object], device: str) -> float:
    """Seconds by the clock until the device is done."""
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def seconds(function: Callable[[], object], device: str) -> float:
    """Processor time on the CPU, for which other programs on the machine count little; on a GPU elapsed time."""
    if device != "cpu":
        return elapsed(function, device)
    start = time.process_time()
    function()
    return time.process_time() - start


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def large_product(device: str) -> tuple[Callable[[], object], float]:
    """A large matrix product in float32, as torch does it by default (on a GPU without TF32), and its floating-point
    operations."""
    n = 8192 if torch.device(device).type == "cuda" else 512
    left, right = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    return lambda: left @ right, 2.0 * n**3


def peak(device: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    call, operations = large_product(device)
    return operations / min(seconds(call, device) for _ in range(20))
