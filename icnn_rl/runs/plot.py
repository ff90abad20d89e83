"""Learning curves as pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from icnn_rl.figures import whole_numbers
from icnn_rl.runs.config.record import Config, differences, read_record
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow, read_evaluations
from icnn_rl.runs.folder import write_file

__all__ = ["draw_band", "label_curves", "plot_runs", "shared_steps"]


def plot_runs(folders: Sequence[Path], out: Path) -> None:
    """Return against environment steps: one panel an environment, one line an agent.

    Several runs of an agent are drawn as their mean, with a band from the lowest to the highest run; a single run has
    the standard deviation over its evaluation episodes as band. Runs that differ in more than the seed, or share it,
    get a line each, labelled with their folders. A folder given twice counts once.

    Raises:
        UserError: a folder is not a run, or has no evaluation yet; runs of one agent share no step; ``out`` has an
        unknown ending.
    """
    groups: dict[str, list[_Line]] = defaultdict(list)
    for folder in {folder.resolve(): folder for folder in folders}.values():
        record = read_record(folder / "config.yml")
        run = _Run(folder.resolve().name, record, read_evaluations(folder / "eval.csv"))
        lines = groups[Config.of(record).task]
        for line in lines:
            if line.takes(run):
                line.runs.append(run)
                break
        else:
            lines.append(_Line([run]))

    figure = Figure(figsize=(6.4 * len(groups), 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ending = out.suffix.lstrip(".").lower()
    if ending not in canvas.get_supported_filetypes():
        raise UserError(f"--out {out}: expected a name ending in .png, .pdf or .svg.")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (env, lines) in zip(axes, sorted(groups.items()), strict=True):
        agents = [line.agent for line in lines]
        for line in sorted(lines, key=lambda line: line.agent):
            _draw(axis, env, line, named=agents.count(line.agent) > 1)
        label_curves(axis, env)
    write_file(out, lambda path: figure.savefig(path, dpi=120, format=ending))


class _Run(NamedTuple):
    name: str
    record: Mapping[str, Any]
    evaluations: list[EvalRow]


class _Line(NamedTuple):
    """Runs that differ in nothing but the seed."""

    runs: list[_Run]

    @property
    def agent(self) -> str:
        return str(self.runs[0].record["agent"])

    def takes(self, run: _Run) -> bool:
        return run.record["seed"] not in {one.record["seed"] for one in self.runs} and not differences(
            run.record, self.runs[0].record, ("agent", "timesteps", "lengths", "constraint", "vec_normalize", "n_envs")
        )


def _draw(axis: Axes, env: str, line: _Line, named: bool) -> None:
    """One line and its band; ``named``: labelled with its folders, not the agent alone."""
    runs = line.runs
    steps, middle, low, high = _band([run.evaluations for run in runs])
    if not len(steps):
        raise UserError(
            f"{line.agent} on {env}: no step at which all {len(runs)} runs were evaluated. Plot them one by one, or "
            "train them with the same --eval-freq."
        )
    count = f"{len(runs)} runs, lowest to highest" if len(runs) > 1 else "1 run, ± std over episodes"
    name = f"{line.agent}, {', '.join(run.name for run in runs)}" if named else line.agent
    draw_band(axis, steps, middle, low, high, f"{name} ({count})")


def draw_band(
    axis: Axes, steps: np.ndarray, middle: np.ndarray, low: np.ndarray | None, high: np.ndarray | None, label: str
) -> None:
    """A line and its band; for a single evaluation, where neither would show, a point and an error bar."""
    alone = len(steps) == 1
    (drawn,) = axis.plot(steps, middle, marker="o", markersize=6 if alone else 3, label=label)
    if low is None or high is None:
        return
    if alone:
        reach = np.stack((middle - low, high - middle)).clip(min=0.0)  # rounding
        axis.errorbar(steps, middle, reach, color=drawn.get_color(), capsize=4)
    else:
        axis.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)


def label_curves(axis: Axes, env: str) -> None:
    """Title, axes and legend of learning curves on ``env``."""
    axis.set_title(env)
    axis.set_xlabel("environment steps")
    whole_numbers(axis)
    axis.set_ylabel("return of an evaluation episode")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")


def shared_steps(runs: Sequence[Sequence[EvalRow]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which all runs were evaluated, (k,), and the means there, (runs, k)."""
    tables = [{row.timesteps: row.mean for row in run} for run in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array(steps, dtype=float), np.array([[table[step] for step in steps] for table in tables])


def _band(runs: Sequence[Sequence[EvalRow]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all runs share, with the middle, lower and upper line."""
    steps, table = shared_steps(runs)
    middle = table.mean(axis=0)
    if len(runs) > 1:
        return steps, middle, table.min(axis=0), table.max(axis=0)
    spread = np.array([row.std for row in runs[0]])
    return steps, middle, middle - spread, middle + spread
