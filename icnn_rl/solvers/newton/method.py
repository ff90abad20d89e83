"""Projected Newton: a quadratic model on the box, or over a convex set, damped sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_positive_int, check_range
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.solvers.box_qp import box_qp, times
from icnn_rl.solvers.newton.constants import ACCEPT, EASIER, GOOD, HARDER, SHORTEST, STIFFER
from icnn_rl.solvers.problem import Problem, Progress
from icnn_rl.solvers.region import Region
from icnn_rl.solvers.shortcuts import maybe_any

__all__ = ["ProjectedNewton"]


class NewtonState(NamedTuple):
    y: Tensor
    fun: Tensor
    grad: Tensor
    hessian: Tensor
    damping: Tensor
    gap: Tensor
    scale: Tensor
    noise: Tensor
    enough: Tensor  # a gap below this is as good as asked for
    stalled: Tensor
    # the active set of the last model; None on a box
    ineq: Tensor | None = None
    at_lower: Tensor | None = None
    at_upper: Tensor | None = None


@dataclass(frozen=True)
class ProjectedNewton:
    """Newton's method for smooth convex energies on a box (or all of R^n).

    Each step minimises the damped quadratic model over the box,

        d = argmin { g . d + 1/2 d^T (H + mu I) d : lower <= y + d <= upper },

    with a primal-dual active-set method, so that any number of bounds may become active or inactive in one step. The
    step is taken where f falls by a fair share of what the model promised. Elsewhere H gets the curvature along d with
    which the step would have ended where f is smallest on the way, as far as both ends of it can tell; where that does
    not explain the failure, mu grows to three times the curvature that the step needed. A step costs one evaluation of
    f, its gradient and its Hessian: there is no line search. Near the solution mu vanishes and convergence is
    quadratic. For n up to a few dozen; above that the n^3 of the solves tells.

    Args:
        tol: stop when ``residual`` = gap / (variation of f over the domain) is below this; float32 reaches 1e-6,
            float64 1e-12.
        max_steps: steps per row at most.
        model_solves: linear solves per step for the model's active set.
        compiled: on a bounded box, run one hidden layer of squareplus units through compiled code where numba is
            installed (extra ``fast``): the same steps, certificates and statuses up to rounding. Other energies, and
            devices, go through torch in any case.

    References:
        D. Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J. Control 20,
        1982. We depart from it by solving the model on the box (see ``_box_qp``) instead of guessing the active set
        once, and by damping instead of line search.
    """

    tol: float = 1e-6
    max_steps: int = 50
    model_solves: int = 3
    compiled: bool = True

    def __post_init__(self) -> None:
        check_range("ProjectedNewton.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("ProjectedNewton.max_steps", self.max_steps)
        check_positive_int("ProjectedNewton.model_solves", self.model_solves)

    def init(self, problem: Problem, y0: Tensor) -> NewtonState:
        f, g, h = problem.value_grad_hessian(y0)
        scale = _variation(problem.widths(y0), g, h)
        noise = problem.noise(f, scale)
        rows = () if problem.region is None else problem.region.tight(y0)[:3]
        return NewtonState(
            y0,
            f,
            g,
            h,
            torch.zeros_like(f),
            problem.box_gap(y0, g),
            scale,
            noise,
            torch.maximum(noise, self.tol * scale),
            torch.zeros_like(f, dtype=torch.bool),
            *rows,
        )

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        y, g = state.y, state.grad
        h = state.hessian.clone()
        diagonal = h.diagonal(dim1=-2, dim2=-1)
        rounding = diagonal.sum(-1, keepdim=True).mul_(torch.finfo(g.dtype).eps)
        diagonal.add_(rounding.add_(state.damping.unsqueeze(-1)))
        if problem.region is not None:
            return self._step_on_set(problem, problem.region, state, h)
        low, high = problem.lower - y, problem.upper - y
        d, residual = box_qp(g, h, low, high, self.model_solves)
        predicted = 0.5 * (d * (residual - g)).sum(-1)

        trial = problem.project(y + d)
        f, g, h_new = problem.value_grad_hessian(trial)
        gap = problem.box_gap(trial, g)
        new = state._replace(y=trial, fun=f, grad=g, hessian=h_new, damping=EASIER * state.damping, gap=gap)
        return _take(state, new, _Move(h, d, low, high, predicted, state.fun - f + state.noise))

    def _step_on_set(self, problem: Problem, region: Region, state: NewtonState, h: Tensor) -> NewtonState:
        assert state.ineq is not None
        assert state.at_lower is not None
        assert state.at_upper is not None
        guess = ActiveSet(state.ineq, state.at_lower, state.at_upper)
        plan = region.model(state.y, state.grad, h, guess, self.model_solves)
        d = plan.y - state.y
        predicted = -((state.grad + 0.5 * times(h, d)) * d).sum(-1)

        f, g, h_new = problem.value_grad_hessian(plan.y)
        if plan.duals is None:
            gap = problem.box_gap(plan.y, g)
        else:
            gap, _ = region.gap(g, plan.duals, problem.curvature)
        active = plan.active
        state = state._replace(ineq=active.ineq, at_lower=active.lower, at_upper=active.upper)
        new = state._replace(y=plan.y, fun=f, grad=g, hessian=h_new, damping=EASIER * state.damping, gap=gap)
        still = torch.zeros_like(d)  # the model was solved to the end: none of its sets is in doubt
        return _take(state, new, _Move(h, d, still, still, predicted, state.fun - f + state.noise))

    def progress(self, problem: Problem, state: NewtonState) -> Progress:
        residual = problem.residual(state.y, state.grad, state.gap, state.scale)
        return Progress(state.fun, state.gap, residual, state.noise, state.stalled)

    def value(self, state: NewtonState) -> Tensor:
        return state.y

    def extras(self, state: NewtonState) -> Any:
        if state.ineq is None or state.at_lower is None or state.at_upper is None:
            return None
        return ActiveSet(state.ineq, state.at_lower, state.at_upper)


class _Move(NamedTuple):
    """A step as it was planned: the model's H, d and its bounds, and what became of the decrease of f."""

    h: Tensor
    d: Tensor
    low: Tensor
    high: Tensor
    predicted: Tensor
    actual: Tensor


