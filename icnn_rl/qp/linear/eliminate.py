"""x = x_b + Z v, A Z = 0, A x_b = b: no equalities are left, bounds become rows of G."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Around, Point, Triple
from icnn_rl.qp.linear.dense import flops
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.problem import Problem, matvec, rmatvec

#: Singular values of A below this, relative, are 0.
_DEPENDENT = 1e-12
#: Elements of an orthogonal matrix below this are 0.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Eliminate(Around):
    """See the module.

    Dependent rows of A are recognised by their singular values. Attributes: null = Z (1|B, n, r), pinv = A^+ (1|B, n,
    q), particular = x_b (B, n).
    """

    null: Tensor
    pinv: Tensor
    particular: Tensor

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        n, q = problem.n, problem.b.shape[-1]
        return flops(max(n - q, 0), problem.d.shape[-1]) if q else math.inf

    @staticmethod
    def of(problem: Problem, semidefinite: bool) -> Eliminate:
        """Around a :class:`Primal` system."""
        problem = problem.dense()
        assert isinstance(problem.A, Tensor)
        null, pinv, repeated = _null_space(problem.A)
        particular = matvec(pinv, problem.b)
        qz = problem.Q.unsqueeze(-1) * null if problem.diagonal else torch.matmul(problem.Q, null)
        q = torch.matmul(null.mT, qz)
        q = q if repeated is None else q + torch.diag_embed(repeated)
        inner = problem.changed(
            Q=q,
            p=rmatvec(null, problem.p + problem.Qx(particular)),
            G=torch.matmul(problem.constraint_matrix(), null),
            A=None,
            b=problem.b[:, :0],
            d=problem.d - problem.Cx(particular),
            lower=False,
            upper=False,
        )
        return Eliminate(problem, Primal.of(inner, semidefinite), null, pinv, particular)

    def lift(self, point: Point) -> Point:
        point, problem = self.system.lift(point), self.problem
        x = self.particular + matvec(self.null, point.x)
        nu = -rmatvec(self.pinv, problem.Qx(x) + problem.p + problem.Ctz(point.z))
        return dataclasses.replace(point, x=x, nu=nu)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        problem = self.problem
        x_a = matvec(self.pinv, ra)
        v, _, dz = self.system.solve(
            rmatvec(self.null, rx - problem.Qx(x_a)), ra.narrow(-1, 0, 0), rc - problem.Cx(x_a)
        )
        dx = x_a + matvec(self.null, v)
        return dx, rmatvec(self.pinv, rx - problem.Qx(dx) - problem.Ctz(dz)), dz


def _null_space(a: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`_null_space_of` with what is 0 but for rounding set to 0: a bound on Z v would mind its sign."""
    null, pinv, repeated = _null_space_of(a)
    return torch.where(null.abs() > _ROUNDING, null, 0.0), pinv, repeated


def _null_space_of(a: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Z, A^+ and, where the ranks of a batch differ, 1.0 for the columns of Z that one row has less than another."""
    q, n = a.shape[-2:]
    if q <= n:
        basis, r = torch.linalg.qr(a.mT, mode="complete")
        square = r[..., :q, :]
        diagonal = square.diagonal(dim1=-2, dim2=-1).abs()
        if bool((diagonal.amin(-1) > 1e-8 * diagonal.amax(-1)).all()):
            return basis[..., q:].contiguous(), _pinv(basis[..., :q], square), None
    u, s, vh = torch.linalg.svd(a, full_matrices=True)
    tolerance = _DEPENDENT * s[..., :1]  # the largest comes first
    rank = (s > tolerance).sum(-1)
    least = int(rank.min())
    inverse = torch.where(s > tolerance, 1.0 / s, 0.0)
    kept = s.shape[-1]
    pinv = torch.matmul(vh[..., :kept, :].mT * inverse.unsqueeze(-2), u[..., :kept].mT)
    null = vh[..., least:, :].mT
    surplus = (torch.arange(least, n, device=a.device) < rank.unsqueeze(-1)).to(a.dtype)
    repeated = surplus if bool((rank != least).any()) else None
    return (null if repeated is None else null * (1.0 - surplus).unsqueeze(-2)).contiguous(), pinv, repeated


def _pinv(basis: Tensor, r: Tensor) -> Tensor:
    """A^+ = Y R^{-T} for A^T = Y R."""
    out: Tensor = torch.linalg.solve_triangular(r, basis.mT, upper=True).mT
    return out
