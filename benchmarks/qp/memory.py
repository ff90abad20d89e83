"""Peak memory of one forward and backward pass, each package in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.qp import peers
from benchmarks.qp.cases import CASES


def peak_mib(name: str, case: str) -> str:
    """What the package adds to the process that holds the problem, in MiB; or how it failed."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.qp", case, "--peak-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else f"exit {done.returncode}"


def report(name: str, case: str) -> None:
    """In the process of its own: print the number."""
    peer = peers.by_name(name)
    spec = CASES[case]
    arguments = spec.arguments()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # what was imported and dropped again is no part of the peak
    before = _peak()
    outcome = ""
    with contextlib.redirect_stdout(None):
        try:
            peer(arguments, spec.wanted, torch.ones(spec.batch, dtype=torch.float64)).both()
        except Exception as error:  # likewise a result
            outcome = type(error).__name__
    print(outcome or f"{_peak() - before:.0f}", flush=True)
    os._exit(0)  # some packages crash on the way out


def _peak() -> float:
    """Of this process so far, on Linux. What getrusage says is also that of the process which started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024
