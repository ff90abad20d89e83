"""Reference for programmes over convex sets: Clarabel's second-order cone, and linear programmes by SciPy's HiGHS."""

from __future__ import annotations

from typing import Any

import clarabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, sparse

from icnn_rl.sets import ConvexSet

Array = NDArray[np.float64]


def parts(s: ConvexSet, row: int, n: int) -> tuple[Array, Array, Array, Array]:
    """The rows C y <= d, bounds among them, and A y = b, of one row of the batch."""

    def of(value: Any, core: int) -> Array:
        t = torch.as_tensor(value, dtype=torch.float64).detach()
        return np.asarray(t[row if t.shape[0] > 1 else 0] if t.dim() > core else t)

    width = n + s.lifted
    C, d = [np.zeros((0, width))], [np.zeros(0)]
    if s.G is not None:
        C.append(of(s.G, 2))
        d.append(of(s.h, 1))
    for bound, sign in ((s.lb, -1.0), (s.ub, 1.0)):
        if bound is not None:
            C.append(sign * np.eye(width))
            d.append(sign * np.broadcast_to(of(bound, 1), (width,)))
    A, b = (np.zeros((0, width)), np.zeros(0)) if s.A is None else (of(s.A, 2), of(s.b, 1))
    rows, right = np.vstack(C), np.concatenate(d)
    kept = right < np.inf
    return rows[kept], right[kept], A, b


def minimiser(s: ConvexSet, Q: Array, p: Array, row: int = 0) -> Array | None:
    """argmin 1/2 y'Qy + p'y over the set; None where it is empty."""
    n = len(p)
    C, d, A, b = parts(s, row, n)
    width, k = n + s.lifted, s.lifted
    size = np.linalg.norm(C, axis=-1)
    size[size == 0] = 1.0
    blocks, right = [A, C / size[:, None]], [b, d / size]
    cones: list[Any] = []
    cones += [clarabel.ZeroConeT(len(b))] if len(b) else []
    cones += [clarabel.NonnegativeConeT(len(d))] if len(d) else []
    if s.ellipsoid is not None:
        M, c, r = (
            t.detach().double().numpy()[row if t.dim() > core and t.shape[0] > 1 else ...].reshape(shape)
            for t, core, shape in zip(s.ellipsoid, (2, 1, 0), ((n, n), (n,), ()), strict=True)
        )
        root = _root(M)  # |root (y - c)| <= sqrt(r)
        root = root / np.sqrt(r)
        blocks += [np.zeros((1, width)), -np.pad(root, ((0, 0), (0, k)))]
        right += [np.ones(1), -root @ c]
        cones.append(clarabel.SecondOrderConeT(n + 1))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = 1e-12
    settings.tol_ktratio = 1e-10
    settings.max_iter = 200
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(np.pad(Q, ((0, k), (0, k))))),
        np.pad(p, (0, k)),
        sparse.csc_matrix(np.vstack(blocks)),
        np.concatenate(right),
        cones,
        settings,
    )
    result = solver.solve()
    if "PrimalInfeasible" in str(result.status):
        return None
    return np.asarray(result.x)[:n]


def _root(M: Array) -> Array:
    """R with R^T R = M, positive semidefinite up to rounding."""
    try:
        return np.asarray(np.linalg.cholesky(M).T)
    except np.linalg.LinAlgError:
        e, V = np.linalg.eigh(M)
        return np.asarray(np.sqrt(np.maximum(e, 0.0))[:, None] * V.T)


def depth(s: ConvexSet, n: int, row: int = 0, soft: bool = True) -> float:
    """max t <= 1 with |rows| t between a point and all rows and, if ``soft``, bounds; -inf where no t will do."""
    C, d, A, b = parts(s, row, n)
    if (d == -np.inf).any():
        return -np.inf
    size = np.linalg.norm(C, axis=-1)
    scale = np.where(size > 0, size, 1.0)
    share = size / scale
    if not soft and s.G is not None:
        share = np.where(np.arange(len(share)) < s.G.shape[-2], share, 0.0)
    found = optimize.linprog(
        np.append(np.zeros(n + s.lifted), -1.0),
        np.column_stack((C / scale[:, None], share)),
        d / scale,
        np.column_stack((A, np.zeros(len(b)))) if len(b) else None,
        b if len(b) else None,
        bounds=[(None, None)] * (n + s.lifted) + [(None, 1.0)],
        method="highs",
    )
    return float(found.x[-1]) if found.status == 0 else -np.inf
