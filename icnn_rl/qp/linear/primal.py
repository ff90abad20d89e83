"""H = Q + rho + C^T W C, n x n: for problems without equalities."""

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
    cholesky_solve,
    curvature,
    flops,
    proximal_force,
    unit,
    weights,
    without_proximal,
)
from icnn_rl.qp.problem import Problem

#: delta where Q may be singular, relative to ``unit``. H holds 1 / delta: the digits of Q that this leaves are what
#: corrections live on, and delta rho > eps keeps a singular H meaningful.
_SEMIDEFINITE = 1e-8
#: rho, relative to the curvature of the objective.
_RHO = 1e-8


@dataclass(frozen=True)
class Primal(Innermost):
    """See the module.

    ``rho`` (1|B, 1 or n), ``delta`` and ``start`` (1|B, k). ``proximal``: whether rho is there because Q may be
    singular.
    """

    problem: Problem
    rho: Tensor | None
    delta: Tensor
    start: Tensor
    proximal: bool = False
    factor: Factor | None = None

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        return math.inf if problem.b.shape[-1] else flops(problem.n, problem.m)

    @staticmethod
    def of(problem: Problem, semidefinite: bool) -> Primal:
        """rho > 0 only where Q may be singular."""
        scale = curvature(problem)
        size = unit(problem.row_norms(), scale)
        if semidefinite:
            return Primal(problem, _RHO * scale, _SEMIDEFINITE * size, PENALTY * size, proximal=True)
        return Primal(problem, None, DELTA * size, PENALTY * size)

    def factored(self, e: Tensor) -> Primal:
        problem = self.problem
        e, w = weights(problem, e, self.delta)
        h = hessian(problem, w, self.rho)
        return self.with_factor(Factor(e, w, cholesky(h)))

    def with_factor(self, factor: Factor) -> Primal:
        return dataclasses.replace(self, factor=factor)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        dx, dz = solve_normal_equations(self.problem, self.factor.w, self.factor.chol, rx, rc)
        return dx, ra, dz

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        return without_proximal(rx, self.rho, dx), ra

    def held(self, before: Tensor, x: Tensor) -> Tensor | None:
        if not self.proximal:
            return None
        assert self.rho is not None
        return proximal_force(self.rho, before, x)

    def in_single(self) -> Cast:
        return Cast(self.problem, coarse(self))


def solve_normal_equations(problem: Problem, w: Tensor, chol: Tensor, rx: Tensor, rc: Tensor) -> tuple[Tensor, Tensor]:
    """dx = H^{-1} (rx + C^T W rc) and dz = W (C dx - rc)."""
    dx = cholesky_solve(rx + problem.Ctz(w * rc), chol)
    return dx, w * (problem.Cx(dx) - rc)


def hessian(problem: Problem, w: Tensor, rho: Tensor | None) -> Tensor:
    """Q + rho + C^T W C, a tensor of its own."""
    parts = [problem.on_diagonal(w), rho, problem.Q if problem.diagonal else None]
    diagonal = sum(part for part in parts if part is not None)
    if problem.G is None and problem.diagonal:
        assert isinstance(diagonal, Tensor)
        return torch.diag_embed(diagonal.expand(w.shape[0], problem.n))
    if problem.G is None:
        h = problem.Q.expand(w.shape[0], -1, -1).clone()
    else:
        assert isinstance(problem.G, Tensor)  # systems that take sparse rows have no H
        h = torch.matmul(problem.G.mT, problem.G * w[:, : problem.m].unsqueeze(-1))
        h = h if problem.diagonal else h.add_(problem.Q)
    if isinstance(diagonal, Tensor):
        h.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    return h
