"""The parser of the command line: defaults in the help, hints at misspelt options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from icnn_rl.spelling import did_you_mean

__all__ = ["Parser", "SubParsers", "given"]

#: Names of our options in other programs, where spelling does not help.
_SYNONYMS = {"--algo": "--agent", "--algorithm": "--agent", "--steps": "--timesteps", "--episodes": "--final-episodes"}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except for repeatable options, which start empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in ([], None) and "None:" not in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse's, with :class:`_Help` and a hint where an option is not known."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """Exit with an error about unknown arguments."""
        hints = "".join(_hint(self, argument) for argument in arguments)
        self.error(f"unrecognized arguments: {' '.join(arguments)}.{hints}")


SubParsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def _hint(parser: argparse.ArgumentParser, argument: str) -> str:
    """Options that ``argument`` may have been meant for; "" if it does not look like an option."""
    word = argument.partition("=")[0].replace("_", "-")
    if not word.startswith("--"):
        return ""
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    if (synonym := _SYNONYMS.get(word)) in known:
        return did_you_mean(synonym, known)
    return did_you_mean(word, known, most=2)


def given(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> frozenset[str]:
    """Names of the options of ``parser`` that occur in ``arguments``, even with their default values. Spoils the
    parser."""
    parser._defaults.clear()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_known_args(arguments)[0]))
