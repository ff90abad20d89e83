"""Run jobs on the pool that the command line chose, with a live table."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.live import Live

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import plural
from icnn_rl.runs.jobs import Job
from icnn_rl.runs.pools import Submit, local_pool, ray_pool
from icnn_rl.runs.run_jobs import JobState, draw, run_jobs

__all__ = ["cpus", "open_pool", "run_shown"]

_OPTIONS_OF = {"local": ("workers",), "ray": ("ray_address", "gpus")}


def open_pool(args: argparse.Namespace) -> AbstractContextManager[Submit]:
    """The pool that --backend and its options choose.

    Raises:
        UserError: an option that the backend does not have.
    """
    (other,) = _OPTIONS_OF.keys() - {args.backend}
    for name in _OPTIONS_OF[other]:
        if value := getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')} {value}: means nothing to --backend {args.backend}. "
                f"Leave it out, or choose --backend {other}."
            )
    if args.backend == "ray":
        return ray_pool(args.ray_address, args.gpus)
    return local_pool(args.workers or cpus())


def cpus() -> int:
    """CPUs this process may use, if the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_shown(jobs: Sequence[Job], submit: Submit, retries: int) -> list[JobState]:
    """:func:`icnn_rl.runs.run_jobs.run_jobs` under a live table."""
    try:
        with Live(auto_refresh=False, transient=True) as live:
            return run_jobs(jobs, submit, retries, _Screen(live))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last checkpoints.") from None


class _Screen:
    """A live table, and above it a lasting line for every job that ends."""

    def __init__(self, live: Live) -> None:
        self.live, self.told = live, dict[Path, str]()

    def __call__(self, states: Sequence[JobState]) -> None:
        for state in states:
            news = f"{state.state} {state.reason}" if state.state in ("done", "failed") else state.reason
            if news and self.told.get(state.job.folder) != news:
                self.told[state.job.folder] = news
                self.live.console.print(
                    f"{state.job.name}: {_line(state)}", markup=False, highlight=False, soft_wrap=True
                )
        if self.live.console.is_terminal:
            self.live.update(draw(states, max(self.live.console.height - 6, 5)), refresh=True)


def _line(state: JobState) -> str:
    if state.state == "done":
        if state.final is None:  # not visible yet on a shared disk
            return "done"
        return f"done, final return {state.final:.1f} over {plural(state.job.config.final_episodes, 'episode')}"
    return f"failed: {state.reason}" if state.state == "failed" else f"broke off, starts again: {state.reason}"
