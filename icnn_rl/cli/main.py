"""The command line: `icnn-rl`, `python -m icnn_rl` and `python train.py` are the same program."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import icnn_rl
from icnn_rl.cli import commands
from icnn_rl.cli.commands.rl import DEMO_ENV, DEMO_TIMESTEPS
from icnn_rl.cli.parser import Parser, SubParsers, given
from icnn_rl.runs.errors import UserError, how_to_install

__all__ = ["main"]

_DESCRIPTION = f"""\
Train, evaluate, film and plot agents.

Without arguments: trains the input-convex agent on {DEMO_ENV} for {DEMO_TIMESTEPS} steps (a few minutes),
evaluates it and leaves a picture of the learning curve in runs/.
"""

#: Packages that only some commands need, and the extra that installs each.
_EXTRAS = {
    **dict.fromkeys(
        ("filelock", "imageio", "matplotlib", "mujoco", "PIL", "rich", "safetensors", "tqdm", "yaml"), "train"
    ),
    **{"optuna": "tune", "ray": "ray", "scipy": "report", "sklearn": "supervised"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0 on success, 1 where a UserError explains what is wrong."""
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv) or ["rl"])
        commands.find(args.command).run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"error: {error.name} is not installed. It comes with: {how_to_install(extra)}.", file=sys.stderr)
        return 1
    except OSError as error:  # disk full, no permission: the text names the file
        print(f"error: {error}. What was saved before is untouched.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        how = str(interrupt) or "a run goes on from its last checkpoint with: icnn-rl COMMAND --resume RUN"
        print(f"stopped; {how}", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and in ``given`` the names of those that came from ``arguments``."""
    parser, parsers = _build_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsers.choices[args.command].refuse(unknown)
    _, parsers = _build_parser()  # a second one: given() spoils it
    at = arguments.index(args.command) + 1
    args.given = given(parsers.choices[args.command], arguments[at:])
    return args


def _build_parser() -> tuple[Parser, SubParsers]:
    """The parser, and its part with the parsers of the commands."""
    parser = Parser(prog="icnn-rl", description=_DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"icnn-rl {icnn_rl.__version__}", help="print the version"
    )
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.register(parsers)
    return parser, parsers


if __name__ == "__main__":
    sys.exit(main())
