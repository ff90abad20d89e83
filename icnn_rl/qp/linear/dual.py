"""The dual problem, for Q > 0: what is active here is what is not at its bound there."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.constants import PENALTY
from icnn_rl.qp.linear.base import Inner, Point, Refined, Triple
from icnn_rl.qp.linear.cast import coarse
from icnn_rl.qp.linear.dense import OUT, cholesky_solve, curvature, flops, stack, unit
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.problem import Problem, matvec, rmatvec

#: What is added to the diagonal of K, relative to it.
_DELTA = 1e-11


@dataclass(frozen=True)
class Dual(Refined):
    """See the module.

    With L L^T = Q and W = L^{-1} R^T, R = [A; C], the multipliers y = (nu, z) solve min 1/2 y^T K y + c^T y, z >= 0,
    where K = W^T W and c = (b, d) + R Q^{-1} p; then x = -Q^{-1} (p + R^T y) and s = K y + c.

    ``chol``: L (1|B, n, n), or its diagonal (1|B, n); ``rows``: W (1|B, n, q + k).
    """

    problem: Problem
    chol: Tensor
    rows: Tensor
    system: Primal

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        n, size = problem.n, problem.b.shape[-1] + problem.d.shape[-1]
        if semidefinite or size == 0:
            return math.inf
        return flops(size, 0) + size * n * (0.0 if problem.diagonal else 0.25 * n) + 0.25 * n * size**2

    @staticmethod
    def of(problem: Problem, chol: Tensor | None) -> Dual:
        """``chol``: L, None where Q is diagonal."""
        chol = problem.Q.sqrt() if chol is None else chol
        c = problem.constraint_matrix()
        present = problem.present
        if present is not None:
            c = c * present.unsqueeze(-1)
        r = c if problem.A is None else stack(problem.A, c)
        q = r.shape[-2] - c.shape[-2]
        w = _half_solve(chol, r.mT)
        gram = torch.matmul(w.mT, w)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        if present is not None:
            diagonal.add_(1.0 - torch.nn.functional.pad(present, (q, 0), value=1.0))
        right = torch.cat((problem.b, problem.d if present is None else problem.d * present), -1)
        free = None
        if q or present is not None:
            free = torch.ones_like(problem.d) if present is None else present
            free = torch.nn.functional.pad(free, (q, 0))
        inner = Problem(
            Q=gram,
            p=right + rmatvec(w, _half_solve(chol, problem.p.unsqueeze(-1)).squeeze(-1)),
            G=None,
            A=None,
            b=problem.b[:, :0],
            d=torch.zeros_like(right),
            lower=True,
            upper=False,
            present=free,
        ).with_norms()
        size = torch.where(diagonal > 0, diagonal, 1.0)
        # c^T Q^{-1} c is ruled by the smallest eigenvalue of Q, |c|^2 / mean by the largest: the truth is in between
        other = unit(torch.linalg.vector_norm(r, dim=-1), curvature(problem))
        start = 1.0 / (PENALTY * torch.sqrt(size * other))
        return Dual(problem, chol, w, Primal(inner, rho=_DELTA * size, delta=OUT / size, start=start))

    @property
    def inner(self) -> Primal:
        return self.system

    def with_inner(self, inner: Inner) -> Dual:
        assert isinstance(inner, Primal)
        return dataclasses.replace(self, system=inner)

    def in_single(self) -> Dual:
        return self.with_inner(coarse(self.system))

    @property
    def q(self) -> int:
        return self.rows.shape[-1] - self.problem.d.shape[-1]

    def lift(self, point: Point) -> Point:
        q, problem = self.q, self.problem
        y = point.x.to(problem.p.dtype)  # iterations may have been in float32
        y = self._of_present(y)
        x = -_half_solve_t(
            self.chol, _half_solve(self.chol, problem.p.unsqueeze(-1)).squeeze(-1) + matvec(self.rows, y)
        )
        return Point(x, y[:, :q], y[:, q:], point.z[:, q:].to(x.dtype))

    def _of_present(self, y: Tensor) -> Tensor:
        """y without the multipliers of rows that do not exist."""
        present = self.problem.present
        return y if present is None else y * torch.nn.functional.pad(present, (self.q, 0), value=1.0)

    def outer(self, active: Tensor) -> Tensor:
        present = self.problem.present
        return ~active[:, self.q :] if present is None else ~active[:, self.q :] & (present > 0)

    def guess(self, active: Tensor) -> Tensor:
        return torch.nn.functional.pad(~active, (self.q, 0))

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.system.factor is not None
        half = _half_solve(self.chol, rx.unsqueeze(-1)).squeeze(-1)
        right = rmatvec(self.rows, half) - torch.cat((ra, rc), -1)
        chol = self.system.factor.chol
        y = torch.where(self.system.factor.w > 0, 0.0, cholesky_solve(right.to(chol.dtype), chol).to(right.dtype))
        y = self._of_present(y)
        dnu, dz = y.split_with_sizes((self.q, y.shape[-1] - self.q), -1)
        return _half_solve_t(self.chol, half - matvec(self.rows, y)), dnu, dz


def _half_solve(chol: Tensor, x: Tensor) -> Tensor:
    """L^{-1} X for X (1|B, n, j); chol may be a diagonal."""
    if chol.dim() == 2:
        return x / chol.unsqueeze(-1)
    out: Tensor = torch.linalg.solve_triangular(chol, x, upper=False)
    return out


def _half_solve_t(chol: Tensor, x: Tensor) -> Tensor:
    """L^{-T} x for x (B, n)."""
    if chol.dim() == 2:
        return x / chol
    out: Tensor = torch.linalg.solve_triangular(chol.mT, x.unsqueeze(-1), upper=True).squeeze(-1)
    return out
