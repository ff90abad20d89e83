"""Reports on finished runs: tables with intervals, learning curves, every evaluation as CSV."""

from __future__ import annotations

from icnn_rl.runs.report.page import write_report
from icnn_rl.runs.report.read import find_runs, read_runs
from icnn_rl.runs.report.reported import read_reported
from icnn_rl.runs.report.run import FinishedRun
from icnn_rl.runs.report.statistics import improvement, interquartile_mean, interval
from icnn_rl.runs.report.table import read_table, write_table

__all__ = [
    "FinishedRun",
    "find_runs",
    "improvement",
    "interquartile_mean",
    "interval",
    "read_reported",
    "read_runs",
    "read_table",
    "write_report",
    "write_table",
]
