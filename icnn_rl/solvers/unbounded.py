"""Energies without a minimum: those that fall for ever along some ray.

For a convex f the slope along a ray, t -> g(y + t d) . d, never falls. Where it is still negative so far out that y no
longer matters, f has fallen all the way there, by more than could be told from infinity.

Far out along d the gradient is the one, of all that f has, with the largest g . d: if that is negative, all lie on one
side, and the steepest ray goes against the shortest vector v between them. It is sought by Frank and Wolfe's method: v
moves towards the gradient far out along -v until that is on the side of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.solution import Solution, Status
from icnn_rl.solvers.problem import Problem

__all__ = ["falling", "without_minimum"]

_NEGATIVE = 1e-6  # a slope nearer to 0 than this, relative to the gradients met, counts as 0
_TRIES = 30


@torch.no_grad()
def without_minimum(problem: Problem, solution: Solution, start: Tensor) -> Tensor:
    """(...) bool: which samples were not solved because f falls along a ray of an unbounded box."""
    unknown = (solution.status == Status.MAX_STEPS) | (solution.status == Status.NUMERICAL)
    return falling(problem, solution.value, start, unknown, _NEGATIVE)


@torch.no_grad()
def falling(
    problem: Problem, y: Tensor, start: Tensor, unknown: Tensor, negative: float, size: Tensor | None = None
) -> Tensor:
    """(...) bool: of which of the ``unknown`` samples f falls along a ray that leads from y (..., n) out of all bounds,
    its slope below ``-negative`` times the largest gradient met, or ``size``. The first ray tried goes on from
    ``start`` through y."""
    found = torch.zeros_like(unknown)
    if problem.region is not None or problem.finite or not bool(unknown.any()):
        return found
    far = torch.finfo(y.dtype).eps ** -2
    _, v = problem.value_and_grad(y)
    ray = _allowed(problem, y - start)  # the way that the search went
    size = v.norm(dim=-1) if size is None else torch.maximum(size, v.norm(dim=-1))
    for _ in range(_TRIES):
        d = torch.nn.functional.normalize(ray, dim=-1)
        _, g = problem.value_and_grad(y + far * d)
        size = torch.maximum(size, g.norm(dim=-1))
        found = found | ((g * d).sum(-1) < -negative * size)  # false for NaN
        if bool((found | ~unknown).all()):
            break
        towards = g - v
        share = (_allowed(problem, -v) * towards).sum(-1) / towards.square().sum(-1)
        v = v + share.clamp(0.0, 1.0).nan_to_num(0.0).unsqueeze(-1) * towards.nan_to_num(0.0, 0.0, 0.0)
        ray = _allowed(problem, -v)
    return unknown & found


def _allowed(problem: Problem, d: Tensor) -> Tensor:
    """The nearest direction in which the box is unbounded."""
    ends = ((d < 0) & (problem.lower > -torch.inf)) | ((d > 0) & (problem.upper < torch.inf)) | ~torch.isfinite(d)
    return d.masked_fill(ends, 0.0)
