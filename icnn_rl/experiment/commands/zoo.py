"""``icnn-rl zoo``: the scripts of RL Baselines3 Zoo, with our agents."""

from __future__ import annotations

import argparse

from icnn_rl.experiment.zoo import SCRIPTS, run

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("zoo", help="scripts of RL Baselines3 Zoo, which know icnn and naf here")
    parser.add_argument("script", choices=SCRIPTS, help="of the zoo")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="of the script, such as --algo icnn --env Hopper-v5"
    )
    parser.set_defaults(run=lambda args: run(args.script, args.arguments))
