"""How kernels are compiled. Imports numba: only modules that are themselves imported on demand may import this one."""

from __future__ import annotations

from typing import Any

import numba


def kept(function: Any, **settings: Any) -> Any:
    """Compile at the first call, and keep the machine code for other processes where there is a folder to write to."""
    settings = {"nogil": True, "error_model": "numpy", **settings}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:
        return numba.njit(**settings)(function)


def inner(function: Any, **settings: Any) -> Any:
    """As :func:`jit`, for what only other compiled functions call and makes no arrays: nothing for Python to call,
    nothing kept, no references counted. Compiling takes two thirds of the time."""
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    numbers = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    every: dict[str, Any] = {**alone, **numbers, **settings}
    return numba.njit(**every)(function)


def jit(function: Any) -> Any:
    """:func:`kept`, with sums in any order, so that they fill vector registers; NaN and infinity stay what they are."""
    return kept(function, fastmath={"reassoc", "contract", "nsz"})
