"""Scales in which a problem has entries of size 1: how its rows, columns, lengths and costs are measured.

With x = t D v, rows of A and C times E_a and E_c and the objective divided by f t,

    Q' = (t / f) D Q D,  p' = D p / f,  A' = E_a A D,  b' = E_a b / t,  C' = E_c C D,  d' = E_c d / t,

nu = f E_a nu' and z = f E_c z'. D and E are Ruiz' scales: after a few passes rows and columns of [Q A^T C^T; A; C] have
entries of at most about 1. Those of a bound are E = 1 / D, so that bounds stay bounds. t is a typical right-hand side
and f the size of the gradient then.

References:
    D. Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, RAL-TR-2001-034, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem, typical
from icnn_rl.qp.sparse import SparseRows

__all__ = ["Scales"]

_PASSES = 6


@dataclass(frozen=True)
class Scales:
    """See the module: diag D (1|B, n), diag E_a (1|B, q), diag E_c (1|B, k), t and f (B, 1)."""

    columns: Tensor
    a_rows: Tensor
    c_rows: Tensor
    length: Tensor
    force: Tensor

    @staticmethod
    def of(problem: Problem) -> Scales:
        """The scales for a problem without sparse parts, or with stages."""
        columns, a_rows, g_rows = _ruiz(problem)
        bounds = [columns.reciprocal()] * (problem.lower + problem.upper)
        c_rows = torch.cat([g_rows.expand(columns.shape[0], -1), *bounds], -1) if bounds else g_rows
        length, force = _units(problem, columns, a_rows, c_rows)
        return Scales(columns, a_rows, c_rows, length, force)

    def apply(self, problem: Problem) -> Problem:
        """The problem in these scales."""
        columns, per_force, per_length = self.columns, self.force.reciprocal(), self.length.reciprocal()
        curvature = self.length * per_force
        off = problem.coupling
        if problem.Q.dim() == 2:
            q = curvature * columns.square() * problem.Q
            off = None if off is None else off.scaled(curvature * columns).mT.scaled(columns).mT
        else:
            q = curvature.unsqueeze(-1) * columns.unsqueeze(-1) * problem.Q * columns.unsqueeze(-2)
        scaled = problem.changed(
            Q=q,
            coupling=off,
            p=per_force * columns * problem.p,
            G=_scaled(problem.G, self.c_rows[:, : problem.m], columns),
            A=_scaled(problem.A, self.a_rows, columns),
            b=per_length * self.a_rows * problem.b,
            d=per_length * self.c_rows * problem.d,
        )
        return scaled


def _scaled(matrix: Tensor | SparseRows | None, rows: Tensor, columns: Tensor) -> Tensor | SparseRows | None:
    if isinstance(matrix, SparseRows):
        return matrix.scaled(rows).mT.scaled(columns).mT
    return None if matrix is None else rows.unsqueeze(-1) * matrix * columns.unsqueeze(-2)


def _ruiz(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """diag D, diag E_a and diag E of the rows of G."""
    columns, a_rows, g_rows = (
        torch.ones_like(problem.p[:1]),
        torch.ones_like(problem.b[:1]),
        problem.p.new_ones(1, problem.m),
    )
    q = problem.Q.abs()
    a, g, off = (None if part is None else part.abs() for part in (problem.A, problem.G, problem.coupling))
    for _ in range(_PASSES):
        size = columns.square() * q if q.dim() == 2 else columns * (q * columns.unsqueeze(-2)).amax(-1)
        size = size if off is None else torch.maximum(size, _largest(off, columns, columns)[0])
        if a is not None:
            of_a, of_columns = _largest(a, a_rows, columns)
            size, a_rows = torch.maximum(size, of_columns), a_rows / _root(of_a)
        if g is not None:
            of_g, of_columns = _largest(g, g_rows, columns)
            size, g_rows = torch.maximum(size, of_columns), g_rows / _root(of_g)
        columns = columns / _root(size)
    return columns, a_rows, g_rows


def _largest(matrix: Tensor | SparseRows, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Of diag(rows) M diag(columns), M >= 0: the largest entry of each row and of each column."""
    scaled = _scaled(matrix, rows, columns)
    if isinstance(scaled, SparseRows):
        return scaled.row_sizes(), scaled.column_sizes()
    assert scaled is not None
    return scaled.amax(-1), scaled.amax(-2)


def _root(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0).sqrt()


def _units(problem: Problem, columns: Tensor, a_rows: Tensor, c_rows: Tensor) -> tuple[Tensor, Tensor]:
    """t and f."""
    p = (columns * problem.p).abs().amax(-1, keepdim=True)
    q = columns.square() * problem.q_diagonal
    q = q.abs().amax(-1, keepdim=True)  # no entry of a semidefinite matrix is larger
    right = torch.cat((a_rows * problem.b, c_rows * problem.d), -1).abs()
    if problem.present is not None:
        right[:, problem.b.shape[-1] :] *= problem.present
    free = torch.where((q > 0) & (p > 0), p / q, 1.0)
    # the median: bounds that are far away to mean none are many at times, but seldom most
    length = typical(right)
    length = torch.where(length > 0, length, free)
    force = torch.maximum(length * q, p)
    return length, torch.where(force > 0, force, 1.0)
