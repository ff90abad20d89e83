"""Learning curves as pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from icnn_rl.experiment.config import Config
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.evaluation import EvalRow, read_evaluations
from icnn_rl.experiment.files import write_file

__all__ = ["label_curves", "plot_runs", "shared_steps"]


def plot_runs(folders: Sequence[Path], out: Path) -> None:
    """Return against environment steps: one panel an environment, one line an agent.

    Several runs of an agent become their mean, with a band from the lowest to the highest run; a single run gets the
    standard deviation over its evaluation episodes.

    Raises:
        UserError: a folder is not a run, or has no evaluation yet; runs of one agent share no step; ``out`` has an
        unknown ending.
    """
    groups: dict[str, dict[str, list[list[EvalRow]]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        config = Config.load(folder / "config.yml")
        groups[config.env][config.agent].append(read_evaluations(folder / "eval.csv"))

    figure = Figure(figsize=(6.4 * len(groups), 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ending = out.suffix.lstrip(".").lower()
    if ending not in canvas.get_supported_filetypes():
        raise UserError(f"--out {out}: expected a name ending in .png, .pdf or .svg.")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (env, agents) in zip(axes, sorted(groups.items()), strict=True):
        for agent, runs in sorted(agents.items()):
            steps, middle, low, high = _band(runs)
            if not len(steps):
                raise UserError(
                    f"{agent} on {env}: no step at which all {len(runs)} runs were evaluated. Plot them one by one, or "
                    "train them with the same --eval-freq."
                )
            count = f"{len(runs)} runs, lowest to highest" if len(runs) > 1 else "1 run, ± std over episodes"
            (line,) = axis.plot(steps, middle, marker="o", markersize=3, label=f"{agent} ({count})")
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        label_curves(axis, env)
    write_file(out, lambda path: figure.savefig(path, dpi=120, format=ending))


def label_curves(axis: Axes, env: str) -> None:
    """Title, axes and legend of learning curves on ``env``."""
    axis.set_title(env)
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return of an evaluation episode")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")


def shared_steps(runs: Sequence[Sequence[EvalRow]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which all runs were evaluated, (k,), and the means there, (runs, k)."""
    tables = [{row.timesteps: row.mean for row in run} for run in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array(steps, dtype=float), np.array([[table[step] for step in steps] for table in tables])


def _band(runs: Sequence[Sequence[EvalRow]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all runs share, with middle, lower and upper line."""
    steps, table = shared_steps(runs)
    middle = table.mean(axis=0)
    if len(runs) > 1:
        return steps, middle, table.min(axis=0), table.max(axis=0)
    spread = np.array([row.std for row in runs[0]])
    return steps, middle, middle - spread, middle + spread
