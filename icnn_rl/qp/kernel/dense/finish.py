"""An answer made exact on its active set. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.qp.constants import FLOOR
from icnn_rl.qp.kernel.dense.products import largest_of, products_at
from icnn_rl.qp.kernel.dense.records import (
    CLEAR,
    EXACT,
    KKT_DELTA,
    NOTHING,
    POLISH,
    SET_CORRECTIONS,
    WRONG_SIGN,
    Array,
    Factor,
    Problem,
    Products,
    Triple,
)
from icnn_rl.qp.kernel.dense.systems import add_step, copy_scaled, factorise, left_over, length_of, lighten, solve_kkt
from icnn_rl.qp.kernel.dense.verdict import holds_closely, judge_point, objective_at


@inner
def _on_set(P: Problem, F: Factor, v: Triple) -> None:
    """Active bounds met exactly, and no multipliers off the set."""
    n, start = len(P.p), P.G.shape[0]
    for i in range(len(v.z)):
        if F.w[i] == 0.0:
            v.z[i] = 0.0
    if P.lower:
        for j in range(n):
            if F.w[start + j] > 0.0:
                v.x[j] = -P.d[start + j]
        start += n
    if P.upper:
        for j in range(n):
            if F.w[start + j] > 0.0:
                v.x[j] = P.d[start + j]


@inner
def _flip_wrong(P: Problem, v: Triple, at: Products, active: Array, tolerance: float) -> bool:
    """Drop active rows with z < 0 and add others that are violated; whether there were any."""
    some = False
    low = -tolerance * largest_of(v.z)
    size = 1.0 + largest_of(v.x)
    for i in range(len(active)):
        if P.present[i] > 0.0:
            wrong = v.z[i] < low if active[i] else at.cx[i] - P.d[i] > tolerance * (size + abs(P.d[i]))
            if wrong:
                active[i], some = not active[i], True
    return some


@inner
def _clean(a: Array, out: Array) -> bool:
    """a, next to nothing of which is 0; whether something was."""
    some = False
    for i in range(len(a)):
        nothing = 0.0 < abs(a[i]) < NOTHING
        some, out[i] = some or nothing, 0.0 if nothing else a[i]
    return some


@inner
def _cleaned(v: Triple, out: Triple) -> bool:
    some = _clean(v.x, out.x)
    some = _clean(v.nu, out.nu) or some
    return bool(_clean(v.z, out.z) or some)


@inner
def _polished(
    P: Problem, F: Factor, v: Triple, at: Products, r: Triple, rest: Triple, dv: Triple, t: Array, fit: Array
) -> float:
    """The residual of a point of a settled set, after more corrections where all that is left of it is rounding."""
    before = np.inf
    for _ in range(POLISH):
        for i in range(len(v.z)):
            v.z[i] = max(v.z[i], 0.0)
        if _cleaned(v, dv):
            products_at(P, dv, at)
            now = judge_point(P, dv, at, objective_at(P, dv, at), 1.0, fit)
            if now <= EXACT and holds_closely(P, dv, at, fit, EXACT):
                copy_scaled(dv, 1.0, v)
                return float(now)
        products_at(P, v, at)
        now = judge_point(P, v, at, objective_at(P, v, at), 1.0, fit)
        if now <= EXACT or not now < before:
            return float(now)
        before = now
        left_over(F, r, v, at, rest)
        solve_kkt(P, F, rest, dv, t)
        add_step(v, 1.0, dv)
        _on_set(P, F, v)
    return float(before)


@inner
def finish_on_set(
    P: Problem,
    F: Factor,
    v: Triple,
    active: Array,
    changes: int,
    at: Products,
    r: Triple,
    rest: Triple,
    dv: Triple,
    t: Array,
    fit: Array,
    lapack: tuple[int, int, int, int],
) -> tuple[float, int]:
    """Active-set steps from v, which becomes the point of the set; its residual, and the factorisations."""
    for j in range(len(P.p)):
        r.x[j] = -P.p[j]
    for i in range(len(P.b)):
        r.nu[i] = P.b[i]
    for i in range(len(P.d)):
        r.z[i] = P.d[i]
    exact = 1e-15 * min(1.0, P.floors[5] / FLOOR)
    for change in range(changes):
        for i in range(len(active)):
            F.e[i] = 0.0
            F.w[i] = 1.0 / KKT_DELTA if active[i] and P.present[i] > 0.0 else 0.0
        if not factorise(P, F, lapack):
            return np.inf, change + 1
        before, wrong = np.inf, False
        for correction in range(SET_CORRECTIONS + 1):
            _on_set(P, F, v)
            products_at(P, v, at)
            error = left_over(F, r, v, at, rest)
            if correction == 1 and _flip_wrong(P, v, at, active, CLEAR):
                wrong = True
                break
            if not abs(error) < np.inf or (correction > 0 and (error <= exact or error > 0.3 * before)):
                break
            before = error
            solve_kkt(P, F, rest, dv, t)
            add_step(v, 1.0, dv)
        if not wrong and error > 1e-13 * (1.0 + length_of(v)) and lighten(F):
            continue
        if not wrong and not _flip_wrong(P, v, at, active, WRONG_SIGN):
            return _polished(P, F, v, at, r, rest, dv, t, fit), change + 1
    return np.inf, changes
