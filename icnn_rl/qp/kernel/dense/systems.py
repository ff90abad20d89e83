"""The linear systems of the method: factored, solved, corrected. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import math

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.kernel_algebra import dot
from icnn_rl.qp.kernel.dense.products import add_c_transposed, add_transposed, c_times, largest_of, products_at, put
from icnn_rl.qp.kernel.dense.records import (
    ENOUGH,
    GROWTH,
    LAPACK,
    LIGHTEST,
    ROUNDS,
    TRIES,
    Array,
    Factor,
    Problem,
    Products,
    Triple,
    multiply,
)
from icnn_rl.qp.kernel.lapack import add_square, forward, outer_square, potrf


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
    if n >= LAPACK and lapack[1] != 0:
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
def factored_in_place(H: Array, lapack: tuple[int, int, int, int]) -> bool:
    if H.shape[1] == len(H) >= LAPACK and lapack[0] != 0:
        return bool(potrf(lapack[0], H) == 0 and abs(H[-1, -1]) < np.inf)
    return bool(_cholesky(H))


@inner
def _schur(P: Problem, F: Factor, delta: float, lapack: tuple[int, int, int, int]) -> None:
    """V = A L^{-T} and S = V V^T + delta, its lower half."""
    q, V, S = len(P.b), F.V, F.S
    for i in range(q):
        put(P.A[i], V[i])
    blocks = len(P.p) >= LAPACK and q > 2 and lapack[2] != 0
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
def factorise(P: Problem, F: Factor, lapack: tuple[int, int, int, int]) -> bool:
    """Factor the system of F.w; whether that was possible, with more regularisation if need be."""
    rho, done = F.light[0], False
    for _ in range(1 + TRIES):
        _hessian(P, F, rho, lapack)
        done = factored_in_place(F.L, lapack)
        if done:
            break
        rho *= GROWTH
    if not done or len(P.b) == 0:
        return done
    delta = F.light[1]
    for _ in range(1 + TRIES):
        _schur(P, F, delta, lapack)
        if factored_in_place(F.S, lapack):
            return True
        delta *= GROWTH
    return False


@inner
def lighten(F: Factor) -> bool:
    """Less regularisation from the next factorisation on, where corrections do not get rid of it; whether it can be."""
    F.light[0] = max(1e-3 * F.light[0], LIGHTEST)
    F.light[1] = max(1e-3 * F.light[1], LIGHTEST)
    return bool(F.light[0] > LIGHTEST)


@inner
def solve_kkt(P: Problem, F: Factor, r: Triple, out: Triple, t: Array) -> None:
    """The regularised system: x, nu, z for the right-hand sides r, which may not be ``out``; t (k,) is scratch."""
    for i in range(len(t)):
        t[i] = F.w[i] * r.z[i]
    x, nu, z = out
    for j in range(len(x)):
        x[j] = r.x[j]
    add_c_transposed(P, t, x)
    _forward(F.L, x)
    if len(nu) > 0:
        multiply(F.V, x, nu)
        for i in range(len(nu)):
            nu[i] -= r.nu[i]
        _forward(F.S, nu)
        _backward(F.S, nu)
        add_transposed(F.V, nu, -1.0, x)
    _backward(F.L, x)
    c_times(P, x, z)
    for i in range(len(t)):
        z[i] = F.w[i] * (z[i] - r.z[i])


@inner
def add_step(v: Triple, step: float, dv: Triple) -> None:
    for j in range(len(v.x)):
        v.x[j] += step * dv.x[j]
    for i in range(len(v.nu)):
        v.nu[i] += step * dv.nu[i]
    for i in range(len(v.z)):
        v.z[i] += step * dv.z[i]


@inner
def copy_scaled(v: Triple, scale: float, out: Triple) -> None:
    for j in range(len(v.x)):
        out.x[j] = scale * v.x[j]
    for i in range(len(v.nu)):
        out.nu[i] = scale * v.nu[i]
    for i in range(len(v.z)):
        out.z[i] = scale * v.z[i]


@inner
def length_of(v: Triple) -> float:
    return float(max(largest_of(v.x), largest_of(v.nu), largest_of(v.z)))


@inner
def left_over(F: Factor, r: Triple, v: Triple, at: Products, out: Triple) -> float:
    """What v leaves of the right-hand sides of the unregularised system, and its size."""
    for j in range(len(v.x)):
        out.x[j] = r.x[j] - at.qx[j] - at.aty[j] - at.ctz[j]
    for i in range(len(v.nu)):
        out.nu[i] = r.nu[i] - at.ax[i]
    for i in range(len(v.z)):
        out.z[i] = r.z[i] - at.cx[i] + F.e[i] * v.z[i] if F.w[i] > 0.0 else 0.0
    return float(length_of(out))


@inner
def solve_refined(
    P: Problem, F: Factor, r: Triple, out: Triple, target: float, at: Products, rest: Triple, dv: Triple, t: Array
) -> bool:
    """The unregularised system, to ``target`` or as far as corrections lead; whether there were any. ``at`` has the
    products of ``out``, ``rest`` what it leaves."""
    solve_kkt(P, F, r, out, t)
    target = target + ENOUGH * (1.0 + length_of(r))
    before = np.inf
    for correction in range(ROUNDS + 1):
        products_at(P, out, at)
        error = left_over(F, r, out, at, rest)
        if not error < before:  # the last correction made it worse: back
            add_step(out, -1.0, dv)
            products_at(P, out, at)
            lighten(F)
            return True
        if error <= target:
            return correction > 0
        if correction == ROUNDS or error > 0.5 * before:
            lighten(F)
            return True
        before = error
        solve_kkt(P, F, rest, dv, t)
        add_step(out, 1.0, dv)
    return True
