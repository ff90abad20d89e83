"""The recursions of :mod:`icnn_rl.qp.linear.stagewise`, compiled: row by row of the batch, stage by stage.

The buffer of a row holds ``number`` diagonal blocks D_t (s, s), then as many blocks L_t (r, s) of the next stage's rows
that reach back; ``back`` says which these are. Factored, it holds L U = P D_t and D_t^{-1} L_t^T, transposed; pivots
are LAPACK's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icnn_rl.compiling import kept

Array = np.ndarray[Any, np.dtype[Any]]


@kept
def factor(
    base: Array,
    at_bounds: Array,
    bounds: Array,
    g_place: Array,
    g_row: Array,
    g_weight: Array,
    w: Array,
    back: Array,
    size: int,
    out: Array,
    pivots: Array,
) -> None:
    """LU factors of base + bounds on its diagonal + sum of W_row g_weight.

    Args:
        base: (1|B, length).
        at_bounds, bounds: (n,) places in the buffer, (B, n), or none (B, 0).
        g_place, g_row, g_weight: (P,), (P,) and (1|B, P).
        w: (B, k).
        back: (number, r).
        size: s.
        out, pivots: (B, length) and (B, number, s) int32, for the result.
    """
    number, reach = back.shape
    saved = np.empty((reach, size))
    for b in range(len(out)):
        m = out[b]
        m[:] = base[b if len(base) > 1 else 0]
        for j in range(bounds.shape[1]):
            m[at_bounds[j]] += bounds[b, j]
        weight = g_weight[b if len(g_weight) > 1 else 0]
        for i in range(len(g_place)):
            m[g_place[i]] += weight[i] * w[b, g_row[i]]
        blocks = m[: number * size * size].reshape(number, size, size)
        below = m[number * size * size :].reshape(number, reach, size)
        for t in range(number):
            _factor_lu(blocks[t], pivots[b, t])
            if t + 1 == number:
                break
            for i in range(reach):
                for j in range(size):
                    saved[i, j] = below[t, i, j]
                _solve_lu(blocks[t], pivots[b, t], below[t, i])
            for i in range(reach):
                for j in range(reach):
                    total = 0.0
                    for k in range(size):
                        total += saved[i, k] * below[t, j, k]
                    blocks[t + 1, back[t, i], back[t, j]] -= total


@kept
def substitute(factors: Array, pivots: Array, back: Array, y: Array) -> None:
    """y (B, number, s) becomes the solution."""
    number, reach = back.shape
    size = y.shape[2]
    for b in range(len(y)):
        blocks = factors[b, : number * size * size].reshape(number, size, size)
        below = factors[b, number * size * size :].reshape(number, reach, size)
        for t in range(number):
            if t + 1 < number:
                for i in range(reach):
                    total = 0.0
                    for j in range(size):
                        total += below[t, i, j] * y[b, t, j]
                    y[b, t + 1, back[t, i]] -= total
            _solve_lu(blocks[t], pivots[b, t], y[b, t])
        for t in range(number - 2, -1, -1):
            for i in range(reach):
                other = y[b, t + 1, back[t, i]]
                for j in range(size):
                    y[b, t, j] -= below[t, i, j] * other


def _factor_lu_in_place(d: Array, pivots: Array) -> None:
    """P D = L U in place, rows exchanged so that |L| <= 1."""
    n = len(d)
    for j in range(n):
        best = j
        for i in range(j + 1, n):
            if abs(d[i, j]) > abs(d[best, j]):
                best = i
        pivots[j] = best + 1
        if best != j:
            for k in range(n):
                d[j, k], d[best, k] = d[best, k], d[j, k]
        for i in range(j + 1, n):
            if d[i, j] != 0.0:
                d[i, j] /= d[j, j]
                for k in range(j + 1, n):
                    d[i, k] -= d[i, j] * d[j, k]


def _solve_lu_in_place(lu: Array, pivots: Array, y: Array) -> None:
    """y becomes D^{-1} y."""
    n = len(lu)
    for i in range(n):
        other = pivots[i] - 1
        y[i], y[other] = y[other], y[i]
    for i in range(n):
        total = y[i]
        for j in range(i):
            total -= lu[i, j] * y[j]
        y[i] = total
    for i in range(n - 1, -1, -1):
        total = y[i]
        for j in range(i + 1, n):
            total -= lu[i, j] * y[j]
        y[i] = total / lu[i, i]


_factor_lu, _solve_lu = kept(_factor_lu_in_place), kept(_solve_lu_in_place)
