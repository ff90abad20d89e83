"""What is around a solver's steps, row by row: which rows are done, which stay as they were, what is reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icnn_rl.solution import Solution, Status
from icnn_rl.solvers.problem import Progress, Solver

__all__ = ["finite_start", "freeze", "grown", "report", "solved"]


def solved(progress: Progress, tol: float, atol: float | Tensor) -> Tensor:
    """Rows at their relative or absolute tolerance, or whose gap is below the rounding of f."""
    return (progress.residual <= tol) | (progress.gap <= progress.noise.clamp(min=atol))


def finite_start(progress: Progress) -> Tensor:
    """Rows whose value, gap and scale can be judged."""
    return torch.isfinite(progress.fun) & ~torch.isnan(progress.residual) & torch.isfinite(progress.noise)


def grown(scale: Tensor, variation: Tensor) -> Tensor:
    """The larger of the two: what f has been seen to vary. Where f overflows it says nothing: an infinite scale would
    pass any gap."""
    return torch.where(torch.isfinite(variation), torch.maximum(scale, variation), scale)


def freeze(active: Tensor, new: Any, old: Any) -> Any:
    """Rows that are done keep their old state."""
    merged = []
    for fresh, kept in zip(new, old, strict=True):
        if fresh is kept:
            merged.append(kept)
            continue
        mask = active.reshape(active.shape + (1,) * (fresh.dim() - active.dim()))
        merged.append(torch.where(mask, fresh, kept))
    return type(old)(*merged)


def report(
    solver: Solver,
    state: Any,
    progress: Progress,
    sound: Tensor,
    num_steps: Tensor,
    atol: float | Tensor = 0.0,
) -> Solution:
    """What is known of every row; ``sound``: rows that were finite at the start."""
    status = torch.where(progress.stalled, int(Status.NUMERICAL), int(Status.MAX_STEPS))
    status = torch.where(solved(progress, solver.tol, atol), int(Status.SUCCESS), status)
    status = torch.where(sound, status, int(Status.NONFINITE_INPUT))
    return Solution(
        value=solver.value(state),
        fun=progress.fun,
        gap=progress.gap.clamp(min=0.0),
        status=status,
        num_steps=num_steps,
        residual=progress.residual,
        state=solver.extras(state),
    )
