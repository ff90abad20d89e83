"""``icnn-rl plot``: draw learning curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from icnn_rl.cli.parser import SubParsers

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("plot", help="draw learning curves")
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, default=Path("learning_curve.png"), help="picture")


def run(args: argparse.Namespace) -> None:
    from icnn_rl.runs.plot import plot_runs

    plot_runs(args.folders, args.out)
    print(f"learning curves: {args.out}")
