"""Whether code is compiled at all. Everything that is has a slower twin in torch."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType

__all__ = ["SWITCH", "available", "imported"]

#: The environment variable that switches all compiled parts off: 0; or on, the default: 1.
SWITCH = "ICNN_RL_COMPILED"


@functools.cache
def available() -> bool:
    """Whether numba compiles: it is installed, works, and is not switched off. Asking imports it, which takes a second.

    Raises:
        ValueError: ``ICNN_RL_COMPILED`` is neither 0 nor 1.
    """
    wanted = os.environ.get(SWITCH, "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"{SWITCH}: expected 0 or 1 in the environment, got {wanted!r}.")
    numba = imported("numba") if wanted == "1" else None
    return numba is not None and not numba.config.DISABLE_JIT  # NUMBA_DISABLE_JIT: it runs the code as Python


@functools.cache
def imported(name: str) -> ModuleType | None:
    """A module that makes things faster, or None. One that is there and cannot be imported is told of, once."""
    try:
        return None if importlib.util.find_spec(name) is None else importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises: numba alone knows ImportError and SystemError
        warnings.warn(
            f"icnn_rl: {name} is installed, but cannot be imported ({type(error).__name__}: {error}). Solves do "
            f"without it, and take several times as long. Mend the installation, or set {SWITCH}=0.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
