"""Options that several commands share. Like the commands' own, they are declared without importing torch."""

from __future__ import annotations

import argparse
import sys
from argparse import BooleanOptionalAction
from collections.abc import Iterable, Mapping
from pathlib import Path

from icnn_rl.cli.parser import Parser, SubParsers
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.values import non_negative_int, positive_float, positive_int

__all__ = [
    "add_backend",
    "add_lr_decay",
    "add_model",
    "add_retries",
    "add_supervised",
    "add_surroundings",
    "refuse_beside_resume",
]


def add_surroundings(parser: Parser) -> None:
    """Changes to the environment."""
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        action="extend",
        default=None,
        metavar="KEY=VALUE",
        help="arguments of the environment's constructor, e.g. max_power=20; None: its defaults",
    )
    parser.add_argument(
        "--wrapper",
        dest="wrappers",
        action="append",
        default=None,
        metavar="NAME:KEY=VALUE,...",
        help="wrapper around the environment, from gymnasium.wrappers or module.Class, e.g. "
        "TimeLimit:max_episode_steps=100; repeat for several, innermost first; None: none but its own",
    )
    parser.add_argument(
        "--vec-normalize",
        nargs="*",
        default=None,
        metavar="KEY=VALUE",
        help="normalise observations and rewards with Stable-Baselines3's VecNormalize and these arguments, e.g. "
        "norm_reward=false; None: no normalisation",
    )


def add_model(parser: Parser) -> None:
    """Last or best model."""
    parser.add_argument("--model", choices=("model", "best_model"), default="model", help="last or best model")


def add_retries(parser: Parser) -> None:
    """Restarts of jobs."""
    parser.add_argument("--retries", type=non_negative_int, default=2, help="how often a crashed job is restarted")


def add_backend(parser: Parser) -> None:
    """Where jobs run."""
    parser.add_argument("--backend", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    parser.add_argument(
        "--workers", type=positive_int, default=None, help="local: jobs at a time; None: the number of CPUs"
    )
    parser.add_argument(
        "--ray-address", default=None, help="ray: the cluster's head, or auto; None: RAY_ADDRESS, else a local one"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="ray: share of a GPU per job, such as 0.25")


def add_supervised(commands: SubParsers, name: str, summary: str, *, epochs: int, batch_size: int, lr: float) -> Parser:
    """A supervised command, with the options that all of them have."""
    parser = commands.add_parser(name, help=summary)
    parser.add_argument("--epochs", type=positive_int, default=epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help="samples per update")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate of Adam")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed for data, model and shuffling")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"run folder; None: runs/{name}-sSEED, numbered if taken"
    )
    parser.add_argument("--device", default="cpu", help="to train on: cpu, cuda, cuda:1, auto")
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=None,
        help="use only the first N samples, for training and for the test, to try things out; None: all",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="resume a run from its last epoch, with its own settings; only --epochs may be given, and be larger",
    )
    parser.add_argument(
        "--progress-bar", action=BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
    return parser


def add_lr_decay(parser: Parser, default: bool) -> None:
    """Whether the learning rate falls."""
    parser.add_argument(
        "--lr-decay", action=BooleanOptionalAction, default=default, help="let the learning rate fall linearly to 0"
    )


def refuse_beside_resume(
    args: argparse.Namespace, settings: Iterable[str], spelt: Mapping[str, str] | None = None
) -> None:
    """A resumed run keeps its settings; one given along with --resume would silently be ignored.

    Args:
        args: with ``given``, the names of the options that were given.
        settings: names that may not be among them.
        spelt: options that are not called after their names.

    Raises:
        UserError: some are.
    """
    if refused := sorted(args.given & set(settings)):
        options = ", ".join((spelt or {}).get(name, "--" + name.replace("_", "-")) for name in refused)
        raise UserError(f"--resume {args.resume}: goes on with the settings in its config.yml. Leave out {options}.")
