"""A batch, row by row. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import numpy as np

from icnn_rl.compiling import inner, jit
from icnn_rl.qp.kernel.dense.finish import finish_on_set
from icnn_rl.qp.kernel.dense.interior import interior_point, needed_residual
from icnn_rl.qp.kernel.dense.products import c_times, largest_of, products_at, put
from icnn_rl.qp.kernel.dense.records import (
    DUAL_INFEASIBLE,
    FAR,
    KKT_DELTA,
    KKT_RHO,
    LAPACK,
    NEGATIVE_EIGENVALUE,
    NUMERICAL,
    SUCCESS,
    WARM_CHANGES,
    Array,
    Factor,
    Found,
    Problem,
    Scales,
    Triple,
)
from icnn_rl.qp.kernel.dense.room import (
    new_factor,
    new_problem,
    new_products,
    new_room,
    new_scratch,
    triple,
    vector,
    write_nothing,
)
from icnn_rl.qp.kernel.dense.scaling import equilibrate, power_of_two, scale_into, set_norms, set_up
from icnn_rl.qp.kernel.dense.systems import add_step, factored_in_place, factorise, left_over, length_of, solve_kkt
from icnn_rl.qp.kernel.dense.verdict import holds_closely
from icnn_rl.qp.kernel.lapack import set_threads


@inner
def _total(M: Array) -> float:
    """A sum that is not finite if one number is not."""
    total = 0.0
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            total += M[i, j]
    return total


@inner
def _convex(Q: Array, F: Factor, lapack: tuple[int, int, int, int]) -> bool:
    """Whether Q has no eigenvalue below 0, up to rounding."""
    n, most = Q.shape[0], 0.0
    if Q.shape[1] < n or n == 1:
        for j in range(n):
            most = min(most, Q[j, 0])
        return most >= 0.0
    for j in range(n):
        most = max(most, Q[j, j])
    for i in range(n):
        for j in range(i):
            F.L[i, j] = Q[i, j]
        F.L[i, i] = Q[i, i] + NEGATIVE_EIGENVALUE * most
    if most == 0.0:
        return bool(largest_of(Q.reshape(Q.size)) == 0.0)
    return bool(factored_in_place(F.L, lapack))


@inner
def _write(P: Problem, F: Factor, v: Triple, active: Array, found: Found, row: int) -> None:
    """The point in the user's units."""
    length, cost = P.units[0], P.units[1]
    n, k = len(P.p), len(P.d)
    for j in range(n):
        found.x[row, j] = length * P.columns[j] * v.x[j]
        found.scales.columns[row, j] = P.columns[j]
    for i in range(len(P.b)):
        found.nu[row, i] = P.a_rows[i] * v.nu[i] / (cost * length)
        found.scales.a_rows[row, i] = P.a_rows[i]
    for i in range(k):
        found.z[row, i] = P.c_rows[i] * v.z[i] / (cost * length)
        found.active[row, i] = active[i]
        found.scales.w[row, i] = F.w[i]
        found.scales.c_rows[row, i] = P.c_rows[i]
    put(P.units, found.scales.units[row])


@inner
def _write_slack(P: Problem, v: Triple, d: Array, cx: Array, found: Found, row: int) -> None:
    """s = d - C x in the user's units."""
    c_times(P, v.x, cx)
    for i in range(len(cx)):
        found.s[row, i] = (P.d[i] - cx[i]) * P.units[0] / P.c_rows[i] if d[i] < np.inf else np.inf


@inner
def _single_thread(n: int, lapack: tuple[int, int, int, int]) -> int:
    """Where LAPACK is called, use one thread; how many it used, or 0."""
    return int(set_threads(lapack[3], 1)) if n >= LAPACK and lapack[3] != 0 else 0


@inner
def _restore_threads(threads: int, lapack: tuple[int, int, int, int]) -> None:
    if threads > 1:
        set_threads(lapack[3], threads)


