"""Memory for one problem after the other. See :mod:`icnn_rl.qp.kernel.dense`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icnn_rl.compiling import inner, jit
from icnn_rl.qp.kernel.dense.products import fill
from icnn_rl.qp.kernel.dense.proofs import Scratch
from icnn_rl.qp.kernel.dense.records import NUMERICAL, Array, Factor, Found, Problem, Products, Triple, making
from icnn_rl.qp.kernel.lapack import part


class _Room(NamedTuple):
    """Numbers for the work arrays, and how many of them are taken."""

    numbers: Array
    taken: Array


@making
def _matrix(room: _Room, rows: int, columns: int) -> Array:
    start = room.taken[0]
    room.taken[0] += (rows * columns + 7) // 8 * 8
    matrix: Array = part(room.numbers, start, rows, columns)
    return matrix


@making
def vector(room: _Room, size: int) -> Array:
    row: Array = _matrix(room, 1, size)[0]
    return row


@making
def triple(room: _Room, n: int, q: int, k: int) -> Triple:
    return Triple(vector(room, n), vector(room, q), vector(room, k))


@making
def new_products(room: _Room, n: int, q: int, k: int) -> Products:
    return Products(vector(room, n), vector(room, n), vector(room, n), vector(room, q), vector(room, k))


@jit
def new_room(n: int, q: int, m: int, k: int, width: int) -> _Room:
    """Enough for everything below."""
    matrices = n * width + 2 * n * q + 2 * n * m + n * n + q * q
    size = matrices + 40 * (n + q + k) + 200 * 8
    numbers = np.zeros(size + 8)
    taken = np.zeros(1, np.int64)
    taken[0] = -(numbers.ctypes.data // 8) % 8  # arrays start where cache lines do
    return _Room(numbers, taken)


@inner
def write_nothing(found: Found, row: int) -> None:
    """What is reported of a row that is left."""
    fill(found.x[row], 0.0)
    fill(found.nu[row], 0.0)
    fill(found.z[row], 0.0)
    fill(found.s[row], 0.0)
    fill(found.ray[row], 0.0)
    fill(found.scales.w[row], 0.0)
    fill(found.scales.columns[row], 1.0)
    fill(found.scales.a_rows[row], 1.0)
    fill(found.scales.c_rows[row], 1.0)
    fill(found.scales.units[row], 1.0)
    for i in range(found.active.shape[1]):
        found.active[row, i] = False
    for i in range(len(found.fit)):
        found.fit[i, row] = np.inf
    found.steps[row], found.status[row] = 0, NUMERICAL


@making
def new_scratch(room: _Room, n: int, q: int, k: int) -> Scratch:
    return Scratch(
        triple(room, n, q, k), vector(room, k), triple(room, n, q, k), triple(room, n, q, k),
        triple(room, n, q, k), triple(room, n, q, k), triple(room, n, q, k), triple(room, n, q, k),
        triple(room, n, q, k), triple(room, n, q, k), triple(room, n, q, k), vector(room, k),
        vector(room, k), vector(room, k), vector(room, n), vector(room, n),
        new_products(room, n, q, k), new_products(room, n, q, k), new_products(room, n, q, k),
        vector(room, 5), vector(room, 5), vector(room, k), vector(room, k), vector(room, k), vector(room, k),
    )  # fmt: skip


@making
def new_problem(room: _Room, n: int, q: int, m: int, k: int, width: int, lower: bool, upper: bool) -> Problem:
    return Problem(
        _matrix(room, n, width), _matrix(room, q, n), _matrix(room, m, n), vector(room, n), vector(room, q),
        vector(room, k), vector(room, k), lower, upper, vector(room, n), vector(room, q), vector(room, k),
        vector(room, 2), _matrix(room, 2, n), _matrix(room, 2, q + k), vector(room, 6),
    )  # fmt: skip


@making
def new_factor(room: _Room, n: int, q: int, m: int, k: int, width: int) -> Factor:
    return Factor(
        vector(room, k), vector(room, k), _matrix(room, n, width if m == 0 else n), _matrix(room, q, n),
        _matrix(room, q, q),
        _matrix(room, m, n), vector(room, 2),
    )  # fmt: skip
