"""Sparse rows that a whole batch shares: what the rules of a puzzle or the edges of a chain look like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["SparseRows"]


@dataclass(frozen=True)
class SparseRows:
    """A k x n matrix by its entries.

    Attributes:
        row, column: (1, nnz) int64, the place of every entry.
        values: (1, nnz).
        shape: (k, n).
    """

    row: Tensor
    column: Tensor
    values: Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(matrix: Tensor) -> SparseRows:
        """From a sparse tensor of torch with two dimensions, of any layout; the values keep their graph."""
        matrix = matrix.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
        row, column = matrix.indices()
        return SparseRows(row[None], column[None], matrix.values()[None].double(), (matrix.shape[0], matrix.shape[1]))

    def matvec(self, x: Tensor) -> Tensor:
        """M x: (B, n) -> (B, k)."""
        return _sum_at(self.row, self.values * x[:, self.column[0]], self.shape[0])

    def rmatvec(self, y: Tensor) -> Tensor:
        """M^T y: (B, k) -> (B, n)."""
        return _sum_at(self.column, self.values * y[:, self.row[0]], self.shape[1])

    def norms(self) -> Tensor:
        """(1, k): Euclidean norms of the rows."""
        return _sum_at(self.row, self.values.square(), self.shape[0]).sqrt()

    def row_sizes(self) -> Tensor:
        """(1, k): the largest magnitude in every row."""
        return self._largest_at(self.row, self.shape[0])

    def column_sizes(self) -> Tensor:
        """(1, n): likewise of the columns."""
        return self._largest_at(self.column, self.shape[1])

    def _largest_at(self, index: Tensor, size: int) -> Tensor:
        return self.values.new_zeros(1, size).scatter_reduce(1, index, self.values.abs(), "amax")

    def dense(self) -> Tensor:
        """(1, k, n)."""
        k, n = self.shape
        return _sum_at(self.row * n + self.column, self.values, k * n).reshape(1, k, n)

    def outer(self, u: Tensor, v: Tensor) -> Tensor:
        """The entries of sum_b u_b v_b^T at the places of ours: (B, k), (B, n) -> (1, nnz)."""
        return (u[:, self.row[0]] * v[:, self.column[0]]).sum(0, keepdim=True)

    def pairs(self) -> Pairs:
        """The terms of M D M^T."""
        column, order = self.column[0].sort(stable=True)
        row, values = self.row[0][order], self.values[0][order]
        count = torch.bincount(column, minlength=self.shape[1])
        first = count.cumsum(0) - count
        partners = count[column]
        left = torch.repeat_interleave(torch.arange(len(column), device=row.device), partners)
        offset = torch.arange(len(left), device=row.device) - (partners.cumsum(0) - partners)[left]
        right = first[column[left]] + offset
        place = row[left] * self.shape[0] + row[right]
        return Pairs(place[None], column[left][None], (values[left] * values[right])[None], self.shape[0])


def split(matrix: Tensor | SparseRows | None) -> tuple[Tensor | None, SparseRows | None]:
    """What of G or A autograd is to follow, and, of sparse rows, the pattern it belongs to."""
    if isinstance(matrix, SparseRows):
        return matrix.values, replace(matrix, values=matrix.values.detach())
    return matrix, None


@dataclass(frozen=True)
class Pairs:
    """(M D M^T)_ij = sum_l M_il D_l M_jl, term by term: place = i k + j, column = l, weight = M_il M_jl, all (1, P)."""

    place: Tensor
    column: Tensor
    weight: Tensor
    k: int

    def gram(self, d: Tensor) -> Tensor:
        """M diag(d) M^T: (B, n) -> (B, k, k)."""
        return _sum_at(self.place, self.weight * d[:, self.column[0]], self.k * self.k).reshape(-1, self.k, self.k)


def _sum_at(index: Tensor, terms: Tensor, size: int) -> Tensor:
    """Sums of the terms (B, j) that belong to the same place: (B, size)."""
    return terms.new_zeros(terms.shape[0], size).index_add(1, index[0], terms)
