"""``icnn-rl report``: tables and learning curves of finished runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from icnn_rl.experiment.commands.run import _positive_int
from icnn_rl.experiment.report import find_runs, read_reported, read_runs, write_report

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="tables and learning curves of finished runs",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, or folders that hold some")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for report.md, evaluations.csv and pictures; or NAME.md, the rest going into the folder NAME",
    )
    parser.add_argument(
        "--reported",
        type=Path,
        default=None,
        help="returns from elsewhere: YAML, source: {environment: return}, or CSV",
    )
    parser.add_argument("--resamples", type=_positive_int, default=2000, help="draws of a bootstrap")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    runs, unfinished = read_runs(find_runs(args.folders))
    reported = read_reported(args.reported) if args.reported else {}
    print(write_report(runs, unfinished, args.out, reported, args.resamples, _command(args)))


def _command(args: argparse.Namespace) -> str:
    """The command line, without the draws."""
    words = ["icnn-rl", "report", *map(str, args.folders)]
    words += ["--reported", str(args.reported)] if args.reported else []
    return shlex.join([*words, "--out", str(args.out)])
