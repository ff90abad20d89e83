"""What the command line tells without a traceback: errors that end it, warnings that do not."""

from __future__ import annotations

import sys

__all__ = ["UserError", "how_to_install", "warn"]


class UserError(Exception):
    """Something that the user can put right; the text says what and how."""


def how_to_install(extra: str) -> str:
    """The command that brings an extra."""
    return f"pip install -e '.[{extra}]' (in a checkout of icnn_rl)"


def warn(text: str | None) -> None:
    """Tell what is probably not meant; None: there is nothing to tell."""
    if text is not None:
        print(f"warning: {text}", file=sys.stderr)
