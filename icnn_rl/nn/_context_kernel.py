"""LayerNorm, shift and ReLU of a context layer in one pass over the batch, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from icnn_rl.compiling import jit

Array = np.ndarray[Any, np.dtype[Any]]

_EPS = 1e-5  # as in torch's layer_norm


@jit
def forward(x: Array, shift: Array, per_std: Array, u: Array) -> None:
    """u = relu( xhat + shift ),    xhat = (x - mean) / std over the last dimension.

    Args:
        x: (E, B, width), overwritten by xhat.
        shift: (E, width).
        per_std: (E, B), filled with 1 / std.
        u: (E, B, width), filled.
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
def backward(xhat: Array, shift: Array, per_std: Array, du: Array, dx: Array, dbias: Array, dshift: Array) -> None:
    """dx = ( v - mean(v) - xhat mean(v xhat) ) / std with v = du where u > 0.

    Args:
        xhat, shift, per_std: of :func:`forward`.
        du: (E, B, width).
        dx: (E, B, width), filled.
        dbias, dshift: (E, width), the sums of dx and of v over the batch; zeros to begin with.
    """
    members, batch, width = xhat.shape
    real = xhat.dtype.type
    zero, share = real(0.0), real(1.0 / width)
    for e in range(members):
        for b in range(batch):
            mean = along = zero
            for j in range(width):
                v = du[e, b, j] if xhat[e, b, j] + shift[e, j] > zero else zero
                dx[e, b, j] = v
                mean += v
                along += v * xhat[e, b, j]
            mean *= share
            along *= share
            for j in range(width):
                dshift[e, j] += dx[e, b, j]
            for j in range(width):
                dx[e, b, j] = (dx[e, b, j] - mean - xhat[e, b, j] * along) * per_std[e, b]
            for j in range(width):
                dbias[e, j] += dx[e, b, j]
