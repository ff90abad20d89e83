"""The parser of the command line: defaults in the help, hints at misspelt options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from icnn_rl.spelling import did_you_mean

__all__ = ["Parser", "SubParsers", "given"]

#: What other programs call ours, where the letters do not tell.
_SYNONYMS = {"--algo": "--agent", "--algorithm": "--agent", "--steps": "--timesteps", "--episodes": "--final-episodes"}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """With the defaults, but for options that may be repeated: these start with none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in ([], None) and "None:" not in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse's, with :class:`_Help` and a hint where an option is not known."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """End the program: these arguments were not understood."""
        hints = "".join(_hint(self, argument) for argument in arguments)
        self.error(f"unrecognized arguments: {' '.join(arguments)}.{hints}")


SubParsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def _hint(parser: argparse.ArgumentParser, argument: str) -> str:
    """Which options someone who writes ``argument`` may have meant; "" for a word that is no option."""
    word = argument.partition("=")[0].replace("_", "-")
    if not word.startswith("--"):
        return ""
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    if (synonym := _SYNONYMS.get(word)) in known:
        return did_you_mean(synonym, known)
    return did_you_mean(word, known, most=2)


def given(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> frozenset[str]:
    """The names of those options of ``parser`` that ``arguments`` hold, be it with the value of the default. The
    parser is of no use afterwards."""
    parser._defaults.clear()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_known_args(arguments)[0]))
