"""Which system a problem gets: the cheapest that can take it.

``cost`` of a system is the number of flops of one factorisation, infinite where the system cannot take the problem:
equalities (primal), none (eliminate), a Q that is singular or close to it (dual, range), one that is not diagonal
(range). With q equalities, m rows of G, k rows of C and n variables the matrices to factor have the sizes n (primal),
n - q (eliminate), q + k (dual, whose matrix need not be summed again in every step) and q + m (range).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from icnn_rl.qp.linear.base import Reduction
from icnn_rl.qp.linear.dual import Dual
from icnn_rl.qp.linear.eliminate import Eliminate
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.linear.range import Range
from icnn_rl.qp.problem import Problem


class _Candidate(NamedTuple):
    """The cost by (problem, semidefinite), and the system by (problem, chol, semidefinite)."""

    cost: Callable[[Problem, bool], float]
    build: Callable[[Problem, Tensor | None, bool], Reduction]


_CANDIDATES = (
    _Candidate(Primal.cost, lambda problem, _, semidefinite: Primal.of(problem, semidefinite)),
    _Candidate(Eliminate.cost, lambda problem, _, semidefinite: Eliminate.of(problem, semidefinite)),
    _Candidate(Dual.cost, lambda problem, chol, _: Dual.of(problem, chol)),
    _Candidate(Range.cost, lambda problem, *_: Range.of(problem)),
)


def choose(problem: Problem, chol: Tensor | None, semidefinite: bool) -> Reduction:
    """The system for the problem.

    Args:
        problem: the problem.
        chol: L L^T = Q (1|B, n, n), None where Q is diagonal.
        semidefinite: whether some Q is singular or nearly so.
    """
    if problem.sparse and problem.diagonal and not semidefinite:
        return Range.of(problem)  # the only one that gains from the structure
    problem = problem.dense()
    best = min(_CANDIDATES, key=lambda candidate: candidate.cost(problem, semidefinite))
    return best.build(problem, chol, semidefinite)
