"""Sparse matrices of a batch: one pattern, and values that all rows share or that each row has of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Sparse", "SparseRows"]


@dataclass(frozen=True)
class Sparse:
    """A batch of sparse matrices with one pattern, for the arguments Q, G and A of :func:`icnn_rl.qp.solve_qp`.

    Args:
        row, column: (nnz,) int64, the place of every entry; entries at the same place are added up.
        values: (..., nnz), float32 or float64; gradients reach them.
        shape: (k, n).
    """

    row: Tensor
    column: Tensor
    values: Tensor
    shape: tuple[int, int]


@dataclass(frozen=True)
class SparseRows:
    """A k x n matrix by its entries.

    Attributes:
        row, column: (1, nnz) int64, the place of every entry.
        values: (1|B, nnz).
        shape: (k, n).
    """

    row: Tensor
    column: Tensor
    values: Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(matrix: Tensor) -> SparseRows:
        """From a sparse tensor of torch with two dimensions, of any layout; the values keep their graph."""
        entries = entries_of(matrix)
        return SparseRows(entries.row[None], entries.column[None], entries.values[None].double(), entries.shape)

    @property
    def shared(self) -> bool:
        """Whether all rows of the batch have the same values."""
        return self.values.shape[0] == 1

    @property
    def mT(self) -> SparseRows:  # noqa: N802  # torch's name
        return SparseRows(self.column, self.row, self.values, (self.shape[1], self.shape[0]))

    def matvec(self, x: Tensor) -> Tensor:
        """M x: (B, n) -> (B, k)."""
        return sum_at(self.row, self.values * take(x, self.column), self.shape[0])

    def rmatvec(self, y: Tensor) -> Tensor:
        """M^T y: (B, k) -> (B, n)."""
        return sum_at(self.column, self.values * take(y, self.row), self.shape[1])

    def norms(self) -> Tensor:
        """(1|B, k): Euclidean norms of the rows."""
        return sum_at(self.row, self.values.square(), self.shape[0]).sqrt()

    def abs(self) -> SparseRows:
        """|M|, element by element."""
        return replace(self, values=self.values.abs())

    def scaled(self, size: Tensor) -> SparseRows:
        """diag(size) M, size (1|B, k)."""
        return replace(self, values=self.values * take(size, self.row))

    def row_sizes(self) -> Tensor:
        """(1|B, k): the largest magnitude in every row."""
        return self._largest_at(self.row, self.shape[0])

    def column_sizes(self) -> Tensor:
        """(1|B, n): likewise of the columns."""
        return self._largest_at(self.column, self.shape[1])

    def _largest_at(self, index: Tensor, size: int) -> Tensor:
        zeros = self.values.new_zeros(self.values.shape[0], size)
        return zeros.scatter_reduce(1, index.expand_as(self.values), self.values.abs(), "amax")

    def dense(self) -> Tensor:
        """(1|B, k, n)."""
        k, n = self.shape
        return sum_at(self.row * n + self.column, self.values, k * n).reshape(-1, k, n)

    def outer(self, u: Tensor, v: Tensor) -> Tensor:
        """The entries of u v^T at the places of ours, (B, nnz), or where the rows share them their sum over the batch,
        (1, nnz): u (B, k), v (B, n)."""
        product = take(u, self.row) * take(v, self.column)
        return product.sum(0, keepdim=True) if self.shared else product

    def pairs(self) -> Pairs:
        """The terms of M D M^T, for shared values."""
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


def entries_of(matrix: Tensor | Sparse) -> Sparse:
    """From a sparse tensor of torch with two dimensions, or three of which the first is the batch: there the pattern is
    the union over the batch. Places are sorted by rows and come once; values keep their graph."""
    if isinstance(matrix, Sparse):
        return _merged(matrix)
    entries: Tensor = matrix.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    shape = (entries.shape[-2], entries.shape[-1])
    places, values = entries.indices(), entries.values()
    if entries.dim() == 2:
        return Sparse(places[0], places[1], values, shape)
    union, member = torch.unique(places[1] * shape[1] + places[2], return_inverse=True)
    flat = values.new_zeros(entries.shape[0] * len(union)).index_add(0, places[0] * len(union) + member, values)
    return Sparse(union // shape[1], union % shape[1], flat.reshape(entries.shape[0], -1), shape)


def _merged(matrix: Sparse) -> Sparse:
    place = matrix.row * matrix.shape[1] + matrix.column
    if bool((place[1:] > place[:-1]).all()):
        return matrix
    union, member = torch.unique(place, return_inverse=True)
    values = matrix.values
    summed = values.new_zeros(*values.shape[:-1], len(union)).index_add(-1, member, values)
    return Sparse(union // matrix.shape[1], union % matrix.shape[1], summed, matrix.shape)


def split(matrix: Tensor | SparseRows | None) -> tuple[Tensor | None, SparseRows | None]:
    """The tensor of G or A that autograd follows and, for sparse rows, the pattern that its values belong to."""
    if isinstance(matrix, SparseRows):
        return matrix.values, replace(matrix, values=matrix.values.detach())
    return matrix, None


def stack_sparse(parts: list[SparseRows]) -> SparseRows:
    """One below the other."""
    batch = max(part.values.shape[0] for part in parts)
    rows, offset = [], 0
    for part in parts:
        rows.append(part.row + offset)
        offset += part.shape[0]
    column = torch.cat([part.column for part in parts], -1)
    values = torch.cat([part.values.expand(batch, -1) for part in parts], -1)
    return SparseRows(torch.cat(rows, -1), column, values, (offset, parts[0].shape[1]))


@dataclass(frozen=True)
class Pairs:
    """(M D M^T)_ij = sum_l M_il D_l M_jl, term by term: place = i k + j, column = l, weight = M_il M_jl, all (1, P)."""

    place: Tensor
    column: Tensor
    weight: Tensor
    k: int

    def gram(self, d: Tensor) -> Tensor:
        """M diag(d) M^T: (B, n) -> (B, k, k)."""
        return sum_at(self.place, self.weight * take(d, self.column), self.k * self.k).reshape(-1, self.k, self.k)


def sum_at(index: Tensor, terms: Tensor, size: int) -> Tensor:
    """Sums of the terms (B, j) that belong to the same place: (B, size)."""
    return terms.new_zeros(terms.shape[0], size).index_add(1, index[0], terms)


def take(x: Tensor, index: Tensor) -> Tensor:
    """The columns of x (B, n) at index (1, j): (B, j); four times as fast as x[:, index[0]]."""
    return x.gather(1, index.expand(x.shape[0], -1))
