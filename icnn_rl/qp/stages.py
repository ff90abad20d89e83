"""Problems that come in stages, like optimal control: an order of the variables in which no row of A or G and no entry
of Q reaches further than from one stage to the next, and where the entries then belong in a block-tridiagonal matrix.

Only places are looked at here, in numpy; what was found for a pattern is kept for the next problem with the same one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.qp.sparse import Sparse, SparseRows

__all__ = ["Layout", "check_reach", "fill_blocks", "find_stages", "last_stages", "layout_of"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: Patterns whose stages and layouts are kept.
_KEPT = 64
#: Searches for a start from which the levels are many and thus small.
_SEARCHES = 4


def find_stages(n: int, matrices: Sequence[Sparse | SparseRows]) -> Tensor | None:
    """(1, n): stages for n variables such that no row of the matrices (k, n) reaches further than to the next; None
    where all variables are in one.

    Levels of a search in breadth in the graph that joins variables of a common row (Cuthill and McKee), from a node
    as far from the others as a few searches find; small neighbours are then put together.
    """
    device = matrices[0].row.device
    patterns = tuple((_bytes(m.row), _bytes(m.column), m.shape[0]) for m in matrices)
    found = _find_stages(n, patterns)
    return None if found is None else torch.as_tensor(found, device=device)[None]


def _bytes(index: Tensor) -> bytes:
    index = index if index.device.type == "cpu" else index.cpu()
    while torch._C._functorch.is_gradtrackingtensor(index):  # as all is what torch computes inside torch.func.grad
        index = torch._C._functorch.get_unwrapped(index)
    with torch._C._DisableFuncTorch():
        return index.numpy().tobytes()


@functools.lru_cache(_KEPT)
def _find_stages(n: int, patterns: tuple[tuple[bytes, bytes, int], ...]) -> Ints | None:
    graph = _Graph.of(n, patterns)
    level, first = np.full(n, -1), 0
    while (level < 0).any():
        part = graph.levels(int((level < 0).argmax()))
        for _ in range(_SEARCHES):
            again = graph.levels(int(np.where(part == part.max(), graph.degree, n + len(graph.start)).argmin()))
            if again.max() <= part.max():
                break
            part = again
        level = np.where(part >= 0, part + first, level)
        first = int(level.max()) + 1
    stage = _put_together(level)
    return None if stage.max() == 0 else stage


def _put_together(level: Ints) -> Ints:
    """Neighbouring levels joined as long as they are no larger than the largest."""
    sizes = np.bincount(level)
    limit, stage, filled = sizes.max(), np.zeros(len(sizes), np.int64), 0
    for i, size in enumerate(sizes):
        new = i > 0 and filled + size > limit
        stage[i] = (stage[i - 1] if i else 0) + new
        filled = size if new or i == 0 else filled + size
    return stage[level]


@dataclass(frozen=True)
class _Graph:
    """Variables and the rows that they are in: entries by row at start[i] .. start[i + 1], and by column."""

    n: int
    start: Ints
    column: Ints
    column_start: Ints
    row: Ints
    degree: Ints

    @staticmethod
    def of(n: int, patterns: tuple[tuple[bytes, bytes, int], ...]) -> _Graph:
        rows, columns, offset = [], [], 0
        for row_bytes, column_bytes, k in patterns:
            rows.append(np.frombuffer(row_bytes, np.int64) + offset)
            columns.append(np.frombuffer(column_bytes, np.int64))
            offset += k
        row, column = np.concatenate(rows), np.concatenate(columns)
        by_row, by_column = np.argsort(row, kind="stable"), np.argsort(column, kind="stable")
        start, column_start = _starts(row, offset), _starts(column, n)
        return _Graph(n, start, column[by_row], column_start, row[by_column], np.diff(column_start))

    def levels(self, node: int) -> Ints:
        """The distance of every variable from this one, -1 where there is no way."""
        level, seen = np.full(self.n, -1), np.zeros(len(self.start) - 1, bool)
        front, distance = np.array([node]), 0
        while len(front):
            level[front] = distance
            rows = np.unique(self.row[_ranges(self.column_start, front)])
            rows = rows[~seen[rows]]
            seen[rows] = True
            front = np.unique(self.column[_ranges(self.start, rows)])
            front, distance = front[level[front] < 0], distance + 1
        return level


def _starts(index: Ints, size: int) -> Ints:
    """Where the entries of every number below ``size`` begin once they are sorted, and where the last ones end."""
    return np.append(np.zeros(1, np.int64), np.cumsum(np.bincount(index, minlength=size)))


def _ranges(start: Ints, which: Ints) -> Ints:
    """start[i], ..., start[i + 1] - 1 for i in which, one after the other."""
    first, count = start[which], start[which + 1] - start[which]
    before = np.cumsum(count) - count
    out: Ints = np.arange(count.sum()) + np.repeat(first - before, count)
    return out


def last_stages(rows: SparseRows, stage: Tensor) -> Tensor:
    """(1, k): the last stage that a row reaches; ``stage`` (1, n)."""
    zeros = stage.new_zeros(1, rows.shape[0])
    return zeros.scatter_reduce(1, rows.row, stage.gather(1, rows.column), "amax")


def check_reach(name: str, row: Tensor, column: Tensor, stage: Tensor, *, symmetric: bool) -> None:
    """A ValueError that names the first of these entries of Q (symmetric), G or A that reaches further than from one
    stage to the next; ``stage`` (n,)."""
    outside = _first_outside(_bytes(row), _bytes(column), _bytes(stage), symmetric)
    if outside is not None:
        i, j, own, first = outside
        begin = "of stage" if symmetric else "that begins in stage"
        raise ValueError(
            f"{name}: entry ({i}, {j}) belongs to stage {own}, in a row {begin} {first}. With `blocks`, Q and the rows "
            "of G and A may reach from a stage to the next."
        )


@functools.lru_cache(_KEPT)
def _first_outside(row: bytes, column: bytes, stage: bytes, symmetric: bool) -> tuple[int, int, int, int] | None:
    """Row, column, stage of the column and first stage of the row of that entry, if there is one."""
    i, j, of_variable = (np.frombuffer(part, np.int64) for part in (row, column, stage))
    own = of_variable[j]
    if symmetric:
        first = of_variable[i]
    else:
        lowest = np.full(int(i.max(initial=0)) + 1, len(of_variable))
        np.minimum.at(lowest, i, own)
        first = lowest[i]
    outside = np.flatnonzero(abs(own - first) > 1)
    if not len(outside):
        return None
    at = outside[0]
    return int(i[at]), int(j[at]), int(own[at]), int(first[at])


def fill_blocks(row: Tensor, column: Tensor, k: int, stage: Tensor, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The places of dense matrices (k, n) whose entries at (row, column) are not 0: of a row of G or A all columns of
    the stages that it touches; of Q (symmetric) the blocks on the diagonal, and the others that it touches."""
    last = int(stage[-1]) + 1
    touched = torch.zeros(last if symmetric else k, last, dtype=torch.bool, device=stage.device)
    touched[stage[row] if symmetric else row, stage[column]] = True
    if symmetric:
        touched = (touched | touched.mT).fill_diagonal_(True)[stage]
    row, column = touched[:, stage].nonzero().unbind(-1)
    return row, column


