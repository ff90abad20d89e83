"""Projected Newton: a quadratic model on the box, damped per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl._checks import check_positive_int, check_range
from icnn_rl.solvers._box_qp import box_qp
from icnn_rl.solvers.base import Problem, Progress

__all__ = ["ProjectedNewton"]

_ACCEPT = 1e-4  # share of the predicted decrease that a step must deliver
_GOOD = 0.5  # above this share the model is trusted more
_HARDER, _EASIER = 3.0, 0.1  # damping after a rejected and after a good step
_SHORTEST = 10.0  # the model's next step along a failed one is at least 1 / 10 of it
_STIFFER = 1.2  # how much more curvature a failed step must have met for the model to be corrected by it


class NewtonState(NamedTuple):
    y: Tensor
    fun: Tensor
    grad: Tensor
    hessian: Tensor
    damping: Tensor
    gap: Tensor
    scale: Tensor
    noise: Tensor
    stalled: Tensor


@dataclass(frozen=True)
class ProjectedNewton:
    """Newton's method for smooth convex energies on a box (or all of R^n).

    Each step minimises the damped quadratic model over the box,

        d = argmin { g . d + 1/2 d^T (H + mu I) d : lower <= y + d <= upper },

    with a primal-dual active-set method, so that any number of bounds may become active or inactive in one step. The
    step is taken where f falls by a fair share of what the model promised; elsewhere mu grows, row by row, to three
    times the curvature that the failed step needed. A step costs one evaluation of f, its gradient and its Hessian:
    there is no line search. Near the solution mu vanishes and convergence is quadratic. For n up to a few dozen; above
    that the n^3 of the solves tells.

    Args:
        tol: stop when ``residual`` = gap / (variation of f over the domain) is below this; float32 reaches 1e-6,
            float64 1e-12.
        max_steps: steps per row at most.
        model_solves: linear solves per step for the model's active set.

    References:
        D. Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J. Control 20,
        1982. We depart from it by solving the model on the box (see ``_box_qp``) instead of guessing the active set
        once, and by damping instead of line search.
    """

    tol: float = 1e-6
    max_steps: int = 50
    model_solves: int = 3

    def __post_init__(self) -> None:
        check_range("ProjectedNewton.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("ProjectedNewton.max_steps", self.max_steps)
        check_positive_int("ProjectedNewton.model_solves", self.model_solves)

    def init(self, problem: Problem, y0: Tensor) -> NewtonState:
        f, g, h = problem.value_grad_hessian(y0)
        scale = _variation(problem.widths(y0), g, h)
        gap, stalled = problem.gap(y0, g), torch.zeros_like(f, dtype=torch.bool)
        return NewtonState(y0, f, g, h, torch.zeros_like(f), gap, scale, problem.noise(f, scale), stalled)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        y, f, g = state.y, state.fun, state.grad
        h = state.hessian.clone()
        diagonal = h.diagonal(dim1=-2, dim2=-1)
        rounding = torch.finfo(h.dtype).eps * diagonal.sum(-1)
        diagonal.add_((state.damping + rounding).unsqueeze(-1))
        low, high = problem.lower - y, problem.upper - y
        d, info = box_qp(g, h, low, high, self.model_solves)
        trial = problem.project(y + d)
        slope = (g * d).sum(-1)
        predicted = -slope - 0.5 * (torch.matmul(h, d.unsqueeze(-1)).squeeze(-1) * d).sum(-1)

        f_new, g_new, h_new = problem.value_grad_hessian(trial)
        noise = state.noise
        actual = f - f_new + noise
        accept = (actual >= _ACCEPT * predicted) & (info == 0)  # false for NaN
        negligible = predicted <= noise
        some_negligible = bool(negligible.any())
        lost = stalled = state.stalled  # all false: rows that stalled are not stepped
        if some_negligible:
            # A gradient step is sure of ``promise``. Less than that means an active set that has not settled.
            steepest = torch.clamp(-g / diagonal.sum(-1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny), low, high)
            promise = -0.5 * (g * steepest).sum(-1)
            lost = negligible & (predicted < promise - noise)
            accept = accept & ~lost
        good = accept & (actual >= _GOOD * predicted)
        if bool(good.all()):
            damping = _EASIER * state.damping
        else:
            row = accept.unsqueeze(-1)
            h_new = torch.where(row.unsqueeze(-1), h_new, state.hessian)
            change = (g_new * d).sum(-1) - slope
            # a step that failed is cut to a tenth at most: steep energies would otherwise allow crumbs only
            change = torch.where(accept, change, torch.minimum(change, -_SHORTEST * slope))
            h_new, corrected = _match_secant(h_new, d, change, good | lost | (info != 0))
            damping = _next_damping(state.damping, accept | corrected, good, lost, slope, d, diagonal)
            trial, f_new, g_new = torch.where(row, trial, y), torch.where(accept, f_new, f), torch.where(row, g_new, g)
        gap = problem.gap(trial, g_new)
        if some_negligible:
            # below rounding f no longer tells good steps from bad: go on only while the certificate still improves
            stalled = negligible & ~lost & (gap > 0.5 * state.gap) & (info == 0)
        return NewtonState(trial, f_new, g_new, h_new, damping, gap, state.scale, noise, stalled)

    def progress(self, problem: Problem, state: NewtonState) -> Progress:
        residual = problem.residual(state.y, state.grad, state.gap, state.scale)
        return Progress(state.fun, state.gap, residual, state.noise, state.stalled)

    def value(self, state: NewtonState) -> Tensor:
        return state.y

    def extras(self, state: NewtonState) -> Any:
        return None


def _variation(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """How much the quadratic model varies over intervals of length w, coordinate by coordinate: the scale of f."""
    return ((g.abs() + 0.125 * h.diagonal(dim1=-2, dim2=-1) * w) * w).sum(-1)


def _match_secant(h: Tensor, d: Tensor, change: Tensor, leave: Tensor) -> tuple[Tensor, Tensor]:
    """Where a step disappointed, give the model the curvature that it met: H + c d d^T, d^T (H + c d d^T) d = change.

    ``change`` is the change of the slope g . d over the step. Other directions keep their Newton curvature. Returns the
    Hessians, and which rows were corrected; rows in ``leave``, or whose curvature does not explain it, were not.
    """
    along = (torch.matmul(h, d.unsqueeze(-1)).squeeze(-1) * d).sum(-1)
    corrected = ~leave & (change > _STIFFER * along) & torch.isfinite(change)
    norm2 = (d * d).sum(-1)
    factor = torch.where(corrected, (change - along) / (norm2 * norm2), 0.0)
    d = torch.where(corrected.unsqueeze(-1), d, 0.0)
    return h + factor[..., None, None] * (d.unsqueeze(-1) * d.unsqueeze(-2)), corrected


def _next_damping(
    damping: Tensor, accept: Tensor, good: Tensor, lost: Tensor, slope: Tensor, d: Tensor, diagonal: Tensor
) -> Tensor:
    """Less where the model was good; where it failed, three times the curvature |g.d| / d.d that such a step needs.
    Where the active set did not settle, d says nothing: the mean of the diagonal makes it easy."""
    needed = torch.where(lost, 0.0, slope.abs() / (d * d).sum(-1))
    needed = torch.maximum(needed, diagonal.mean(-1)).nan_to_num(1.0, 1.0, 1.0)
    needed = torch.where(needed > 0, needed, 1.0)  # a linear energy has no curvature to go by
    harder = _HARDER * needed + damping
    return torch.where(accept, torch.where(good, _EASIER * damping, damping), harder)
