"""Convex optimisation as a building block for learning agents: input-convex networks, their solvers, and agents that
use them."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icnn_rl._constrain import constrain
    from icnn_rl.sets import Ball, Box, Polytope, Simplex, Unconstrained
    from icnn_rl.solution import Solution, SolveError, Status
    from icnn_rl.solvers import minimize

try:
    __version__ = version("icnn-rl")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Ball",
    "Box",
    "Polytope",
    "Simplex",
    "Solution",
    "SolveError",
    "Status",
    "Unconstrained",
    "__version__",
    "constrain",
    "minimize",
]

_PLACES = {
    **dict.fromkeys(("Solution", "SolveError", "Status"), "icnn_rl.solution"),
    **dict.fromkeys(("Ball", "Box", "Polytope", "Simplex", "Unconstrained"), "icnn_rl.sets"),
    "constrain": "icnn_rl._constrain",
    "minimize": "icnn_rl.solvers",
}


def __getattr__(name: str) -> Any:
    """The names above, at first use: the command line tells of itself without waiting for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
