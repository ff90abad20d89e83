"""x = D v, and rows of A and C times E_a and E_c, the objective divided by a number: equilibrated data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Around, Point, Triple
from icnn_rl.qp.linear.eliminate import Eliminate
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.problem import Problem

#: Passes of the equilibration.
_PASSES = 8


@dataclass(frozen=True)
class Scale(Around):
    """See the module.

    columns = diag D (1|B, n), a_rows = diag E_a (1|B, q), c_rows = diag E_c (1|B, k), cost (1|B, 1).
    """

    columns: Tensor
    a_rows: Tensor
    c_rows: Tensor
    cost: Tensor

    @staticmethod
    def of(problem: Problem) -> Scale:
        """Ruiz' scaling: rows and columns of the matrix of the package's head brought to the norm 1 in the maximum
        norm. Always with a system that takes singular matrices."""
        problem = problem.dense()
        q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
        a = problem.A if isinstance(problem.A, Tensor) else problem.p[:1].new_zeros(1, 0, problem.n)
        c = problem.constraint_matrix() if problem.d.shape[-1] else a[:, :0]
        batch = max(part.shape[0] for part in (q, a, c))
        q, a, c = (part.expand(batch, -1, -1) for part in (q, a, c))
        columns, a_rows, c_rows = _equilibrated(q, a, c)
        q = columns.unsqueeze(-1) * q * columns.unsqueeze(-2)
        p = columns * problem.p
        cost = torch.maximum(q.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True), p.abs().amax(-1, keepdim=True))
        cost = torch.where(cost > 0, cost, 1.0)
        inner = problem.changed(
            Q=q / cost.unsqueeze(-1),
            p=p / cost,
            G=c_rows.unsqueeze(-1) * c * columns.unsqueeze(-2) if c.shape[-2] else None,
            A=a_rows.unsqueeze(-1) * a * columns.unsqueeze(-2) if problem.A is not None else None,
            b=a_rows * problem.b,
            d=c_rows * problem.d,
            lower=False,
            upper=False,
        )
        system = Primal.of(inner, True) if inner.A is None else Eliminate.of(inner, True)
        return Scale(problem, system, columns, a_rows, c_rows, cost)

    def lift(self, point: Point) -> Point:
        point = self.system.lift(point)
        nu, z = self.cost * self.a_rows * point.nu, self.cost * self.c_rows * point.z
        return Point(self.columns * point.x, nu, z, point.s / self.c_rows)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        v, dnu, dz = self.system.solve(self.columns * rx / self.cost, self.a_rows * ra, self.c_rows * rc)
        return self.columns * v, self.cost * self.a_rows * dnu, self.cost * self.c_rows * dz


def _equilibrated(q: Tensor, a: Tensor, c: Tensor) -> Triple:
    """diag D, diag E_a and diag E_c."""
    columns, a_rows, c_rows = (torch.ones_like(part[..., 0]) for part in (q, a, c))
    for _ in range(_PASSES):
        q_now = columns.unsqueeze(-1) * q * columns.unsqueeze(-2)
        a_now, c_now = (
            a_rows.unsqueeze(-1) * a * columns.unsqueeze(-2),
            c_rows.unsqueeze(-1) * c * columns.unsqueeze(-2),
        )
        columns = columns / _root(torch.cat((q_now, a_now, c_now), -2).abs().amax(-2))
        a_rows, c_rows = a_rows / _root(_row_size(a_now)), c_rows / _root(_row_size(c_now))
    return columns, a_rows, c_rows


def _row_size(rows: Tensor) -> Tensor:
    return rows.abs().amax(-1)


def _root(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0).sqrt()
