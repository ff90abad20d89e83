"""A picture of the tables against the batch size that are in a folder: device.png there.

python -m benchmarks.device.picture FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

#: Table -> what tells its lines apart, what is drawn, and its label.
DRAWN = {
    "argmax.csv": (("actions",), "per second", "greedy actions per second"),
    "qp.csv": (("case", "package"), "both, rows/s", "quadratic programmes per second, forward + backward"),
}


def draw(table: Path, axes: Axes, names: tuple[str, ...], column: str, label: str) -> None:
    """One line for each kind, both axes logarithmic."""
    lines: dict[str, list[tuple[float, float]]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            kind = ", ".join(f"{name} {row[name]}" for name in names)
            lines.setdefault(kind, []).append((float(row["batch"]), float(row[column])))
    for kind, points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, "o-", markersize=4, label=kind)
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def main() -> None:
    folder = Path(sys.argv[1])
    there = {folder / name: settings for name, settings in DRAWN.items() if (folder / name).exists()}
    if not there:
        sys.exit(f"No table in {folder} to draw: looked for {', '.join(DRAWN)}.")
    figure, axes = plt.subplots(1, len(there), figsize=(7 * len(there), 5), layout="constrained", squeeze=False)
    for (table, settings), own in zip(there.items(), axes[0], strict=True):
        draw(table, own, *settings)
    figure.savefig(folder / "device.png", dpi=120)


if __name__ == "__main__":
    main()
