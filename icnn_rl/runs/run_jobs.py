"""Run many jobs: retry those that crash, carry on when some fail, show their progress."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.jobs import Job, Progress, check_folder, is_finished, read_final, read_progress
from icnn_rl.runs.pools import Submit

__all__ = ["JobState", "draw", "run_jobs"]

_REFRESH = 1.0  # seconds
_ORDER = ("running", "failed", "waiting", "done")


@dataclass
class JobState:
    """A job and its state. ``attempts``: earlier starts. ``reason``: why it last failed. ``final``: the return of its
    last model, once done."""

    job: Job
    state: Literal["waiting", "running", "failed", "done"]
    progress: Progress
    attempts: int = 0
    reason: str = ""
    final: float | None = None
    _submitted_at_beat: float | None = None

    @property
    def steps_left(self) -> int:
        """0 during the final evaluation, and when the last rollout overshoots."""
        return max(self.job.config.timesteps - self.progress.timesteps, 0)

    @property
    def seconds_left(self) -> float | None:
        """At the current speed; None: unknown."""
        rate = self.progress.steps_per_second
        return self.steps_left / rate if self.state == "running" and rate > 0 else None


def run_jobs(
    jobs: Sequence[Job], submit: Submit, retries: int, show: Callable[[Sequence[JobState]], object]
) -> list[JobState]:
    """Run all jobs that are not finished; returns the states of all of them.

    Args:
        jobs: their folders are checked before anything starts.
        submit: from a pool.
        retries: how often a crashed job is restarted. A UserError is not retried.
        show: called about every second.

    Raises:
        UserError: a folder holds a run with other settings.
    """
    for job in jobs:
        check_folder(job)
    states = [
        JobState(job, "done" if is_finished(job) else "waiting", read_progress(job), final=read_final(job))
        for job in jobs
    ]
    futures: dict[Future[None], JobState] = {}

    def start(state: JobState) -> None:
        state.state, state._submitted_at_beat = "waiting", _last_beat(state.job)
        futures[submit(state.job)] = state

    for state in states:
        if state.state == "waiting":
            start(state)
    while futures:
        for future in wait(futures, timeout=_REFRESH, return_when=FIRST_COMPLETED).done:
            state, error = futures.pop(future), future.exception()
            if error is None:
                state.state, state.final = "done", read_final(state.job)
                continue
            state.reason = str(getattr(error, "cause", error))  # Ray's error text is the worker's traceback
            if isinstance(error, UserError) or state.attempts >= retries:
                state.state = "failed"
            else:
                state.attempts += 1
                start(state)
        for state in futures.values():
            if (
                _last_beat(state.job) != state._submitted_at_beat
            ):  # the clock may be another machine's: any change counts
                state.state = "running"
        for state in states:
            state.progress = read_progress(state.job)
        show(states)
    return states


def _last_beat(job: Job) -> float | None:
    try:
        return job.beside("json").stat().st_mtime
    except OSError:
        return None


def draw(states: Sequence[JobState], rows: int = 30) -> Group:
    """A table of at most ``rows`` jobs, running ones first, and a line of counts."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "state"):
        table.add_column(name)
    for name in ("steps", "steps/s", "return", "time left"):
        table.add_column(name, justify="right")
    for state in sorted(states, key=lambda state: _ORDER.index(state.state))[:rows]:
        table.add_row(*_row(state))
    counts = {name: sum(state.state == name for state in states) for name in _ORDER}
    line = ", ".join(f"{count} {name}" for name, count in counts.items())
    left = _total_left(states)
    return Group(table, Text(f"{len(states)} jobs: {line}" + ("" if left is None else f"; {_time(left)} left")))


def _row(state: JobState) -> list[str]:
    done, rate, so_far = state.progress
    again = f" (try {state.attempts + 1})" if state.attempts else ""
    return [
        state.job.name,
        state.state + again,
        f"{done} / {state.job.config.timesteps}",
        f"{rate:.0f}" if state.state == "running" else "",
        "" if so_far is None else f"{so_far:.1f} so far" if state.final is None else f"{state.final:.1f} final",
        _time(state.seconds_left) if state.state == "running" else "",
    ]


def _total_left(states: Sequence[JobState]) -> float | None:
    """All remaining steps, at the speed of the running jobs."""
    rate = sum(state.progress.steps_per_second for state in states if state.state == "running")
    left = sum(state.steps_left for state in states if state.state in ("running", "waiting"))
    return left / rate if rate > 0 else None


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
