"""Steps of the homogeneous self-dual interior-point method. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.constants import BACK_OFF
from icnn_rl.qp.kernel.dense.finish import finish_on_set
from icnn_rl.qp.kernel.dense.products import products_at, put
from icnn_rl.qp.kernel.dense.proofs import Scratch, farkas, is_ray, null_proof, push_inside
from icnn_rl.qp.kernel.dense.records import (
    AIM,
    CHANGES,
    DUAL_INFEASIBLE,
    ENOUGH,
    EXACT,
    FIRST,
    IDLE,
    KKT_DELTA,
    LOOSE,
    MAX_STEPS,
    NUMERICAL,
    PRIMAL_INFEASIBLE,
    SMALL,
    STALL,
    SUCCESS,
    SUSPICIOUS,
    Array,
    Factor,
    Problem,
    Triple,
    inlined,
)
from icnn_rl.qp.kernel.dense.systems import add_step, copy_scaled, factorise, left_over, solve_kkt, solve_refined
from icnn_rl.qp.kernel.dense.verdict import holds_closely, judge_point, objective_at


@inlined
def _start(P: Problem, F: Factor, w: Scratch, lapack: tuple[int, int, int, int]) -> bool:
    """The penalised problem E = 1, s = -z, then s and z made positive."""
    for i in range(len(P.d)):
        F.e[i], F.w[i] = 1.0, P.present[i] / (1.0 + KKT_DELTA)
    if not factorise(P, F, lapack):
        return False
    _right_of_data(P, w.r)
    solve_kkt(P, F, w.r, w.v, w.t)
    for i in range(len(P.d)):
        w.s[i] = -w.v.z[i]
    push_inside(w.s, P.present)
    push_inside(w.v.z, P.present)
    return True


@inner
def _right_of_data(P: Problem, r: Triple) -> None:
    for j in range(len(P.p)):
        r.x[j] = -P.p[j]
    for i in range(len(P.b)):
        r.nu[i] = P.b[i]
    for i in range(len(P.d)):
        r.z[i] = P.d[i]


@inlined
def _reach(P: Problem, w: Scratch, dz: Array, tau: float, dtau: float, kappa: float, dkappa: float) -> float:
    """The largest step <= 1 that keeps z, s, tau and kappa >= 0."""
    fastest = max(1.0, -dtau / tau, -dkappa / kappa)
    for i in range(len(dz)):
        if P.present[i] > 0.0:
            fastest = max(fastest, -dz[i] / w.v.z[i], -w.ds[i] / w.s[i])
    return 1.0 / fastest


@inlined
def _direction(
    P: Problem,
    F: Factor,
    w: Scratch,
    keep: float,
    into: Triple,
    rounds: bool,
    aim: float,
    tau: float,
    kappa: float,
    rt: float,
    rk: float,
    curvature: float,
) -> tuple[float, float]:
    """The step that leaves 1 - keep of the residuals and makes z s = target, tau kappa = rk + tau kappa; dtau, dkappa.

    ``curvature``: of the equation of tau, its other unknowns eliminated.
    """
    v, right = w.v, w.right
    for j in range(len(v.x)):
        right.x[j] = keep * w.r.x[j]
    for i in range(len(v.nu)):
        right.nu[i] = keep * w.r.nu[i]
    for i in range(len(v.z)):
        right.z[i] = keep * w.r.z[i] - w.target[i] / v.z[i] if P.present[i] > 0.0 else 0.0
    if rounds:
        solve_refined(P, F, right, into, aim, w.of_step, w.rest, w.dv, w.t)
    else:
        solve_kkt(P, F, right, into, w.t)
    g = 2.0 * dot(w.qxi, into.x) + dot(P.p, into.x) + dot(P.b, into.nu) + dot(P.d, into.z)
    dtau = (keep * rt - rk / tau - g) / curvature
    add_step(into, dtau, w.fixed)
    for i in range(len(v.z)):
        w.ds[i] = (w.target[i] - w.s[i] * into.z[i]) / v.z[i] if P.present[i] > 0.0 else 0.0
    return dtau, (rk - kappa * dtau) / tau


@inlined
def _keep_best(P: Problem, w: Scratch, tau: float) -> None:
    copy_scaled(w.v, 1.0 / tau, w.best)
    for i in range(len(P.d)):
        w.best_s[i] = w.s[i] / tau


@inner
def _without_noise(P: Problem, w: Scratch, best: float, tol: float, fit: Array) -> bool:
    """Take the multipliers of rows with s >= z from the best point, if it is as good without; whether it is solved."""
    copy_scaled(w.best, 1.0, w.trial)
    for i in range(len(P.d)):
        w.trial.z[i] = w.best.z[i] if w.best.z[i] > w.best_s[i] else 0.0
    products_at(P, w.trial, w.of_step)
    now = judge_point(P, w.trial, w.of_step, objective_at(P, w.trial, w.of_step), 1.0, w.trial_fit)
    if now <= max(best, min(tol, AIM)):
        copy_scaled(w.trial, 1.0, w.best)
        put(w.trial_fit, fit)
    return bool(holds_closely(P, w.best, w.of_step, fit, tol))


@inner
def needed_residual(tol: float) -> float:
    """The residual of a settled set that is good enough."""
    return tol if tol >= LOOSE else min(tol, EXACT)


@inner
def interior_point(
    P: Problem, F: Factor, w: Scratch, tol: float, max_steps: int, fit: Array, lapack: tuple[int, int, int, int]
) -> tuple[int, int, bool]:
    """Solve the row; status, factorisations, and whether its set settled. The point is ``w.best``, with its ``fit``."""
    n, q, k = len(P.p), len(P.b), len(P.d)
    aim, needed = tol if tol >= LOOSE else min(tol, AIM), needed_residual(tol)
    v, s, at = w.v, w.s, w.at
    fit[:] = np.inf
    count = 1.0
    for i in range(k):
        count += P.present[i]
    if not _start(P, F, w, lapack):
        return NUMERICAL, 1, False
    tau, kappa, steps, since, agreed, stall = 1.0, 1.0, 1, 0, False, 0
    best, least, idle = np.inf, np.inf, 0
    w.tried[:] = False
    w.predicted[:] = False
    attempts = 0
    for step in range(max_steps):
        products_at(P, v, at)
        f = objective_at(P, v, at)
        mu = tau * kappa
        for i in range(k):
            mu += s[i] * v.z[i]
        mu /= count
        now = judge_point(P, v, at, f, tau, w.fit)
        stall = 0 if now < best or (mu < 0.5 * least and mu > 1e-16 * tau * tau) else stall + 1
        least = min(mu, least)
        fast, idle = now < 0.1 * best, 0 if now < best else idle + 1
        if now < best:
            best = now
            put(w.fit, fit)
            _keep_best(P, w, tau)
        if not abs(mu) < np.inf:
            break
        since += 1
        if best > aim * (tol >= LOOSE) and step >= FIRST and tau > 1e-6 * kappa:
            # a set that failed once may do from closer
            if mu < SMALL * tau * tau and since > 2 and not agreed:
                for i in range(k):
                    w.predicted[i] = v.z[i] > s[i]
                agreed = True
            new = attempts == 0 or since > 4
            for i in range(k):
                new = new or w.predicted[i] != w.tried[i]
            if agreed and new and steps + 1 < max_steps:
                since, attempts = 0, attempts + 1
                for i in range(k):
                    w.tried[i] = w.active[i] = w.predicted[i]
                copy_scaled(v, 1.0 / tau, w.trial)
                changes = min(CHANGES, max_steps - steps)
                reached, used = finish_on_set(
                    P, F, w.trial, w.active, changes, w.of_step, w.right, w.rest, w.dv, w.t, w.trial_fit, lapack
                )
                steps += used
                if reached <= needed and holds_closely(P, w.trial, w.of_step, w.trial_fit, tol):
                    copy_scaled(w.trial, 1.0, w.best)
                    put(w.trial_fit, fit)
                    return SUCCESS, steps, True
        if best <= aim and (tol >= LOOSE or best <= ENOUGH or not fast) and _without_noise(P, w, best, tol, fit):
            return SUCCESS, steps, False
        if steps >= max_steps or stall >= STALL or (best <= tol and idle >= IDLE):
            break
        if kappa > 1e-3 * tau and best > tol:
            if farkas(P, v, at, f.by, w.trial, w.slope):
                copy_scaled(w.trial, 1.0, w.best)
                return PRIMAL_INFEASIBLE, steps, False
            if is_ray(P, v.x, at, f.px):
                copy_scaled(v, 1.0, w.best)
                return DUAL_INFEASIBLE, steps, False
            products_at(P, v, at)
        # residuals
        for j in range(n):
            w.r.x[j] = -(at.qx[j] + at.aty[j] + at.ctz[j] + tau * P.p[j])
            w.qxi[j] = at.qx[j] / tau
        for i in range(q):
            w.r.nu[i] = tau * P.b[i] - at.ax[i]
        for i in range(k):
            w.r.z[i] = (tau * P.d[i] - at.cx[i] - s[i]) * P.present[i]
        rt = -(kappa + f.xqx / tau + f.px + f.by)
        for i in range(k):
            F.e[i] = s[i] / v.z[i] if P.present[i] > 0.0 else 0.0
            F.w[i] = P.present[i] / (F.e[i] + KKT_DELTA)
        if not factorise(P, F, lapack):
            break
        steps += 1
        _right_of_data(P, w.right)
        exact = 1e-3 * mu
        rounds = solve_refined(P, F, w.right, w.fixed, exact, w.of_fixed, w.rest, w.dv, w.t)
        if step == 0 and left_over(F, w.right, w.fixed, w.of_fixed, w.rest) > SUSPICIOUS:
            proven = null_proof(P, F, w)
            if proven != SUCCESS:
                return proven, steps, False
            rounds = solve_refined(P, F, w.right, w.fixed, exact, w.of_fixed, w.rest, w.dv, w.t)
        curvature = -kappa / tau
        for i in range(k):
            curvature -= F.e[i] * w.fixed.z[i] * w.fixed.z[i]
        for j in range(n):
            curvature -= (w.of_fixed.qx[j] - w.qxi[j]) * (w.fixed.x[j] - v.x[j] / tau)
        # predictor
        for i in range(k):
            w.target[i] = -s[i] * v.z[i]
        dtau, dkappa = _direction(P, F, w, 1.0, w.affine, rounds, exact, tau, kappa, rt, -kappa * tau, curvature)
        length = _reach(P, w, w.affine.z, tau, dtau, kappa, dkappa)
        sigma = (1.0 - length) ** 3
        agreed = True
        for i in range(k):
            guess = w.affine.z[i] * s[i] > w.ds[i] * v.z[i] if P.present[i] > 0.0 else False
            agreed = agreed and guess == w.predicted[i]
            w.predicted[i] = guess
        # corrector
        for i in range(k):
            w.target[i] = (sigma * mu - s[i] * v.z[i] - w.affine.z[i] * w.ds[i]) * P.present[i]
        rk = sigma * mu - kappa * tau - dtau * dkappa
        dtau, dkappa = _direction(P, F, w, 1.0 - sigma, w.step, True, exact, tau, kappa, rt, rk, curvature)
        length = BACK_OFF * _reach(P, w, w.step.z, tau, dtau, kappa, dkappa)
        add_step(v, length, w.step)
        for i in range(k):
            s[i] += length * w.ds[i]
        tau += length * dtau
        kappa += length * dkappa
    if best <= tol and _without_noise(P, w, best, tol, fit):
        return SUCCESS, steps, False
    return (MAX_STEPS if steps >= max_steps else NUMERICAL), steps, False
