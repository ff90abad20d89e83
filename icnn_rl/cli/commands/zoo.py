"""``icnn-rl zoo``: the scripts of RL Baselines3 Zoo, with our agents."""

from __future__ import annotations

import argparse

from icnn_rl.runs import zoo

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    zoo.run(args.script, args.arguments)
