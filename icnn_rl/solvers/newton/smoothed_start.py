"""A start near the minimiser, from averages of the energy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icnn_rl.solvers.box_qp import box_qp
from icnn_rl.solvers.newton.constants import SHARPER, START_SOLVES
from icnn_rl.solvers.problem import Problem

__all__ = ["smoothed_start"]

STAGES = 3


@torch.no_grad()
def smoothed_start(problem: Problem, y: Tensor) -> Tensor:
    """A better start than ``y``: a Newton step each on f averaged over the domain, over a third and over a tenth of it.

    Newton's method loses its steps where f bends sharply beside its path: the Hessian knows of no bend before a step
    has crossed it. The average over a neighbourhood does, and as it shrinks its minimiser goes over into that of f. No
    step is judged, so a stage costs half of a step of the solver; what comes out is a start and no more.

    The energy has to know its averages, see :meth:`icnn_rl.nn.EnsembleEnergy.blur`; with others, and where a bound is
    missing, the start is ``y`` itself, as it is for rows that are not finite.
    """
    energy: Any = problem.energy
    if not (problem.finite and hasattr(energy, "blur")):
        return y
    blur = energy.blur(problem.widths(y).square() / 12)
    if blur is None:
        return y
    near = y
    for stage in range(STAGES):
        if stage > 0:
            blur = [SHARPER * spread for spread in blur]
        g, h = energy.grad_hessian(near, blur)
        if problem.region is not None and stage == STAGES - 1:
            near = problem.region.model(near, g, h, problem.region.no_rows(near), START_SOLVES).y
            break
        d, _ = box_qp(g, h, problem.lower - near, problem.upper - near, START_SOLVES)
        near = near + d
    return torch.where(near.isnan(), y, torch.clamp(near, problem.lower, problem.upper))
