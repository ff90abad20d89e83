"""Quick proofs that no point meets rows and bounds, where all variables are bounded.

The box lb <= y <= ub is not empty, but no point of it meets G y <= h. The point of the box that breaks the rows least,

    min 1/2 t^2 + eps/2 |y - m|^2   subject to   G y - ||g|| t <= h,   lb <= y <= ub,

is a quadratic programme that always has a solution, so that the compiled kernel finds it as fast as any. Its
multipliers mu >= 0 of the rows are nearly a proof; what is left of G^T mu is given to the bounds, which makes it one:

    z = max(G^T mu, 0) for lb,  z' = max(-G^T mu, 0) for ub,   h^T mu - lb^T z + ub^T z' < 0.

Rows without such a proof are left to the slower methods.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.outcome import Outcome
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import map_tensors, select_rows
from icnn_rl.qp.sparse import SparseRows
from icnn_rl.solution import Status

__all__ = ["settle"]

Array = NDArray[Any]

_SOFT = 1e-8  # eps, in units of the box
_PROVEN = 1e-11  # of its terms: by how much a proof has to be below 0


def settle(problem: Problem, outcome: Outcome, left: Tensor) -> tuple[Outcome, Tensor, Tensor]:
    """Settle those of the problems ``left`` for which there is a quick proof that no point is feasible.

    Returns:
        The outcome with the proofs in it, the indices of the rows that are proven, and of those that are left.
    """
    none = left[:0]
    if not (problem.lower and problem.upper) or problem.A is not None or isinstance(problem.G, SparseRows):
        return outcome, none, left
    part = select_rows(left, problem)
    points, multipliers, proven = _proofs(*_arrays(part))
    if not proven.any():
        return outcome, none, left
    rows = torch.from_numpy(np.flatnonzero(proven))
    x, z = torch.from_numpy(points[proven]), torch.from_numpy(multipliers[proven])
    before, at = select_rows(left[rows], outcome), select_rows(rows, part)
    proof = dataclasses.replace(
        before,
        x=x,
        z=z,
        s=at.d - at.Cx(x),
        active=torch.zeros_like(before.active),
        residuals=map_tensors(torch.ones_like, before.residuals),
        status=torch.full_like(before.status, int(Status.PRIMAL_INFEASIBLE)),
    )
    kept = torch.ones_like(left, dtype=torch.bool)
    kept[rows] = False
    return outcome.put(left[rows], proof), left[rows], left[kept]


def _arrays(problem: Problem) -> tuple[Array, Array, Array, Array]:
    """G (B, m, n), h (B, m), lb and ub (B, n), infinite where there is none."""
    n, m, batch = problem.n, problem.m, problem.p.shape[0]
    d = problem.d if problem.present is None else torch.where(problem.present > 0, problem.d, torch.inf)
    sides = d.detach().expand(batch, -1).numpy()
    G = np.zeros((batch, 0, n)) if problem.G is None else problem.G.detach().expand(batch, m, n).numpy()  # type: ignore[union-attr]
    return G, sides[:, :m], -sides[:, m : m + n], sides[:, m + n :]


def _proofs(G: Array, h: Array, lb: Array, ub: Array) -> tuple[Array, Array, Array]:
    """Points x (B, n), multipliers z (B, m + n + n), and whether these are a proof (B,)."""
    with np.errstate(all="ignore"):  # NaN and infinities prove nothing
        middle, half = 0.5 * (lb + ub), 0.5 * (ub - lb)
        crossed: Array = np.any(half < 0.0, -1)
        bounded: Array = np.all(np.isfinite(half), -1) & ~crossed if h.shape[-1] else np.zeros_like(crossed)
        x, mu = middle, np.zeros_like(h)
        if bounded.any():
            x[bounded], mu[bounded] = _least_broken(*(part[bounded] for part in (G, h, middle, half)))
        slope = np.einsum("bij,bi->bj", G, mu)
        worst = np.arange(lb.shape[-1]) == (ub - lb).argmin(-1)[:, None]
        low, high = (np.where(crossed[:, None], worst, np.maximum(s * slope, 0.0)) for s in (1.0, -1.0))
        z = np.concatenate((mu, low, high), -1)
        terms = z * np.concatenate((h, -lb, ub), -1)
        terms[z == 0] = 0.0
        proven = terms.sum(-1) < -_PROVEN * np.abs(terms).sum(-1)
    return x, z, proven & np.isfinite(x).all(-1)


def _least_broken(G: Array, h: Array, middle: Array, half: Array) -> tuple[Array, Array]:
    """The points (B, n) of the boxes that break the rows least, and multipliers (B, m) of the rows."""
    batch, m, n = G.shape
    unit = np.maximum(half.max(-1), np.finfo(np.float64).tiny)[:, None]
    norm = np.sqrt(np.einsum("bij,bij->bi", G, G))
    scale = np.where(norm > 0, norm, 1.0) * unit
    rows = np.concatenate((G * half[:, None, :], -scale[:, :, None]), -1) / scale[:, :, None]
    sides = (h - np.einsum("bij,bj->bi", G, middle)) / scale
    box = np.ones((batch, n))
    lower, upper = np.pad(-box, ((0, 0), (0, 1))), np.pad(box, ((0, 0), (0, 1)), constant_values=np.inf)
    Q = np.diag(np.append(np.full(n, _SOFT), 1.0))
    found = dispatch.minimisers(Q, np.zeros((batch, n + 1)), rows, sides, lower, upper)
    if found is None:
        return middle, np.zeros_like(h)
    return middle + half * found[0][:, :n], np.maximum(found[1][:, :m], 0.0) / scale
