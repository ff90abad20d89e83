"""Markdown table of finished supervised runs: `python -m benchmarks.supervised_table RUN [RUN ...] [--keep FOLDER]`.

A RUN is a run folder called NAME-sSEED, or the numbers.csv of some that were kept; a row holds the mean and the sample
standard deviation over the seeds of one NAME, for every number of the runs' evaluation.json. ``--keep`` writes, instead
of the run folders, FOLDER/numbers.csv, histories.csv (every epoch) and settings.yml (every config.yml).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from icnn_rl.atomic_io import write_text

Numbers = dict[str, float | str]  # what one run's evaluation.json tells, words included


def read(path: Path) -> dict[str, Numbers]:
    """What the runs in a run folder or a numbers.csv tell, by run."""
    if path.suffix == ".csv":
        found: dict[str, Numbers] = defaultdict(dict)
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                found[row["run"]][row["number"]] = _number_or_word(row["value"])
        return found
    told = json.loads((path / "evaluation.json").read_text())
    return {path.name: {key: np.nan if value is None else value for key, value in told.items()}}  # null: not finite


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def table(runs: Mapping[str, Numbers]) -> str:
    groups: dict[str, list[Numbers]] = defaultdict(list)
    for run, numbers in sorted(runs.items()):
        name = re.fullmatch(r"(.+)-s(\d+)", run)
        if name is None:
            sys.exit(f"{run}: expected a run called NAME-sSEED.")
        groups[name[1]].append(numbers)
    lines = ["| run | seeds | number | mean | spread | each |", "|---|---|---|---|---|---|"]
    for name, group in groups.items():
        for key in group[0]:
            values = [value for numbers in group if not isinstance(value := numbers[key], str)]
            if not values:
                continue
            spread = f"{np.std(values, ddof=1):.3g}" if len(values) > 1 else "-"
            each = ", ".join(f"{value:.5g}" for value in values)
            lines.append(f"| {name} | {len(group)} | {key} | {np.mean(values):.5g} | {spread} | {each} |")
    return "\n".join(lines)


def keep(folders: Sequence[Path], out: Path) -> None:
    """Write numbers.csv, histories.csv and settings.yml."""
    numbers = [
        {"run": run, "number": key, "value": value}
        for folder in folders
        for run, known in read(folder).items()
        for key, value in known.items()
    ]
    epochs = []
    for folder in folders:
        for path in sorted(folder.glob("history*.csv")):
            with path.open(newline="") as stream:
                part = path.stem.removeprefix("history").removeprefix("-")
                epochs += [{"run": folder.name, "part": part, **row} for row in csv.DictReader(stream)]
    settings = {folder.name: yaml.safe_load((folder / "config.yml").read_text()) for folder in folders}
    write_text(out / "numbers.csv", _csv(numbers))
    write_text(out / "histories.csv", _csv(epochs))
    write_text(out / "settings.yml", yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120))


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    found: dict[str, Numbers] = {}
    for path in args.runs:
        found |= read(path)
    print(table(found))
    if args.keep is not None:
        keep(args.runs, args.keep)


if __name__ == "__main__":
    main()
