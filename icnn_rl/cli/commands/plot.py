"""``icnn-rl plot``: draw learning curves."""

from __future__ import annotations

import argparse

from icnn_rl.runs.plot import plot_runs

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    plot_runs(args.folders, args.out)
    print(f"learning curves: {args.out}")
