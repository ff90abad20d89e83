"""H = Q + rho + C^T W C, n x n, and the Schur complement S = A H^{-1} A^T + delta, q x q.

Nothing but two Cholesky factors is needed, however many rows of A depend on each other. A few equations cost next to
nothing, and bounds stay on the diagonal, which the null space of A would spread.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.constants import DELTA, PENALTY
from icnn_rl.qp.linear.base import Factor, Innermost, Triple
from icnn_rl.qp.linear.cast import Cast, coarse
from icnn_rl.qp.linear.dense import (
    cholesky,
    cholesky_lifted,
    cholesky_solve,
    curvature,
    flops,
    proximal_force,
    unit,
    weights,
    without_proximal,
)
from icnn_rl.qp.linear.primal import hessian
from icnn_rl.qp.problem import Problem, matvec, rmatvec

#: delta of equations, relative to ``unit``; as in .stagewise.
_DELTA_EQUATIONS = 1e-11
#: rho and delta in equilibrated data, where Q may be singular.
_EQUILIBRATED = 1e-8


@dataclass(frozen=True)
class Schur(Innermost):
    """See the module. ``rho`` (1, 1) is there where Q may be singular; ``delta`` (1|B, q + k) belongs to the equalities
    and the rows of C; ``start`` (1|B, k)."""

    problem: Problem
    rho: Tensor | None
    delta: Tensor
    start: Tensor
    factor: Factor | None = None

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        n, q = problem.n, problem.b.shape[-1]
        if semidefinite or q == 0:
            return math.inf
        return flops(n, problem.m) + 2.0 * q * n**2 + flops(q, n)

    @staticmethod
    def of(problem: Problem) -> Schur:
        """For a positive definite Q."""
        scale = curvature(problem)
        size, size_a = (unit(norms, scale) for norms in (problem.row_norms(), problem.equality_norms()))
        batch = max(len(size), len(size_a))
        delta = torch.cat([part.expand(batch, -1) for part in (_DELTA_EQUATIONS * size_a, DELTA * size)], -1)
        return Schur(problem, None, delta, PENALTY * size)

    @staticmethod
    def of_equilibrated(problem: Problem) -> Schur:
        """For entries of size 1, and a Q that may be singular."""
        q = problem.b.shape[-1]
        small = problem.p.new_full((1, q + problem.d.shape[-1]), _EQUILIBRATED)
        rho = problem.p.new_full((1, 1), _EQUILIBRATED)
        return Schur(problem, rho, small, PENALTY * torch.ones_like(small[:, q:]))

    @property
    def q(self) -> int:
        return self.problem.b.shape[-1]

    def factored(self, e: Tensor) -> Schur:
        problem, q = self.problem, self.q
        e, w = weights(problem, e, self.delta[:, q:])
        h = hessian(problem, w, self.rho)
        chol = cholesky(h) if self.rho is None else cholesky_lifted(h)
        if problem.A is None:
            return self.with_factor(Factor(e, w, chol))
        assert isinstance(problem.A, Tensor)  # callers have written sparse rows out
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
        rx = without_proximal(rx, self.rho, dx)
        return rx, torch.addcmul(ra, self.delta[:, : self.q], dnu)

    def held(self, before: Tensor, x: Tensor) -> Tensor | None:
        if self.rho is None:
            return None
        return proximal_force(self.rho, before, x)

    def in_single(self) -> Cast:
        return Cast(self.problem, coarse(self))
