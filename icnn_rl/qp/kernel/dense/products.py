"""Products with the matrices of a problem. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

import numpy as np

from icnn_rl.compiling import inner
from icnn_rl.qp.kernel.dense.records import Array, Problem, Products, Triple, inlined, multiply


@inner
def add_transposed(M: Array, y: Array, sign: float, out: Array) -> None:
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
def fill(out: Array, number: float) -> None:
    for i in range(len(out)):
        out[i] = number


@inner
def put(a: Array, out: Array) -> None:
    for i in range(len(a)):
        out[i] = a[i]


@inner
def largest_of(a: Array) -> float:
    """The largest absolute value; infinite if a number is not finite."""
    most, total = 0.0, 0.0
    for i in range(len(a)):
        most = max(most, abs(a[i]))
        total += abs(a[i])
    return most if total < np.inf else np.inf


@inlined
def _q_times(P: Problem, x: Array, out: Array) -> None:
    if P.Q.shape[1] == len(x):
        multiply(P.Q, x, out)
    else:
        for j in range(len(x)):
            out[j] = P.Q[j, 0] * x[j]


@inlined
def c_times(P: Problem, x: Array, out: Array) -> None:
    """out = C x."""
    n, start = len(x), P.G.shape[0]
    if start > 0:
        multiply(P.G, x, out)
    if P.lower:
        for j in range(n):
            out[start + j] = -x[j]
        start += n
    if P.upper:
        for j in range(n):
            out[start + j] = x[j]


@inlined
def add_c_transposed(P: Problem, z: Array, out: Array) -> None:
    """out += C^T z."""
    n, start = len(out), P.G.shape[0]
    if start > 0:
        add_transposed(P.G, z, 1.0, out)
    if P.lower:
        for j in range(n):
            out[j] -= z[start + j]
        start += n
    if P.upper:
        for j in range(n):
            out[j] += z[start + j]


@inner
def products_at(P: Problem, v: Triple, at: Products) -> None:
    _q_times(P, v.x, at.qx)
    c_times(P, v.x, at.cx)
    at.ctz[:] = 0.0
    add_c_transposed(P, v.z, at.ctz)
    if len(v.nu) > 0:
        multiply(P.A, v.x, at.ax)
        at.aty[:] = 0.0
        add_transposed(P.A, v.nu, 1.0, at.aty)
