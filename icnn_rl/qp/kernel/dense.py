"""Dense problems of any size, compiled, row by row of the batch: interior-point steps, made exact on the active set.

    min_x  1/2 x^T Q x + p^T x    subject to    A x = b,    C x <= d,    C = [G; -I; I].

A row is first equilibrated (Ruiz) and given units of length and cost, all powers of two, which rounds nothing. Then
come steps of the homogeneous self-dual interior-point method with Mehrotra's predictor and corrector: besides x, nu, z
and s they carry tau and kappa, and where tau goes to 0 they end in a proof that there is no solution. Once the rows
that the predictor takes for active are the same twice, active-set steps from there try to finish: the answer of a set
is one linear system, exact to rounding, and is verified. Every linear system is

    [ Q + rho   A^T      C^T       ] [dx ]   [rx]
    [ A        -delta              ] [dnu] = [ra]        E = S / Z, or 0 on an active set and infinite off it,
    [ C                -(E + delta)] [dz ]   [rc]

solved by H = Q + rho + C^T W C = L L^T with W = 1 / (E + delta) and by S = A H^{-1} A^T + delta, and corrected by its
residual against the same system without rho and delta.

References:
    D. Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, RAL-TR-2001-034, 2001.
    E. D. Andersen, C. Roos, T. Terlaky, On implementing a primal-dual interior-point method for conic quadratic
    optimization, Math. Program. 95, 2003.
    P. J. Goulart, Y. Chen, Clarabel: An interior-point solver for conic programs with quadratic objectives, 2024,
    section 3: the homogeneous embedding of a quadratic objective.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from icnn_rl.compiling import inner, jit
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.constants import BACK_OFF, CERTIFIED, FLOOR, NEGATIVE, NOISE, ROUNDING, SHORT
from icnn_rl.qp.kernel.lapack import add_square, forward, outer_square, part, potrf, set_threads
from icnn_rl.solution import Status

Array = np.ndarray[Any, np.dtype[Any]]

#: rho and delta, what multiplies them when a factorisation breaks down, and how often.
KKT_RHO, KKT_DELTA, _GROWTH, _TRIES = 1e-8, 1e-8, 100.0, 4
#: The least rho and delta.
_LIGHTEST = 1e-14
#: Passes of the equilibration at most; norms from 1/2 to 2 need none.
_PASSES = 10
#: Corrections of a linear system by its residual at most, and the residual, relative, that needs none.
_ROUNDS, _ENOUGH = 4, 1e-13
#: Interior-point steps before the first attempt to finish, and mu from where on the sets need not agree.
_FIRST, _SMALL = 3, 1e-7
#: At most: changes of an active set in an attempt and in the one from a guess; corrections on a set, and more of them
#: once it has settled.
_CHANGES, _WARM_CHANGES, _CORRECTIONS, _POLISH = 3, 4, 8, 4
#: Below this, relative, a negative multiplier or a violation is rounding; above ``_CLEAR`` it needs no correction.
_SIGN, _CLEAR = 1e-11, 1e-5
#: A residual on a settled set that is rounding; the one that interior-point steps aim at; that of a loose tolerance.
_EXACT, _AIM, _LOOSE = 1e-12, 1e-11, 1e-5
#: Steps without progress after which a row is given up, and without a better residual within the tolerance.
_STALL, _IDLE = 6, 3
#: A negative eigenvalue of Q, relative.
_NEGATIVE = NEGATIVE[torch.float64]
#: A proof has to exclude points up to this many times the largest right-hand side.
_REACH = 1e6
#: What the first solution leaves of the data where the system may be singular, relative to 1.
_SUSPICIOUS = 1e-7
#: Where x ends up so far away, the unit of length was wrong.
_FAR = 1e3
#: A number that is 0, where data have the size 1.
_NOTHING = 1e-16
#: From this size on LAPACK is faster than plain loops.
_LAPACK = 24
#: The statuses that a row may get, as numba takes them.
_SUCCESS, _MAX_STEPS, _NUMERICAL = int(Status.SUCCESS), int(Status.MAX_STEPS), int(Status.NUMERICAL)
_PRIMAL_INFEASIBLE, _DUAL_INFEASIBLE = int(Status.PRIMAL_INFEASIBLE), int(Status.DUAL_INFEASIBLE)


class Triple(NamedTuple):
    """x (n,), nu (q,), z (k,), or right-hand sides, or steps."""

    x: Array
    nu: Array
    z: Array


class Products(NamedTuple):
    """Q x, A^T nu, C^T z (n,), A x (q,), C x (k,)."""

    qx: Array
    aty: Array
    ctz: Array
    ax: Array
    cx: Array


class Problem(NamedTuple):
    """One row of the batch in its own units.

    Q (n, n), or (n, 1) where it is diagonal; A (q, n), G (m, n), p (n,), b (q,), d (k,); ``present`` (k,) 0.0 where
    every x meets a row of C, else 1.0; whether C has the rows of -I and of I. The user's x is t D x, nu is A_rows nu /
    (c t), z is C_rows z / (c t), with D = ``columns`` and ``units`` = (t, c).

    What residuals are compared with, see certificates.Yardstick: ``measures`` (2, n) turns terms of the gradient into
    the user's and into those of variables of equal curvature; ``norms`` (2, q + k) are those of the user's rows of A
    and C times their scales, and t over these; ``floors`` (6,) are those of the two forces, of |x|, of rows of zeros in
    A and in C, and of |x| where no length that the data name counts as rounding.
    """

    Q: Array
    A: Array
    G: Array
    p: Array
    b: Array
    d: Array
    present: Array
    lower: bool
    upper: bool
    columns: Array
    a_rows: Array
    c_rows: Array
    units: Array
    measures: Array
    norms: Array
    floors: Array


class Factor(NamedTuple):
    """e and w (k,), L (n, n), or its diagonal (n, 1) where nothing is off it, V = A L^{-T} (q, n) and the factor of S
    (q, q); ``half`` (m, n) is scratch; rho and delta of the equations in ``light`` (2,)."""

    e: Array
    w: Array
    L: Array
    V: Array
    S: Array
    half: Array
    light: Array


class Scales(NamedTuple):
    """What is kept to solve with the last system of each row: w (B, k) = 1 / (E + delta), and of :class:`Problem` the
    ``columns`` (B, n), ``a_rows`` (B, q), ``c_rows`` (B, k) and ``units`` (B, 2)."""

    w: Array
    columns: Array
    a_rows: Array
    c_rows: Array
    units: Array


class Found(NamedTuple):
    """What is written for the rows of the batch.

    x (B, n), nu (B, q), z and s (B, k), ``active`` (B, k) bool. fit (5, B): ``primal``, ``dual``, ``gap``, ``relative``
    and ``duality`` of certificates.Residuals. steps, the number of factorisations, and status (B,). ray (B, n).
    """

    x: Array
    nu: Array
    z: Array
    s: Array
    active: Array
    fit: Array
    steps: Array
    status: Array
    ray: Array
    scales: Scales


def _inline(function: Any) -> Any:
    """Compile into its callers: for what takes dozens of arrays."""
    return inner(function, forceinline=True)


def _making(function: Any) -> Any:
    """For what returns arrays."""
    return inner(function, _nrt=True)


# Matrices times vectors


@inner
def _times(M: Array, x: Array, out: Array) -> None:
    """out = M x, four rows at a time: what is loaded of x serves all of them."""
    k, n = M.shape
    for i in range(0, k - 3, 4):
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for j in range(n):
            t0 += M[i, j] * x[j]
            t1 += M[i + 1, j] * x[j]
            t2 += M[i + 2, j] * x[j]
            t3 += M[i + 3, j] * x[j]
        out[i], out[i + 1], out[i + 2], out[i + 3] = t0, t1, t2, t3
    for i in range(k - k % 4, k):
        t0 = 0.0
        for j in range(n):
            t0 += M[i, j] * x[j]
        out[i] = t0


@inner
def _add_transposed(M: Array, y: Array, sign: float, out: Array) -> None:
    """out += sign M^T y."""
    k, n = M.shape
    for i in range(0, k - 3, 4):
        y0, y1, y2, y3 = sign * y[i], sign * y[i + 1], sign * y[i + 2], sign * y[i + 3]
        for j in range(n):
            out[j] += M[i, j] * y0 + M[i + 1, j] * y1 + M[i + 2, j] * y2 + M[i + 3, j] * y3
    for i in range(k - k % 4, k):
        y0 = sign * y[i]
        for j in range(n):
            out[j] += M[i, j] * y0


@inner
def _fill(out: Array, number: float) -> None:
    for i in range(len(out)):
        out[i] = number


@inner
def _put(a: Array, out: Array) -> None:
    for i in range(len(a)):
        out[i] = a[i]


@inner
def _largest(a: Array) -> float:
    """The largest absolute value; infinite if a number is not finite."""
    most, total = 0.0, 0.0
    for i in range(len(a)):
        most = max(most, abs(a[i]))
        total += abs(a[i])
    return most if total < np.inf else np.inf


@_inline
def _q_times(P: Problem, x: Array, out: Array) -> None:
    if P.Q.shape[1] == len(x):
        _times(P.Q, x, out)
    else:
        for j in range(len(x)):
            out[j] = P.Q[j, 0] * x[j]


@_inline
def _c_times(P: Problem, x: Array, out: Array) -> None:
    """out = C x."""
    n, start = len(x), P.G.shape[0]
    if start > 0:
        _times(P.G, x, out)
    if P.lower:
        for j in range(n):
            out[start + j] = -x[j]
        start += n
    if P.upper:
        for j in range(n):
            out[start + j] = x[j]


@_inline
def _add_c_transposed(P: Problem, z: Array, out: Array) -> None:
    """out += C^T z."""
    n, start = len(out), P.G.shape[0]
    if start > 0:
        _add_transposed(P.G, z, 1.0, out)
    if P.lower:
        for j in range(n):
            out[j] -= z[start + j]
        start += n
    if P.upper:
        for j in range(n):
            out[j] += z[start + j]


@inner
def _products(P: Problem, v: Triple, at: Products) -> None:
    _q_times(P, v.x, at.qx)
    _c_times(P, v.x, at.cx)
    at.ctz[:] = 0.0
    _add_c_transposed(P, v.z, at.ctz)
    if len(v.nu) > 0:
        _times(P.A, v.x, at.ax)
        at.aty[:] = 0.0
        _add_transposed(P.A, v.nu, 1.0, at.aty)


# Scaling


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
        scale[i] = _power(scale[i])


@inner
def _power(number: float) -> float:
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
def _equilibrate(Q: Array, A: Array, G: Array, columns: Array, a_rows: Array, g_rows: Array, size: Array) -> None:
    """D, A_rows and G_rows with all norms of the scaled rows and columns near 1; size (n + n + q + m,) is scratch."""
    n, q, m = A.shape[1], A.shape[0], G.shape[0]
    column, q_row, a_row, g_row = size[:n], size[n : 2 * n], size[2 * n : 2 * n + q], size[2 * n + q : 2 * n + q + m]
    columns[:], a_rows[:], g_rows[:] = 1.0, 1.0, 1.0
    for _ in range(_PASSES):
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
def _scaled(M: Array, rows: Array, columns: Array, factor: float, out: Array) -> float:
    """out = factor diag(rows) M diag(columns); returns its largest entry."""
    most = 0.0
    for i in range(M.shape[0]):
        scale = factor * rows[i]
        for j in range(M.shape[1]):
            out[i, j] = scale * M[i, j] * columns[j]
            most = max(most, abs(out[i, j]))
    return most


@inner
def _set_up(P: Problem, Q: Array, p: Array, b: Array, d: Array, times: float, scratch: Array) -> None:
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
        length = _power(_median(scratch[:count]))
    else:
        length = _power(most_p / most_q) if most_p * most_q > 0.0 else 1.0
    length *= times
    most = max(length * length * most_q, length * most_p)
    cost = _power(1.0 / most) if most > 0.0 else 1.0
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
        _scaled(Q, P.columns, P.columns, factor, P.Q)
    else:
        for j in range(n):
            P.Q[j, 0] = factor * P.columns[j] * P.columns[j] * Q[j, 0]


@inner
def _set_norms(P: Problem, A: Array, G: Array) -> None:
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


# The linear systems


@inner
def _cholesky(H: Array) -> bool:
    """Replace the lower half by its factor; whether there is one."""
    if H.shape[1] < len(H):
        for i in range(len(H)):
            if not H[i, 0] > 0.0:
                return False
            H[i, 0] = math.sqrt(H[i, 0])
        return True
    for i in range(len(H)):
        for j in range(i + 1):
            total = H[i, j]
            for r in range(j):
                total -= H[i, r] * H[j, r]
            if i > j:
                H[i, j] = total / H[j, j]
            elif total > 0.0:
                H[i, i] = math.sqrt(total)
            else:
                return False
    return True


@inner
def _forward(L: Array, y: Array) -> None:
    """y = L^{-1} y."""
    if L.shape[1] < len(L):
        for i in range(len(y)):
            y[i] /= L[i, 0]
        return
    for i in range(len(y)):
        total = 0.0
        for j in range(i):
            total += L[i, j] * y[j]
        y[i] = (y[i] - total) / L[i, i]


@inner
def _backward(L: Array, y: Array) -> None:
    """y = L^{-T} y."""
    if L.shape[1] < len(L):
        _forward(L, y)
        return
    for i in range(len(y) - 1, -1, -1):
        y[i] /= L[i, i]
        step = y[i]
        for j in range(i):
            y[j] -= step * L[i, j]


@inner
def _hessian(P: Problem, F: Factor, rho: float, lapack: tuple[int, int, int, int]) -> None:
    """Q + rho + C^T W C, its lower half in L."""
    n, m, L, w = len(P.p), P.G.shape[0], F.L, F.w
    if L.shape[1] < n:
        for i in range(n):
            L[i, 0] = P.Q[i, 0] + rho + (w[i] if P.lower else 0.0)
            if P.upper:
                L[i, 0] += w[n + i] if P.lower else w[i]
        return
    for i in range(n):
        if P.Q.shape[1] == n:
            for j in range(i):
                L[i, j] = P.Q[i, j]
            L[i, i] = P.Q[i, i] + rho
        else:
            L[i, :i] = 0.0
            L[i, i] = P.Q[i, 0] + rho
    start = m
    if P.lower:
        for j in range(n):
            L[j, j] += w[start + j]
        start += n
    if P.upper:
        for j in range(n):
            L[j, j] += w[start + j]
    rows, half = 0, F.half
    for r in range(m):
        if w[r] > 0.0:
            root = math.sqrt(w[r])
            for j in range(n):
                half[rows, j] = root * P.G[r, j]
            rows += 1
    if n >= _LAPACK and lapack[1] != 0:
        if rows > 0:
            add_square(lapack[1], half, rows, 1.0, L)
        return
    for r in range(0, rows - 3, 4):
        for i in range(n):
            c0, c1, c2, c3 = half[r, i], half[r + 1, i], half[r + 2, i], half[r + 3, i]
            for j in range(i + 1):
                L[i, j] += c0 * half[r, j] + c1 * half[r + 1, j] + c2 * half[r + 2, j] + c3 * half[r + 3, j]
    for r in range(rows - rows % 4, rows):
        for i in range(n):
            c0 = half[r, i]
            for j in range(i + 1):
                L[i, j] += c0 * half[r, j]


@inner
def _factored(H: Array, lapack: tuple[int, int, int, int]) -> bool:
    if H.shape[1] == len(H) >= _LAPACK and lapack[0] != 0:
        return bool(potrf(lapack[0], H) == 0 and abs(H[-1, -1]) < np.inf)
    return bool(_cholesky(H))


@inner
def _schur(P: Problem, F: Factor, delta: float, lapack: tuple[int, int, int, int]) -> None:
    """V = A L^{-T} and S = V V^T + delta, its lower half."""
    q, V, S = len(P.b), F.V, F.S
    for i in range(q):
        _put(P.A[i], V[i])
    blocks = len(P.p) >= _LAPACK and q > 2 and lapack[2] != 0
    if blocks and F.L.shape[1] == len(P.p):
        forward(lapack[2], F.L, V)
    else:
        for i in range(q):
            _forward(F.L, V[i])
    if blocks:
        outer_square(lapack[1], V, S)
    else:
        for i in range(q):
            for j in range(i + 1):
                S[i, j] = dot(V[i], V[j])
    for i in range(q):
        S[i, i] += delta


@inner
def _factor(P: Problem, F: Factor, lapack: tuple[int, int, int, int]) -> bool:
    """Factor the system of F.w; whether that was possible, with more regularisation if need be."""
    rho, done = F.light[0], False
    for _ in range(1 + _TRIES):
        _hessian(P, F, rho, lapack)
        done = _factored(F.L, lapack)
        if done:
            break
        rho *= _GROWTH
    if not done or len(P.b) == 0:
        return done
    delta = F.light[1]
    for _ in range(1 + _TRIES):
        _schur(P, F, delta, lapack)
        if _factored(F.S, lapack):
            return True
        delta *= _GROWTH
    return False


@inner
def _lighten(F: Factor) -> bool:
    """Less regularisation from the next factorisation on, where corrections do not get rid of it; whether it can be."""
    F.light[0] = max(1e-3 * F.light[0], _LIGHTEST)
    F.light[1] = max(1e-3 * F.light[1], _LIGHTEST)
    return bool(F.light[0] > _LIGHTEST)


@inner
def _solve_kkt(P: Problem, F: Factor, r: Triple, out: Triple, t: Array) -> None:
    """The regularised system: x, nu, z for the right-hand sides r, which may not be ``out``; t (k,) is scratch."""
    for i in range(len(t)):
        t[i] = F.w[i] * r.z[i]
    x, nu, z = out
    for j in range(len(x)):
        x[j] = r.x[j]
    _add_c_transposed(P, t, x)
    _forward(F.L, x)
    if len(nu) > 0:
        _times(F.V, x, nu)
        for i in range(len(nu)):
            nu[i] -= r.nu[i]
        _forward(F.S, nu)
        _backward(F.S, nu)
        _add_transposed(F.V, nu, -1.0, x)
    _backward(F.L, x)
    _c_times(P, x, z)
    for i in range(len(t)):
        z[i] = F.w[i] * (z[i] - r.z[i])


@inner
def _add(v: Triple, step: float, dv: Triple) -> None:
    for j in range(len(v.x)):
        v.x[j] += step * dv.x[j]
    for i in range(len(v.nu)):
        v.nu[i] += step * dv.nu[i]
    for i in range(len(v.z)):
        v.z[i] += step * dv.z[i]


@inner
def _copy(v: Triple, scale: float, out: Triple) -> None:
    for j in range(len(v.x)):
        out.x[j] = scale * v.x[j]
    for i in range(len(v.nu)):
        out.nu[i] = scale * v.nu[i]
    for i in range(len(v.z)):
        out.z[i] = scale * v.z[i]


@inner
def _size(v: Triple) -> float:
    return float(max(_largest(v.x), _largest(v.nu), _largest(v.z)))


@inner
def _left_over(F: Factor, r: Triple, v: Triple, at: Products, out: Triple) -> float:
    """What v leaves of the right-hand sides of the unregularised system, and its size."""
    for j in range(len(v.x)):
        out.x[j] = r.x[j] - at.qx[j] - at.aty[j] - at.ctz[j]
    for i in range(len(v.nu)):
        out.nu[i] = r.nu[i] - at.ax[i]
    for i in range(len(v.z)):
        out.z[i] = r.z[i] - at.cx[i] + F.e[i] * v.z[i] if F.w[i] > 0.0 else 0.0
    return float(_size(out))


@inner
def _refined(
    P: Problem, F: Factor, r: Triple, out: Triple, target: float, at: Products, rest: Triple, dv: Triple, t: Array
) -> bool:
    """The unregularised system, to ``target`` or as far as corrections lead; whether there were any. ``at`` has the
    products of ``out``, ``rest`` what it leaves."""
    _solve_kkt(P, F, r, out, t)
    target = target + _ENOUGH * (1.0 + _size(r))
    before = np.inf
    for correction in range(_ROUNDS + 1):
        _products(P, out, at)
        error = _left_over(F, r, out, at, rest)
        if not error < before:  # the last correction made it worse: back
            _add(out, -1.0, dv)
            _products(P, out, at)
            _lighten(F)
            return True
        if error <= target:
            return correction > 0
        if correction == _ROUNDS or error > 0.5 * before:
            _lighten(F)
            return True
        before = error
        _solve_kkt(P, F, rest, dv, t)
        _add(out, 1.0, dv)
    return True


# Judging a point


class Objective(NamedTuple):
    """x^T Q x, p^T x, b^T nu + d^T z of a point that tau has not divided yet."""

    xqx: float
    px: float
    by: float


@_inline
def _objective(P: Problem, v: Triple, at: Products) -> Objective:
    return Objective(dot(at.qx, v.x), dot(P.p, v.x), dot(P.b, v.nu) + dot(P.d, v.z))


@inner
def _judge(P: Problem, v: Triple, at: Products, f: Objective, tau: float, fit: Array) -> float:
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
def _closely(P: Problem, v: Triple, at: Products, fit: Array, tol: float) -> bool:
    """Whether the point is within the tolerance even if the shortest length that the data name is no rounding."""
    if P.floors[5] >= P.floors[2]:
        return True
    length, relative, P.floors[2] = P.floors[2], fit[3], P.floors[5]
    _products(P, v, at)
    error = _judge(P, v, at, _objective(P, v, at), 1.0, fit)
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


# Active sets


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
    low = -tolerance * _largest(v.z)
    size = 1.0 + _largest(v.x)
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
        nothing = 0.0 < abs(a[i]) < _NOTHING
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
    for _ in range(_POLISH):
        for i in range(len(v.z)):
            v.z[i] = max(v.z[i], 0.0)
        if _cleaned(v, dv):
            _products(P, dv, at)
            now = _judge(P, dv, at, _objective(P, dv, at), 1.0, fit)
            if now <= _EXACT and _closely(P, dv, at, fit, _EXACT):
                _copy(dv, 1.0, v)
                return float(now)
        _products(P, v, at)
        now = _judge(P, v, at, _objective(P, v, at), 1.0, fit)
        if now <= _EXACT or not now < before:
            return float(now)
        before = now
        _left_over(F, r, v, at, rest)
        _solve_kkt(P, F, rest, dv, t)
        _add(v, 1.0, dv)
        _on_set(P, F, v)
    return float(before)


@inner
def _finish(
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
        if not _factor(P, F, lapack):
            return np.inf, change + 1
        before, wrong = np.inf, False
        for correction in range(_CORRECTIONS + 1):
            _on_set(P, F, v)
            _products(P, v, at)
            error = _left_over(F, r, v, at, rest)
            if correction == 1 and _flip_wrong(P, v, at, active, _CLEAR):
                wrong = True
                break
            if not abs(error) < np.inf or (correction > 0 and (error <= exact or error > 0.3 * before)):
                break
            before = error
            _solve_kkt(P, F, rest, dv, t)
            _add(v, 1.0, dv)
        if not wrong and error > 1e-13 * (1.0 + _size(v)) and _lighten(F):
            continue
        if not wrong and not _flip_wrong(P, v, at, active, _SIGN):
            return _polished(P, F, v, at, r, rest, dv, t, fit), change + 1
    return np.inf, changes


# Interior points


@inner
def _push(v: Array, present: Array) -> None:
    """Make all numbers positive by the same shift if one is not; 0 where there is no row."""
    low = np.inf
    for i in range(len(v)):
        if present[i] > 0.0:
            low = min(low, v[i])
    shift = 1.0 - low if low < 1e-8 else 0.0
    for i in range(len(v)):
        v[i] = v[i] + shift if present[i] > 0.0 else 0.0


@inner
def _farkas(P: Problem, v: Triple, at: Products, by: float, y: Triple, slope: Array) -> bool:
    """Whether nu and z prove that no point is feasible, relative to the terms of each sum; y: without their noise."""
    if not by < 0.0 or not max(_largest(at.aty), _largest(at.ctz)) < np.inf:
        return False
    off = 0.0
    for j in range(len(slope)):
        off = max(off, abs(at.aty[j] + at.ctz[j]))
    if off > -1e3 * CERTIFIED * by:
        return False
    noise = NOISE * max(_largest(v.nu), _largest(v.z))
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
    _add_transposed(P.A, y.nu, 1.0, at.aty)
    _add_c_transposed(P, y.z, at.ctz)
    rest, size = 0.0, 1.0  # in the user's data
    for j in range(n):
        if abs(at.aty[j] + at.ctz[j]) > CERTIFIED * slope[j]:
            return False
        rest += abs(at.aty[j] + at.ctz[j]) / P.columns[j]
    for i in range(len(P.b)):
        size = max(size, abs(P.b[i]) * P.units[0] / P.a_rows[i])
    for i in range(len(P.d)):
        size = max(size, abs(P.d[i]) * P.units[0] / P.c_rows[i])
    return bool(value < -SHORT * weight and -value * P.units[0] > _REACH * size * rest)


@inner
def _is_ray(P: Problem, x: Array, at: Products, px: float) -> bool:
    """Whether the objective falls along x for ever; errors are relative to the user's rows and to x."""
    if not px < 0.0 or not _largest(x) < np.inf:
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