@jit
def solve_rows(
    Q: Array,
    p: Array,
    A: Array,
    b: Array,
    G: Array,
    d: Array,
    lower: bool,
    upper: bool,
    guess: Array,
    tol: float,
    max_steps: int,
    lapack: tuple[int, int, int, int],
    found: Found,
) -> int:
    """Solve the rows of a batch.

    Args:
        Q: (1|B, n, n), symmetric, or (1|B, n, 1): diagonals.
        p, b, d: (B, n), (B, q), (B, k); d may be infinite.
        A, G: (1|B, q, n), (1|B, m, n), q and m may be 0.
        lower, upper: whether C has the rows of -I and of I.
        guess: (B, k) bool, active sets to try first, or (0, k).
        tol: largest residual of a row that counts as solved.
        max_steps: factorisations a row may take.
        lapack: ``lapack.addresses()``.
        found: what is filled; a row that is not solved has its status other than 0.

    Returns:
        How many rows are not solved; -1 if some Q has a negative eigenvalue.
    """
    (batch, n), q, m, k = p.shape, A.shape[1], G.shape[1], d.shape[1]
    room, threads = new_room(n, q, m, k, Q.shape[2]), _single_thread(n, lapack)
    P, F = new_problem(room, n, q, m, k, Q.shape[2], lower, upper), new_factor(room, n, q, m, k, Q.shape[2])
    w, size, fit = new_scratch(room, n, q, k), vector(room, 2 * n + q + k), vector(room, 5)
    alike = len(Q) == 1 and len(A) == 1 and len(G) == 1
    left, sound, total = int(batch), False, 0.0
    for row in range(batch):
        Q_row, A_row, G_row = Q[min(row, len(Q) - 1)], A[min(row, len(A) - 1)], G[min(row, len(G) - 1)]
        if row == 0 or not alike:
            total = _total(Q_row) + _total(A_row) + _total(G_row)
            sound = abs(total) < np.inf
            if sound:
                if not _convex(Q_row, F, lapack):
                    left = -1
                    break
                equilibrate(Q_row, A_row, G_row, P.columns, P.a_rows, P.c_rows[:m], size)
                scale_into(A_row, P.a_rows, P.columns, 1.0, P.A)
                scale_into(G_row, P.c_rows[:m], P.columns, 1.0, P.G)
                set_norms(P, A_row, G_row)
        finite = 0.0
        for j in range(n):
            finite += p[row, j]
        for i in range(q):
            finite += b[row, i]
        for i in range(k):
            finite += d[row, i] if d[row, i] != np.inf else 0.0
        write_nothing(found, row)
        if not (sound and abs(finite) < np.inf):
            continue
        F.light[0], F.light[1] = KKT_RHO, KKT_DELTA
        set_up(P, Q_row, p[row], b[row], d[row], 1.0, size)
        status, steps, settled = NUMERICAL, 0, False
        if len(guess) > 0 or k == 0:
            for i in range(k):
                w.active[i] = guess[row, i] and P.present[i] > 0.0
            w.best.x[:], w.best.nu[:], w.best.z[:] = 0.0, 0.0, 0.0
            changes = min(WARM_CHANGES, max_steps)
            reached, steps = finish_on_set(
                P, F, w.best, w.active, changes, w.of_step, w.right, w.rest, w.dv, w.t, fit, lapack
            )
            settled = reached <= needed_residual(tol) and holds_closely(P, w.best, w.of_step, fit, tol)
            status = SUCCESS if settled else NUMERICAL
        times = 1.0
        for _ in range(2):
            if settled or steps >= max_steps:
                break
            status, more, settled = interior_point(P, F, w, tol, max_steps - steps, fit, lapack)
            steps += more
            reach = largest_of(w.best.x)
            if status != NUMERICAL or not FAR < reach < np.inf:
                break
            times *= power_of_two(reach)  # the solution is far from all that was known of its size
            F.light[0], F.light[1] = KKT_RHO, KKT_DELTA
            set_up(P, Q_row, p[row], b[row], d[row], times, size)
        if not settled:
            for i in range(k):
                w.active[i] = w.best.z[i] > w.best_s[i] and P.present[i] > 0.0
                F.w[i] = P.present[i] / (w.best_s[i] / w.best.z[i] + KKT_DELTA) if w.best.z[i] > 0.0 else 0.0
        _write(P, F, w.best, w.active, found, row)
        _write_slack(P, w.best, d[row], w.at.cx, found, row)
        if status == DUAL_INFEASIBLE:
            put(found.x[row], found.ray[row])
        for i in range(len(fit)):
            found.fit[i, row] = fit[i]
        found.steps[row], found.status[row] = steps, status
        left -= 1 if status == SUCCESS else 0
    _restore_threads(threads, lapack)
    room.taken[0] = 0  # its numbers must live until here
    return left


