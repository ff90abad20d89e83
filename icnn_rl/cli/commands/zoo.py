"""``icnn-rl zoo``: the scripts of RL Baselines3 Zoo, with our agents."""

from __future__ import annotations

import argparse

from icnn_rl.cli.parser import SubParsers

__all__ = ["register", "run"]

#: The keys of :data:`icnn_rl.runs.zoo.SCRIPTS`.
ZOO_SCRIPTS = ("train", "enjoy", "plot_train", "plot_from_file", "all_plots")


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("zoo", help="run scripts of RL Baselines3 Zoo with icnn and naf")
    parser.add_argument("script", choices=ZOO_SCRIPTS, help="script of the zoo")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="its arguments, such as --algo icnn --env Hopper-v5"
    )


def run(args: argparse.Namespace) -> None:
    from icnn_rl.runs import zoo

    zoo.run(args.script, args.arguments)
