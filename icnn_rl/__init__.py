"""Convex optimisation as a building block for learning agents: input-convex networks, their solvers, and agents that
use them."""

from importlib.metadata import PackageNotFoundError, version

from icnn_rl.solution import Solution, SolveError, Status
from icnn_rl.solvers import Ball, Box, Polytope, Simplex, Unconstrained, minimize

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
    "minimize",
]
