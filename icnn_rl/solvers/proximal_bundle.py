"""Proximal bundle method, batched: cutting planes held together by a proximal term, for energies with kinks.

Every evaluation of f at y_k gives a cut, f(y) >= f_k + g_k . (y - y_k). With the best point c so far, the next trial is

    argmin  v + rho / 2 ||y - c||^2    over  y in C,  f_k + g_k . (y - y_k) <= v  for all cuts:

one quadratic programme in (y, v), solved for the whole batch at once. Two things are done to it. v is counted from
f(c), in units of the variation of f, so that all numbers are of order 1; and w = v in these units is charged
w + sigma / 2 w^2 instead of w, which makes the programme strictly convex. That changes rho and nothing else: the price
of w at the solution is phi = 1 + sigma w, and dividing everything by it gives the programme above with rho / phi.

The cuts' multipliers lambda, divided by their sum, combine them into one more affine function below f, and with the
multipliers of the rows of C weak duality bounds f from below on all of C: see
:meth:`icnn_rl.solvers.region.Region.gap`. The bound costs a few products, and holds however badly the programme was
solved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_positive_int, check_range
from icnn_rl.qp.problem import Diagonal
from icnn_rl.sets import ConvexSet, Ellipsoid
from icnn_rl.sets.rows import join, vector_of
from icnn_rl.solution import Status
from icnn_rl.solvers.loop import grown
from icnn_rl.solvers.problem import Problem, Progress
from icnn_rl.solvers.region import Duals, Region

__all__ = ["ProximalBundle"]

_SERIOUS = 0.1  # share of the model's decrease that moves the centre
_GOOD = 0.5  # above this share rho may fall
_RHO_STEP = 10.0  # rho changes by this factor at most
_FAR = 10.0  # a cut that misses f(c) by more than this many predicted decreases asks for shorter steps
_BEND = 0.25  # sigma
_FEASIBLE = 1e-10  # relative violation of a programme's solution that is rounding
_ACTIVE = 1e-9  # a smaller multiplier, of a sum of 1, counts as 0


class BundleOfCuts(NamedTuple):
    """State: the centre, the cuts (..., K) in float64, and what is known of the minimum."""

    y: Tensor
    fun: Tensor
    slopes: Tensor  # (..., K, n)
    offsets: Tensor  # (..., K): f(y) >= offset + slope . y
    present: Tensor
    multipliers: Tensor
    rho: Tensor
    lower: Tensor  # certified: min f is at least this
    scale: Tensor
    stalled: Tensor


class _Trial(NamedTuple):
    """The minimiser of the model: y, the model's value there, lambda, and the certified lower bound."""

    y: Tensor
    model: Tensor
    multipliers: Tensor
    lower: Tensor
    solved: Tensor


