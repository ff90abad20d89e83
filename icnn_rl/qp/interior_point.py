"""The second attempt: a homogeneous primal-dual interior-point method, for problems whose active set shows late.

In equilibrated data (:mod:`icnn_rl.qp.equilibration`), with tau, kappa >= 0 beside x, nu, z and s, all optimality
conditions are homogeneous:

    Q x + A^T nu + C^T z + tau p = 0,     A x = tau b,     C x + s = tau d,     s, z >= 0,  s z = 0,
    kappa + x^T Q x / tau + p^T x + b^T nu + d^T z = 0,     tau kappa = 0.

tau > 0 gives the solution x / tau; where kappa > 0 remains instead, (nu, z) tends to a proof that nothing is feasible,
or x to a direction in which the objective falls for ever. So there is always something to converge to, no start has to
be feasible, and neither dependent rows nor a singular Q, nor an interior that is empty, is a special case. Each step
takes one factorisation, a Mehrotra predictor and corrector, and corrections of each solve by its residual, which take
out the regularisation of the factor.

References:
    E. D. Andersen, Y. Ye, On a homogeneous algorithm for the monotone complementarity problem, Math. Program. 84, 1999.
    P. J. Goulart, Y. Chen, Clarabel: An interior-point solver for conic programs with quadratic objectives, 2024
    (arXiv 2405.12762), sections 2 and 3.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.certificates import normwise
from icnn_rl.qp.constants import BACK_OFF
from icnn_rl.qp.equilibration import Scales
from icnn_rl.qp.linear.base import Inner, Point, Triple
from icnn_rl.qp.linear.scale import Scale
from icnn_rl.qp.problem import Problem, largest
from icnn_rl.qp.pytree import leaves, select_rows, unflatten, where_rows

__all__ = ["Ended", "follow_central_path"]

#: Corrections of a linear solve at most, and the relative residual that needs none.
_CORRECTIONS, _EXACT = 4, 1e-13
#: Residuals to aim at: smaller than the tolerance, for the set of active constraints is still to be told apart.
_AIM = 1e-12
#: Steps without progress after which a row is given up.
_PATIENCE = 5
#: Relative error of a proof that ends the iterations; it is examined by others.
_PROOF = 1e-9


@dataclass(frozen=True)
class _State:
    """x (B, n), nu (B, q), z and s (B, k), tau and kappa (B, 1); z = 0 and s = 1 where a row is absent."""

    x: Tensor
    nu: Tensor
    z: Tensor
    s: Tensor
    tau: Tensor
    kappa: Tensor


@dataclass(frozen=True)
class Ended:
    """Where the iterations ended for each problem: the best point, which constraints have s < z there, and how many
    factorisations it took."""

    point: Point
    active: Tensor
    steps: Tensor


@dataclass(frozen=True)
class _Rows:
    """The rows at work: their problem, given and scaled, present rows as 1.0, how many and one, and their index."""

    given: Problem
    scales: Scales
    system: Inner
    present: Tensor
    count: Tensor
    index: Tensor

    @property
    def problem(self) -> Problem:
        return self.system.problem

    def only(self, kept: Tensor) -> _Rows:
        return select_rows(kept, self)


@dataclass(frozen=True)
class _Known:
    """The best that was found of every row, and the steps since."""

    state: _State
    residual: Tensor
    mu: Tensor
    waited: Tensor


def follow_central_path(system: Scale, max_steps: int) -> Ended:
    """Primal-dual steps until the residuals, in given and in equilibrated data, are at most :data:`_AIM`, nothing
    improves, or ``max_steps`` factorisations were made.

    Args:
        system: equilibrated; its inner system takes equalities and singular matrices.
        max_steps: factorisations a row may take.
    """
    rows = _rows(system)
    state = _start(rows)
    batch = state.x.shape[0]
    nothing = torch.full_like(state.tau[:, 0], torch.inf)
    known = _Known(state, nothing, nothing, torch.zeros_like(nothing))
    steps = torch.ones(batch, dtype=torch.int64, device=state.x.device)
    for step in range(1, max_steps + 1):
        left = _Left.of(rows, state)
        known = _noted(known, rows.index, state, _residual(rows, state), left.mu[:, 0])
        here = rows.index
        steps = steps.index_fill(0, here, step)
        over = (
            left.proof(rows) | (known.residual[here] <= _AIM) | (known.waited[here] > _PATIENCE) | left.mu[:, 0].isnan()
        )
        if step == max_steps or bool(over.all()):
            break
        if bool(over.any()):
            kept = (~over).nonzero().squeeze(-1)
            rows, state, left = rows.only(kept), select_rows(kept, state), select_rows(kept, left)
        state = _step(rows, state, left)
    return _ended(system, known.state, steps)


def _rows(system: Scale) -> _Rows:
    scaled = system.inner.problem
    present = torch.ones_like(scaled.d) if scaled.present is None else scaled.present
    index = torch.arange(present.shape[0], device=present.device)
    count = present.sum(-1, keepdim=True) + 1.0
    return _Rows(system.problem, system.scales, system.inner, present, count, index)


def _ended(system: Scale, state: _State, steps: Tensor) -> Ended:
    problem = system.problem
    inverse = state.tau.reciprocal()
    inside = Point(inverse * state.x, inverse * state.nu, inverse * state.z, inverse * state.s)
    lifted = system.lift(inside)
    point = dataclasses.replace(lifted, s=problem.d - problem.Cx(lifted.x))
    active = state.z > state.s
    present = problem.present
    return Ended(point, active if present is None else active & (present > 0), steps)


def _start(rows: _Rows) -> _State:
    """The problem with s = -z, then s and z shifted until they are positive."""
    problem, present = rows.problem, rows.present
    d = problem.d * present
    e = torch.ones_like(d)
    x, nu, z = _solve_refined(rows.system.factored(e), e, (-problem.p, problem.b, d), present)
    one = torch.ones_like(rows.count)
    return _State(x, nu, _shifted(z, present), torch.where(present > 0, _shifted(-z, present), 1.0), one, one)


def _shifted(v: Tensor, present: Tensor) -> Tensor:
    """v, or v + a with the smallest element 1; 0 where nothing is present."""
    if not v.shape[-1]:
        return v
    least = torch.where(present > 0, v, torch.inf).amin(-1, keepdim=True)
    return torch.where(present > 0, v + torch.where(least < 1e-8, 1.0 - least, 0.0), 0.0)


@dataclass(frozen=True)
class _Left:
    """What the state leaves of the equations, and what they are made of: Q x, A^T nu + C^T z, A x, C x, p^T x, and
    b^T nu + d^T z."""

    qx: Tensor
    rty: Tensor
    ax: Tensor
    cx: Tensor
    rx: Tensor
    ra: Tensor
    rc: Tensor
    rt: Tensor
    mu: Tensor
    px: Tensor
    by: Tensor

    @staticmethod
    def of(rows: _Rows, state: _State) -> _Left:
        problem, present = rows.problem, rows.present
        x, nu, z, s, tau, kappa = (getattr(state, f.name) for f in dataclasses.fields(state))
        at = problem.products(x, nu, z)
        d = problem.d * present
        px, by = _dot(problem.p, x), _dot(problem.b, nu) + _dot(d, z)
        return _Left(
            qx=at.qx,
            rty=at.ctz if at.aty is None else at.ctz + at.aty,
            ax=at.ax,
            cx=at.cx,
            rx=-at.gradient(tau * problem.p),
            ra=tau * problem.b - at.ax,
            rc=(tau * d - at.cx - s) * present,
            rt=-(kappa + _dot(at.qx, x) / tau + px + by),
            mu=(_dot(s * present, z) + tau * kappa) / rows.count,
            px=px,
            by=by,
        )

    def proof(self, rows: _Rows) -> Tensor:
        """(B,): whether (nu, z) nearly proves infeasibility, or x that the objective is unbounded."""
        by, px = self.by[:, 0], self.px[:, 0]
        infeasible = (by < 0) & (largest(self.rty) <= -_PROOF * by)
        off = largest(self.qx, self.ax, (self.cx * rows.present).clamp(min=0.0))
        return infeasible | ((px < 0) & (off <= -_PROOF * px))


def _step(rows: _Rows, state: _State, left: _Left) -> _State:
    """Predictor and corrector. Both directions are (dx, dnu, dz) = u + dtau v with v = K^{-1} (-p, b, d)."""
    problem, present = rows.problem, rows.present
    x, z, s, tau, kappa = state.x, state.z, state.s, state.tau, state.kappa
    z_safe = torch.where(present > 0, z, 1.0)
    e, d = s / z_safe, problem.d * present
    system = rows.system.factored(e)
    vx, vnu, vz = _solve_refined(system, e, (-problem.p, problem.b, d), present)
    away = vx - x / tau
    slope = kappa / tau + _dot(vz * e, vz) + _dot(problem.Qx(away), away)
    pull = 2.0 * left.qx / tau + problem.p

    def direction(share: Tensor | float, target: Tensor, target_tau: Tensor) -> _State:
        """Take ``share`` of the residuals off, bring s z to s z + target and tau kappa to the like."""
        right = share * left.rx, share * left.ra, (share * left.rc - target / z_safe) * present
        ux, unu, uz = _solve_refined(system, e, right, present)
        known = _dot(pull, ux) + _dot(problem.b, unu) + _dot(d, uz)
        dtau = (known + target_tau / tau - share * left.rt) / slope
        dx, dnu, dz = ux + dtau * vx, unu + dtau * vnu, uz + dtau * vz
        ds = (target - s * dz) / z_safe * present
        return _State(dx, dnu, dz, ds, dtau, (target_tau - kappa * dtau) / tau)

    guess = direction(1.0, -s * z, -tau * kappa)
    sigma = (1.0 - _length(state, guess, present)) ** 3
    aim = sigma * left.mu
    step = direction(
        1.0 - sigma, (aim - s * z - guess.s * guess.z) * present, aim - tau * kappa - guess.tau * guess.kappa
    )
    length = BACK_OFF * _length(state, step, present)
    moved = (torch.addcmul(a, length, b) for a, b in zip(leaves(state), leaves(step), strict=True))
    return unflatten(state, moved)


def _length(state: _State, step: _State, present: Tensor) -> Tensor:
    """(B, 1): the largest step <= 1 that keeps s, z, tau and kappa >= 0."""
    z = torch.where(present > 0, state.z, 1.0)
    parts = (step.z / z * present, step.s / state.s * present, step.tau / state.tau, step.kappa / state.kappa)
    fastest = torch.cat(parts, -1).amin(-1, keepdim=True)
    return (-fastest).clamp(min=1.0).reciprocal()


def _solve_refined(system: Inner, e: Tensor, right: Triple, present: Tensor) -> Triple:
    """The solution of the equations with E = diag(e), without the regularisation of the factor; the best of a few
    corrections a row."""
    problem, (rx, ra, rc) = system.problem, right
    enough = _EXACT * largest(rx, ra, rc)
    point = Point(*system.solve(rx, ra, rc), rc)
    best, least = point, torch.full_like(enough, torch.inf)
    for correction in range(_CORRECTIONS + 1):
        at = problem.products(point.x, point.nu, point.z)
        zero = torch.zeros_like(rx)
        off = rx - at.gradient(zero), ra - at.ax, (rc - at.cx + e * point.z) * present
        error = largest(*off)
        better = error < least  # false next to a NaN
        best, least = where_rows(better, point, best), torch.where(better, error, least)
        if correction == _CORRECTIONS or bool(((least <= enough) | ~better).all()):
            break
        dx, dnu, dz = system.solve(*off)
        point = Point(point.x + dx, point.nu + dnu, point.z + dz, rc)
    return best.x, best.nu, best.z


def _residual(rows: _Rows, state: _State) -> Tensor:
    """(B,): the largest normwise residual of x / tau, in given and in equilibrated data."""
    scales, inverse = rows.scales, state.tau.reciprocal()
    x, nu, z = inverse * state.x, inverse * state.nu, inverse * state.z
    scaled = normwise(rows.problem, x, nu, z, rows.problem.products(x, nu, z))
    x, nu, z = scales.length * scales.columns * x, scales.force * scales.a_rows * nu, scales.force * scales.c_rows * z
    return functools.reduce(torch.maximum, (*scaled, *normwise(rows.given, x, nu, z, rows.given.products(x, nu, z))))


def _noted(known: _Known, index: Tensor, state: _State, residual: Tensor, mu: Tensor) -> _Known:
    """The best states so far. Progress is a smaller residual, or mu: residuals may rest while tau grows."""
    best, least = known.residual[index], known.mu[index]
    better = residual < best
    progress = (residual < 0.9 * best) | (mu < 0.5 * least)
    kept = where_rows(better, state, select_rows(index, known.state))
    state = unflatten(kept, (a.index_copy(0, index, b) for a, b in zip(leaves(known.state), leaves(kept), strict=True)))
    waited = torch.where(progress, 0.0, known.waited[index] + 1.0)
    return _Known(
        state,
        known.residual.index_copy(0, index, torch.where(better, residual, best)),
        known.mu.index_copy(0, index, torch.fmin(least, mu)),
        known.waited.index_copy(0, index, waited),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
