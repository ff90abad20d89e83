"""What lies between the matrix products of an update, compiled: each pass reads a batch once.

For one hidden layer of squareplus units and a context of linear, LayerNorm, ReLU layers, in the letters of
:mod:`icnn_rl.nn.energy`,

    p = W^(y) (y * ygate) + c,       z = g(p),       g(p) = ( p + sqrt(p^2 + s) ) / 2
    f = sum_j softplus(a_j) v_j z_j + lin . y + k + 1/2 sum_i ( softplus(b_i) + m ) y_i^2

where ygate, c, a, lin, k, b are what the heads read from the context, v >= 0 and W^(y) are weights of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icnn_rl.compiling import jit

Array = np.ndarray[Any, np.dtype[Any]]

_EPS = 1e-5  # as in torch's layer_norm


@jit
def normalise(x: Array, shift: Array, per_std: Array, u: Array) -> None:
    """u = relu( xhat + shift ),    xhat = (x - mean) / std over the last dimension.

    Args:
        x: (M, B, width), overwritten by xhat.
        shift: (M, width).
        per_std: (M, B), filled with 1 / std.
        u: (M, B, width), filled.
    """
    members, batch, width = x.shape
    real = x.dtype.type
    zero, share = real(0.0), real(1.0 / width)
    for e in range(members):
        for b in range(batch):
            mean = variance = zero
            for j in range(width):
                mean += x[e, b, j]
            mean *= share
            for j in range(width):
                variance += (x[e, b, j] - mean) * (x[e, b, j] - mean)
            factor = real(1.0) / np.sqrt(variance * share + real(_EPS))
            per_std[e, b] = factor
            for j in range(width):
                x[e, b, j] = (x[e, b, j] - mean) * factor
            for j in range(width):
                raised = x[e, b, j] + shift[e, j]
                u[e, b, j] = zero if raised < zero else raised  # NaN stays NaN


@jit
def normalise_backward(xhat: Array, shift: Array, per_std: Array, du: Array, dbias: Array, dshift: Array) -> None:
    """dx = ( v - mean(v) - xhat mean(v xhat) ) / std with v = du where u > 0.

    Args:
        xhat, shift, per_std: of :func:`normalise`.
        du: (M, B, width), overwritten by dx.
        dbias, dshift: (M, width), filled with the sums of dx and of v over the batch.
    """
    members, batch, width = xhat.shape
    real = xhat.dtype.type
    zero, share = real(0.0), real(1.0 / width)
    dbias[...] = zero
    dshift[...] = zero
    for e in range(members):
        for b in range(batch):
            mean = along = zero
            for j in range(width):
                v = du[e, b, j] if xhat[e, b, j] + shift[e, j] > zero else zero
                du[e, b, j] = v
                mean += v
                along += v * xhat[e, b, j]
            mean *= share
            along *= share
            for j in range(width):
                dshift[e, j] += du[e, b, j]
            for j in range(width):
                du[e, b, j] = (du[e, b, j] - mean - xhat[e, b, j] * along) * per_std[e, b]
            for j in range(width):
                dbias[e, j] += du[e, b, j]


@jit
def loss(
    heads: Array,
    tail: Array,
    slope: Array,
    directions: Array,
    v: Array,
    curvature: float,
    square_width: float,
    y: Array,
    target: Array,
    usable: Array,
    energies: Array,
    losses: Array,
    dheads: Array,
    ddirections: Array,
    dv: Array,
) -> None:
    """losses_s = sum_e mean_b ( f_e(s_b, y_b) + target_b )^2 over the usable b, and its gradient.

    Args:
        heads: (S E, B, 2 n + 2 h + n + 1), rows of ygate, c, a, lin, k, b.
        tail, slope: (S E, B, h + n + 1 + n), softplus and its derivative of a, lin, k, b.
        directions: (S E, n, h): W^(y) transposed. v: (S E, h).
        curvature: m. square_width: s.
        y: (S, B, n). target: (S, B). usable: (S, B), bool.
        energies: (S E, B), filled. losses: (S,), filled; NaN where no row is usable.
        dheads, ddirections, dv: as ``heads``, ``directions`` and ``v``, filled.
    """
    groups, batch, n = y.shape
    total, _, h = directions.shape
    members = total // groups
    real = heads.dtype.type
    zero, half, one = real(0.0), real(0.5), real(1.0)
    m, s = real(curvature), real(square_width)
    gate, shift, out, lin = 0, n, n + h, n + 2 * h
    constant, quadratic = lin + n, lin + n + 1
    p, inverse = np.empty(h, heads.dtype), np.empty(h, heads.dtype)
    ddirections[...] = zero
    dv[...] = zero
    for g in range(groups):
        count = 0
        for b in range(batch):
            count += usable[g, b]
        double = real(2.0 / count) if count else real(np.nan)
        squares = zero
        for e in range(g * members, (g + 1) * members):
            for b in range(batch):
                row, up, bend, into = heads[e, b], tail[e, b], slope[e, b], dheads[e, b]
                for j in range(h):
                    p[j] = row[shift + j]
                for i in range(n):
                    moved = y[g, b, i] * row[gate + i]
                    for j in range(h):
                        p[j] += directions[e, i, j] * moved
                f = row[constant]
                hidden = zero
                for j in range(h):
                    root = np.sqrt(p[j] * p[j] + s)
                    inverse[j] = one / root
                    into[shift + j] = half * (p[j] + root)  # z, for now
                    hidden += up[j] * v[e, j] * into[shift + j]
                f += hidden
                for i in range(n):
                    f += (row[lin + i] + half * (up[h + n + 1 + i] + m) * y[g, b, i]) * y[g, b, i]
                energies[e, b] = f
                error = f + target[g, b] if usable[g, b] else zero
                squares += error * error
                d = double * error
                for j in range(h):
                    z = into[shift + j]
                    into[out + j] = d * z * v[e, j] * bend[j]
                    dv[e, j] += d * z * up[j]
                    p[j] = d * up[j] * v[e, j] * half * (one + p[j] * inverse[j])
                    into[shift + j] = p[j]
                for i in range(n):
                    moved = y[g, b, i] * row[gate + i]
                    pulled = zero
                    for j in range(h):
                        pulled += directions[e, i, j] * p[j]
                        ddirections[e, i, j] += moved * p[j]
                    into[gate + i] = pulled * y[g, b, i]
                    into[lin + i] = d * y[g, b, i]
                    into[quadratic + i] = d * half * y[g, b, i] * y[g, b, i] * bend[h + n + 1 + i]
                into[constant] = d
        losses[g] = squares / count if count else real(np.nan)
