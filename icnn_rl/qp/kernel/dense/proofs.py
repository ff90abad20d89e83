"""Proofs that there is no solution: a Farkas certificate, or a ray. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.constants import CERTIFIED, NOISE, SHORT
from icnn_rl.qp.kernel.dense.products import add_c_transposed, add_transposed, largest_of, products_at
from icnn_rl.qp.kernel.dense.records import (
    DUAL_INFEASIBLE,
    PRIMAL_INFEASIBLE,
    REACH,
    SUCCESS,
    Array,
    Factor,
    Problem,
    Products,
    Triple,
)
from icnn_rl.qp.kernel.dense.systems import add_step, copy_scaled, left_over, solve_kkt


@inner
def push_inside(v: Array, present: Array) -> None:
    """Make all numbers positive by the same shift if one is not; 0 where there is no row."""
    low = np.inf
    for i in range(len(v)):
        if present[i] > 0.0:
            low = min(low, v[i])
    shift = 1.0 - low if low < 1e-8 else 0.0
    for i in range(len(v)):
        v[i] = v[i] + shift if present[i] > 0.0 else 0.0


@inner
def farkas(P: Problem, v: Triple, at: Products, by: float, y: Triple, slope: Array) -> bool:
    """Whether nu and z prove that no point is feasible, relative to the terms of each sum; y: without their noise."""
    if not by < 0.0 or not max(largest_of(at.aty), largest_of(at.ctz)) < np.inf:
        return False
    off = 0.0
    for j in range(len(slope)):
        off = max(off, abs(at.aty[j] + at.ctz[j]))
    if off > -1e3 * CERTIFIED * by:
        return False
    noise = NOISE * max(largest_of(v.nu), largest_of(v.z))
    for i in range(len(y.nu)):
        y.nu[i] = v.nu[i] if abs(v.nu[i]) > noise else 0.0
    for i in range(len(y.z)):
        y.z[i] = v.z[i] if v.z[i] > noise else 0.0
    slope[:], at.aty[:], at.ctz[:] = 0.0, 0.0, 0.0
    value, weight = 0.0, 0.0
    for i in range(len(y.nu)):
        value += P.b[i] * y.nu[i]
        weight += abs(P.b[i] * y.nu[i])
        for j in range(len(slope)):
            slope[j] += abs(P.A[i, j] * y.nu[i])
    for i in range(len(y.z)):
        value += P.d[i] * y.z[i]
        weight += abs(P.d[i]) * y.z[i]
    m, n = P.G.shape
    for i in range(m):
        for j in range(n):
            slope[j] += abs(P.G[i, j]) * y.z[i]
    for i in range(m, len(y.z)):
        slope[(i - m) % n] += y.z[i]
    add_transposed(P.A, y.nu, 1.0, at.aty)
    add_c_transposed(P, y.z, at.ctz)
    rest, size = 0.0, 1.0  # in the user's data
    for j in range(n):
        if abs(at.aty[j] + at.ctz[j]) > CERTIFIED * slope[j]:
            return False
        rest += abs(at.aty[j] + at.ctz[j]) / P.columns[j]
    for i in range(len(P.b)):
        size = max(size, abs(P.b[i]) * P.units[0] / P.a_rows[i])
    for i in range(len(P.d)):
        size = max(size, abs(P.d[i]) * P.units[0] / P.c_rows[i])
    return bool(value < -SHORT * weight and -value * P.units[0] > REACH * size * rest)


@inner
def is_ray(P: Problem, x: Array, at: Products, px: float) -> bool:
    """Whether the objective falls along x for ever; errors are relative to the user's rows and to x."""
    if not px < 0.0 or not largest_of(x) < np.inf:
        return False
    n, m = len(x), P.G.shape[0]
    size, most, weight, worst = 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        size, weight = max(size, abs(P.columns[j] * x[j])), weight + abs(P.p[j] / P.columns[j])
        curve = P.Q[j, j] if P.Q.shape[1] == n else P.Q[j, 0]
        most = max(most, curve / (P.columns[j] * P.columns[j]))
    for j in range(n):
        worst = max(worst, abs(at.qx[j]) / (P.columns[j] * most) if most > 0.0 else 0.0)
    for i in range(len(P.b)):
        worst = max(worst, abs(at.ax[i]) / _user_norm(P.A[i], P.columns))
    for i in range(m):
        if at.cx[i] * P.present[i] > 0.0:
            worst = max(worst, at.cx[i] / _user_norm(P.G[i], P.columns))
    for i in range(m, len(P.d)):
        worst = max(worst, at.cx[i] * P.present[i] / P.c_rows[i])
    return bool(worst <= CERTIFIED * size and -px > 1e4 * weight * worst and -px > SHORT * weight * size)


@inner
def _user_norm(row: Array, columns: Array) -> float:
    """The largest entry of a row before the columns were scaled."""
    most = 1e-300
    for j in range(len(row)):
        most = max(most, abs(row[j]) / columns[j])
    return most


class Scratch(NamedTuple):
    """Vectors of :func:`interior_point`: the point, right-hand sides, steps; s and its steps; the best point so far."""

    v: Triple
    s: Array
    r: Triple
    right: Triple
    fixed: Triple
    affine: Triple
    step: Triple
    rest: Triple
    dv: Triple
    trial: Triple
    best: Triple
    best_s: Array
    ds: Array
    target: Array
    qxi: Array
    slope: Array
    at: Products
    of_fixed: Products
    of_step: Products
    fit: Array
    trial_fit: Array
    t: Array
    predicted: Array
    tried: Array
    active: Array


@inner
def null_proof(P: Problem, F: Factor, w: Scratch) -> int:
    """The status that a null vector of the system proves, 0 if none. ``w.fixed`` solves for the data, but not well.

    A null vector has Q x = 0, A x = 0, C x = 0, A^T nu = 0 and z = 0, whatever E. Where the right-hand side has a part
    along one, corrections converge to that vector: a line on which the objective falls, or equations that contradict.
    """
    for _ in range(3):
        products_at(P, w.fixed, w.of_fixed)
        left_over(F, w.right, w.fixed, w.of_fixed, w.rest)
        solve_kkt(P, F, w.rest, w.dv, w.t)
        add_step(w.fixed, 1.0, w.dv)
    w.dv.z[:] = 0.0
    products_at(P, w.dv, w.of_fixed)
    if farkas(P, w.dv, w.of_fixed, dot(P.b, w.dv.nu), w.best, w.slope):
        w.best.x[:] = 0.0
        return PRIMAL_INFEASIBLE
    if is_ray(P, w.dv.x, w.of_fixed, dot(P.p, w.dv.x)):
        copy_scaled(w.dv, 1.0, w.best)
        return DUAL_INFEASIBLE
    return SUCCESS