@dataclass(frozen=True)
class Layout:
    """Where the entries of [Q + C^T W C, A^T; A, -delta] are once variables and equations are sorted by stage.

    An equation belongs to the last stage that it touches. Every stage has ``size`` places, variables first, those that
    are left over at the end; the buffer of a matrix holds ``number`` diagonal blocks (size, size) and then as many
    blocks (reach, size) of what is below them: the rows of the next stage that reach back, of which there are at most
    ``reach``. The last of those blocks is 0.

    Attributes:
        number, size, reach: of the stages.
        member: (1, n + q) the place of a variable or equation in a vector of all stages, number * size long.
        back: (1, number, reach) which places of the next stage reach back; what is left over points anywhere.
        diagonal: (1, n + q) places in the buffer of the diagonal.
        unused: (1, u) places in the buffer of the diagonal of what is left over.
        a_place, a_entry; q_place, q_entry: places in the buffer of the entries of A and of Q off the diagonal.
        g_place, g_left, g_right, g_row: (1, P) of the terms W_row G_left G_right of G^T W G, by numbers of entries.
    """

    number: int
    size: int
    reach: int
    member: Tensor
    back: Tensor
    diagonal: Tensor
    unused: Tensor
    a_place: Tensor
    a_entry: Tensor
    q_place: Tensor
    q_entry: Tensor
    g_place: Tensor
    g_left: Tensor
    g_right: Tensor
    g_row: Tensor

    @property
    def length(self) -> int:
        """Length of the buffer."""
        return self.number * self.size * (self.size + self.reach)


def layout_of(stage: Tensor, A: SparseRows | None, G: SparseRows | None, coupling: SparseRows | None) -> Layout:
    """The layout for these stages (1, n), A, G, and Q off the diagonal."""
    a, g, q = (
        (b"", b"", 0) if part is None else (_bytes(part.row), _bytes(part.column), part.shape[0])
        for part in (A, G, coupling)
    )
    return _layout(_bytes(stage), a, g, q, stage.device)


