"""Minimise over a set's bounds first, and over its rows only where these turn out to matter."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from icnn_rl.eager import eager
from icnn_rl.solution import Solution
from icnn_rl.solvers.minimize import solve
from icnn_rl.solvers.problem import Problem, Solver

__all__ = ["solve_with_lazy_rows"]


@eager("solve_with_lazy_rows")
@torch.no_grad()
def solve_with_lazy_rows(problem: Problem, solver: Solver, y0: Tensor, *, atol: float | Tensor = 0.0) -> Solution:
    """:func:`icnn_rl.solvers.minimize.solve` with ``averages``, for sets with rows.

    A minimiser over the bounds alone that satisfies the rows is the minimiser over the set, and its certificate holds
    there too. Where it does not, the sample is solved once more over the set, starting there; ``num_steps`` counts
    both.
    """
    region = problem.region
    if region is None or not region.plain or not problem.separable or bool((region.lower > region.upper).any()):
        return solve(problem, solver, y0, averages=True, atol=atol)
    bounds = copy.copy(problem)
    bounds.region = None
    found = solve(bounds, solver, y0, averages=True, atol=atol)
    index = region.outside(found.value, 0.0).nonzero().squeeze(-1)
    if not len(index):
        return found
    again = solve(problem.rows(index), solver, found.value[index], atol=atol)
    again = dataclasses.replace(again, num_steps=again.num_steps + found.num_steps[index])
    names = ("value", "fun", "gap", "status", "num_steps", "residual")
    return Solution(*(getattr(found, name).index_copy(0, index, getattr(again, name)) for name in names))