@dataclass(frozen=True)
class ProximalBundle:
    """Cutting planes with a proximal term, for convex energies with kinks on a bounded box or convex set.

    Needs gradients only, one each step. Minimises f itself, unlike BundleEntropy, over rows too; for piecewise-linear f
    it ends at the exact minimiser after finitely many steps. For smooth f in a few dozen variables ProjectedNewton is
    far quicker.

    Args:
        tol: stop when gap / (variation of f over the domain) is below this; float32 reaches 1e-6, float64 1e-10.
        max_steps: evaluations of f per row at most.
        max_cuts: cuts kept, at least 3. When all are in use the one with the smallest multiplier makes room, and where
            it mattered the combination of all cuts takes the place of another, which keeps what they proved.

    References:
        C. Lemarechal, Nonsmooth optimization and descent methods, IIASA RR-78-4, 1978; K. Kiwiel, Proximity control in
        bundle methods for convex nondifferentiable minimization, Math. Programming 46, 1990 (the rule for rho).
    """

    tol: float = 1e-6
    max_steps: int = 100
    max_cuts: int = 30

    def __post_init__(self) -> None:
        check_range("ProximalBundle.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("ProximalBundle.max_steps", self.max_steps)
        if check_positive_int("ProximalBundle.max_cuts", self.max_cuts) < 3:
            raise ValueError(f"ProximalBundle.max_cuts: expected at least 3, got {self.max_cuts}.")

    def init(self, problem: Problem, y0: Tensor) -> BundleOfCuts:
        if not problem.finite:
            raise ValueError(
                "ProximalBundle needs a bounded domain: its certificate is a minimum over bounds. Use finite bounds, "
                "or rows that imply some."
            )
        capacity = min(self.max_cuts, self.max_steps + 1)
        f, g = problem.value_and_grad(y0)
        width = problem.widths(y0).expand_as(y0).double()
        empty = width.new_zeros(*y0.shape[:-1], capacity)
        scale = (g.double().abs() * width).sum(-1)
        state = BundleOfCuts(
            y0,
            f,
            empty.unsqueeze(-1) * g.double().nan_to_num(0.0, 0.0, 0.0).unsqueeze(-2),
            empty,
            empty > 0,
            empty,
            rho=scale / width.square().sum(-1).clamp(min=torch.finfo(width.dtype).tiny),
            lower=(f - problem.box_gap(y0, g)).double(),
            scale=scale.to(f.dtype),
            stalled=torch.zeros_like(f, dtype=torch.bool),
        )
        return _with_cut(state, y0, f, g)

    def step(self, problem: Problem, state: BundleOfCuts) -> BundleOfCuts:
        trial = _trial(problem, state)
        y = trial.y.to(state.y.dtype)
        f, g = problem.value_and_grad(y)
        width = problem.widths(y).double()
        scale = grown(state.scale, (g.double().abs() * width).sum(-1).to(f.dtype))
        noise = problem.noise(f, scale).double()
        promised = state.fun.double() - trial.model  # >= 0
        got = state.fun.double() - f.double()
        serious = (got >= _SERIOUS * promised) & (got > 0) | (got > noise)
        missed = state.fun.double() - f.double() - (g.double() * (state.y.double() - y.double())).sum(-1)
        rho = _next_rho(state.rho, promised, got, serious, missed, noise)
        rho = torch.where(trial.solved, rho, _RHO_STEP * state.rho)  # another programme, then
        lower = torch.fmax(state.lower, trial.lower)
        gap = torch.minimum(f, state.fun).double() - lower
        better = gap < 0.9 * (state.fun.double() - state.lower)
        exhausted = (promised <= noise) & (state.rho * width.square().sum(-1) <= noise)
        new = state._replace(
            multipliers=trial.multipliers,
            rho=rho.clamp(min=1e-12 * scale.double() / width.square().sum(-1)),
            lower=lower,
            scale=scale,
            stalled=exhausted & ~better & trial.solved,
        )
        new = _with_cut(new, y, torch.where(trial.solved, f, torch.nan), g)
        return new._replace(y=torch.where(serious.unsqueeze(-1), y, state.y), fun=torch.where(serious, f, state.fun))

    def progress(self, problem: Problem, state: BundleOfCuts) -> Progress:
        gap = (state.fun.double() - state.lower).to(state.fun.dtype)
        noise = problem.noise(state.fun, state.scale)
        residual = gap / state.scale.clamp(min=torch.finfo(gap.dtype).tiny)
        return Progress(state.fun, gap, residual, noise, state.stalled)

    def value(self, state: BundleOfCuts) -> Tensor:
        return state.y

    def extras(self, state: BundleOfCuts) -> Any:
        return None


def _next_rho(rho: Tensor, promised: Tensor, got: Tensor, serious: Tensor, missed: Tensor, noise: Tensor) -> Tensor:
    """Kiwiel's rule: the parabola through f(c), its model's slope and f(y) says what rho would have been right."""
    fitted = 2.0 * rho * (1.0 - got / promised.clamp(min=1e-300))
    longer = torch.where(got >= _GOOD * promised, torch.maximum(fitted, rho / _RHO_STEP), rho)
    shorter = torch.where(missed > _FAR * promised, torch.minimum(fitted, rho * _RHO_STEP), rho)
    new = torch.where(serious, torch.minimum(longer, rho), torch.maximum(shorter, rho))
    return torch.where(promised <= noise, rho / _RHO_STEP, new)  # what is left of the gap is the proximal term's


def _with_cut(state: BundleOfCuts, y: Tensor, f: Tensor, g: Tensor) -> BundleOfCuts:
    """The tangent at y in a free place, or in that of the least important cut."""
    slope, point = g.double(), y.double()
    offset = f.double() - (slope * point).sum(-1)
    sound = (torch.isfinite(offset) & torch.isfinite(slope).all(-1)).unsqueeze(-1)
    importance = torch.where(state.present, state.multipliers, -1.0)
    least = importance.topk(2, dim=-1, largest=False)
    slopes, offsets = state.slopes, state.offsets
    # a cut that mattered goes: what all of them say together stays, in the second place
    full = (least.values[..., :1] > _ACTIVE) & sound
    second = _one_hot(least.indices[..., 1], importance) & full
    slopes = torch.where(second.unsqueeze(-1), _combined(state.multipliers, slopes).unsqueeze(-2), slopes)
    offsets = torch.where(second, (state.multipliers * state.offsets).sum(-1, keepdim=True), offsets)
    place = _one_hot(least.indices[..., 0], importance) & sound
    return state._replace(
        slopes=torch.where(place.unsqueeze(-1), slope.unsqueeze(-2), slopes),
        offsets=torch.where(place, offset.unsqueeze(-1), offsets),
        present=state.present | place,
    )


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(index, like.shape[-1]).to(torch.bool)


def _combined(multipliers: Tensor, slopes: Tensor) -> Tensor:
    return (multipliers.unsqueeze(-1) * slopes).sum(-2)


def _trial(problem: Problem, state: BundleOfCuts) -> _Trial:
    """Solve the model; everything in float64."""
    center, fun = state.y.double(), state.fun.double()
    region = problem.region
    if region is None:
        region = Region.of(ConvexSet(lb=problem.lower, ub=problem.upper), state.y)
    n, k = center.shape[-1], region.set.lifted
    scale = state.scale.double()
    scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
    slopes = state.slopes / scale[..., None, None]
    offsets = (state.offsets - fun.unsqueeze(-1)) / scale.unsqueeze(-1)
    weight = (state.rho / scale).unsqueeze(-1)
    curvature = torch.cat((weight.expand_as(center), torch.full_like(weight, _BEND)), -1)
    pull = torch.cat((-weight * center, torch.ones_like(weight)), -1)
    right = torch.where(state.present, -offsets, torch.inf)
    found = _lifted_by_v(region.set, slopes, right, center).minimise(Diagonal(curvature), pull, throw=False)
    solution = found.solution
    # multipliers prove what they prove, exact or not; the point has to be in the set
    solved = (found.status == Status.SUCCESS) | (solution.primal_residual <= _FEASIBLE)
    y = torch.where(solved.unsqueeze(-1), found.value[..., :n], center)
    m = 0 if region.set.h is None else region.set.h.shape[-1]
    q = 0 if region.set.b is None else region.set.b.shape[-1]
    weights = solution.dual_ineq[..., m:].clamp(min=0.0) * state.present
    price = weights.sum(-1, keepdim=True)
    solved = solved & (price.squeeze(-1) > 0)
    per_price = 1.0 / price.clamp(min=torch.finfo(price.dtype).tiny)
    weights = torch.where(solved.unsqueeze(-1), weights * per_price, state.multipliers)
    unit = torch.where(solved.unsqueeze(-1), per_price * scale.unsqueeze(-1), 0.0)
    duals = Duals(
        torch.cat((y, solution.value[..., n + 1 :]), -1) if k else y,
        solution.dual_ineq[..., :m].clamp(min=0.0) * unit,
        solution.dual_eq[..., :q] * unit,
        found.multiplier * unit.squeeze(-1),
    )
    slope = _combined(weights, state.slopes)
    at_y = (weights * state.offsets).sum(-1) + (slope * y).sum(-1)
    lower = torch.where(solved, at_y - region.gap(slope, duals, None)[0], -torch.inf)
    model = torch.where(state.present, state.offsets + (state.slopes @ y.unsqueeze(-1)).squeeze(-1), -torch.inf)
    return _Trial(y, torch.minimum(model.amax(-1), fun), weights, lower, solved)


def _lifted_by_v(s: ConvexSet, slopes: Tensor, right: Tensor, like: Tensor) -> ConvexSet:
    """The set of (y, v, u): y and u as in the set, and every cut, slope . y - v <= right."""
    n, k = like.shape[-1], s.lifted

    def widen(rows: Tensor) -> Tensor:
        return torch.cat((rows[..., :n], rows.new_zeros(*rows.shape[:-1], 1), rows[..., n:]), -1)

    def bound(side: Any, missing: float) -> Tensor | None:
        if side is None:
            return None
        side = vector_of(side, n + k, like)
        return torch.cat((side[..., :n], side.new_full((*side.shape[:-1], 1), missing), side[..., n:]), -1)

    cuts = torch.cat((slopes, slopes.new_full((*slopes.shape[:-1], 1), -1.0)), -1)
    cuts = torch.nn.functional.pad(cuts, (0, k))
    G = cuts if s.G is None else join([widen(s.G), cuts], -2)
    h = right if s.h is None else join([s.h, right], -1)
    ellipsoid = s.ellipsoid
    if ellipsoid is not None:
        pad = torch.nn.functional.pad
        ellipsoid = Ellipsoid(pad(ellipsoid.M, (0, 1, 0, 1)), pad(ellipsoid.center, (0, 1)), ellipsoid.size)
    return dataclasses.replace(
        s,
        G=G,
        h=h,
        A=None if s.A is None else widen(s.A),
        lb=bound(s.lb, -torch.inf),
        ub=bound(s.ub, torch.inf),
        ellipsoid=ellipsoid,
    )
