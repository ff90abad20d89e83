"""A picture of the tables.

``python -m benchmarks.qp > tables.md``, then ``python -m benchmarks.qp.plot tables.md docs/qp.png``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

#: Time of forward + backward, by its column.
COLUMN = 3


def times(text: str) -> dict[str, dict[str, float]]:
    """Package -> case -> milliseconds, of every table in the text."""
    found: dict[str, dict[str, float]] = {}
    for block in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        case = block.split(":", 1)[0]
        for line in block.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("| ") and cells[0] != "package" and cells[COLUMN] not in ("", "-"):
                found.setdefault(cells[0], {})[case] = float(cells[COLUMN])
    return found


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """One line of markers a package, the cases side by side, time on a logarithmic axis."""
    cases = list(dict.fromkeys(case for of_package in found.values() for case in of_package))
    figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
    for name, of_package in found.items():
        ours = name.startswith(("solve_qp", "total_variation"))
        x = [cases.index(case) for case in of_package]
        axes.plot(x, list(of_package.values()), "o" if ours else "x", markersize=8 if ours else 6, label=name)
    axes.set(yscale="log", xticks=range(len(cases)), ylabel="forward + backward, ms on one core")
    axes.set_xticklabels(cases, rotation=30)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(times(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