class _Scratch(NamedTuple):
    """Vectors of :func:`_interior`: the point, right-hand sides, steps; s and its steps; the best point so far."""

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
def _null_proof(P: Problem, F: Factor, w: _Scratch) -> int:
    """The status that a null vector of the system proves, 0 if none. ``w.fixed`` solves for the data, but not well.

    A null vector has Q x = 0, A x = 0, C x = 0, A^T nu = 0 and z = 0, whatever E. Where the right-hand side has a part
    along one, corrections converge to that vector: a line on which the objective falls, or equations that contradict.
    """
    for _ in range(3):
        _products(P, w.fixed, w.of_fixed)
        _left_over(F, w.right, w.fixed, w.of_fixed, w.rest)
        _solve_kkt(P, F, w.rest, w.dv, w.t)
        _add(w.fixed, 1.0, w.dv)
    w.dv.z[:] = 0.0
    _products(P, w.dv, w.of_fixed)
    if _farkas(P, w.dv, w.of_fixed, dot(P.b, w.dv.nu), w.best, w.slope):
        w.best.x[:] = 0.0
        return _PRIMAL_INFEASIBLE
    if _is_ray(P, w.dv.x, w.of_fixed, dot(P.p, w.dv.x)):
        _copy(w.dv, 1.0, w.best)
        return _DUAL_INFEASIBLE
    return _SUCCESS


