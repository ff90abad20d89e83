"""``icnn-rl report``: tables and learning curves of finished runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("report", help="tables and learning curves of finished runs")
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, folders that hold some, or the evaluations.csv of a report",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for report.md, evaluations.csv and pictures; or NAME.md, with the rest in the folder NAME",
    )
    parser.add_argument(
        "--reported",
        type=Path,
        default=None,
        help="returns from elsewhere: YAML, source: {environment: return}, or CSV; None: none",
    )
    parser.add_argument("--resamples", type=positive_int, default=2000, help="bootstrap resamples")


def run(args: argparse.Namespace) -> None:
    from icnn_rl.runs.report import find_runs, read_reported, read_runs, write_report

    runs, unfinished = read_runs(find_runs(args.folders))
    reported = read_reported(args.reported) if args.reported else {}
    print(write_report(runs, unfinished, args.out, reported, args.resamples, _command(args)))


def _command(args: argparse.Namespace) -> str:
    """The command line, without --resamples."""
    words = ["icnn-rl", "report", *map(str, args.folders)]
    words += ["--reported", str(args.reported)] if args.reported else []
    return shlex.join([*words, "--out", str(args.out)])
