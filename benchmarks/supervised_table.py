"""Markdown table of finished supervised runs: `python benchmarks/supervised_table.py RUN [RUN ...]`.

Run folders are called NAME-sSEED; a row holds the mean and the sample standard deviation over the seeds of one NAME,
for every number of the runs' evaluation.json.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np


def main(folders: list[str]) -> None:
    groups: dict[str, list[dict[str, object]]] = defaultdict(list)
    for folder in sorted(map(Path, folders)):
        name = re.fullmatch(r"(.+)-s(\d+)", folder.name)
        if name is None:
            sys.exit(f"{folder}: expected a folder called NAME-sSEED.")
        groups[name[1]].append(json.loads((folder / "evaluation.json").read_text()))
    print("| run | seeds | number | mean | spread | each |\n|---|---|---|---|---|---|")
    for name, runs in groups.items():
        for key in runs[0]:
            numbers = [math.nan if run[key] is None else run[key] for run in runs]  # null: not finite
            if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
                continue
            values = [float(number) for number in numbers]  # type: ignore[arg-type]
            spread = f"{np.std(values, ddof=1):.3g}" if len(values) > 1 else "-"
            each = ", ".join(f"{value:.5g}" for value in values)
            print(f"| {name} | {len(runs)} | {key} | {np.mean(values):.5g} | {spread} | {each} |")


if __name__ == "__main__":
    main(sys.argv[1:])
