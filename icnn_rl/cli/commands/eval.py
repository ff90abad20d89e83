"""``icnn-rl eval``: evaluate a run's model."""

from __future__ import annotations

import argparse
from pathlib import Path

from icnn_rl.cli.options import add_model
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("eval", help="evaluate a run's model")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=positive_int, default=20, help="deterministic episodes")
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from icnn_rl.cli.evaluation import report

    report(args.folder, args.model, args.episodes)
