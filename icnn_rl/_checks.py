"""Argument checks. Each raises a ValueError that names the argument, what came and what was expected."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.float64)


def check_float_tensor(name: str, value: object) -> Tensor:
    """Return ``value`` if it is a float32 or float64 tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name}: expected a torch.Tensor, got {type(value).__name__}. Wrap it in torch.as_tensor(...)."
        )
    if value.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"{name}: expected dtype float32 or float64, got {value.dtype}. Convert it with .float() or .double()."
        )
    return value


def check_last_dim(name: str, value: Tensor, size: int) -> None:
    """The last dimension of ``value`` must be ``size``."""
    if value.dim() == 0 or value.shape[-1] != size:
        raise ValueError(f"{name}: expected shape (..., {size}), got {tuple(value.shape)}.")


def check_same_kind(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """``value`` and ``other`` must share dtype and device."""
    if value.dtype != other.dtype:
        raise ValueError(f"{name}: dtype {value.dtype} differs from {other_name}'s {other.dtype}. Convert one of them.")
    if value.device != other.device:
        raise ValueError(
            f"{name}: on {value.device}, but {other_name} is on {other.device}. Move one with .to(device)."
        )


def check_positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int if it is an integer of at least 1 (NumPy's count, bool does not)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}: expected an integer >= 1, got {value!r}.")
    return int(value)


def check_widths(name: str, widths: object) -> tuple[int, ...]:
    """Return a tuple of layer widths, each an int of at least 1. An empty sequence is allowed."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ValueError(f"{name}: expected a sequence of layer widths such as (64, 64), got {widths!r}.")
    return tuple(check_positive_int(f"{name}[{i}]", width) for i, width in enumerate(widths))


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}.")
    return str(value)


def check_range(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> float:
    """Return ``value`` as a float if it lies in [low, high], or in (low, high] with ``open_low``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name}: expected a number, got {value!r}.")
    number = float(value)
    inside = (low < number if open_low else low <= number) and number <= high
    if not inside:
        bracket = "(" if open_low else "["
        raise ValueError(f"{name}: expected a number in {bracket}{low}, {high}], got {value}.")
    return number


def keywords_of(owner: type) -> set[str]:
    """Names that the constructor of a class takes, those that it hands on to its bases included."""
    known: set[str] = set()
    for base in owner.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        known |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return known - {"self"}


def check_keywords(owner: type, given: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> None:
    """Raise a TypeError for the first argument that the constructor does not take: with the name that may have been
    meant, or, of those ``elsewhere``, with the place where it belongs."""
    known = keywords_of(owner)
    for name in given:
        if name in known:
            continue
        hint = (elsewhere or {}).get(name)
        if hint is None:
            close = difflib.get_close_matches(name, [*known, *(elsewhere or {})], n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."
        raise TypeError(f"{owner.__name__}: unknown argument {name!r}. {hint}")
