"""The minimum as a function of the problem: F(theta) = min { f(y; theta) : y in C(theta) }.

By the envelope theorem (Danskin's) its derivative is that at the minimiser held fixed, plus what a border that moves
makes of it,

    dF = df(y; theta) + g . dy

with g the gradient of f in y. The second term is 0 but for coordinates and rows on the border of C, which moves them.
No linear system is solved. At a kink, df and g are those of the cuts that meet there, weighted with their
multipliers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.first_order import first_order
from icnn_rl.sets import Domain
from icnn_rl.solution import Solution
from icnn_rl.solvers.adjoints import Live
from icnn_rl.solvers.bundle import BundleEntropy, to_unit
from icnn_rl.solvers.problem import Problem, Solver

__all__ = ["minimum"]


def minimum(problem: Problem, solver: Solver, solution: Solution, domain: Domain, live: Live) -> Tensor:
    """``solution.fun`` (...), differentiable once. Failed rows pass no gradient on."""
    f = live.fun
    moved = _moved(problem, solver, solution, domain, live)
    if moved is not None:
        f = f + (live.grad.detach() * moved).sum(-1)
    fun = solution.fun.detach()
    return first_order(torch.where(solution.failed, fun, fun + (f - f.detach())))


def _moved(problem: Problem, solver: Solver, solution: Solution, domain: Domain, live: Live) -> Tensor | None:
    """The motion of y (..., n) that the domain imposes: 0 in value, with its graph. None: the domain stays."""
    y = solution.value.detach()
    if problem.region is not None:
        tensors: list[Tensor] = []
        domain.as_set(y).mapped(lambda t: tensors.append(t) or t)  # type: ignore[func-returns-value]
        # where f and C both move y, what f does is along C, where g is 0
        return live.value - live.value.detach() if any(t.requires_grad for t in tensors) else None
    lower, upper = domain.bounds(y)  # type: ignore[attr-defined]  # without a region it is a box
    if not (lower.requires_grad or upper.requires_grad):
        return None
    if isinstance(solver, BundleEntropy):  # w, of which y = lower + width w, is what is held fixed
        return torch.lerp(lower - lower.detach(), upper - upper.detach(), to_unit(problem, y))
    held = torch.where(y <= problem.lower, lower, torch.where(y >= problem.upper, upper, y))
    return held - held.detach()
