"""Options that several commands have. No torch here, nor where commands declare theirs: help comes without waiting."""

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
    """What is done to the environment."""
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
        help="wrapper around the environment, of gymnasium.wrappers or module.Class, e.g. "
        "TimeLimit:max_episode_steps=100; may be repeated, the innermost first; None: no other than its own",
    )
    parser.add_argument(
        "--vec-normalize",
        nargs="*",
        default=None,
        metavar="KEY=VALUE",
        help="normalise observations and rewards with Stable-Baselines3's VecNormalize, whose arguments follow, e.g. "
        "norm_reward=false; None: do not",
    )


def add_model(parser: Parser) -> None:
    """Which model of a run."""
    parser.add_argument("--model", choices=("model", "best_model"), default="model", help="last or best model")


def add_retries(parser: Parser) -> None:
    """How often a job is tried."""
    parser.add_argument(
        "--retries", type=non_negative_int, default=2, help="how often a job that broke off starts again"
    )


def add_backend(parser: Parser) -> None:
    """Where jobs run."""
    parser.add_argument("--backend", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    parser.add_argument(
        "--workers", type=positive_int, default=None, help="local: jobs at a time; None: the number of CPUs"
    )
    parser.add_argument(
        "--ray-address", default=None, help="ray: the cluster's head, or auto; None: RAY_ADDRESS, else one of its own"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="ray: share of a GPU for a job, such as 0.25")


def add_supervised(commands: SubParsers, name: str, summary: str, *, epochs: int, batch_size: int, lr: float) -> Parser:
    """A supervised command, with the options that all of them have."""
    parser = commands.add_parser(name, help=summary)
    parser.add_argument("--epochs", type=positive_int, default=epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help="samples of an update")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate of Adam")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of data, model and order")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"run folder; None: runs/{name}-sSEED, numbered if taken"
    )
    parser.add_argument("--device", default="cpu", help="to train on: cpu, cuda, cuda:1, auto")
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=None,
        help="take the first so many samples to train on, and no more to test, for a trial; None: all",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with a run from its last epoch; its settings are its own, but for --epochs, which may be more",
    )
    parser.add_argument(
        "--progress-bar", action=BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
    return parser


def add_lr_decay(parser: Parser, default: bool) -> None:
    """Whether the learning rate falls."""
    parser.add_argument(
        "--lr-decay", action=BooleanOptionalAction, default=default, help="let the learning rate fall to 0, linearly"
    )


def refuse_beside_resume(
    args: argparse.Namespace, settings: Iterable[str], spelt: Mapping[str, str] | None = None
) -> None:
    """A run that goes on keeps its settings; one given beside --resume would be ignored in silence.

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
