"""Projected Newton: the method, its model problem, its start, its compiled kernel, and a version with fixed steps."""

from icnn_rl.solvers.newton.method import ProjectedNewton

__all__ = ["ProjectedNewton"]
