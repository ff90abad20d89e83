"""Hints at misspelt names. Apart from checks.py: the command line gives them without waiting for torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]


def nearest(name: object, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that someone who wrote ``name`` may have meant, the likeliest first."""
    return difflib.get_close_matches(str(name), list(known), n=most)


def did_you_mean(name: object, known: Iterable[str], most: int = 1) -> str:
    """``" Did you mean 'tau'?"``, to go on with after a full stop; "" where no known name is near."""
    near = nearest(name, known, most)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
