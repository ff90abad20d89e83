"""Which system a problem gets: the cheapest that can take it.

``cost`` of a system is the number of flops of one factorisation, infinite where the system cannot take the problem:
equalities (primal), none (eliminate, schur), a Q that is singular or close to it (schur, dual, range), one that is not
diagonal (range), no stages (stagewise). With q equalities, m rows of G, k rows of C and n variables the matrices to
factor have the sizes n (primal), n and q (schur), n - q (eliminate, with bounds as rows of G), q + k (dual, whose
matrix need not be summed again in every step) and q + m (range); stagewise factors a small matrix for every stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Reduction
from icnn_rl.qp.linear.dual import Dual
from icnn_rl.qp.linear.eliminate import Eliminate
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.linear.range import Range
from icnn_rl.qp.linear.schur import Schur
from icnn_rl.qp.linear.stagewise import Stagewise
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows


class _Candidate(NamedTuple):
    """The cost by (problem, semidefinite), and the system by (problem, chol, semidefinite)."""

    cost: Callable[[Problem, bool], float]
    build: Callable[[Problem, Tensor | None, bool], Reduction]


#: Sparse matrices that take so many megabytes once they are dense are worth a warning.
_LARGE = 256.0

_STAGEWISE = _Candidate(Stagewise.cost, lambda problem, _, semidefinite: Stagewise.of(problem, semidefinite))
_CANDIDATES = (
    _Candidate(Primal.cost, lambda problem, _, semidefinite: Primal.of(problem, semidefinite)),
    _Candidate(Schur.cost, lambda problem, *_: Schur.of(problem)),
    _Candidate(Eliminate.cost, lambda problem, _, semidefinite: Eliminate.of(problem, semidefinite)),
    _Candidate(Dual.cost, lambda problem, chol, _: Dual.of(problem, chol)),
    _Candidate(Range.cost, lambda problem, *_: Range.of(problem)),
    _STAGEWISE,
)


def choose(problem: Problem, chol: Tensor | None, semidefinite: bool) -> Reduction:
    """The system for the problem.

    Args:
        problem: the problem.
        chol: L L^T = Q (1|B, n, n), None where Q is diagonal.
        semidefinite: whether some Q is singular or nearly so.
    """
    best = _cheapest(problem, semidefinite)
    if best is not _STAGEWISE:
        if _gains_from_entries(problem) and not semidefinite:
            return Range.of(problem)
        problem = _written_out(problem)
    if chol is None and not problem.diagonal and best is not _STAGEWISE:
        chol = torch.linalg.cholesky_ex(problem.Q)[0]  # of a sparse Q that is dense now
    return best.build(problem, chol, semidefinite)


def of_cone(problem: Problem) -> Reduction:
    """For the projection onto a cone: equalities, and Q = I."""
    if Stagewise.cost(problem, False) < Eliminate.cost(problem, False):
        return Stagewise.of(problem, False)
    return Eliminate.of(problem, False)


def _cheapest(problem: Problem, semidefinite: bool) -> _Candidate:
    return min(_CANDIDATES, key=lambda candidate: candidate.cost(problem, semidefinite))


def _gains_from_entries(problem: Problem) -> bool:
    """Whether the range-space system takes the rows as they are."""
    parts = [part for part in (problem.A, problem.G) if isinstance(part, SparseRows)]
    return problem.diagonal and bool(parts) and all(part.shared for part in parts)


def _written_out(problem: Problem) -> Problem:
    """Without sparse parts; large ones are warned of."""
    parts = [part for part in (problem.A, problem.G, problem.coupling) if isinstance(part, SparseRows)]
    megabytes = sum(8e-6 * part.values.shape[0] * part.shape[0] * part.shape[1] for part in parts)
    if megabytes > _LARGE:
        warnings.warn(
            f"solve_qp: writes sparse matrices out, {megabytes:.0f} MB: nothing here gains from their structure. It is "
            "used where Q is diagonal and positive and G and A are the same for all rows of the batch, and where all "
            "matrices are sparse and the problem comes in stages.",
            stacklevel=2,
        )
    return problem.dense()
