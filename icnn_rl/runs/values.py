"""Numbers as people type them, checked."""

from __future__ import annotations

import argparse
import contextlib
import math

__all__ = ["non_negative_int", "positive_float", "positive_int", "whole_number"]


def whole_number(given: object) -> int | None:
    """20, "20", "1e5" or "1_000" as an integer; None: not a whole number."""
    if isinstance(given, bool):
        return None
    with contextlib.suppress(ValueError):
        return int(str(given))
    with contextlib.suppress(ValueError, OverflowError):
        if float(str(given)).is_integer():
            return int(float(str(given)))
    return None


def positive_int(text: str) -> int:
    """An integer >= 1."""
    return _at_least(1, text)


def non_negative_int(text: str) -> int:
    """An integer >= 0."""
    return _at_least(0, text)


def positive_float(text: str) -> float:
    """A finite number > 0."""
    with contextlib.suppress(ValueError):
        if 0.0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")


def _at_least(least: int, text: str) -> int:
    value = whole_number(text)
    if value is None or value < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text}")
    return value
