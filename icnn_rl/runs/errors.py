"""What the command line says without a traceback: errors, which end it, and warnings."""

from __future__ import annotations

import sys

__all__ = ["UserError", "how_to_install", "warn"]


class UserError(Exception):
    """Something the user can fix; the text says what and how."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install -e '.[{extra}]' (in a checkout of icnn_rl)"


def warn(text: str | None) -> None:
    """Print a warning, unless ``text`` is None."""
    if text is not None:
        print(f"warning: {text}", file=sys.stderr)
