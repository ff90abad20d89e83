"""What every solver's loop shares: which samples are done, how they are frozen, and what is reported of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icnn_rl.solution import Solution, Status
from icnn_rl.solvers.problem import Progress, Solver

__all__ = ["finite_start", "freeze", "grown", "report", "solved"]


def solved(progress: Progress, tol: float, atol: float | Tensor) -> Tensor:
    """Which samples have reached their relative or absolute tolerance, or a gap below the rounding of f."""
    return (progress.residual <= tol) | (progress.gap <= progress.noise.clamp(min=atol))


def finite_start(progress: Progress) -> Tensor:
    """Which samples start at a point where value, gap and scale can be judged."""
    return torch.isfinite(progress.fun) & ~torch.isnan(progress.residual) & torch.isfinite(progress.noise)


def grown(scale: Tensor, variation: Tensor) -> Tensor:
    """The larger of the two: how much f has been seen to vary. A variation that overflows is left out, for an infinite
    scale would pass any gap."""
    return torch.where(torch.isfinite(variation), torch.maximum(scale, variation), scale)


def freeze(active: Tensor, new: Any, old: Any) -> Any:
    """The new state of samples that are ``active``, the old one of those that are done."""
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
    """What is known of every sample; ``sound``: those that were finite at the start."""
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
