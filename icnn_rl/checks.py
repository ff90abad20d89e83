"""Argument checks. Each raises a ValueError that names the argument, what came and what was expected."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function")

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
        whose = f"{other_name}'" if other_name.endswith("s") else f"{other_name}'s"
        raise ValueError(f"{name}: dtype {value.dtype} differs from {whose} {other.dtype}. Convert one of them.")
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


def check_function(name: str, value: Function) -> Function:
    """Return ``value`` if it can be called, and is no class: a module's class makes a module, not a number."""
    if isinstance(value, type):
        raise ValueError(
            f"{name}: expected a function, got the class {value.__name__}. Pass an instance of it, {value.__name__}()."
        )
    if not callable(value):
        raise ValueError(f"{name}: expected a function, got {value!r}.")
    return value


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
