"""Finished runs, from their folders or from the table that a report has written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from icnn_rl.runs.config.record import read_record, supervised_command
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow, read_evaluations
from icnn_rl.runs.report.run import FinishedRun
from icnn_rl.runs.report.table import read_table

__all__ = ["find_runs", "read_runs"]


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below ``paths``, and tables (.csv) as they are, each once; runs of supervised commands
    below a path are passed over.

    Raises:
        UserError: a path holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if (path / "config.yml").is_file() or path.suffix == ".csv":
            entries = [path]
        else:
            entries = [file.parent for file in path.rglob("config.yml") if supervised_command(file) is None]
        if not entries:
            raise UserError(
                f"{path}: no run folder there. Expected runs of icnn-rl rl, the folder of a sweep, or the "
                "evaluations.csv of a report."
            )
        for entry in sorted(entries):
            found.setdefault(entry.resolve(), entry)
    return list(found.values())


def read_runs(paths: Iterable[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """The finished runs, and the folders of those without a final evaluation.

    Args:
        paths: run folders, and tables that :func:`icnn_rl.runs.report.write_table` wrote.

    Raises:
        UserError: a folder is not a run, or a file is damaged.
    """
    finished: list[FinishedRun] = []
    unfinished = []
    for path in paths:
        if path.suffix == ".csv":
            finished += read_table(path)
        elif (path / "evaluation_model.json").is_file():
            finished.append(_read_folder(path))
        else:
            read_record(path / "config.yml")  # not a run at all: says so
            unfinished.append(path)
    return finished, unfinished


def _read_folder(folder: Path) -> FinishedRun:
    record = read_record(folder / "config.yml")
    path = folder / "evaluation_model.json"
    try:
        summary = json.loads(path.read_text())
        final = EvalRow(**{name: summary[name] for name in EvalRow._fields})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a final evaluation ({error!r}). Write it anew: icnn-rl eval {folder}.") from error
    table = folder / "eval.csv"  # a run that ends before its first evaluation has none
    evaluations = read_evaluations(table) if table.is_file() else []
    totals = folder / "constraint.json"
    return FinishedRun(folder, record, evaluations, final, json.loads(totals.read_text()) if totals.is_file() else None)