@_inline
def _start(P: Problem, F: Factor, w: _Scratch, lapack: tuple[int, int, int, int]) -> bool:
    """The penalised problem E = 1, s = -z, then s and z made positive."""
    for i in range(len(P.d)):
        F.e[i], F.w[i] = 1.0, P.present[i] / (1.0 + KKT_DELTA)
    if not _factor(P, F, lapack):
        return False
    _right_of_data(P, w.r)
    _solve_kkt(P, F, w.r, w.v, w.t)
    for i in range(len(P.d)):
        w.s[i] = -w.v.z[i]
    _push(w.s, P.present)
    _push(w.v.z, P.present)
    return True


@inner
def _right_of_data(P: Problem, r: Triple) -> None:
    for j in range(len(P.p)):
        r.x[j] = -P.p[j]
    for i in range(len(P.b)):
        r.nu[i] = P.b[i]
    for i in range(len(P.d)):
        r.z[i] = P.d[i]


@_inline
def _reach(P: Problem, w: _Scratch, dz: Array, tau: float, dtau: float, kappa: float, dkappa: float) -> float:
    """The largest step <= 1 that keeps z, s, tau and kappa >= 0."""
    fastest = max(1.0, -dtau / tau, -dkappa / kappa)
    for i in range(len(dz)):
        if P.present[i] > 0.0:
            fastest = max(fastest, -dz[i] / w.v.z[i], -w.ds[i] / w.s[i])
    return 1.0 / fastest


