"""Rows that have no minimum: along some ray they fall for ever.

For a convex f the slope along a ray, t -> g(y + t d) . d, never falls. Where it is still negative so far out that y no
longer matters, f has fallen all the way there, by more than could be told from infinity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.solution import Solution, Status
from icnn_rl.solvers.base import Problem

__all__ = ["without_minimum"]

_NEGATIVE = 1e-6  # slopes nearer to 0 than this, relative to the gradients met, are none
_TRIES = 4


@torch.no_grad()
def without_minimum(problem: Problem, solution: Solution, start: Tensor) -> Tensor:
    """(...) bool: rows that were not solved, on a box without end, and fall along a ray of it.

    The rays tried are the way that the search went, and the steepest ones as seen from far out on the last.
    """
    unknown = (solution.status == Status.MAX_STEPS) | (solution.status == Status.NUMERICAL)
    found = torch.zeros_like(unknown)
    if problem.region is not None or problem.finite or not bool(unknown.any()):
        return found
    y = solution.value
    _, g = problem.value_and_grad(y)
    size, far = g.norm(dim=-1), torch.finfo(y.dtype).eps ** -2
    d = _within(problem, y - start)
    d = torch.where((d == 0).all(-1, keepdim=True), _within(problem, -g), d)
    for _ in range(_TRIES):
        _, g = problem.value_and_grad(y + far * d)
        size = torch.maximum(size, g.norm(dim=-1))
        found = found | ((g * d).sum(-1) < -_NEGATIVE * size)  # false for NaN
        d = _within(problem, -g)
    return unknown & found


def _within(problem: Problem, d: Tensor) -> Tensor:
    """The direction without what the bounds forbid, of length 1; 0 where nothing is left."""
    ends = ((d < 0) & (problem.lower > -torch.inf)) | ((d > 0) & (problem.upper < torch.inf)) | ~torch.isfinite(d)
    d = d.masked_fill(ends, 0.0)
    return torch.nn.functional.normalize(d, dim=-1)
