"""Figures: made without a window, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icnn_rl.atomic_io import write_file

__all__ = ["new_figure", "save_figure", "whole_numbers"]


def new_figure(rows: int, columns: int, size: tuple[float, float] = (4.8, 3.6)) -> tuple[Figure, list[Any]]:
    """A figure and its axes in one list."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture, whole or not at all."""
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110))


def whole_numbers(axis: Axes) -> None:
    """No ticks between whole numbers of steps or epochs, however few there are."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