_Pattern = tuple[bytes, bytes, int]


@functools.lru_cache(_KEPT)
def _layout(stage: bytes, a: _Pattern, g: _Pattern, q: _Pattern, device: torch.device) -> Layout:
    of_variable = np.frombuffer(stage, np.int64)
    n = len(of_variable)
    (a_row, a_column), (g_row, g_column), (q_row, q_column) = (
        (np.frombuffer(row, np.int64), np.frombuffer(column, np.int64)) for row, column, _ in (a, g, q)
    )
    of_equation = np.zeros(a[2], np.int64)
    np.maximum.at(of_equation, a_row, of_variable[a_column])
    places = _Places.of(np.concatenate((of_variable, of_equation)))
    left, right = _pairs(g_row)
    # (i, j) for the rows of the matrix and its columns; of A both halves, for its upper one may be in the same block
    number = np.arange(len(a_row))
    a_ij = np.concatenate((n + a_row, a_column)), np.concatenate((a_column, n + a_row))
    edges = (a_ij, (q_row, q_column), (g_column[left], g_column[right]))
    places = places.with_reach(edges)
    (a_place, a_kept), (q_place, q_kept), (g_place, g_kept) = (places.in_buffer(*edge) for edge in edges)

    def out(array: Ints) -> Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=device)[None]

    everyone = np.arange(n + a[2])
    return Layout(
        number=places.number,
        size=places.size,
        reach=places.reach,
        member=out(places.at),
        back=out(places.back),
        diagonal=out(places.in_buffer(everyone, everyone)[0]),
        unused=out(places.unused()),
        a_place=out(a_place),
        a_entry=out(np.concatenate((number, number))[a_kept]),
        q_place=out(q_place),
        q_entry=out(np.arange(len(q_row))[q_kept]),
        g_place=out(g_place),
        g_left=out(left[g_kept]),
        g_right=out(right[g_kept]),
        g_row=out(g_row[left][g_kept]),
    )


def _pairs(row: Ints) -> tuple[Ints, Ints]:
    """All pairs of entries of the same row, numbers of entries."""
    order = np.argsort(row, kind="stable")
    start = _starts(row, int(row.max()) + 1 if len(row) else 0)
    left = np.repeat(order, np.diff(start)[row[order]])
    right = order[_ranges(start, row[order])]
    return left, right


@dataclass(frozen=True)
class _Places:
    """Members, variables and then equations, by stage: their stage, their place among all, and for the members that
    reach back the number that they have among those of their stage."""

    stage: Ints
    at: Ints
    number: int
    size: int
    rank: Ints
    reach: int
    back: Ints

    @staticmethod
    def of(stage: Ints) -> _Places:
        count = np.bincount(stage)
        order = np.argsort(stage, kind="stable")
        slot = np.empty(len(stage), np.int64)
        slot[order] = np.arange(len(stage)) - (np.cumsum(count) - count)[stage[order]]
        size = int(count.max())
        nobody = np.zeros((len(count), 0), np.int64)
        return _Places(stage, stage * size + slot, len(count), size, np.zeros_like(slot), 0, nobody)

    def with_reach(self, edges: Sequence[tuple[Ints, Ints]]) -> _Places:
        reaches = np.zeros(len(self.stage), bool)
        for i, j in edges:
            reaches[i[self.stage[i] == self.stage[j] + 1]] = True
        who = np.flatnonzero(reaches)
        who = who[np.argsort(self.at[who])]
        count = np.bincount(self.stage[who], minlength=self.number)
        rank = np.zeros_like(self.at)
        rank[who] = np.arange(len(who)) - (np.cumsum(count) - count)[self.stage[who]]
        reach = int(count.max())
        back = np.zeros((self.number, reach), np.int64)
        back[self.stage[who] - 1, rank[who]] = self.at[who] - self.stage[who] * self.size
        return _Places(self.stage, self.at, self.number, self.size, rank, reach, back)

    def in_buffer(self, i: Ints, j: Ints) -> tuple[Ints, Mask]:
        """Places in the buffer of the entries (i, j), without those above the diagonal blocks; which were kept."""
        kept = self.stage[i] >= self.stage[j]
        i, j = i[kept], j[kept]
        slot, s = self.at[j] - self.stage[j] * self.size, self.size
        below = self.number * s * s + (self.stage[j] * self.reach + self.rank[i]) * s + slot
        return np.where(self.stage[i] == self.stage[j], self.at[i] * s + slot, below), kept

    def unused(self) -> Ints:
        """Places in the buffer of the diagonal of what is left over in the stages."""
        left = np.ones(self.number * self.size, bool)
        left[self.at] = False
        at = np.flatnonzero(left)
        return at * self.size + at % self.size