@jit
def inverse(
    Q: Array,
    A: Array,
    G: Array,
    lower: bool,
    upper: bool,
    scales: Scales,
    rx: Array,
    ra: Array,
    rc: Array,
    corrections: int,
    lapack: tuple[int, int, int, int],
    dx: Array,
    dnu: Array,
    dz: Array,
) -> None:
    """K^{-1} r, row by row, K the system of ``scales.w`` without its regularisation."""
    (batch, n), q, k, m = rx.shape, ra.shape[1], rc.shape[1], G.shape[1]
    room, threads = new_room(n, q, m, k, Q.shape[2]), _single_thread(n, lapack)
    P, F = new_problem(room, n, q, m, k, Q.shape[2], lower, upper), new_factor(room, n, q, m, k, Q.shape[2])
    r, out, rest, dv = (
        triple(room, n, q, k),
        triple(room, n, q, k),
        triple(room, n, q, k),
        triple(room, n, q, k),
    )
    at, t = new_products(room, n, q, k), vector(room, k)
    for row in range(batch):
        Q_row, A_row, G_row = Q[min(row, len(Q) - 1)], A[min(row, len(A) - 1)], G[min(row, len(G) - 1)]
        put(scales.columns[row], P.columns)
        put(scales.a_rows[row], P.a_rows)
        put(scales.c_rows[row], P.c_rows)
        put(scales.units[row], P.units)
        length, cost = scales.units[row, 0], scales.units[row, 1]
        force = cost * length
        scale_into(A_row, P.a_rows, P.columns, 1.0, P.A)
        scale_into(G_row, P.c_rows[:m], P.columns, 1.0, P.G)
        if Q.shape[2] == n:
            scale_into(Q_row, P.columns, P.columns, force * length, P.Q)
        else:
            for j in range(n):
                P.Q[j, 0] = force * length * P.columns[j] * P.columns[j] * Q_row[j, 0]
        for i in range(k):
            F.w[i] = scales.w[row, i]
            e = 1.0 / F.w[i] - KKT_DELTA if F.w[i] > 0.0 else 0.0
            F.e[i] = e if e > 1e-3 * KKT_DELTA else 0.0
        for j in range(n):
            r.x[j] = force * P.columns[j] * rx[row, j]
        for i in range(q):
            r.nu[i] = P.a_rows[i] * ra[row, i] / length
        for i in range(k):
            r.z[i] = P.c_rows[i] * rc[row, i] / length if F.w[i] > 0.0 else 0.0
        F.light[0], F.light[1] = KKT_RHO, KKT_DELTA
        if factorise(P, F, lapack):
            solve_kkt(P, F, r, out, t)
            before = length_of(r)
            for _ in range(corrections):
                products_at(P, out, at)
                error = left_over(F, r, out, at, rest)
                if not error < 0.5 * before:  # a singular system: what is regularised stays
                    break
                before = error
                solve_kkt(P, F, rest, dv, t)
                add_step(out, 1.0, dv)
        else:
            out.x[:], out.nu[:], out.z[:] = 0.0, 0.0, 0.0
        for j in range(n):
            dx[row, j] = length * P.columns[j] * out.x[j]
        for i in range(q):
            dnu[row, i] = P.a_rows[i] * out.nu[i] / force
        for i in range(k):
            dz[row, i] = P.c_rows[i] * out.z[i] / force
    _restore_threads(threads, lapack)
    room.taken[0] = 0  # as above
