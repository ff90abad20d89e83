"""Peak memory of one forward and backward pass, each package in a process of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys

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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
