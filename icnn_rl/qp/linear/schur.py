"""H = Q + rho + C^T W C, n x n, and the Schur complement S = A H^{-1} A^T + delta, q x q, of equilibrated data.

Nothing but two Cholesky factors is needed, however many rows of A depend on each other and whatever Q lacks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Factor, Innermost, Triple
from icnn_rl.qp.linear.cast import COARSER, Cast, single
from icnn_rl.qp.linear.dense import PENALTY, cholesky_lifted, cholesky_solve
from icnn_rl.qp.linear.primal import hessian
from icnn_rl.qp.problem import Problem, matvec, rmatvec

#: rho and delta, for entries of size 1.
_SMALL = 1e-8


@dataclass(frozen=True)
class Schur(Innermost):
    """See the module. ``rho`` (1, 1); ``delta`` (1, q + k) belongs to the equalities and the rows of C."""

    problem: Problem
    rho: Tensor
    delta: Tensor
    start: Tensor
    factor: Factor | None = None

    @staticmethod
    def of(problem: Problem) -> Schur:
        q = problem.b.shape[-1]
        small = problem.p.new_full((1, q + problem.d.shape[-1]), _SMALL)
        rho = problem.p.new_full((1, 1), _SMALL)
        return Schur(problem, rho, small, PENALTY * torch.ones_like(small[:, q:]))

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
        assert isinstance(problem.A, Tensor)  # see Scale.of
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
        return torch.addcmul(rx, self.rho, dx, value=-1.0), torch.addcmul(ra, self.delta[:, : self.q], dnu)

    def held(self, before: Tensor, x: Tensor) -> Tensor:
        force: Tensor = torch.linalg.vector_norm(self.rho * (x - before), dim=-1)
        return force

    def coarse(self) -> Schur:
        """In float32."""
        return single(dataclasses.replace(self, rho=COARSER * self.rho, delta=COARSER * self.delta))

    def in_single(self) -> Cast:
        return Cast(self.problem, self.coarse())
