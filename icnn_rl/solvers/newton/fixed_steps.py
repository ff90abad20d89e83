"""A fixed number of steps: the same operations for every batch, so that they can be captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.eager import eager
from icnn_rl.solution import Solution
from icnn_rl.solvers.loop import finite_start, freeze, report, solved
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.problem import Problem
from icnn_rl.solvers.shortcuts import without_shortcuts

__all__ = ["solve_fixed_steps"]


@eager("solve_fixed_steps")
@torch.no_grad()
def solve_fixed_steps(problem: Problem, solver: ProjectedNewton, y0: Tensor, *, atol: float | Tensor = 0.0) -> Solution:
    """As :func:`icnn_rl.solvers.solve` on a finite box, with all ``max_steps`` steps done for every sample.

    Samples that are done are frozen by a mask instead of leaving the batch or ending the loop: the answers are the
    same, and no number is read from the device on the way.

    Raises:
        ValueError: the domain is not a box with finite bounds.
    """
    if problem.region is not None or not problem.finite:
        raise ValueError("problem: a fixed number of steps is for boxes with finite bounds; use solve() for others.")
    with without_shortcuts():
        state = solver.init(problem, problem.project(y0))
        progress = solver.progress(problem, state)
        sound = finite_start(progress)
        num_steps = torch.zeros_like(progress.fun, dtype=torch.int64)
        active = sound & ~solved(progress, solver.tol, atol)
        for _ in range(solver.max_steps):
            state = freeze(active, solver.step(problem, state), state)
            progress = solver.progress(problem, state)
            num_steps += active
            active = active & ~(solved(progress, solver.tol, atol) | progress.stalled)
        return report(solver, state, progress, sound, num_steps, atol)
