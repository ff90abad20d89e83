"""The arrays of one problem, and the numbers that decide about it. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from icnn_rl.compiling import inner
from icnn_rl.qp.constants import NEGATIVE
from icnn_rl.solution import Status

Array = np.ndarray[Any, np.dtype[Any]]
#: rho and delta, what multiplies them when a factorisation breaks down, and how often.
KKT_RHO, KKT_DELTA, GROWTH, TRIES = 1e-8, 1e-8, 100.0, 4
#: The least rho and delta.
LIGHTEST = 1e-14
#: Passes of the equilibration at most; norms from 1/2 to 2 need none.
PASSES = 10
#: Corrections of a linear system by its residual at most, and the residual, relative, that needs none.
ROUNDS, ENOUGH = 4, 1e-13
#: Interior-point steps before the first attempt to finish, and mu from where on the sets need not agree.
FIRST, SMALL = 3, 1e-7
#: At most: changes of an active set in an attempt and in the one from a guess; corrections on a set, and more of them
#: once it has settled.
CHANGES, WARM_CHANGES, SET_CORRECTIONS, POLISH = 3, 4, 8, 4
#: Below this, relative, a negative multiplier or a violation is rounding; above ``CLEAR`` it needs no correction.
WRONG_SIGN, CLEAR = 1e-11, 1e-5
#: A residual on a settled set that is rounding; the one that interior-point steps aim at; that of a loose tolerance.
EXACT, AIM, LOOSE = 1e-12, 1e-11, 1e-5
#: Steps without progress after which a row is given up, and without a better residual within the tolerance.
STALL, IDLE = 6, 3
#: A negative eigenvalue of Q, relative.
NEGATIVE_EIGENVALUE = NEGATIVE[torch.float64]
#: A proof has to exclude points up to this many times the largest right-hand side.
REACH = 1e6
#: What the first solution leaves of the data where the system may be singular, relative to 1.
SUSPICIOUS = 1e-7
#: Where x ends up so far away, the unit of length was wrong.
FAR = 1e3
#: A number that is 0, where data have the size 1.
NOTHING = 1e-16
#: From this size on LAPACK is faster than plain loops.
LAPACK = 24
#: The statuses that a row may get, as numba takes them.
SUCCESS, MAX_STEPS, NUMERICAL = int(Status.SUCCESS), int(Status.MAX_STEPS), int(Status.NUMERICAL)
PRIMAL_INFEASIBLE, DUAL_INFEASIBLE = int(Status.PRIMAL_INFEASIBLE), int(Status.DUAL_INFEASIBLE)


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


def inlined(function: Any) -> Any:
    """Compile into its callers: for what takes dozens of arrays."""
    return inner(function, forceinline=True)


def making(function: Any) -> Any:
    """For what returns arrays."""
    return inner(function, _nrt=True)


@inner
def multiply(M: Array, x: Array, out: Array) -> None:
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
