"""Convex optimisation as a building block for learning agents: input-convex networks, their solvers, and agents that
use them."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from icnn_rl.solution import Solution, SolveError, Status
from icnn_rl.solvers import Ball, Box, Polytope, Simplex, Unconstrained, minimize

if TYPE_CHECKING:
    from icnn_rl._constrain import constrain

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


def __getattr__(name: str) -> Any:
    if name == "constrain":  # it needs environments and agents, which not everybody does
        from icnn_rl._constrain import constrain

        return constrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
