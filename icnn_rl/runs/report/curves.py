"""Learning curves of the runs on a task, one picture a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from icnn_rl.runs.folder import name_of, write_file
from icnn_rl.runs.plot import draw_band, label_curves, shared_steps
from icnn_rl.runs.report.groups import grouped
from icnn_rl.runs.report.run import FinishedRun
from icnn_rl.runs.report.statistics import interval

__all__ = ["draw_curves"]


def draw_curves(runs: Sequence[FinishedRun], folder: Path, resamples: int) -> Iterator[tuple[str, Path]]:
    """Draw curves-ENV-STEPS.svg for every task, whatever its number of final episodes; the task's name and the file."""
    for task, agents in grouped(runs, lambda run: run.task._replace(episodes=0)).items():
        limited = f"-{hashlib.sha256(task.constraint.encode()).hexdigest()[:8]}" if task.constraint else ""
        path = folder / f"curves-{name_of(task.env)}{limited}-{task.steps}.svg"
        _save(_figure(task.place, agents, resamples), path)
        yield task.place, path


def _figure(title: str, agents: Mapping[str, Sequence[FinishedRun]], resamples: int) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for agent, group in agents.items():
        steps, means = shared_steps([run.evaluations for run in group])
        label = f"{agent} ({len(group)} runs)" if len(group) > 1 else f"{agent} (1 run, no band)"
        if not len(steps):
            label += ": no step at which all were evaluated"
        bounds = [interval([column], np.mean, resamples) for column in means.T] if len(group) > 1 else []
        low, high = np.array(bounds, dtype=float).T if bounds else (None, None)
        draw_band(axis, steps, means.mean(0), low, high, label)
    label_curves(axis, title)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with rc_context({"svg.hashsalt": "icnn_rl"}):  # the same runs, the same file
        write_file(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))
