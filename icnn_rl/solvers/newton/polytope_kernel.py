"""Projected Newton over polytopes, compiled: what lies between the quadratic programmes of its steps.

As :mod:`.kernel` row by row, but the model of a step is minimised over { y : G y <= h } and the bounds by the kernel of
tiny programmes, for many rows at a time; its multipliers z >= 0 certify the gap by weak duality,

    f(y) - min f  <=  z . (h - G y) + box( grad f(y) + G^T z ).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from icnn_rl.compiling import jit
from icnn_rl.kernel_algebra import dot
from icnn_rl.solvers.newton.constants import EASIER, GOOD
from icnn_rl.solvers.newton.kernel import (
    Energies,
    box_gap,
    certify,
    clip,
    evaluate,
    is_solved,
    judge,
    new_point,
    new_row,
    read_row,
    variation,
)
from icnn_rl.solvers.problem import NOISE

Array = np.ndarray[Any, np.dtype[Any]]


class State(NamedTuple):
    """Of K rows at work; all but the points in float64."""

    rows: Array  # (K,), where they are in the batch
    y: Array  # (K, n)
    f: Array
    g: Array  # (K, n)
    H: Array  # (K, n, n)
    gap: Array
    scale: Array  # the variation of f over the bounds
    noise: Array
    damping: Array
    steps: Array
    solved: Array
    stalled: Array
    sound: Array


@jit
def begin(energies: Energies, lower: Array, upper: Array, tol: float, atol: float, s: State) -> None:
    """Fill in what is known at the points ``s.y``. Their gap is the one over the bounds, which are a larger set."""
    r, at = new_row(energies), new_point(s.y.shape[1])
    for k in range(len(s.rows)):
        c = read_row(r, energies, lower, upper, s.rows[k])
        at.y[:] = s.y[k]
        s.f[k] = evaluate(r, at, c, energies.square_width, 0.0)
        s.g[k], s.H[k] = at.g, at.H
        s.scale[k] = variation(r, at)
        s.noise[k] = (abs(s.f[k]) + s.scale[k]) * NOISE * np.finfo(s.y.dtype).eps
        s.gap[k] = box_gap(r, at)
        s.sound[k] = np.isfinite(s.f[k]) and np.isfinite(s.scale[k])
        s.solved[k] = s.sound[k] and is_solved(s.gap[k], s.scale[k], s.noise[k], tol, atol)


@jit
def models(s: State, at_work: Array, Q: Array, p: Array) -> None:
    """The damped quadratic models of the rows at work, as min 1/2 x^T Q x + p . x."""
    n = s.y.shape[1]
    for i in range(len(at_work)):
        k = at_work[i]
        lift = s.damping[k]
        for j in range(n):
            lift += s.H[k, j, j] * np.finfo(s.y.dtype).eps
        Q[i] = s.H[k]
        for j in range(n):
            Q[i, j, j] += lift
        for j in range(n):
            total = s.g[k, j]
            for m in range(n):
                total -= Q[i, j, m] * s.y[k, m]
            p[i, j] = total


@jit
def advance(
    energies: Energies,
    lower: Array,
    upper: Array,
    G: Array,
    h: Array,
    at_work: Array,
    Q: Array,
    x: Array,
    z: Array,
    tol: float,
    atol: float,
    s: State,
) -> None:
    """Judge the models' minimisers ``x`` (I, n) by f, with their multipliers ``z`` (I, m and more) of the rows."""
    n, m = s.y.shape[1], h.shape[1]
    r, at, trial = new_row(energies), new_point(n), new_point(n)
    real = s.y.dtype.type
    for i in range(len(at_work)):
        k = at_work[i]
        row = s.rows[k]
        c = read_row(r, energies, lower, upper, row)
        at.y[:], at.g[:], at.H[:] = s.y[k], s.g[k], s.H[k]
        r.damped[:] = Q[i]
        r.low[:], r.high[:] = 0.0, 0.0  # the model was solved to the end: none of its sets is in doubt
        for j in range(n):
            trial.y[j] = float(real(clip(x[i, j], r.lower[j], r.upper[j])))
            r.d[j] = trial.y[j] - at.y[j]
        predicted = 0.0
        for j in range(n):
            predicted -= (at.g[j] + 0.5 * dot(r.damped[j], r.d)) * r.d[j]
        f = evaluate(r, trial, c, energies.square_width, 0.0)
        gap = _lagrangian_gap(r, trial, G[min(row, len(G) - 1)], h[min(row, len(h) - 1)], z[i, :m])
        actual, enough = s.f[k] - f + s.noise[k], max(s.noise[k], tol * s.scale[k])
        s.steps[k] += 1
        if (actual >= GOOD * predicted and predicted > s.noise[k]) or (gap <= enough and actual >= 0):
            accepted, s.damping[k] = True, EASIER * s.damping[k]
        else:
            accepted, s.damping[k], s.stalled[k] = judge(
                r, at, trial, s.f[k], f, s.gap[k], gap, predicted, s.noise[k], s.damping[k]
            )
            s.H[k] = at.H
        if accepted:
            s.y[k], s.f[k], s.gap[k] = trial.y, f, gap
            s.g[k], s.H[k] = trial.g, trial.H
        s.solved[k] = is_solved(s.gap[k], s.scale[k], s.noise[k], tol, atol)


@jit
def _lagrangian_gap(r: Any, at: Any, G: Array, h: Array, z: Array) -> float:
    """The bound above at ``at.y``; z below 0 counts as 0."""
    bound = 0.0
    slope = at.g.copy()
    for i in range(len(h)):
        if z[i] > 0.0:
            bound += z[i] * (h[i] - dot(G[i], at.y))
            for j in range(len(slope)):
                slope[j] += z[i] * G[i, j]
    certified: float = certify(r, at, slope, bound)
    return certified


@jit
def outside(y: Array, G: Array, h: Array) -> Array:
    """Whether a row of G y <= h is not met, or is not known to be: (B, n) -> (B,)."""
    found = np.zeros(len(y), np.bool_)
    for b in range(len(y)):
        A, right = G[min(b, len(G) - 1)], h[min(b, len(h) - 1)]
        for i in range(len(right)):
            left = 0.0
            for j in range(y.shape[1]):
                left += A[i, j] * y[b, j]
            if not left <= right[i]:
                found[b] = True
                break
    return found
