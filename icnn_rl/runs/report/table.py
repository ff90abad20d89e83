"""Runs as a table: every evaluation in a CSV, and beside it, under the same name, a YAML with what each run was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from icnn_rl.runs.config.record import check_record
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow
from icnn_rl.runs.folder import write_text
from icnn_rl.runs.report.run import FinishedRun

__all__ = ["read_table", "write_table"]

_COLUMNS = ("run", "env", "constraint", "agent", "seed", "kind", *EvalRow._fields)
_TOTALS = "constraint_totals"  # key of the YAML, beside those of config.yml


def write_table(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Write PATH, a row an evaluation, and the settings of the runs beside it as .yml. Runs are called by their folders
    below the one that holds them all."""
    above = Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))
    names = [run.folder.resolve().relative_to(above).as_posix() for run in runs]
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for name, run in zip(names, runs, strict=True):
        who = (name, run.task.env, run.task.constraint, run.config.agent, run.config.seed)
        writer.writerows((*who, "training", *row) for row in run.evaluations)
        writer.writerow((*who, "final", *run.final))
    records = {
        name: dict(run.record) | ({} if run.totals is None else {_TOTALS: dict(run.totals)})
        for name, run in zip(names, runs, strict=True)
    }
    write_text(path.with_suffix(".yml"), yaml.safe_dump(records, sort_keys=False, default_flow_style=None, width=120))
    write_text(path, rows.getvalue())


def read_table(path: Path) -> list[FinishedRun]:
    """The runs that :func:`write_table` wrote, in their order.

    Raises:
        UserError: a file is missing or has another form; a run has no settings, or no final evaluation.
    """
    settings = path.with_suffix(".yml")
    try:
        records = yaml.safe_load(settings.read_text())
        with path.open(newline="") as stream:
            rows = [(row["run"], row["kind"], EvalRow.read(row)) for row in csv.DictReader(stream)]
        evaluations: dict[str, list[EvalRow]] = {name: [] for name in records}
        finals = {}
        for name, kind, row in rows:
            if kind == "final":
                finals[name] = row
            else:
                evaluations[name].append(row)
        return [
            FinishedRun(
                path.parent / name,
                check_record({key: value for key, value in record.items() if key != _TOTALS}, f"{settings}, {name}"),
                evaluations[name],
                finals[name],
                record.get(_TOTALS),
            )
            for name, record in records.items()
        ]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the table of a report with the settings of its runs in {settings.name} beside it ({error!r})."
        ) from error
