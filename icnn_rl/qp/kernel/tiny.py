"""The method of :mod:`icnn_rl.qp.active_set`, compiled: for problems so tiny that calling torch is most of the cost.

A block of :data:`LANES` rows is solved at a time, all of them lane by lane in the same registers (:mod:`.simd`), and
stays in the first cache: start point, interior-point steps, active-set steps and corrections, as in ``active_set.py``
and ``driver.py``, with the same constants. Rows whose set has settled keep it while their neighbours move on; what
has not settled by the end of a phase is sorted into new blocks for the next. Rows that are not solved to the tolerance
are left to torch.

Arrays of a block have the shape (size, LANES); a matrix (i, j) of n columns is at i n + j. The names are those of
``active_set.py``. C is written out, bounds too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from icnn_rl.compiling import kept
from icnn_rl.qp.constants import BACK_OFF, CORRECTIONS, DELTA, FLOOR, LEAST, PENALTY, SIGN, SINGULAR, TINY, UNMET
from icnn_rl.qp.kernel.simd import LANES, count, less, load, magnitude, maximum, splat, sqrt, store, where

Array = np.ndarray[Any, np.dtype[Any]]

#: Of the numbers that depend on the dtype, those of float64.
_SIGN, _UNMET, _TINY = (numbers[torch.float64] for numbers in (SIGN, UNMET, TINY))
#: z of rows that are absent: next to nothing, but large enough to divide by.
_NOTHING = 1e-100
#: A residual that needs no correction; smaller than in driver.py, for here all systems are regularised like Primal's.
_EXACT = 50.0 * 2.0**-52


def _jit(function: Any) -> Any:
    # a call that is not inlined copies all pointers of a block, which costs as much as a third of what it then does
    return kept(function, forceinline=True)


class _Block(NamedTuple):
    """The data, the point, and scratch of the rows at work."""

    # problem; ``present`` is 1 where a row of C exists, unit is |c|^2 / curvature, per_unit 1 / unit
    Q: Array
    p: Array
    C: Array
    d: Array
    present: Array
    norms: Array
    unit: Array
    per_unit: Array
    # of certificates.Yardstick: the floors of lengths and forces, |x|^2 before, the floor of scaled forces; the columns
    scale: Array
    columns: Array
    # point
    x: Array
    z: Array
    s: Array
    active: Array
    # factor: w, L, 1 / L_jj
    w: Array
    L: Array
    pivots: Array
    # right-hand sides, solution, C dx, the step of s, 1 / z and 1 / s
    rx: Array
    rc: Array
    target: Array
    dx: Array
    dz: Array
    cdx: Array
    ds: Array
    per_z: Array
    per_s: Array
    # the best point of the corrections; primal, dual and duality gap, relative, and the gap itself, now and at the best
    best_x: Array
    best_z: Array
    best_s: Array
    fit: Array
    best_fit: Array
    t: Array


@_jit
def _room(size: int) -> Array:
    """Zeros that start where a cache line does: a load of one line costs half as much as one of two halves."""
    numbers = np.zeros((size + 1) * LANES)
    start = -(numbers.ctypes.data // 8) % LANES
    return numbers[start : start + size * LANES].reshape(size, LANES)


@_jit
def _new_block(n: int, k: int) -> _Block:
    return _Block(
        _room(n * n), _room(n), _room(k * n), _room(k), _room(k), _room(k), _room(k), _room(k), _room(4), _room(n),
        _room(n), _room(k), _room(k), _room(k),
        _room(k), _room(n * n), _room(n),
        _room(n), _room(k), _room(k), _room(n), _room(k), _room(k), _room(k), _room(k), _room(k),
        _room(n), _room(k), _room(k), _room(5), _room(5), _room(k),
    )  # fmt: skip


@_jit
def _read(b: _Block, lane: int, row: int, Q: Array, p: Array, G: Array, d: Array, lower: bool) -> bool:
    """Copy a row of the batch into a lane; whether its numbers are finite, infinite d apart, which is no constraint."""
    total = _read_matrices(b, lane, row, Q, G, lower)
    for j in range(p.shape[1]):
        b.p[j, lane] = p[row, j]
        total += p[row, j]
    for i in range(d.shape[1]):
        exists = d[row, i] != np.inf
        b.present[i, lane] = 1.0 if exists else 0.0
        b.d[i, lane] = d[row, i] if exists else 0.0
        total += b.d[i, lane]
    return bool(np.isfinite(total))


@_jit
def _read_matrices(b: _Block, lane: int, row: int, Q: Array, G: Array, lower: bool) -> float:
    """Q and C; returns a sum that is not finite if one number is not."""
    n, m, k = len(b.p), G.shape[1], len(b.d)
    row_q, row_g = min(row, Q.shape[0] - 1), min(row, G.shape[0] - 1)
    total = 0.0
    for j in range(n):
        for i in range(n):
            b.Q[i * n + j, lane] = 0.5 * (Q[row_q, i, j] + Q[row_q, j, i])
            total += Q[row_q, i, j]
    for i in range(m):
        for j in range(n):
            b.C[i * n + j, lane] = G[row_g, i, j]
            total += G[row_g, i, j]
    for i in range(m, k):  # all else in these rows of the block stays 0
        b.C[i * n + (i - m) % n, lane] = -1.0 if lower and i < m + n else 1.0
    return total


@_jit
def _set_up(b: _Block) -> Any:
    """Norms and scales, and the mask of the rows whose Q is positive definite."""
    n, k = len(b.p), len(b.d)
    trace, largest = splat(0.0), splat(0.0)
    for j in range(n):
        trace = trace + load(b.Q, j * n + j)
        largest = maximum(largest, load(b.Q, j * n + j))
    for i in range(n * n):
        store(b.L, i, load(b.Q, i))
    _cholesky(b)
    definite = splat(1.0)
    for j in range(n):
        definite = definite * less(SINGULAR * largest, load(b.L, j * n + j) * load(b.L, j * n + j))
    mean, curvature = splat(0.0), trace / n
    for i in range(k):
        square = splat(0.0)
        for j in range(n):
            square = square + load(b.C, i * n + j) * load(b.C, i * n + j)
        store(b.unit, i, square)
        mean = mean + square
    mean = where(less(0.0, mean), mean / k, 1.0)
    short, per_curvature = splat(np.inf), 1.0 / curvature
    for i in range(k):
        square = load(b.unit, i)
        norm, unit = sqrt(square), where(less(0.0, square), square, mean) * per_curvature
        store(b.norms, i, norm)
        store(b.unit, i, unit)
        store(b.per_unit, i, 1.0 / unit)
        distance = magnitude(load(b.d, i)) * norm * per_curvature * load(b.per_unit, i)  # |d| / |c|; 0 where c = 0
        short = where(less(0.0, distance) * less(distance, short), distance, short)
    p = splat(0.0)
    for j in range(n):
        p = maximum(p, magnitude(load(b.p, j)))
    free = p / largest
    short = where(less(0.0, free) * less(free, short), free, short)
    store(b.scale, 0, FLOOR * where(less(short, np.inf), short, 1.0))
    store(b.scale, 1, FLOOR * p)
    scaled = splat(0.0)
    for j in range(n):
        column = 1.0 / sqrt(load(b.Q, j * n + j))
        store(b.columns, j, column)
        scaled = maximum(scaled, column * magnitude(load(b.p, j)))
    store(b.scale, 3, FLOOR * scaled)
    return definite


@_jit
def _hessian(b: _Block) -> None:
    """Q + C^T W C, its lower half in L, two by two: what is loaded serves two sums."""
    n, k = len(b.p), len(b.d)
    for j in range(0, n, 2):
        after_j = min(j + 1, n - 1)  # the last one twice where n is odd
        for i in range(j, n, 2):
            after_i = min(i + 1, n - 1)
            h, h_j = load(b.Q, i * n + j), load(b.Q, i * n + after_j)
            h_i, h_ij = load(b.Q, after_i * n + j), load(b.Q, after_i * n + after_j)
            for r in range(k):
                w, c, c_i = load(b.w, r), load(b.C, r * n + i), load(b.C, r * n + after_i)
                wc, wc_j = w * load(b.C, r * n + j), w * load(b.C, r * n + after_j)
                h, h_j, h_i, h_ij = h + c * wc, h_j + c * wc_j, h_i + c_i * wc, h_ij + c_i * wc_j
            store(b.L, i * n + j, h)
            store(b.L, i * n + after_j, h_j)
            store(b.L, after_i * n + j, h_i)
            store(b.L, after_i * n + after_j, h_ij)


@_jit
def _factor(b: _Block) -> None:
    """L L^T = Q + C^T W C."""
    _hessian(b)
    _cholesky(b)


@_jit
def _cholesky(b: _Block) -> None:
    """Replace the lower half of a matrix in L by its factor."""
    n, pivot = len(b.p), splat(0.0)
    for j in range(n):
        for i in range(j, n):
            h = load(b.L, i * n + j)
            for r in range(j):
                h = h - load(b.L, i * n + r) * load(b.L, j * n + r)
            if i == j:
                pivot = 1.0 / sqrt(h)
                store(b.pivots, j, pivot)
            store(b.L, i * n + j, h * pivot)


@_jit
def _solve_kkt(b: _Block, rc: Array) -> None:
    """dx = H^{-1} (rx + C^T W rc) and dz = W (C dx - rc)."""
    n, k = len(b.p), len(b.d)
    for i in range(k):
        store(b.t, i, load(b.w, i) * load(rc, i))
    for j in range(n):
        y = load(b.rx, j)
        for i in range(k):
            y = y + load(b.C, i * n + j) * load(b.t, i)
        for r in range(j):
            y = y - load(b.L, j * n + r) * load(b.dx, r)
        store(b.dx, j, y * load(b.pivots, j))
    for j in range(n - 1, -1, -1):
        y = load(b.dx, j)
        for r in range(j + 1, n):
            y = y - load(b.L, r * n + j) * load(b.dx, r)
        store(b.dx, j, y * load(b.pivots, j))
    for i in range(k):
        c = _row(b.C, i, b.dx)
        store(b.cdx, i, c)
        store(b.dz, i, load(b.w, i) * (c - load(rc, i)))


@_jit
def _row(matrix: Array, i: int, x: Array) -> Any:
    """The i-th number of a matrix times x."""
    n = len(x)
    total = splat(0.0)
    for j in range(n):
        total = total + load(matrix, i * n + j) * load(x, j)
    return total


@_jit
def _column(matrix: Array, j: int, n: int, z: Array) -> Any:
    """The j-th number of a transposed matrix times z."""
    total = splat(0.0)
    for i in range(len(z)):
        total = total + load(matrix, i * n + j) * load(z, i)
    return total


@_jit
def _left(b: _Block) -> None:
    """What the point leaves of the equations: rx = -(Q x + p + C^T z), rc = d - C x."""
    n, k = len(b.p), len(b.d)
    for j in range(n):
        store(b.rx, j, -(_row(b.Q, j, b.x) + load(b.p, j) + _column(b.C, j, n, b.z)))
    for i in range(k):
        store(b.rc, i, load(b.d, i) - _row(b.C, i, b.x))


@_jit
def _start(b: _Block) -> None:
    """``active_set.start_point``."""
    n, k = len(b.p), len(b.d)
    for i in range(k):
        store(b.w, i, load(b.present, i) * load(b.per_unit, i) * (1.0 / (PENALTY + DELTA)))
        store(b.rc, i, load(b.d, i))
    for j in range(n):
        store(b.rx, j, -load(b.p, j))
    _factor(b)
    _solve_kkt(b, b.rc)
    longest = splat(0.0)
    for j in range(n):
        store(b.x, j, load(b.dx, j))
        longest = maximum(longest, magnitude(load(b.dx, j)))
    size, steepest = splat(0.0), splat(0.0)
    for i in range(k):
        root = sqrt(PENALTY * load(b.unit, i))
        per_root = root * load(b.per_unit, i) * (1.0 / PENALTY)
        t = (load(b.d, i) - load(b.cdx, i)) * per_root * load(b.present, i)
        store(b.t, i, t)
        store(b.per_s, i, root)
        store(b.per_z, i, per_root)
        size = size + t * t
        steepest = maximum(steepest, load(b.norms, i) * per_root)
    least = LEAST * maximum(sqrt(size / k), 1e-3 * longest * steepest)
    least = where(less(0.0, least), least, 1.0)
    for i in range(k):
        t, root, per_root = load(b.t, i), load(b.per_s, i), load(b.per_z, i)
        store(b.z, i, where(load(b.present, i), maximum(-t, least) * per_root, _NOTHING))
        store(b.s, i, maximum(t, least) * root)


@_jit
def _interior_point_steps(b: _Block, steps: int) -> None:
    """``active_set.interior_point_steps``."""
    n, k = len(b.p), len(b.d)
    rows = splat(0.0)
    for i in range(k):
        rows = rows + load(b.present, i)
    _left(b)
    for _ in range(steps):
        mu = splat(0.0)
        for i in range(k):
            z, s = load(b.z, i), load(b.s, i)
            regular = s + DELTA * load(b.unit, i) * z
            per_all = 1.0 / (s * z * regular)  # one division for three: they cost more than all else in these loops
            store(b.w, i, load(b.present, i) * z * (s * z) * per_all)
            store(b.per_z, i, s * regular * per_all)
            store(b.per_s, i, z * regular * per_all)
            mu = mu + s * z * load(b.present, i)
        _factor(b)
        _solve_kkt(b, b.rc)
        step = _step_length(b)
        after = splat(0.0)
        for i in range(k):
            z, s, dz, ds = load(b.z, i), load(b.s, i), load(b.dz, i), load(b.ds, i)
            store(b.active, i, less(ds * z, dz * s) * load(b.present, i))
            after = after + (s + step * ds) * (z + step * dz) * load(b.present, i)
        ratio = after / mu
        aim = where(less(0.0, mu), ratio * ratio * ratio * mu / rows, 0.0)
        for i in range(k):
            off = (load(b.ds, i) * load(b.dz, i) - aim) * load(b.present, i)
            store(b.target, i, load(b.rc, i) + off * load(b.per_z, i))
        _solve_kkt(b, b.target)
        step = BACK_OFF * _step_length(b)
        for j in range(n):
            store(b.x, j, load(b.x, j) + step * load(b.dx, j))
            store(b.rx, j, load(b.rx, j) - step * load(b.rx, j))
        for i in range(k):
            store(b.z, i, load(b.z, i) + step * load(b.dz, i))
            store(b.s, i, load(b.s, i) + step * load(b.ds, i))
            store(b.rc, i, load(b.rc, i) - step * load(b.cdx, i))


@_jit
def _step_length(b: _Block) -> Any:
    """ds, and the largest step <= 1 that keeps s and z >= 0."""
    fastest = splat(1.0)
    for i in range(len(b.d)):
        ds = (load(b.rc, i) - load(b.s, i) - load(b.cdx, i)) * load(b.present, i)
        store(b.ds, i, ds)
        fastest = maximum(maximum(fastest, -ds * load(b.per_s, i)), -load(b.dz, i) * load(b.per_z, i))
    return 1.0 / fastest


@_jit
def _on_set(b: _Block, m: int, lower: bool) -> None:
    """``active_set.on_set``: active bounds met exactly, z = 0 where nothing is active."""
    n = len(b.p)
    for i in range(len(b.d)):
        active = load(b.active, i)
        store(b.z, i, where(active, load(b.z, i), 0.0))
        if i >= m:
            j, d = (i - m) % n, load(b.d, i)
            store(b.x, j, where(active, -d if lower and i < m + n else d, load(b.x, j)))


@_jit
def _factor_active(b: _Block) -> None:
    for i in range(len(b.d)):
        store(b.w, i, where(load(b.active, i), load(b.present, i) * load(b.per_unit, i) * (1.0 / DELTA), 0.0))
    _factor(b)


@_jit
def _solve_on_set(b: _Block, m: int, lower: bool) -> None:
    """``active_set.solve_on_set``."""
    n, k = len(b.p), len(b.d)
    before = splat(0.0)
    for j in range(n):
        before = before + load(b.x, j) * load(b.x, j)
    store(b.scale, 2, before)
    _on_set(b, m, lower)
    _left(b)
    _solve_kkt(b, b.rc)
    for j in range(n):
        store(b.x, j, load(b.x, j) + load(b.dx, j))
    for i in range(k):
        store(b.z, i, load(b.z, i) + load(b.dz, i))
        store(b.s, i, load(b.d, i) - _row(b.C, i, b.x))


@_jit
def _change_set(b: _Block, done: Any) -> Any:
    """``active_set.wrong_side``: move constraints on the wrong side, except in lanes that are done. Returns which lanes
    are done now: those with none left."""
    largest, square = splat(0.0), load(b.scale, 2)
    for i in range(len(b.d)):
        largest = maximum(largest, magnitude(load(b.z, i) * load(b.norms, i)))
    for j in range(len(b.p)):
        square = square + load(b.x, j) * load(b.x, j)
    size, unsettled = sqrt(square), splat(0.0)
    for i in range(len(b.d)):
        active, norm, s = load(b.active, i), load(b.norms, i), load(b.s, i)
        length = magnitude(load(b.d, i)) + norm * size
        out = less(load(b.z, i) * norm, -_SIGN * largest)
        wrong = where(active, out, less(s, -_SIGN * length)) * load(b.present, i)
        unsettled = maximum(unsettled, maximum(wrong, active * less(_UNMET * length, magnitude(s))))
        store(b.active, i, where(done, active, magnitude(active - wrong)))
    return maximum(done, 1.0 - unsettled)


@_jit
def _residuals(b: _Block, m: int) -> Any:
    """``certificates.residuals`` in ``fit``, and the largest; leaves rx and rc behind."""
    n, k = len(b.p), len(b.d)
    square, off, force, balance = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    scaled_off, scaled_force, value, bound = splat(0.0), load(b.scale, 3), splat(0.0), splat(0.0)
    work_q, work_p, work_d = splat(0.0), splat(0.0), splat(0.0)
    for j in range(n):
        x, p, column = load(b.x, j), load(b.p, j), load(b.columns, j)
        q, c = _row(b.Q, j, b.x), _column(b.C, j, n, b.z)
        left = q + p + c
        store(b.rx, j, -left)
        pull = maximum(maximum(magnitude(q), magnitude(p)), magnitude(c))
        square, off, force = square + x * x, maximum(off, magnitude(left)), maximum(force, pull)
        scaled_off = maximum(scaled_off, column * magnitude(left))
        scaled_force = maximum(scaled_force, column * pull)
        work_q, work_p, balance = work_q + magnitude(q * x), work_p + magnitude(p * x), balance + (q + p) * x
        value, bound = value + (0.5 * q + p) * x, bound + 0.5 * q * x
    size, excess, total, primal = sqrt(square), splat(0.0), square, splat(0.0)
    worst, largest = splat(0.0), splat(0.0)
    for i in range(k):
        if i == m:  # rows of G end, bounds begin
            primal, worst, largest = worst / (1.0 + largest), splat(0.0), splat(0.0)
        d, z = load(b.d, i), load(b.z, i)
        cx = _row(b.C, i, b.x)
        s = d - cx
        store(b.rc, i, s)
        largest = maximum(maximum(largest, magnitude(d)), magnitude(cx))
        over = -s * load(b.present, i)
        if count(less(0.0, over)) > 0:  # the others need no division
            worst = maximum(worst, over)
            length = maximum(magnitude(d) + load(b.norms, i) * size, load(b.norms, i) * load(b.scale, 0))
            excess = maximum(excess, over / maximum(length, _TINY))
        work_d, balance, total = work_d + magnitude(d * z), balance + d * z, total + z
        bound = bound + d * z
    primal = maximum(primal, worst / (1.0 + largest))
    floored = maximum(force, load(b.scale, 1))
    work = maximum(maximum(maximum(floored * load(b.scale, 0), work_q), work_p), work_d)
    dual, gap = off / (1.0 + force), magnitude(balance) / (1.0 + maximum(magnitude(value), magnitude(bound)))
    relative = maximum(excess, maximum(off / maximum(floored, _TINY), scaled_off / maximum(scaled_force, _TINY)))
    relative = maximum(relative, magnitude(balance) / maximum(work, _TINY))
    nan = total * 0.0  # comparisons drop a NaN
    store(b.fit, 0, primal + nan)
    store(b.fit, 1, dual + nan)
    store(b.fit, 2, gap + nan)
    store(b.fit, 3, relative + nan)
    store(b.fit, 4, magnitude(balance))
    return maximum(maximum(primal, dual), maximum(gap, relative)) + nan


@_jit
def _correct(b: _Block, done: Any, m: int, lower: bool) -> Any:
    """``driver._correct``: the best point in ``best_*``, and its residual."""
    n, k = len(b.p), len(b.d)
    best = splat(np.inf)
    _on_set(b, m, lower)
    for _ in range(CORRECTIONS):
        for i in range(k):
            store(b.z, i, maximum(load(b.z, i), 0.0))
        now = _residuals(b, m)
        better, progress = less(now, best), less(now, 0.5 * best)
        for j in range(n):
            store(b.best_x, j, where(better, load(b.x, j), load(b.best_x, j)))
        for i in range(k):
            store(b.best_z, i, where(better, load(b.z, i), load(b.best_z, i)))
            store(b.best_s, i, where(better, load(b.rc, i), load(b.best_s, i)))
        for i in range(5):
            store(b.best_fit, i, where(better, load(b.fit, i), load(b.best_fit, i)))
        best = where(better, now, best)
        if count(done * progress * less(_EXACT, best)) == 0:
            break
        _solve_kkt(b, b.rc)
        for j in range(n):
            store(b.x, j, load(b.x, j) + load(b.dx, j))
        for i in range(k):
            store(b.z, i, load(b.z, i) + load(b.dz, i))
        _on_set(b, m, lower)
    return best


class Found(NamedTuple):
    """Rows of the batch: what :class:`icnn_rl.qp.outcome.Outcome` asks for, slack, and the factor (U = L^T)."""

    x: Array
    z: Array
    s: Array
    active: Array
    w: Array
    U: Array
    fit: Array
    steps: Array
    status: Array


@_jit
def _write(b: _Block, lane: int, row: int, steps: int, found: Found) -> None:
    """Copy what was found out of a lane."""
    n, k = len(b.p), len(b.d)
    for j in range(n):
        found.x[row, j] = b.best_x[j, lane]
        for i in range(n):
            found.U[row, j, i] = b.L[i * n + j, lane] if j <= i else 0.0
    for i in range(k):
        found.z[row, i] = b.best_z[i, lane]
        found.s[row, i] = b.best_s[i, lane] if b.present[i, lane] > 0.0 else np.inf
        found.active[row, i] = b.active[i, lane] * b.present[i, lane] > 0.0
        found.w[row, i] = b.w[i, lane]
    for i in range(5):
        found.fit[i, row] = b.best_fit[i, lane]
    found.steps[row] = steps
    found.status[row] = 0


@_jit
def _keep(b: _Block, lane: int, row: int, found: Found) -> None:
    """Copy the interior point out of a lane, to go on from it in the next phase."""
    for j in range(len(b.p)):
        found.x[row, j] = b.x[j, lane]
    for i in range(len(b.d)):
        found.z[row, i], found.s[row, i] = b.z[i, lane], b.s[i, lane]


@_jit
def _resume(b: _Block, lane: int, row: int, found: Found) -> None:
    for j in range(len(b.p)):
        b.x[j, lane] = found.x[row, j]
    for i in range(len(b.d)):
        b.z[i, lane], b.s[i, lane] = found.z[row, i], found.s[row, i]


@_jit
def solve_blocks(
    Q: Array,
    p: Array,
    G: Array,
    d: Array,
    lower: bool,
    guess: Array,
    tol: float,
    max_steps: int,
    phases: Array,
    found: Found,
) -> int:
    """``active_set.find_active_sets`` and corrections. Returns how many rows stay unsolved, or -1 if some Q is not
    positive definite."""
    b, m = _new_block(p.shape[1], d.shape[1]), G.shape[1]
    rows, lanes, steps = np.zeros(LANES, np.int64), np.zeros((2, LANES)), np.zeros(LANES, np.int64)
    pending, number, solved = np.arange(p.shape[0]), p.shape[0], 0
    started, spent = False, 0
    for interior, exact in phases:
        first = interior > 0 and not started
        if spent + first + interior >= max_steps:
            break
        spent, rest = spent + interior + first, 0
        for block in range(0, number, LANES):
            for lane in range(LANES):
                rows[lane] = pending[min(block + lane, number - 1)]  # the last row fills up
                lanes[0, lane] = _read(b, lane, rows[lane], Q, p, G, d, lower)
                if started:
                    _resume(b, lane, rows[lane], found)
                elif interior == 0:
                    _take_guess(b, lane, rows[lane], guess)
            done = 1.0 - load(lanes, 0)
            if count((1.0 - done) * (1.0 - _set_up(b))) > 0:
                return -1
            if first:
                _start(b)
            if interior > 0:
                _interior_point_steps(b, interior)
                for lane in range(LANES):
                    _keep(b, lane, rows[lane], found)
            for attempt in range(exact):
                _factor_active(b)
                _solve_on_set(b, m, lower)
                store(lanes, 1, done)
                done = _change_set(b, done)
                for lane in range(LANES):
                    if lanes[1, lane] == 0.0:
                        steps[lane] = spent + attempt + 1
                if count(done) == LANES or spent + attempt + 1 >= max_steps:
                    break
            best = _correct(b, done, m, lower)
            store(lanes, 0, load(lanes, 0) * done * (1.0 - less(tol, best)) * less(best, np.inf))
            store(lanes, 1, done)
            for lane in range(min(LANES, number - block)):
                if lanes[0, lane] > 0.0:
                    _write(b, lane, rows[lane], steps[lane], found)
                    solved += 1
                else:  # also where a set settled that is not the solution's: the next attempt starts closer
                    pending[rest] = rows[lane]
                    rest += 1
        started, spent, number = interior > 0, spent + exact, rest
        if number == 0:
            break
    return len(p) - solved


@_jit
def _take_guess(b: _Block, lane: int, row: int, guess: Array) -> None:
    for j in range(len(b.p)):
        b.x[j, lane] = 0.0
    for i in range(len(b.d)):
        b.z[i, lane] = 0.0
        b.active[i, lane] = b.present[i, lane] if guess[row, i] else 0.0


@_jit
def inverse(
    Q: Array, G: Array, lower: bool, w: Array, U: Array, rx: Array, rc: Array, corrections: int, dx: Array, dz: Array
) -> None:
    """K^{-1} (rx, rc), K the matrix of the active sets: what solves the problem of p = -rx and d = rc on them."""
    (batch, n), k = rx.shape, rc.shape[1]
    b = _new_block(n, k)
    for block in range(0, batch, LANES):
        for lane in range(LANES):
            row = min(block + lane, batch - 1)
            _read_matrices(b, lane, row, Q, G, lower)
            for j in range(n):
                b.p[j, lane], b.x[j, lane] = -rx[row, j], 0.0
                b.pivots[j, lane] = 1.0 / U[row, j, j]
                for i in range(j, n):
                    b.L[i * n + j, lane] = U[row, j, i]
            for i in range(k):
                b.d[i, lane], b.z[i, lane], b.w[i, lane] = rc[row, i], 0.0, w[row, i]
        for _ in range(1 + corrections):
            _left(b)
            _solve_kkt(b, b.rc)
            for j in range(n):
                store(b.x, j, load(b.x, j) + load(b.dx, j))
            for i in range(k):
                store(b.z, i, load(b.z, i) + load(b.dz, i))
        for lane in range(min(LANES, batch - block)):
            for j in range(n):
                dx[block + lane, j] = b.x[j, lane]
            for i in range(k):
                dz[block + lane, i] = b.z[i, lane]


@_jit
def minus_outers(u: Array, v: Array, s: Array, t: Array, out: Array) -> None:
    """-(u v^T + s t^T), a row each."""
    for row in range(len(out)):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                out[row, i, j] = -(u[row, i] * v[row, j] + s[row, i] * t[row, j])
