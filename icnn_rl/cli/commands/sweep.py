"""``icnn-rl sweep``: agents, environments and seeds, every combination a job."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.live import Live

from icnn_rl.runs.config.record import learns_nothing
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.evaluate import plural
from icnn_rl.runs.folder import write_text
from icnn_rl.runs.jobs import Job, check_folder
from icnn_rl.runs.pools import Submit, local_pool, ray_pool
from icnn_rl.runs.run_jobs import JobState, draw, run_jobs
from icnn_rl.runs.sweep import make_jobs, merge_options, read_sweep, read_sweep_file

__all__ = ["open_pool", "run", "run_shown"]

_OPTIONS = (
    "agents",
    "envs",
    "seeds",
    "timesteps",
    "warm_up",
    "settings",
    "n_envs",
    "device",
    "constraint",
    "env_kwargs",
    "wrappers",
    "vec_normalize",
    "eval_freq",
    "eval_episodes",
    "checkpoint_freq",
    "final_episodes",
)

_OPTIONS_OF = {"local": ("workers",), "ray": ("ray_address", "gpus")}


def open_pool(args: argparse.Namespace) -> AbstractContextManager[Submit]:
    """The pool that --backend and its options ask for.

    Raises:
        UserError: an option that means nothing to it.
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
    return local_pool(args.workers or _cpus())


def _cpus() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(args: argparse.Namespace) -> None:
    options = read_sweep_file(args.file) if args.file else {}
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    sweep = read_sweep(merge_options(options, given))
    jobs = make_jobs(sweep, args.out)
    for job in jobs:
        check_folder(job)
    for text in dict.fromkeys(learns_nothing(job.config) for job in jobs):
        warn(text)
    pool = open_pool(args)
    write_text(args.out / "sweep.yml", sweep.to_yaml())
    with pool as submit:
        states = run_shown(jobs, submit, args.retries)
    _report_failures(states, args.out)


def run_shown(jobs: Sequence[Job], submit: Submit, retries: int) -> list[JobState]:
    """:func:`icnn_rl.runs.run_jobs.run_jobs` under a live table."""
    try:
        with Live(auto_refresh=False, transient=True) as live:
            return run_jobs(jobs, submit, retries, _Screen(live))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last checkpoints.") from None


class _Screen:
    """The live table, and a line for every job that ends, which stays."""

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
        if state.final is None:  # not to be seen yet on a shared disk
            return "done"
        return f"done, final return {state.final:.1f} over {plural(state.job.config.final_episodes, 'episode')}"
    return f"failed: {state.reason}" if state.state == "failed" else f"broke off, starts again: {state.reason}"


def _report_failures(states: Sequence[JobState], out: Path) -> None:
    failed = [state for state in states if state.state == "failed"]
    report = shlex.join(["icnn-rl", "report", str(out), "--out", f"{out}-report"])
    print(f"{len(states) - len(failed)} of {len(states)} jobs are done. A report of them: {report}")
    if failed:
        names = ", ".join(state.job.name for state in failed)
        raise UserError(
            f"{len(failed)} of {len(states)} jobs failed: {names}. Their logs are in {out / 'jobs'}; the same command "
            "tries them again."
        )
