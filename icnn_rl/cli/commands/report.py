"""``icnn-rl report``: tables and learning curves of finished runs."""

from __future__ import annotations

import argparse
import shlex

from icnn_rl.runs.report import find_runs, read_reported, read_runs, write_report

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    runs, unfinished = read_runs(find_runs(args.folders))
    reported = read_reported(args.reported) if args.reported else {}
    print(write_report(runs, unfinished, args.out, reported, args.resamples, _command(args)))


def _command(args: argparse.Namespace) -> str:
    """The command line, without the draws."""
    words = ["icnn-rl", "report", *map(str, args.folders)]
    words += ["--reported", str(args.reported)] if args.reported else []
    return shlex.join([*words, "--out", str(args.out)])
