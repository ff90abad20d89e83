"""What the answers are compared with: Clarabel at 1e-12, made exact on the active set that it finds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import qpsolvers
import torch
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from benchmarks.qp.cases import Arguments, as_dense

Array = NDArray[np.float64]
#: A multiplier and its slack both below this, relative: the solution may have a kink there.
KINK = 1e-7
#: Share of entries that are not zero below which a system is factored as a sparse one.
SPARSE = 0.02


@dataclass(frozen=True)
class Reference:
    """z (B, n), and the gradients of the sum over the smooth rows of |z|^2.

    Attributes:
        smooth: (B,) rows where z is differentiable.
        residual: the largest violation of a condition of optimality, relative; what the reference is worth.
    """

    value: Tensor
    grads: dict[str, Tensor]
    smooth: Tensor
    residual: float


def solve(arguments: Arguments, wanted: tuple[str, ...]) -> Reference:
    """All rows of a case, one after the other."""
    problem = as_dense(arguments)
    parts = [part.numpy() for part in (problem.Q, problem.p, problem.G, problem.h, problem.A, problem.b)]
    batch = len(problem.p)
    single = [part.ndim - core for part, core in zip(parts, (2, 1, 2, 1, 2, 1), strict=True)]
    rows = [_row(*(part[i] if has else part for part, has in zip(parts, single, strict=True))) for i in range(batch)]
    grads = {}
    for name in wanted:
        own = arguments["G"].shape[-2] if name == "G" else None  # the rows after these are bounds
        each = np.stack([row.grads(name)[:own] * row.smooth for row in rows])
        shared = getattr(problem, name).dim() == (1 if name == "p" else 2)
        grads[name] = torch.as_tensor(each.sum(0) if shared else each)
    return Reference(
        torch.as_tensor(np.stack([row.x for row in rows])),
        grads,
        torch.as_tensor([row.smooth for row in rows]),
        max(row.residual for row in rows),
    )


@dataclass(frozen=True)
class _Row:
    """x and the multipliers y; u and w solve the same system with the gradient of |x|^2 on the right."""

    x: Array
    y_ineq: Array
    y_eq: Array
    u: Array
    w_ineq: Array
    w_eq: Array
    smooth: bool
    residual: float

    def grads(self, name: str) -> Array:
        if name == "p":
            return -self.u
        if name == "Q":
            return -0.5 * (np.outer(self.u, self.x) + np.outer(self.x, self.u))
        y, w = (self.y_ineq, self.w_ineq) if name == "G" else (self.y_eq, self.w_eq)
        return -np.outer(y, self.u) - np.outer(w, self.x)


def _row(Q: Array, p: Array, G: Array, h: Array, A: Array, b: Array) -> _Row:
    m, q = len(h), len(b)
    blocks = [sparse.csc_matrix(block) if len(block) else None for block in (Q, G, A)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Clarabel.rs terminated with status")  # polished and judged below
        found = qpsolvers.solve_problem(
            qpsolvers.Problem(blocks[0], p, blocks[1], h if m else None, blocks[2], b if q else None),
            solver="clarabel",
            tol_feas=1e-12,
            tol_gap_abs=1e-12,
            tol_gap_rel=1e-12,
            max_iter=200,
        )
    assert found.x is not None
    x, z = found.x, found.z if m else np.zeros(0)
    size, force = 1.0 + np.abs(x).max(), 1.0 + np.abs(p).max()
    active = z / force > (h - G @ x) / size
    dual = (found.y if q else np.zeros(0), z)
    best: _Row | None = None
    for _ in range(5):
        row, y = _on_set(Q, p, G, h, A, b, active, dual, size, force)
        if best is None or row.residual < best.residual:
            best = row
        slack = h - G @ row.x
        changed = np.where(active, y > -1e-13 * force, slack < -1e-13 * size)
        if best.residual < 1e-13 or (changed == active).all():
            break
        active = changed
    assert best is not None
    return best


def _on_set(
    Q: Array,
    p: Array,
    G: Array,
    h: Array,
    A: Array,
    b: Array,
    active: NDArray[np.bool_],
    dual: tuple[Array, Array],
    size: float,
    force: float,
) -> tuple[_Row, Array]:
    """The solution if the inequalities ``active`` are equations and there are no others, and what speaks against it;
    also its own multipliers, whose signs tell how to correct the set.

    ``dual``: multipliers to judge by where those of this system, the least ones, serve worse: they are not unique where
    constraints depend on each other.
    """
    n, m, q = len(p), len(h), len(b)
    C = np.concatenate([A, G[active]])
    inverse = _kkt(Q, C)
    point = inverse(np.r_[-p, b, h[active]])
    x = point[:n]
    adjoint = inverse(np.r_[2.0 * x, np.zeros(len(C))])
    y, w = np.zeros((2, m))
    y[active], w[active] = point[n + q :], adjoint[n + q :]
    slack = h - G @ x
    feasibility = max(np.abs(A @ x - b).max(initial=0.0), (-slack).max(initial=0.0)) / size

    def against(y_eq: Array, y_ineq: Array) -> float:
        stationarity = np.abs(Q @ x + p + A.T @ y_eq + G.T @ y_ineq).max()
        complementarity = np.minimum(np.abs(y_ineq) / force, np.abs(slack) / size).max(initial=0.0)
        return float(max(feasibility, stationarity / force, (-y_ineq).max(initial=0.0) / force, complementarity))

    residual, y_eq, y_ineq = min(
        ((against(*pair), *pair) for pair in ((point[n : n + q], y), dual)), key=lambda judged: judged[0]
    )
    margin = float(np.maximum(slack / size, y_ineq / force).min(initial=np.inf))
    return _Row(x, y_ineq, y_eq, adjoint[:n], w, adjoint[n : n + q], margin > KINK, residual), y


def _kkt(Q: Array, C: Array) -> Callable[[Array], Array]:
    """[Q C'; C 0]^-1, by LU of a slightly regularised matrix, and refinement. Rows of C may be dependent."""
    n, k = len(Q), len(C)
    matrix: Any = np.block([[Q, C.T], [C, np.zeros((k, k))]])
    delta = 1e-10 * np.abs(matrix).max()
    shift = np.r_[np.full(n, delta), np.full(k, -delta)]
    if np.count_nonzero(matrix) < SPARSE * matrix.size:
        matrix = sparse.csc_matrix(matrix)
        solve = splu(matrix + sparse.diags(shift, format="csc")).solve
    else:
        factors = linalg.lu_factor(matrix + np.diag(shift))
        solve = partial(linalg.lu_solve, factors)

    def inverse(right: Array) -> Array:
        solution = np.zeros_like(right)
        for _ in range(6):
            solution += solve(right - matrix @ solution)
        return solution

    return inverse
