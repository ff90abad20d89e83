"""S = R M R^T + E with R = [A; G] and M = 1 / (Q + bounds): for diagonal Q > 0."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.constants import PENALTY
from icnn_rl.qp.linear.base import Factor, Innermost, Triple
from icnn_rl.qp.linear.cast import COARSER, Cast, single
from icnn_rl.qp.linear.dense import OUT, cholesky, cholesky_solve, curvature, flops, stack, unit, weights
from icnn_rl.qp.problem import Problem, matvec, norms_of, rmatvec
from icnn_rl.qp.sparse import Pairs, SparseRows

#: delta, relative to ``unit``.
_DELTA = 1e-11


@dataclass(frozen=True)
class Range(Innermost):
    """See the module.

    ``delta`` (1|B, q + k) belongs to the equalities and the rows of C, ``start`` (1|B, k). Sparse rows have ``pairs``,
    and S costs only the products of entries that meet in a column.
    """

    problem: Problem
    rows: Tensor | SparseRows
    delta: Tensor
    start: Tensor
    pairs: Pairs | None = None
    factor: Factor | None = None

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        """Without bounds the dual system does the same at less cost."""
        size = problem.b.shape[-1] + problem.m
        fits = problem.diagonal and not semidefinite and size > 0 and (problem.lower or problem.upper)
        return flops(size, problem.n) if fits else math.inf

    @staticmethod
    def of(problem: Problem) -> Range:
        assert problem.A is not None or problem.G is not None
        rows = _stack_sparse(problem) if problem.sparse else stack(problem.A, problem.G)
        norms = norms_of(rows)
        bounds = norms.new_ones(norms.shape[0], problem.d.shape[-1] - problem.m)
        size = unit(torch.cat((norms, bounds), -1), curvature(problem))
        q = norms.shape[-1] - problem.m
        pairs = rows.pairs() if isinstance(rows, SparseRows) else None
        return Range(problem, rows, _DELTA * size, PENALTY * size[:, q:], pairs)

    @property
    def q(self) -> int:
        return self.rows.shape[-2] - self.problem.m

    def factored(self, e: Tensor) -> Range:
        problem, q, m = self.problem, self.q, self.problem.m
        e, w = weights(problem, e, self.delta[:, q:])
        bounds = problem.on_diagonal(w)
        mass = (problem.Q if bounds is None else problem.Q + bounds).expand(w.shape[0], -1).reciprocal()
        if self.pairs is not None:
            s = self.pairs.gram(mass)
        else:
            assert isinstance(self.rows, Tensor)
            s = torch.matmul(self.rows * mass.unsqueeze(-2), self.rows.mT)
        diagonal = s.diagonal(dim1=-2, dim2=-1)
        diagonal[:, :q].add_(self.delta[:, :q])
        if m:
            # a row that is out has w = 0: a shift that dwarfs the others keeps it out
            diagonal[:, q:].add_(1.0 / torch.maximum(w[:, :m], OUT / self.delta[:, q : q + m]))
        return self.with_factor(Factor(e, w, cholesky(s), mass))

    def with_factor(self, factor: Factor) -> Range:
        return dataclasses.replace(self, factor=factor)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        problem, q, m, w, mass = self.problem, self.q, self.problem.m, self.factor.w, self.factor.mass
        assert mass is not None
        bounded = problem.lower or problem.upper
        rx = rx + problem.Ctz_bounds(w * rc) if bounded else rx
        rc_g, rc_bounds = rc.split_with_sizes((m, rc.shape[-1] - m), -1)
        y = cholesky_solve(matvec(self.rows, mass * rx) - torch.cat((ra, rc_g), -1), self.factor.chol)
        dx, (dnu, dz_g) = mass * (rx - rmatvec(self.rows, y)), y.split_with_sizes((q, m), -1)
        dz = w[:, m:] * (problem.bounds_of(dx) - rc_bounds)
        if m:
            dz = torch.cat((torch.where(w[:, :m] > 0, dz_g, 0.0), dz), -1)
        return dx, dnu, dz

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        return rx, torch.addcmul(ra, self.delta[:, : self.q], dnu)

    def held(self, before: Tensor, x: Tensor) -> None:
        """Q > 0 needs no proximal term."""

    def in_single(self) -> Cast:
        return Cast(self.problem, single(dataclasses.replace(self, delta=COARSER * self.delta)))


def _stack_sparse(problem: Problem) -> SparseRows | Tensor:
    """[A; G] where one of them is sparse: sparse if the other is sparse, too, or absent."""
    parts = [part for part in (problem.A, problem.G) if part is not None]
    sparse = [part for part in parts if isinstance(part, SparseRows)]
    if len(sparse) < len(parts):
        problem = problem.dense()
        return stack(problem.A, problem.G)
    offsets = [0, sparse[0].shape[0]]
    row = torch.cat([part.row + offset for part, offset in zip(sparse, offsets, strict=False)], -1)
    column, values = (torch.cat([getattr(part, name) for part in sparse], -1) for name in ("column", "values"))
    return SparseRows(row, column, values, (sum(part.shape[0] for part in sparse), problem.n))
