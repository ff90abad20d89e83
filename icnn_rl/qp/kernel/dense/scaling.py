"""A problem in units of its own: equilibrated, lengths and costs of size 1. See :mod:`icnn_rl.qp.kernel.dense`.

All units are powers of two, which round nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.constants import FLOOR, ROUNDING
from icnn_rl.qp.kernel.dense.records import PASSES, Array, Problem


def _reducing(function: Any) -> Any:
    """For data known to be finite: lets maxima fill vector registers, too."""
    return inner(function, fastmath={"reassoc", "contract", "nsz", "nnan", "ninf"})


@_reducing
def _measure(M: Array, rows: Array, columns: Array, size: Array, row_size: Array) -> None:
    """Raise ``size`` (n,) to the largest entries of the columns of the scaled matrix; row_size: those of its rows."""
    for i in range(M.shape[0]):
        most, scale = 0.0, rows[i]
        for j in range(M.shape[1]):
            entry = abs(M[i, j]) * scale * columns[j]
            most = max(most, entry)
            size[j] = max(size[j], entry)
        row_size[i] = most


@inner
def _shrink(scale: Array, size: Array) -> bool:
    """Divide the scales by the roots of the sizes; whether these were all close to 1."""
    close = True
    for i in range(len(size)):
        if size[i] > 0.0:
            close = close and 0.5 <= size[i] <= 2.0
            scale[i] /= math.sqrt(size[i])
    return close


@inner
def _round(scale: Array) -> None:
    """To powers of two."""
    for i in range(len(scale)):
        scale[i] = power_of_two(scale[i])


@inner
def power_of_two(number: float) -> float:
    """The nearest power of two, more or less; 1 for what has none."""
    if not (1e-150 < number < 1e150):
        return 1.0
    fraction, exponent = math.frexp(number)
    return math.ldexp(1.0, exponent if fraction > 0.7071 else exponent - 1)


@inner
def _median(a: Array) -> float:
    """The lower median; reorders a. C. A. R. Hoare, Algorithm 65: Find, Commun. ACM 4, 1961."""
    rank, low, high = (len(a) - 1) // 2, 0, len(a) - 1
    while low < high:
        pivot, i, j = a[rank], low, high
        while i <= j:
            while a[i] < pivot:
                i += 1
            while pivot < a[j]:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                i, j = i + 1, j - 1
        if j < rank:
            low = i
        if rank < i:
            high = j
    return float(a[rank])


@inner
def equilibrate(Q: Array, A: Array, G: Array, columns: Array, a_rows: Array, g_rows: Array, size: Array) -> None:
    """D, A_rows and G_rows with all norms of the scaled rows and columns near 1; size (n + n + q + m,) is scratch."""
    n, q, m = A.shape[1], A.shape[0], G.shape[0]
    column, q_row, a_row, g_row = size[:n], size[n : 2 * n], size[2 * n : 2 * n + q], size[2 * n + q : 2 * n + q + m]
    columns[:], a_rows[:], g_rows[:] = 1.0, 1.0, 1.0
    for _ in range(PASSES):
        column[:] = 0.0
        if Q.shape[1] == n:
            _measure(Q, columns, columns, column, q_row)
        else:
            for j in range(n):
                column[j] = abs(Q[j, 0]) * columns[j] * columns[j]
        _measure(A, a_rows, columns, column, a_row)
        _measure(G, g_rows, columns, column, g_row)
        close = _shrink(columns, column)
        close = _shrink(a_rows, a_row) and close
        close = _shrink(g_rows, g_row) and close
        if close:
            break
    _round(columns)
    _round(a_rows)
    _round(g_rows)


@inner
def scale_into(M: Array, rows: Array, columns: Array, factor: float, out: Array) -> float:
    """out = factor diag(rows) M diag(columns); returns its largest entry."""
    most = 0.0
    for i in range(M.shape[0]):
        scale = factor * rows[i]
        for j in range(M.shape[1]):
            out[i, j] = scale * M[i, j] * columns[j]
            most = max(most, abs(out[i, j]))
    return most


@inner
def set_up(P: Problem, Q: Array, p: Array, b: Array, d: Array, times: float, scratch: Array) -> None:
    """Everything but A and G: right-hand sides, Q and the units, from the user's data and the scales.

    The unit of length is ``times`` the median of the right-hand sides.
    """
    n, q, k, m = len(p), len(b), len(d), P.G.shape[0]
    for i in range(m, k):
        P.c_rows[i] = 1.0 / P.columns[(i - m) % n]
    count = 0
    for i in range(q):
        P.b[i] = P.a_rows[i] * b[i]
        if P.b[i] != 0.0:
            scratch[count] = abs(P.b[i])
            count += 1
    for i in range(k):
        met = d[i] == np.inf or (i < m and P.norms[0, q + i] == 0.0 and d[i] >= 0.0)  # wherever x is
        P.present[i] = 0.0 if met else 1.0
        P.d[i] = P.c_rows[i] * d[i] if d[i] != np.inf else 0.0
        if P.d[i] != 0.0:
            scratch[count] = abs(P.d[i])
            count += 1
    most_q, most_p = 0.0, 0.0
    if Q.shape[1] == n:
        for j in range(n):
            most_q = max(most_q, P.columns[j] * P.columns[j] * Q[j, j])  # no element of a Q >= 0 is larger
    else:
        for j in range(n):
            most_q = max(most_q, P.columns[j] * P.columns[j] * Q[j, 0])
    for j in range(n):
        P.p[j] = P.columns[j] * p[j]
        most_p = max(most_p, abs(P.p[j]))
    if count > 0:
        length = power_of_two(_median(scratch[:count]))
    else:
        length = power_of_two(most_p / most_q) if most_p * most_q > 0.0 else 1.0
    length *= times
    most = max(length * length * most_q, length * most_p)
    cost = power_of_two(1.0 / most) if most > 0.0 else 1.0
    P.units[0], P.units[1] = length, cost
    for i in range(q):
        P.b[i] /= length
    for i in range(k):
        P.d[i] /= length
    for j in range(n):
        P.p[j] *= cost * length
    _set_measures(P, Q, p, scratch)
    factor = cost * length * length
    if Q.shape[1] == n:
        scale_into(Q, P.columns, P.columns, factor, P.Q)
    else:
        for j in range(n):
            P.Q[j, 0] = factor * P.columns[j] * P.columns[j] * Q[j, 0]


@inner
def set_norms(P: Problem, A: Array, G: Array) -> None:
    q, m = A.shape[0], G.shape[0]
    for i in range(q):
        P.norms[0, i] = P.a_rows[i] * math.sqrt(dot(A[i], A[i]))
    for i in range(m):
        P.norms[0, q + i] = P.c_rows[i] * math.sqrt(dot(G[i], G[i]))


@inner
def _typical(right: Array, norms: Array, scratch: Array) -> float:
    """The median of the right-hand sides that are not 0, where there are rows of zeros to be compared with it."""
    count, some = 0, False
    for i in range(len(right)):
        some = some or norms[i] == 0.0
        if right[i] != 0.0:
            scratch[count] = abs(right[i])
            count += 1
    return float(_median(scratch[:count])) if some and count > 0 else 0.0


@inner
def _set_measures(P: Problem, Q: Array, p: Array, scratch: Array) -> None:
    """Everything of ``certificates.Yardstick`` but the norms of rows of A and G."""
    n, q, k, m = len(p), len(P.b), len(P.d), P.G.shape[0]
    length, cost = P.units[0], P.units[1]
    most_q, most_p, scaled_p = 0.0, 0.0, 0.0
    for j in range(n):
        diagonal = Q[j, j] if Q.shape[1] == n else Q[j, 0]
        if diagonal > 0.0:
            column = 1.0 / math.sqrt(diagonal)
        else:
            size = 0.0
            for i in range(q):
                size = max(size, abs(P.A[i, j]) / (P.a_rows[i] * P.columns[j]))
            for i in range(m):
                size = max(size, abs(P.G[i, j]) / (P.c_rows[i] * P.columns[j]))
            column = 1.0 / size if size > 0.0 else 1.0
        unit = 1.0 / (cost * length * P.columns[j])
        P.measures[0, j], P.measures[1, j] = unit, column * unit
        most_q, most_p = max(most_q, diagonal), max(most_p, abs(p[j]))
        scaled_p = max(scaled_p, column * abs(p[j]))
    count = 0
    for i in range(m, k):
        P.norms[0, q + i] = P.c_rows[i]
    for i in range(q + k):
        P.norms[1, i] = length / (P.a_rows[i] if i < q else P.c_rows[i - q])
        right = abs(P.b[i]) if i < q else abs(P.d[i - q])
        if right > 0.0 and P.norms[0, i] > 0.0:
            scratch[count] = right / P.norms[0, i]
            count += 1
    if most_p * most_q > 0.0:
        scratch[count] = most_p / most_q / length
        count += 1
    shortest, least = 1.0 / length, np.inf
    if count > 0:
        nothing, shortest = ROUNDING * _median(scratch[:count]), np.inf
        for i in range(count):
            least = min(least, scratch[i])
            if scratch[i] > nothing:
                shortest = min(shortest, scratch[i])
    P.floors[0], P.floors[1], P.floors[2] = FLOOR * most_p, FLOOR * scaled_p, FLOOR * shortest
    P.floors[3] = FLOOR * _typical(P.b, P.norms[0, :q], scratch)
    P.floors[4], P.floors[5] = FLOOR * _typical(P.d, P.norms[0, q:], scratch), FLOOR * min(least, shortest)
