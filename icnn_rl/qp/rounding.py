"""Equations that contradict each other by no more than the rounding of float32.

The rows and columns of a transport plan sum to marginals whose own sums must agree. As float32 numbers they do so to
1e-7: taken at their word, no plan has both, and the multipliers of the dependent rows grow without end.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows

__all__ = ["reconciled"]

#: Eigenvalues of R R^T, R the rows at length 1, below this are 0: float32 leaves 1e-14 of a dependency. A Cholesky
#: factor whose squared pivots all exceed the second number has none.
_NULL, _INDEPENDENT = 1e-12, 1e-9
#: What of b counts as rounding, relative to its largest element.
_ROUNDING = 1e-5


def reconciled(problem: Problem) -> Problem:
    """The problem with b moved into the range of A, in rows of the batch where that takes a move within rounding."""
    if problem.A is None:
        return problem
    a = problem.A.dense() if isinstance(problem.A, SparseRows) else problem.A
    norms = torch.linalg.vector_norm(a, dim=-1)
    norms = torch.where(norms > 0, norms, 1.0)
    r = torch.nan_to_num(a / norms.unsqueeze(-1), 0.0, 0.0, 0.0)
    gram = torch.matmul(r, r.mT)
    chol, info = torch.linalg.cholesky_ex(gram)
    dependent = (info != 0) | ~(chol.diagonal(dim1=-2, dim2=-1).square().amin(-1) > _INDEPENDENT)
    if not bool(dependent.any()):
        return problem
    right = problem.b / norms
    moved = right - _outside(gram, right)
    size = right.abs().amax(-1, keepdim=True)
    small = (moved - right).abs().amax(-1, keepdim=True) <= _ROUNDING * size
    return dataclasses.replace(problem, b=torch.where(small, moved * norms, problem.b))


def _outside(gram: Tensor, right: Tensor) -> Tensor:
    """The part of ``right`` (B, q) in the null space of the rows, R R^T = gram (1|B, q, q)."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    null = vectors * (eigenvalues <= _NULL * eigenvalues[..., -1:]).unsqueeze(-2)
    return torch.matmul(null, torch.matmul(null.mT, right.unsqueeze(-1))).squeeze(-1)