def _take(old: NewtonState, new: NewtonState, move: _Move) -> NewtonState:
    """The new state, at once where every row's step was good."""
    as_promised = (move.actual >= GOOD * move.predicted) & (move.predicted > old.noise)
    good = as_promised | (new.gap <= old.enough) & (move.actual >= 0)  # false for NaN
    return _judge(old, new, move) if maybe_any(~good) else new


def _judge(old: NewtonState, new: NewtonState, move: _Move) -> NewtonState:
    """Row by row: take the step, or leave it and mend the model that proposed it, or give up."""
    d, noise = move.d, old.noise
    accept = move.actual >= ACCEPT * move.predicted
    negligible = move.predicted <= noise
    lost = stalled = old.stalled  # all false: rows that stalled are not stepped
    if maybe_any(negligible):
        lost = negligible & (move.predicted < _sure_decrease(old.grad, move) - noise)
        accept = accept & ~lost
        # below rounding f no longer tells good steps from bad: go on only while the certificate still improves
        stalled = negligible & ~lost & (new.gap > 0.5 * old.gap)
    slope = (old.grad * d).sum(-1)
    along = (times(move.h, d) * d).sum(-1)
    met = -slope / _minimiser_between(old, new, d, slope, along)
    corrected = ~accept & ~lost & (met > STIFFER * along)
    factor = torch.where(corrected, (met - along) / (d * d).sum(-1).square(), 0.0)
    d = torch.where(corrected.unsqueeze(-1), d, 0.0)
    mended = old.hessian + factor[..., None, None] * (d.unsqueeze(-1) * d.unsqueeze(-2))
    stuck = ~(accept | corrected)
    damping = torch.where(accept, new.damping, old.damping)
    if maybe_any(stuck):
        damping = torch.where(stuck, old.damping + HARDER * _needed(lost, slope, move), damping)
    row = accept.unsqueeze(-1)
    return old._replace(
        y=torch.where(row, new.y, old.y),
        fun=torch.where(accept, new.fun, old.fun),
        grad=torch.where(row, new.grad, old.grad),
        hessian=torch.where(row.unsqueeze(-1), new.hessian, mended),
        damping=damping,
        gap=torch.where(accept, new.gap, old.gap),
        stalled=stalled,
    )


def _sure_decrease(g: Tensor, move: _Move) -> Tensor:
    """The decrease that a gradient step guarantees. A model step that promises less has an active set that has not
    settled."""
    diagonal = move.h.diagonal(dim1=-2, dim2=-1)
    step = -g / diagonal.sum(-1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    return -0.5 * (g * torch.clamp(step, move.low, move.high)).sum(-1)


def _minimiser_between(old: NewtonState, new: NewtonState, d: Tensor, slope: Tensor, along: Tensor) -> Tensor:
    """t in [0.1, 1]: where on the way y + t d, that went too far, f is smallest, judged from both ends.

    Each end has its Taylor parabola. f bends somewhere between (the model knew nothing of it), so the larger of the two
    parabolas is near f, and its minimiser is that of either or the point where they cross.
    """
    slope_end, along_end = (new.grad * d).sum(-1), (times(new.hessian, d) * d).sum(-1)
    # parabola at y minus parabola at the end = a t^2 + b t + c, and a + b + c < 0 where the step disappointed
    a = 0.5 * (along - along_end)
    b = slope - slope_end + along_end
    c = old.fun - new.fun + slope_end - 0.5 * along_end
    cross = 2 * c / (torch.sqrt((b * b - 4 * a * c).clamp(min=0.0)) - b)
    from_end = 1 - slope_end / along_end
    t = torch.maximum(torch.minimum(-slope / along, cross), from_end)
    t = torch.where(c > 0, t, from_end)  # otherwise the end's is the larger at both ends
    return t.clamp(SHORTEST, 1.0).nan_to_num(SHORTEST)


def _needed(lost: Tensor, slope: Tensor, move: _Move) -> Tensor:
    """The damping that makes up for a step that failed: the curvature |g . d| / d . d that it needs. Where the active
    set did not settle, d says nothing: the mean of the diagonal makes it easy."""
    needed = torch.where(lost, 0.0, slope.abs() / (move.d * move.d).sum(-1))
    needed = torch.maximum(needed, move.h.diagonal(dim1=-2, dim2=-1).mean(-1)).nan_to_num(1.0, 1.0, 1.0)
    return torch.where(needed > 0, needed, 1.0)  # a linear energy has no curvature to go by


def _variation(w: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """How much the quadratic model varies over intervals of length w, coordinate by coordinate: the scale of f."""
    return ((g.abs() + 0.125 * h.diagonal(dim1=-2, dim2=-1) * w) * w).sum(-1)
