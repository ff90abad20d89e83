"""H = Q + rho + C^T W C, n x n, and the Schur complement S = A H^{-1} A^T + delta, q x q: for few equalities.

Where H is definite nothing but two Cholesky factors is needed, however many rows of A depend on each other.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Factor, Innermost, Triple
from icnn_rl.qp.linear.cast import COARSER, Cast, single
from icnn_rl.qp.linear.dense import PENALTY, cholesky_lifted, cholesky_solve, curvature, flops, unit
from icnn_rl.qp.linear.primal import hessian
from icnn_rl.qp.problem import Problem, matvec, rmatvec

#: delta of the rows of C and of the equalities, relative to ``unit``.
_DELTA, _DELTA_A = 1e-10, 1e-11
#: rho and delta in equilibrated data, where the matrices may be singular.
_EQUILIBRATED = 1e-8


@dataclass(frozen=True)
class Schur(Innermost):
    """See the module. ``rho`` (1|B, 1), or None; ``delta`` (1|B, q + k) belongs to the equalities and the rows of C;
    ``proximal``: whether rho is there because Q may be singular."""

    problem: Problem
    rho: Tensor | None
    delta: Tensor
    start: Tensor
    proximal: bool = False
    factor: Factor | None = None

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        n, q = problem.n, problem.b.shape[-1]
        if q == 0 or semidefinite:
            return math.inf
        return flops(n, problem.m) + q * n**2 + flops(q, n)

    @staticmethod
    def of(problem: Problem) -> Schur:
        """For Q > 0."""
        norms = torch.cat((problem.equality_norms(), problem.row_norms().expand(*_rows(problem), -1)), -1)
        size, q = unit(norms, curvature(problem)), problem.b.shape[-1]
        delta = torch.cat((_DELTA_A * size[:, :q], _DELTA * size[:, q:]), -1)
        return Schur(problem, None, delta, PENALTY * size[:, q:])

    @staticmethod
    def of_equilibrated(problem: Problem) -> Schur:
        """For entries of size 1, and a Q that may be singular."""
        q = problem.b.shape[-1]
        small = problem.p.new_full((1, q + problem.d.shape[-1]), _EQUILIBRATED)
        rho = problem.p.new_full((1, 1), _EQUILIBRATED)
        return Schur(problem, rho, small, PENALTY * torch.ones_like(small[:, q:]), proximal=True)

    @property
    def q(self) -> int:
        return self.problem.b.shape[-1]

    def factored(self, e: Tensor) -> Schur:
        problem, q = self.problem, self.q
        e = e + self.delta[:, q:]
        w = e.reciprocal()
        w = w if problem.present is None else w * problem.present
        chol = cholesky_lifted(hessian(problem, w, self.rho))
        if problem.A is None:
            return self.with_factor(Factor(e, w, chol))
        assert isinstance(problem.A, Tensor)  # select makes the problem dense
        half = torch.linalg.solve_triangular(chol.mT, problem.A.mT.expand(len(chol), -1, -1), upper=False)
        s = torch.matmul(half.mT, half)
        s.diagonal(dim1=-2, dim2=-1).add_(self.delta[:, :q])
        return self.with_factor(Factor(e, w, chol, half=half, schur=cholesky_lifted(s)))

    def with_factor(self, factor: Factor) -> Schur:
        return dataclasses.replace(self, factor=factor)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        problem, w, chol, half = self.problem, self.factor.w, self.factor.chol, self.factor.half
        right = rx + problem.Ctz(w * rc)
        if half is None:
            dx, dnu = cholesky_solve(right, chol), ra
        else:
            assert self.factor.schur is not None
            h = torch.linalg.solve_triangular(chol.mT, right.unsqueeze(-1), upper=False).squeeze(-1)
            dnu = cholesky_solve(rmatvec(half, h) - ra, self.factor.schur)
            left = (h - matvec(half, dnu)).unsqueeze(-1)
            dx = torch.linalg.solve_triangular(chol, left, upper=True).squeeze(-1)
        return dx, dnu, w * (problem.Cx(dx) - rc)

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        rx = rx if self.rho is None else torch.addcmul(rx, self.rho, dx, value=-1.0)
        return rx, torch.addcmul(ra, self.delta[:, : self.q], dnu)

    def held(self, before: Tensor, x: Tensor) -> Tensor | None:
        if not self.proximal:
            return None
        assert self.rho is not None
        force: Tensor = torch.linalg.vector_norm(self.rho * (x - before), dim=-1)
        return force

    def coarse(self) -> Schur:
        """In float32."""
        rho = None if self.rho is None else COARSER * self.rho
        return single(dataclasses.replace(self, rho=rho, delta=COARSER * self.delta))

    def in_single(self) -> Cast:
        return Cast(self.problem, self.coarse())


def _rows(problem: Problem) -> tuple[int, ...]:
    """Batch dimensions that the norms of A and of C have in common."""
    return (max(problem.equality_norms().shape[0], problem.row_norms().shape[0]),)
