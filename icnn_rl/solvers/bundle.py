"""The paper's bundle entropy method, batched: cutting planes for f - tau H on a box.

Scale the box to w in [0, 1]^n. Every evaluation of f gives a cut f(y) >= G_i w + h_i. The model's minimiser

    min_w  max_i (G_i w + h_i) - tau H(w)
    H(w) = - sum_j [ w_j log w_j + (1 - w_j) log(1 - w_j) ]

has the dual (section 4.3 of the paper, here with tau and on any box)

    max_lambda  D(lambda) = h . lambda - tau sum_j softplus(-c_j / tau)    over the simplex
    c = G^T lambda,    w(lambda) = sigmoid(-c / tau)

Where this differs from the released code, and why:

- The dual is solved for all rows at once by a primal-dual interior-point method. Its barrier keeps the system definite
  when cuts repeat or vanish, and no multiplier is ever dropped by a threshold; nothing loops over samples or cuts.
- D(lambda) is a lower bound for every lambda in the simplex, so an inexact dual solve costs steps, never a wrong
  certificate.
- w and 1 - w come from two sigmoids, so that neither is rounded to zero at the border; w log w is 0 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from icnn_rl.checks import check_positive_int, check_range
from icnn_rl.solvers.loop import grown
from icnn_rl.solvers.problem import Problem, Progress

__all__ = ["Bundle", "BundleEntropy"]

_DUAL_STEPS = 60
_DUAL_TOL = 1e-11
_CENTERING = 0.1
_TO_BOUNDARY = 0.995


class Bundle(NamedTuple):
    """The last model: K cuts, taken at ``points``, and their multipliers. Absent cuts have ``present`` false and
    multiplier 0."""

    points: Tensor  # (..., K, n)
    slopes: Tensor  # (..., K, n) gradients of f at the points, in units of w
    offsets: Tensor  # (..., K)
    present: Tensor  # (..., K)
    multipliers: Tensor  # (..., K)


class BundleState(NamedTuple):
    best_y: Tensor
    best_fun: Tensor
    lower: Tensor
    scale: Tensor
    points: Tensor
    slopes: Tensor
    offsets: Tensor
    present: Tensor
    multipliers: Tensor
    stalled: Tensor


@dataclass(frozen=True)
class BundleEntropy:
    """Minimise f - tau H on a finite box by cutting planes (Amos, Xu and Kolter, section 4.3).

    ``fun`` and ``gap`` of the solution refer to f - tau H, the function that is minimised; the value found differs from
    the minimum of f by at most tau n log 2. Needs gradients only, so f may be piecewise linear, where this method is at
    its best: the optimum sits where cuts meet.

    Args:
        entropy: tau > 0, in units of f.
        tol: stop when gap / (variation of f over the box) is below this.
        max_steps: cuts per row at most. 5 to 10 are the paper's; smooth energies in many dimensions need more.
        max_cuts: cuts kept; when full, the one with the smallest multiplier makes room.

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, section 4.3 and appendix; T. Smola et al., Bundle
        methods for machine learning, 2008.
    """

    entropy: float = 1.0
    tol: float = 1e-6
    max_steps: int = 50
    max_cuts: int = 30

    def __post_init__(self) -> None:
        check_range("BundleEntropy.entropy", self.entropy, 0.0, math.inf, open_low=True)
        check_range("BundleEntropy.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("BundleEntropy.max_steps", self.max_steps)
        if check_positive_int("BundleEntropy.max_cuts", self.max_cuts) < 2:
            raise ValueError(f"BundleEntropy.max_cuts: expected at least 2, got {self.max_cuts}.")

    def init(self, problem: Problem, y0: Tensor) -> BundleState:
        if problem.region is not None:
            raise ValueError(
                "BundleEntropy works on a box: its entropy keeps clear of bounds, and knows no rows. On other sets use "
                "ProximalBundle, or ProjectedNewton for smooth energies."
            )
        if not problem.finite:
            raise ValueError(
                "BundleEntropy needs a finite box: the entropy lives on it. Use Box(lower, upper) with finite bounds."
            )
        capacity = min(self.max_cuts, self.max_steps + 1)
        f, g = problem.value_and_grad(y0)
        slope = g * problem.widths(y0)
        cuts = y0.new_zeros((*y0.shape[:-1], capacity, y0.shape[-1]))
        row = y0.new_zeros((*y0.shape[:-1], capacity))
        state = BundleState(
            y0,
            f - self.entropy * entropy(problem, y0),
            torch.full_like(f, -math.inf),
            slope.abs().sum(-1),
            cuts,
            cuts,
            row,
            torch.zeros_like(row, dtype=torch.bool),
            row,
            torch.zeros_like(f, dtype=torch.bool),
        )
        state = self._add_cut(problem, state, y0, f, slope)
        return self._solve_dual(problem, state)

    def step(self, problem: Problem, state: BundleState) -> BundleState:
        y = self._model_minimiser(problem, state)
        f, g = problem.value_and_grad(y)
        slope = g * problem.widths(y)
        regularised = f - self.entropy * entropy(problem, y)
        better = regularised < state.best_fun
        before = state.best_fun - state.lower
        state = state._replace(
            best_y=torch.where(better.unsqueeze(-1), y, state.best_y),
            best_fun=torch.where(better, regularised, state.best_fun),
            scale=grown(state.scale, slope.abs().sum(-1)),
        )
        state = self._solve_dual(problem, self._add_cut(problem, state, y, f, slope))
        # a model that touches f at its own minimiser has nothing left to say
        touching = (regularised - state.lower).abs() <= problem.noise(f, state.scale)
        return state._replace(stalled=touching & ~(state.best_fun - state.lower < before))

    def _model_minimiser(self, problem: Problem, state: BundleState) -> Tensor:
        c = (state.slopes * state.multipliers.unsqueeze(-1)).sum(-2)
        w = torch.sigmoid(-c / self.entropy)
        return problem.project(problem.lower + problem.widths(w) * w)

    def _add_cut(self, problem: Problem, state: BundleState, y: Tensor, f: Tensor, slope: Tensor) -> BundleState:
        """Put the tangent at y into a free place, or into that of the least important cut."""
        w = to_unit(problem, y)
        offset = f - (slope * w).sum(-1)
        importance = torch.where(state.present, state.multipliers, -1.0)
        place = F.one_hot(importance.argmin(-1), importance.shape[-1]).to(torch.bool)
        return state._replace(
            points=torch.where(place.unsqueeze(-1), y.unsqueeze(-2), state.points),
            slopes=torch.where(place.unsqueeze(-1), slope.unsqueeze(-2), state.slopes),
            offsets=torch.where(place, offset.unsqueeze(-1), state.offsets),
            present=state.present | place,
        )

    def _solve_dual(self, problem: Problem, state: BundleState) -> BundleState:
        """New multipliers, and the lower bound they certify. Always in float64: the system is small and badly
        scaled."""
        places = state.present.shape[-1]
        used = state.present.reshape(-1, places).any(0).nonzero()  # places that no row has filled cost nothing
        count = int(used[-1]) + 1 if len(used) else 1
        slopes, offsets = state.slopes[..., :count, :].double(), state.offsets[..., :count].double()
        if count == 1:
            multipliers = torch.ones_like(offsets)
        else:
            multipliers = simplex_dual(slopes, offsets, state.present[..., :count], self.entropy)
        moving = problem.widths(state.best_y).expand_as(state.best_y) > 0
        bound = dual_value(multipliers, slopes, offsets, self.entropy, moving)
        lower = torch.fmax(state.lower, bound.to(state.lower.dtype))
        multipliers = F.pad(multipliers.to(state.offsets.dtype), (0, state.offsets.shape[-1] - count))
        return state._replace(multipliers=multipliers, lower=lower)

    def progress(self, problem: Problem, state: BundleState) -> Progress:
        gap = state.best_fun - state.lower
        noise = problem.noise(state.best_fun, state.scale)
        return Progress(
            state.best_fun, gap, gap / state.scale.clamp(min=torch.finfo(gap.dtype).tiny), noise, state.stalled
        )

    def value(self, state: BundleState) -> Tensor:
        return state.best_y

    def extras(self, state: BundleState) -> Bundle:
        return Bundle(state.points, state.slopes, state.offsets, state.present, state.multipliers)


def to_unit(problem: Problem, y: Tensor) -> Tensor:
    """w = (y - lower) / width in [0, 1]; 1/2 for a fixed coordinate."""
    width = problem.widths(y).expand_as(y)
    return torch.where(width > 0, (y - problem.lower) / width, 0.5)


def entropy(problem: Problem, y: Tensor) -> Tensor:
    """H of the coordinates that can move, in nats: (..., n) -> (...)."""
    w = to_unit(problem, y)
    width = problem.widths(y).expand_as(y)
    v = torch.where(width > 0, (problem.upper - y) / width, 0.5)  # 1 - w without its rounding
    terms = torch.xlogy(w, w) + torch.xlogy(v, v)
    return -(terms * (width > 0)).sum(-1)


def dual_value(multipliers: Tensor, slopes: Tensor, offsets: Tensor, tau: float, moving: Tensor) -> Tensor:
    """D(lambda), a lower bound on the minimum of f - tau H for every lambda in the simplex. A coordinate that cannot
    move has no entropy."""
    c = (slopes * multipliers.unsqueeze(-1)).sum(-2)
    # torch's default threshold, 20, would round the softplus down by 2e-9, and the bound up
    return (offsets * multipliers).sum(-1) - tau * (F.softplus(-c / tau, threshold=40.0) * moving).sum(-1)


def simplex_dual(slopes: Tensor, offsets: Tensor, present: Tensor, tau: float) -> Tensor:
    """The lambda (..., K) that maximises D over the simplex, problem by problem.

    A primal-dual interior-point method for min -D(lambda), lambda >= 0, sum lambda = 1, with multipliers s of the
    bounds and nu of the sum. With t_i = G_i w(lambda) + h_i, cut i at the model's minimiser, it solves

        -t + nu - s = 0,    lambda_i s_i = mu,    sum_i lambda_i = 1

    by Newton steps, in which s is eliminated:

        ( G diag(w (1 - w)) G^T / tau + diag(s / lambda) ) dlambda + dnu 1 = t - nu + mu / lambda
        sum_i dlambda_i = 1 - sum_i lambda_i
        ds = ( mu - lambda s - s dlambda ) / lambda

    Absent cuts keep multiplier 0. The result is scaled to sum to one exactly.

    Args:
        slopes: G (..., K, n).
        offsets: h (..., K).
        present: (..., K), bool.
        tau: of the entropy.
    """
    on = present.to(slopes.dtype)
    count = on.sum(-1, keepdim=True)
    lam = on / count
    scale = (slopes.abs().sum(-1) * on).amax(-1, keepdim=True).clamp(min=1e-300) + tau
    off = 1.0 - on

    def cuts(multipliers: Tensor) -> tuple[Tensor, Tensor]:
        w = torch.sigmoid(-(slopes * multipliers.unsqueeze(-1)).sum(-2) / tau)
        return torch.matmul(slopes, w.unsqueeze(-1)).squeeze(-1) + offsets, w

    def residual(t: Tensor, multipliers: Tensor, s: Tensor, nu: Tensor, mu: Tensor) -> Tensor:
        stationarity = (nu - t - s) * on
        return torch.maximum(
            stationarity.abs().amax(-1, keepdim=True), ((multipliers * s - mu) * on).abs().amax(-1, keepdim=True)
        )

    t, w = cuts(lam)
    top = torch.where(present, t, -math.inf).amax(-1, keepdim=True)
    nu = top + 0.1 * scale
    s = torch.where(present, nu - t, 1.0)
    for _ in range(_DUAL_STEPS):
        complementarity = (lam * s * on).sum(-1, keepdim=True)
        stationarity = ((nu - t - s) * on).abs().amax(-1, keepdim=True)
        done = ~(torch.maximum(complementarity, stationarity) > _DUAL_TOL * scale)  # true for NaN
        if bool(done.all()):
            break
        mu = _CENTERING * complementarity / count
        ratio = torch.where(present, s / lam.clamp(min=1e-300), 1.0)
        matrix = torch.matmul(slopes * (w * (1.0 - w)).unsqueeze(-2), slopes.mT) / tau
        matrix = matrix * on.unsqueeze(-1) * on.unsqueeze(-2) + torch.diag_embed(ratio * on + off)
        factor, _ = torch.linalg.cholesky_ex(matrix)
        right = torch.where(present, t - nu + mu / lam.clamp(min=1e-300), 0.0)
        both = torch.cholesky_solve(torch.stack((right, on), dim=-1), factor)
        first, ones = both[..., 0], both[..., 1]
        excess = (lam * on).sum(-1, keepdim=True) - 1.0
        d_nu = ((first * on).sum(-1, keepdim=True) + excess) / (ones * on).sum(-1, keepdim=True)
        d_lam = (first - d_nu * ones) * on
        d_s = torch.where(present, (mu - lam * s - s * d_lam) / lam.clamp(min=1e-300), 0.0)
        d_lam, d_s, d_nu = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (d_lam, d_s, d_nu))
        alpha = torch.minimum(_step_to_boundary(lam, d_lam, present), _step_to_boundary(s, d_s, present)).unsqueeze(-1)
        alpha = alpha.masked_fill(done, 0.0)  # a row that is done does not depend on how long its neighbours take
        before = residual(t, lam, s, nu, mu)
        for _ in range(12):  # halve the step of the rows whose residual would grow: t is not linear in lambda
            t_new, _w_new = cuts(lam + alpha * d_lam)
            after = residual(t_new, lam + alpha * d_lam, s + alpha * d_s, nu + alpha * d_nu, mu)
            worse = after > (1.0 - 1e-3 * alpha) * before + _DUAL_TOL * scale
            if not bool(worse.any()):
                break
            alpha = torch.where(worse, 0.5 * alpha, alpha)
        lam, s, nu = lam + alpha * d_lam, s + alpha * d_s, nu + alpha * d_nu
        t, w = cuts(lam)
    lam = lam.clamp(min=0.0) * on
    return lam / lam.sum(-1, keepdim=True)


def _step_to_boundary(x: Tensor, dx: Tensor, present: Tensor) -> Tensor:
    """Largest step in [0, 1] that keeps x > 0 with a margin."""
    limit = torch.where((dx < 0) & present, -x / dx.clamp(max=-1e-300), math.inf).amin(-1)
    return torch.clamp(_TO_BOUNDARY * limit, max=1.0)
