"""What a point is worth: residuals and gap beside the sizes of their terms. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.constants import FLOOR
from icnn_rl.qp.kernel.dense.products import products_at
from icnn_rl.qp.kernel.dense.records import Array, Problem, Products, Triple, inlined


class Objective(NamedTuple):
    """x^T Q x, p^T x, b^T nu + d^T z of a point that tau has not divided yet."""

    xqx: float
    px: float
    by: float


@inlined
def objective_at(P: Problem, v: Triple, at: Products) -> Objective:
    return Objective(dot(at.qx, v.x), dot(P.p, v.x), dot(P.b, v.nu) + dot(P.d, v.z))


@inner
def judge_point(P: Problem, v: Triple, at: Products, f: Objective, tau: float, fit: Array) -> float:
    """``certificates.residuals`` of the point over tau; the largest, the sum of |z_i s_i| one of them.

    The gap is that sum with signs, so that rows that are broken make up for others that are slack.
    """
    n, q, m, k = len(P.p), len(P.b), P.G.shape[0], len(P.d)
    length, cost, per = P.units[0], P.units[1], 1.0 / tau
    error, force, scaled_error, scaled_force = 0.0, 0.0, 0.0, P.floors[1]
    total, square, work_q, work_p = 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        qx, p, aty, ctz, x = per * at.qx[j], P.p[j], per * at.aty[j], per * at.ctz[j], per * v.x[j]
        off, term = abs(qx + p + aty + ctz), max(abs(qx), abs(p), abs(aty), abs(ctz))
        error, force = max(error, P.measures[0, j] * off), max(force, P.measures[0, j] * term)
        scaled_error = max(scaled_error, P.measures[1, j] * off)
        scaled_force = max(scaled_force, P.measures[1, j] * term)
        square, total = square + (P.columns[j] * x) ** 2, total + off
        work_q, work_p = work_q + abs(qx * x), work_p + abs(p * x)
    size = math.sqrt(square)
    fit[1] = error / (1.0 + force)
    force = max(force, P.floors[0])
    relative = max(_over(error, force), _over(scaled_error, scaled_force))
    work_b, work_d, apart, primal, error, term = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(q):
        ax, b, unit = per * at.ax[i], P.b[i], P.norms[1, i]
        off = abs(ax - b)
        relative = max(relative, _over(off, _row_size(P.norms[0, i], abs(b), size, P.floors[2], P.floors[3])))
        error, term, total = max(error, unit * off), max(term, unit * max(abs(ax), abs(b))), total + off
        work_b += abs(per * b * v.nu[i])
    primal = error / (1.0 + term)
    for start, end in ((0, m), (m, k)):
        error, term = 0.0, 0.0
        for i in range(start, end):
            cx, d, unit = per * at.cx[i] * P.present[i], P.d[i], P.norms[1, q + i]
            off = max(cx - d, 0.0)
            if off > 0.0:
                relative = max(relative, off / _row_size(P.norms[0, q + i], abs(d), size, P.floors[2], P.floors[4]))
            error, term, total = max(error, unit * off), max(term, unit * max(abs(cx), abs(d))), total + abs(cx)
            work_d += abs(per * d * v.z[i])
            apart += abs(per * (cx - d) * v.z[i])
        primal = max(primal, error / (1.0 + term))
    fit[0] = primal
    xqx, px, by = per * per * f.xqx, per * f.px, per * f.by
    gap, value = abs(xqx + px + by) / cost, max(abs(0.5 * xqx + px), abs(0.5 * xqx + by)) / cost
    fit[2], fit[4] = gap / (1.0 + value), gap
    work = max(work_q, work_p, work_b, work_d) / cost
    fit[3] = max(relative, _over(gap, max(work, force * length * P.floors[2])))
    apart = _over(apart / cost, max(work, P.floors[0] / FLOOR * (length * P.floors[2] / FLOOR)))
    if not abs(total + gap) < np.inf:  # maxima do not see a NaN
        fit[:] = np.inf
    return float(max(fit[0], fit[1], fit[2], fit[3], apart))


@inner
def holds_closely(P: Problem, v: Triple, at: Products, fit: Array, tol: float) -> bool:
    """Whether the point is within the tolerance even if the shortest length that the data name is no rounding."""
    if P.floors[5] >= P.floors[2]:
        return True
    length, relative, P.floors[2] = P.floors[2], fit[3], P.floors[5]
    products_at(P, v, at)
    error = judge_point(P, v, at, objective_at(P, v, at), 1.0, fit)
    P.floors[2], fit[3] = length, relative
    return bool(error <= tol)


@inner
def _over(error: float, size: float) -> float:
    """error / size, and 0 where both are 0."""
    return error / size if error > 0.0 else 0.0


@inner
def _row_size(norm: float, right: float, size: float, floor: float, of_zeros: float) -> float:
    """What an error of a row is compared with."""
    return max(right + norm * size, norm * floor if norm > 0.0 else of_zeros)
