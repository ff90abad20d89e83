"""A training run as a job: it starts, resumes or does nothing, depending on what its folder holds. Sweeps and searches
are made of these."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from icnn_rl.runs.config.defaults import constructor_defaults
from icnn_rl.runs.config.record import Config, differences, read_record
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import read_evaluations
from icnn_rl.runs.folder import FolderBusyError, sole_user, write_text
from icnn_rl.runs.train import final_evaluation, resume_run, train_run

__all__ = [
    "Job",
    "JobError",
    "Progress",
    "check_folder",
    "is_finished",
    "read_final",
    "read_progress",
    "run_apart",
    "run_job",
]

_HEARTBEAT = 2.0  # seconds
_LOCK_PATIENCE = 60.0  # seconds: given to a process whose machine was thought dead


class JobError(Exception):
    """A job crashed; a retry may help. The traceback is in its log."""


@dataclass(frozen=True)
class Job:
    """A run to train and evaluate.

    config: what to train. folder: its run folder; log and progress lie in ``folder/../jobs/``.
    """

    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    def beside(self, ending: str) -> Path:
        """A file of the job outside its run folder, such as its "log"."""
        return self.folder.parent / "jobs" / f"{self.name}.{ending}"


class Progress(NamedTuple):
    """How far a job has got: environment steps, recent steps per second, return of the latest evaluation while
    training (None: none yet). :func:`read_final` gives the return of the last model."""

    timesteps: int
    steps_per_second: float
    return_so_far: float | None


def is_finished(job: Job) -> bool:
    """Whether nothing is left to do: the last model has been evaluated, after all steps and over enough episodes."""
    try:
        done = json.loads((job.folder / "evaluation_model.json").read_text())
        return bool(done["episodes"] == job.config.final_episodes and done["timesteps"] >= job.config.timesteps)
    except (OSError, ValueError, KeyError):
        return False


def check_folder(job: Job) -> None:
    """If the folder holds a run, it must have the job's settings and this version's defaults; it may be shorter.

    Raises:
        UserError: it does not; names the settings that differ.
    """
    path = job.folder / "config.yml"
    if not path.is_file():
        return
    wanted = yaml.safe_load(job.config.to_yaml({"defaults": constructor_defaults(job.config.agent)}))
    # a different number of final episodes only repeats the final evaluation
    names = [field.name for field in fields(Config) if field.name not in ("settings", "final_episodes")]
    there_now = read_record(path)
    if there_now["timesteps"] < job.config.timesteps:  # the run will be extended
        names.remove("timesteps")
    differ = [
        f"{key} {there!r} there, {here!r} wanted"
        for key, (there, here) in differences(there_now, wanted, names).items()
    ]
    if differ:
        raise UserError(
            f"{job.folder}: holds a run with other settings: {'; '.join(differ)}. "
            "Choose another --out, or the settings of that run."
        )


def read_progress(job: Job) -> Progress:
    """Read from the job's files: it may be running on another machine."""
    try:
        beat = json.loads(job.beside("json").read_text())
    except (OSError, ValueError):
        beat = {"timesteps": 0, "steps_per_second": 0.0}
    last = None
    with contextlib.suppress(UserError, IndexError):
        last = read_evaluations(job.folder / "eval.csv")[-1].mean
    return Progress(int(beat["timesteps"]), float(beat["steps_per_second"]), last)


def read_final(job: Job) -> float | None:
    """Mean return of the last model, which reports and searches compare; None while the job is not finished."""
    if not is_finished(job):
        return None
    return float(json.loads((job.folder / "evaluation_model.json").read_text())["mean"])


def run_job(job: Job) -> None:
    """Train the job in this process, on one thread, from its last checkpoint if any, then evaluate it. A finished job
    is left alone. Output goes to the job's log.

    Raises:
        UserError: settings, environment or folder are wrong.
        JobError: anything else, see the log; or another process is using the folder.
    """
    torch.set_num_threads(1)
    with _logged(job):
        try:
            with sole_user(job.folder, _LOCK_PATIENCE):
                _take_up(job)
        except FolderBusyError as error:  # which passes
            raise JobError(str(error)) from error
        except UserError as error:
            print(f"error: {error}")
            raise
        except Exception as error:
            traceback.print_exc()
            raise JobError(f"{type(error).__name__}: {error}. Its log: {job.beside('log')}") from error


def _take_up(job: Job) -> None:
    check_folder(job)
    if is_finished(job):
        return
    callbacks = [_Heartbeat(job.beside("json"))]
    path = job.folder / "config.yml"
    if not path.is_file():
        train_run(job.config, job.folder, callbacks=callbacks)
    elif not (job.folder / "model.zip").is_file() or Config.load(path).timesteps < job.config.timesteps:
        resume_run(job.folder, timesteps=job.config.timesteps, callbacks=callbacks)
    final_evaluation(job.folder, "model", job.config.final_episodes)


@contextlib.contextmanager
def _logged(job: Job) -> Iterator[None]:
    job.beside("log").parent.mkdir(parents=True, exist_ok=True)
    with (
        job.beside("log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


class _Heartbeat(BaseCallback):
    """Write every few seconds how far the run has got, and its speed since the last time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._time, self._steps = 0.0, 0

    def _on_training_start(self) -> None:
        self._time, self._steps = time.monotonic(), self.num_timesteps

    def _on_step(self) -> bool:
        if time.monotonic() - self._time > _HEARTBEAT:
            self._beat()
        return True

    def _on_training_end(self) -> None:
        self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        rate = (self.num_timesteps - self._steps) / max(now - self._time, 1e-9)
        self._time, self._steps = now, self.num_timesteps
        write_text(self.path, json.dumps({"timesteps": self.num_timesteps, "steps_per_second": round(rate, 2)}))


# in a process of its own


def run_apart(job: Job, started: list[BaseProcess] | None = None) -> None:
    """:func:`run_job` in a new process, so that a crash takes down one job only. The process, which ends with this one,
    is appended to ``started``.

    Raises:
        UserError, JobError: as :func:`run_job`; JobError also where the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, sender), name=job.name, daemon=True)
    process.start()
    if started is not None:
        started.append(process)
    sender.close()
    try:
        failure = receiver.recv()
    except EOFError:
        process.join()
        failure = JobError(f"its process ended with exit code {process.exitcode}. Its log: {job.beside('log')}")
    process.join()
    if failure is not None:
        raise failure


def _child(job: Job, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_job(job)
    except (UserError, JobError) as error:
        sender.send(type(error)(str(error)))
    except KeyboardInterrupt:
        pass  # the parent was interrupted too, and tells the user
    else:
        sender.send(None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
