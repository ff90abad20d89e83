"""Markdown table of finished supervised runs: `python benchmarks/supervised_table.py RUN [RUN ...]`.

Run folders are called NAME-sSEED; a row holds the mean and the sample standard deviation over the seeds of one NAME,
for every number of the runs' evaluation.json.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def main(folders: list[str]) -> None:
    groups: dict[str, list[dict[str, object]]] = defaultdict(list)
    for folder in sorted(map(Path, folders)):
        name = re.fullmatch(r"(.+)-s(\d+)", folder.name)
        if name is None:
            sys.exit(f"{folder}: expected a folder called NAME-sSEED.")
        groups[name[1]].append(json.loads((folder / "evaluation.json").read_text()))
    print("| run | seeds | number | mean | spread | each |\n|---|---|---|---|---|---|")
    for name, runs in groups.items():
        for key, first in runs[0].items():
            if isinstance(first, bool) or not isinstance(first, int | float):
                continue
            values = [float(run[key]) for run in runs]  # type: ignore[arg-type]
            spread = f"{statistics.stdev(values):.3g}" if len(values) > 1 else "-"
            each = ", ".join(f"{value:.5g}" for value in values)
            print(f"| {name} | {len(runs)} | {key} | {statistics.fmean(values):.5g} | {spread} | {each} |")


if __name__ == "__main__":
    main(sys.argv[1:])
