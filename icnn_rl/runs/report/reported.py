"""Returns that others have reported."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import yaml

from icnn_rl.runs.errors import UserError

__all__ = ["read_reported"]


def read_reported(path: Path) -> dict[str, dict[str, float]]:
    """Returns by source and environment.

    Args:
        path: YAML, ``source: {environment: return}``, or CSV with the columns source, env, return.

    Raises:
        UserError: the file is missing or has another form.
    """
    try:
        if path.suffix == ".csv":
            table: dict[str, dict[str, float]] = defaultdict(dict)
            with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a mark first
                for row in csv.DictReader(stream):
                    table[row["source"]][row["env"]] = float(row["return"])
            return dict(table)
        data = yaml.safe_load(path.read_text())
        return {str(source): {str(env): float(value) for env, value in row.items()} for source, row in data.items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--reported {path}: expected YAML, source: {{environment: return}}, or CSV with the columns source, env, "
            f"return ({error!r})."
        ) from error