@_inline
def _direction(
    P: Problem,
    F: Factor,
    w: _Scratch,
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
        _refined(P, F, right, into, aim, w.of_step, w.rest, w.dv, w.t)
    else:
        _solve_kkt(P, F, right, into, w.t)
    g = 2.0 * dot(w.qxi, into.x) + dot(P.p, into.x) + dot(P.b, into.nu) + dot(P.d, into.z)
    dtau = (keep * rt - rk / tau - g) / curvature
    _add(into, dtau, w.fixed)
    for i in range(len(v.z)):
        w.ds[i] = (w.target[i] - w.s[i] * into.z[i]) / v.z[i] if P.present[i] > 0.0 else 0.0
    return dtau, (rk - kappa * dtau) / tau


@_inline
def _keep_best(P: Problem, w: _Scratch, tau: float) -> None:
    _copy(w.v, 1.0 / tau, w.best)
    for i in range(len(P.d)):
        w.best_s[i] = w.s[i] / tau


@inner
def _without_noise(P: Problem, w: _Scratch, best: float, tol: float, fit: Array) -> bool:
    """Take the multipliers of rows with s >= z from the best point, if it is as good without; whether it is solved."""
    _copy(w.best, 1.0, w.trial)
    for i in range(len(P.d)):
        w.trial.z[i] = w.best.z[i] if w.best.z[i] > w.best_s[i] else 0.0
    _products(P, w.trial, w.of_step)
    now = _judge(P, w.trial, w.of_step, _objective(P, w.trial, w.of_step), 1.0, w.trial_fit)
    if now <= max(best, min(tol, _AIM)):
        _copy(w.trial, 1.0, w.best)
        _put(w.trial_fit, fit)
    return bool(_closely(P, w.best, w.of_step, fit, tol))


@inner
def _needed(tol: float) -> float:
    """The residual of a settled set that is good enough."""
    return tol if tol >= _LOOSE else min(tol, _EXACT)


@inner
def _interior(
    P: Problem, F: Factor, w: _Scratch, tol: float, max_steps: int, fit: Array, lapack: tuple[int, int, int, int]
) -> tuple[int, int, bool]:
    """Solve the row; status, factorisations, and whether its set settled. The point is ``w.best``, with its ``fit``."""
    n, q, k = len(P.p), len(P.b), len(P.d)
    aim, needed = tol if tol >= _LOOSE else min(tol, _AIM), _needed(tol)
    v, s, at = w.v, w.s, w.at
    fit[:] = np.inf
    count = 1.0
    for i in range(k):
        count += P.present[i]
    if not _start(P, F, w, lapack):
        return _NUMERICAL, 1, False
    tau, kappa, steps, since, agreed, stall = 1.0, 1.0, 1, 0, False, 0
    best, least, idle = np.inf, np.inf, 0
    w.tried[:] = False
    w.predicted[:] = False
    attempts = 0
    for step in range(max_steps):
        _products(P, v, at)
        f = _objective(P, v, at)
        mu = tau * kappa
        for i in range(k):
            mu += s[i] * v.z[i]
        mu /= count
        now = _judge(P, v, at, f, tau, w.fit)
        stall = 0 if now < best or (mu < 0.5 * least and mu > 1e-16 * tau * tau) else stall + 1
        least = min(mu, least)
        fast, idle = now < 0.1 * best, 0 if now < best else idle + 1
        if now < best:
            best = now
            _put(w.fit, fit)
            _keep_best(P, w, tau)
        if not abs(mu) < np.inf:
            break
        since += 1
        if best > aim * (tol >= _LOOSE) and step >= _FIRST and tau > 1e-6 * kappa:
            # a set that failed once may do from closer
            if mu < _SMALL * tau * tau and since > 2 and not agreed:
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
                _copy(v, 1.0 / tau, w.trial)
                changes = min(_CHANGES, max_steps - steps)
                reached, used = _finish(
                    P, F, w.trial, w.active, changes, w.of_step, w.right, w.rest, w.dv, w.t, w.trial_fit, lapack
                )
                steps += used
                if reached <= needed and _closely(P, w.trial, w.of_step, w.trial_fit, tol):
                    _copy(w.trial, 1.0, w.best)
                    _put(w.trial_fit, fit)
                    return _SUCCESS, steps, True
        if best <= aim and (tol >= _LOOSE or best <= _ENOUGH or not fast) and _without_noise(P, w, best, tol, fit):
            return _SUCCESS, steps, False
        if steps >= max_steps or stall >= _STALL or (best <= tol and idle >= _IDLE):
            break
        if kappa > 1e-3 * tau and best > tol:
            if _farkas(P, v, at, f.by, w.trial, w.slope):
                _copy(w.trial, 1.0, w.best)
                return _PRIMAL_INFEASIBLE, steps, False
            if _is_ray(P, v.x, at, f.px):
                _copy(v, 1.0, w.best)
                return _DUAL_INFEASIBLE, steps, False
            _products(P, v, at)
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
        if not _factor(P, F, lapack):
            break
        steps += 1
        _right_of_data(P, w.right)
        exact = 1e-3 * mu
        rounds = _refined(P, F, w.right, w.fixed, exact, w.of_fixed, w.rest, w.dv, w.t)
        if step == 0 and _left_over(F, w.right, w.fixed, w.of_fixed, w.rest) > _SUSPICIOUS:
            proven = _null_proof(P, F, w)
            if proven != _SUCCESS:
                return proven, steps, False
            rounds = _refined(P, F, w.right, w.fixed, exact, w.of_fixed, w.rest, w.dv, w.t)
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
        _add(v, length, w.step)
        for i in range(k):
            s[i] += length * w.ds[i]
        tau += length * dtau
        kappa += length * dkappa
    if best <= tol and _without_noise(P, w, best, tol, fit):
        return _SUCCESS, steps, False
    return (_MAX_STEPS if steps >= max_steps else _NUMERICAL), steps, False


# The batch


class _Room(NamedTuple):
    """Numbers for the work arrays, and how many of them are taken."""

    numbers: Array
    taken: Array


@_making
def _matrix(room: _Room, rows: int, columns: int) -> Array:
    start = room.taken[0]
    room.taken[0] += (rows * columns + 7) // 8 * 8
    matrix: Array = part(room.numbers, start, rows, columns)
    return matrix


@_making
def _vector(room: _Room, size: int) -> Array:
    row: Array = _matrix(room, 1, size)[0]
    return row


@_making
def _triple(room: _Room, n: int, q: int, k: int) -> Triple:
    return Triple(_vector(room, n), _vector(room, q), _vector(room, k))


@_making
def _new_products(room: _Room, n: int, q: int, k: int) -> Products:
    return Products(_vector(room, n), _vector(room, n), _vector(room, n), _vector(room, q), _vector(room, k))


@jit
def _new_room(n: int, q: int, m: int, k: int, width: int) -> _Room:
    """Enough for everything below."""
    matrices = n * width + 2 * n * q + 2 * n * m + n * n + q * q
    size = matrices + 40 * (n + q + k) + 200 * 8
    numbers = np.zeros(size + 8)
    taken = np.zeros(1, np.int64)
    taken[0] = -(numbers.ctypes.data // 8) % 8  # arrays start where cache lines do
    return _Room(numbers, taken)


@inner
def _write_nothing(found: Found, row: int) -> None:
    """What is reported of a row that is left."""
    _fill(found.x[row], 0.0)
    _fill(found.nu[row], 0.0)
    _fill(found.z[row], 0.0)
    _fill(found.s[row], 0.0)
    _fill(found.ray[row], 0.0)
    _fill(found.scales.w[row], 0.0)
    _fill(found.scales.columns[row], 1.0)
    _fill(found.scales.a_rows[row], 1.0)
    _fill(found.scales.c_rows[row], 1.0)
    _fill(found.scales.units[row], 1.0)
    for i in range(found.active.shape[1]):
        found.active[row, i] = False
    for i in range(len(found.fit)):
        found.fit[i, row] = np.inf
    found.steps[row], found.status[row] = 0, _NUMERICAL


@_making
def _scratch(room: _Room, n: int, q: int, k: int) -> _Scratch:
    return _Scratch(
        _triple(room, n, q, k), _vector(room, k), _triple(room, n, q, k), _triple(room, n, q, k),
        _triple(room, n, q, k), _triple(room, n, q, k), _triple(room, n, q, k), _triple(room, n, q, k),
        _triple(room, n, q, k), _triple(room, n, q, k), _triple(room, n, q, k), _vector(room, k),
        _vector(room, k), _vector(room, k), _vector(room, n), _vector(room, n),
        _new_products(room, n, q, k), _new_products(room, n, q, k), _new_products(room, n, q, k),
        _vector(room, 5), _vector(room, 5), _vector(room, k), _vector(room, k), _vector(room, k), _vector(room, k),
    )  # fmt: skip


@_making
def _new_problem(room: _Room, n: int, q: int, m: int, k: int, width: int, lower: bool, upper: bool) -> Problem:
    return Problem(
        _matrix(room, n, width), _matrix(room, q, n), _matrix(room, m, n), _vector(room, n), _vector(room, q),
        _vector(room, k), _vector(room, k), lower, upper, _vector(room, n), _vector(room, q), _vector(room, k),
        _vector(room, 2), _matrix(room, 2, n), _matrix(room, 2, q + k), _vector(room, 6),
    )  # fmt: skip


@_making
def _new_factor(room: _Room, n: int, q: int, m: int, k: int, width: int) -> Factor:
    return Factor(
        _vector(room, k), _vector(room, k), _matrix(room, n, width if m == 0 else n), _matrix(room, q, n),
        _matrix(room, q, q),
        _matrix(room, m, n), _vector(room, 2),
    )  # fmt: skip


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
        F.L[i, i] = Q[i, i] + _NEGATIVE * most
    if most == 0.0:
        return bool(_largest(Q.reshape(Q.size)) == 0.0)
    return bool(_factored(F.L, lapack))


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
    _put(P.units, found.scales.units[row])


@inner
def _write_slack(P: Problem, v: Triple, d: Array, cx: Array, found: Found, row: int) -> None:
    """s = d - C x in the user's units."""
    _c_times(P, v.x, cx)
    for i in range(len(cx)):
        found.s[row, i] = (P.d[i] - cx[i]) * P.units[0] / P.c_rows[i] if d[i] < np.inf else np.inf


@inner
def _single_thread(n: int, lapack: tuple[int, int, int, int]) -> int:
    """Where LAPACK is called, use one thread; how many it used, or 0."""
    return int(set_threads(lapack[3], 1)) if n >= _LAPACK and lapack[3] != 0 else 0


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
    room, threads = _new_room(n, q, m, k, Q.shape[2]), _single_thread(n, lapack)
    P, F = _new_problem(room, n, q, m, k, Q.shape[2], lower, upper), _new_factor(room, n, q, m, k, Q.shape[2])
    w, size, fit = _scratch(room, n, q, k), _vector(room, 2 * n + q + k), _vector(room, 5)
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
                _equilibrate(Q_row, A_row, G_row, P.columns, P.a_rows, P.c_rows[:m], size)
                _scaled(A_row, P.a_rows, P.columns, 1.0, P.A)
                _scaled(G_row, P.c_rows[:m], P.columns, 1.0, P.G)
                _set_norms(P, A_row, G_row)
        finite = 0.0
        for j in range(n):
            finite += p[row, j]
        for i in range(q):
            finite += b[row, i]
        for i in range(k):
            finite += d[row, i] if d[row, i] != np.inf else 0.0
        _write_nothing(found, row)
        if not (sound and abs(finite) < np.inf):
            continue
        F.light[0], F.light[1] = KKT_RHO, KKT_DELTA
        _set_up(P, Q_row, p[row], b[row], d[row], 1.0, size)
        status, steps, settled = _NUMERICAL, 0, False
        if len(guess) > 0 or k == 0:
            for i in range(k):
                w.active[i] = guess[row, i] and P.present[i] > 0.0
            w.best.x[:], w.best.nu[:], w.best.z[:] = 0.0, 0.0, 0.0
            changes = min(_WARM_CHANGES, max_steps)
            reached, steps = _finish(
                P, F, w.best, w.active, changes, w.of_step, w.right, w.rest, w.dv, w.t, fit, lapack
            )
            settled = reached <= _needed(tol) and _closely(P, w.best, w.of_step, fit, tol)
            status = _SUCCESS if settled else _NUMERICAL
        times = 1.0
        for _ in range(2):
            if settled or steps >= max_steps:
                break
            status, more, settled = _interior(P, F, w, tol, max_steps - steps, fit, lapack)
            steps += more
            reach = _largest(w.best.x)
            if status != _NUMERICAL or not _FAR < reach < np.inf:
                break
            times *= _power(reach)  # the solution is far from all that was known of its size
            F.light[0], F.light[1] = KKT_RHO, KKT_DELTA
            _set_up(P, Q_row, p[row], b[row], d[row], times, size)
        if not settled:
            for i in range(k):
                w.active[i] = w.best.z[i] > w.best_s[i] and P.present[i] > 0.0
                F.w[i] = P.present[i] / (w.best_s[i] / w.best.z[i] + KKT_DELTA) if w.best.z[i] > 0.0 else 0.0
        _write(P, F, w.best, w.active, found, row)
        _write_slack(P, w.best, d[row], w.at.cx, found, row)
        if status == _DUAL_INFEASIBLE:
            _put(found.x[row], found.ray[row])
        for i in range(len(fit)):
            found.fit[i, row] = fit[i]
        found.steps[row], found.status[row] = steps, status
        left -= 1 if status == _SUCCESS else 0
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
    room, threads = _new_room(n, q, m, k, Q.shape[2]), _single_thread(n, lapack)
    P, F = _new_problem(room, n, q, m, k, Q.shape[2], lower, upper), _new_factor(room, n, q, m, k, Q.shape[2])
    r, out, rest, dv = _triple(room, n, q, k), _triple(room, n, q, k), _triple(room, n, q, k), _triple(room, n, q, k)
    at, t = _new_products(room, n, q, k), _vector(room, k)
    for row in range(batch):
        Q_row, A_row, G_row = Q[min(row, len(Q) - 1)], A[min(row, len(A) - 1)], G[min(row, len(G) - 1)]
        _put(scales.columns[row], P.columns)
        _put(scales.a_rows[row], P.a_rows)
        _put(scales.c_rows[row], P.c_rows)
        _put(scales.units[row], P.units)
        length, cost = scales.units[row, 0], scales.units[row, 1]
        force = cost * length
        _scaled(A_row, P.a_rows, P.columns, 1.0, P.A)
        _scaled(G_row, P.c_rows[:m], P.columns, 1.0, P.G)
        if Q.shape[2] == n:
            _scaled(Q_row, P.columns, P.columns, force * length, P.Q)
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
        if _factor(P, F, lapack):
            _solve_kkt(P, F, r, out, t)
            before = _size(r)
            for _ in range(corrections):
                _products(P, out, at)
                error = _left_over(F, r, out, at, rest)
                if not error < 0.5 * before:  # a singular system: what is regularised stays
                    break
                before = error
                _solve_kkt(P, F, rest, dv, t)
                _add(out, 1.0, dv)
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
