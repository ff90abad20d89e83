"""Elapsed time on any device, and how fast the device multiplies."""

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


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def peak(device: str) -> float:
    """Floating-point operations per second of a large matrix product in float32, as torch does them by default: on a
    GPU without TF32."""
    n = 8192 if torch.device(device).type == "cuda" else 1024
    left, right = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    return 2.0 * n**3 / min(elapsed(lambda: left @ right, device) for _ in range(10))
