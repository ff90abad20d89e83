"""Sudoku boards: the rules, an exact solver, a generator of puzzles with one solution, and files of them.

A board of box size n has n^2 rows, columns, boxes and digits, n^2 = N. Boards are integer arrays (N, N) with the digits
1..N and 0 for a blank. With z[r, c, d] = 1 where cell (r, c) holds digit d + 1, the rules are 4 N^2 equations A z = 1:

    sum_d z[r, c, d] = 1 for each cell,    sum_c z[r, c, d] = 1 for each row and digit,    likewise columns and boxes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icnn_rl.checks import check_positive_int

__all__ = [
    "check_boards",
    "count_solutions",
    "generate",
    "is_valid",
    "one_hot",
    "read_boards",
    "rules",
    "solve_exactly",
]

_TRIES = 2000


def rules(box: int) -> Tensor:
    """A (4 N^2, N^3), 0 or 1, with A z = 1 exactly for the valid boards: cells, rows, columns, boxes, in this order.

    Its rank is 249 for 9 x 9 boards, 40 for 4 x 4.
    """
    n = check_positive_int("box", box) ** 2
    place = torch.arange(n**3).reshape(n, n, n)  # row, column, digit
    boxes = place.reshape(box, box, box, box, n).transpose(1, 2).reshape(n, n, n)
    groups = torch.cat([g.reshape(-1, n) for g in (place, place.mT, place.permute(1, 2, 0), boxes.mT)])
    return torch.zeros(4 * n * n, n**3).scatter_(1, groups, 1.0)


def one_hot(boards: Tensor) -> Tensor:
    """(..., N, N) digits -> (..., N, N, N) float, all zero in a blank."""
    digits = torch.arange(1, boards.shape[-1] + 1, device=boards.device)
    return (boards.unsqueeze(-1) == digits).float()


def check_boards(name: str, boards: object, box: int) -> Tensor:
    """``boards`` as int64 (..., N, N), if they hold digits 0..N and no unit holds one twice.

    Raises:
        ValueError: names the first board that is wrong and what is wrong with it.
    """
    n = box * box
    tensor = torch.as_tensor(boards)
    if tensor.dim() < 2 or tensor.shape[-2:] != (n, n):
        raise ValueError(f"{name}: expected boards (..., {n}, {n}) for box = {box}, got shape {tuple(tensor.shape)}.")
    if tensor.dtype.is_floating_point:
        whole = tensor.round()
        if not torch.equal(whole, tensor):
            raise ValueError(f"{name}: expected whole numbers 0 to {n}, 0 for a blank; some are not whole or NaN.")
        tensor = whole
    flat = tensor.long().reshape(-1, n, n)
    outside = ((flat < 0) | (flat > n)).flatten(1).any(1)
    if bool(outside.any()):
        board = int(outside.nonzero()[0])
        wrong = int(flat[board][(flat[board] < 0) | (flat[board] > n)][0])
        raise ValueError(f"{name}: board {board} holds {wrong}; expected digits 0 to {n}, 0 for a blank.")
    twice = _units(one_hot(flat), box) > 1  # (B, 3, units, digits)
    if bool(twice.any()):
        board, kind, unit, digit = (int(i) for i in twice.nonzero()[0])
        unit_name = ("row", "column", "box")[kind]
        raise ValueError(f"{name}: board {board} contradicts itself: {unit_name} {unit + 1} holds {digit + 1} twice.")
    return tensor.long()


def _units(z: Tensor, box: int) -> Tensor:
    """How often each row, column and box holds each digit: (B, N, N, N) -> (B, 3, N, N)."""
    n = box * box
    boxes = z.reshape(-1, box, box, box, box, n).sum((2, 4)).reshape(-1, n, n)
    return torch.stack((z.sum(2), z.sum(1), boxes), 1)


def is_valid(boards: Tensor, puzzles: Tensor | None = None) -> Tensor:
    """(...,) bool: whether a board (..., N, N) is filled in by the rules, and agrees with its puzzle's givens."""
    boards = torch.as_tensor(boards)
    n = boards.shape[-1]
    box = round(n**0.5)
    if boards.dim() < 2 or boards.shape[-2] != n or box * box != n:
        raise ValueError(f"boards: expected shape (..., N, N) with N = 4, 9, 16, ..., got {tuple(boards.shape)}.")
    flat = boards.reshape(-1, n, n)
    good = (_units(one_hot(flat), box) == 1).flatten(1).all(1)
    if puzzles is not None:
        given = torch.as_tensor(puzzles).expand(boards.shape).reshape(-1, n, n)
        good = good & ((given == 0) | (given == flat)).flatten(1).all(1)
    return good.reshape(boards.shape[:-2])


class _Search:
    """Depth-first search. Always branches on what has the fewest options: a cell, or a digit's place in a unit."""

    def __init__(self, box: int) -> None:
        n = self.n = box * box
        self.cells = [(r, c, (r // box) * box + c // box) for r in range(n) for c in range(n)]
        self.units: list[list[list[int]]] = [
            [[i for i, cell in enumerate(self.cells) if cell[kind] == unit] for unit in range(n)] for kind in range(3)
        ]

    def free(self, board: list[int]) -> list[list[int]]:
        """Bits of the digits that rows, columns and boxes still miss."""
        full = (1 << self.n) - 1
        left = [[full] * self.n for _ in range(3)]
        for digit, cell in zip(board, self.cells, strict=True):
            if digit:
                for kind in range(3):
                    left[kind][cell[kind]] &= ~(1 << (digit - 1))
        return left

    def options(self, left: list[list[int]], i: int) -> int:
        r, c, b = self.cells[i]
        return left[0][r] & left[1][c] & left[2][b]

    def solutions(self, board: list[int], rng: random.Random | None = None) -> Iterator[list[int]]:
        """All of them, the digits of a cell in order or shuffled. ``board`` must not contradict itself."""
        board = board.copy()
        left = self.free(board)
        blanks = {i for i, digit in enumerate(board) if digit == 0}
        yield from self._descend(board, left, blanks, rng)

    def _descend(
        self, board: list[int], left: list[list[int]], blanks: set[int], rng: random.Random | None
    ) -> Iterator[list[int]]:
        if not blanks:
            yield board.copy()
            return
        for i, bit in self._choices(left, blanks, rng):
            cell = self.cells[i]
            board[i] = bit.bit_length()
            blanks.remove(i)
            for kind in range(3):
                left[kind][cell[kind]] ^= bit
            yield from self._descend(board, left, blanks, rng)
            for kind in range(3):
                left[kind][cell[kind]] ^= bit
            blanks.add(i)
            board[i] = 0

    def _choices(self, left: list[list[int]], blanks: set[int], rng: random.Random | None) -> list[tuple[int, int]]:
        """(cell, bit) alternatives, one of which every solution contains."""
        candidates = {}
        fewest, best = self.n + 1, -1
        for i in blanks:
            bits = candidates[i] = self.options(left, i)
            count = bits.bit_count()
            if count < fewest:
                fewest, best = count, i
                if count < 2:
                    break
        else:
            places = self._places(left, candidates)
            if places is not None:
                return places
        bits = candidates[best]
        choices = [(best, 1 << d) for d in range(self.n) if bits >> d & 1]
        if rng is not None:
            rng.shuffle(choices)
        return choices

    def _places(self, left: list[list[int]], candidates: dict[int, int]) -> list[tuple[int, int]] | None:
        """The one place of a digit in a unit; [] if some digit has none in one; None if every digit has several."""
        for kind in range(3):
            for unit, cells in enumerate(self.units[kind]):
                missing = left[kind][unit]
                once = twice = 0
                for i in cells:
                    bits = candidates.get(i, 0)
                    twice |= once & bits
                    once |= bits
                if missing & ~once:
                    return []
                single = missing & once & ~twice
                if single:
                    bit = single & -single
                    return [(i, bit) for i in cells if candidates.get(i, 0) & bit]
        return None

    def forced(self, board: list[int], i: int) -> bool:
        """Whether the digit of cell i follows from the other givens at a glance: no other fits, or it fits nowhere
        else in a unit."""
        bit, board[i] = 1 << (board[i] - 1), 0
        left = self.free(board)
        only = self.options(left, i) == bit
        for kind in range(3):
            rest = (j for j in self.units[kind][self.cells[i][kind]] if j != i and board[j] == 0)
            only = only or not any(self.options(left, j) & bit for j in rest)
        board[i] = bit.bit_length()
        return only

    def unique(self, board: list[int]) -> bool:
        found = self.solutions(board)
        return next(found, None) is not None and next(found, None) is None


def solve_exactly(puzzle: Tensor, box: int | None = None) -> Tensor | None:
    """The first solution of one puzzle (N, N) by search, or None if it has none. Knows nothing of relaxations."""
    board, search = _one(puzzle, box)
    found = next(search.solutions(board), None)
    return None if found is None else torch.tensor(found).reshape(search.n, search.n)


def count_solutions(puzzle: Tensor, limit: int = 2, box: int | None = None) -> int:
    """How many solutions one puzzle (N, N) has, counted up to ``limit``."""
    board, search = _one(puzzle, box)
    return sum(1 for _, _ in zip(range(limit), search.solutions(board), strict=False))


def _one(puzzle: Tensor, box: int | None) -> tuple[list[int], _Search]:
    box = round(torch.as_tensor(puzzle).shape[-1] ** 0.5) if box is None else box
    checked = check_boards("puzzle", puzzle, box)
    if checked.dim() != 2:
        raise ValueError(f"puzzle: expected one board, got shape {tuple(checked.shape)}.")
    return checked.flatten().tolist(), _Search(box)


def generate(n: int, box: int, clues: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Puzzles with exactly one solution, and their solutions, both int64 (n, N, N).

    A random valid board loses givens one at a time, in random order, as long as the solution stays the only one, until
    it has a number of givens drawn from ``clues``, both ends included. Boards that get stuck outside the range are
    dropped. Few givens take long: the last 9 x 9 givens above 24 are hard to lose, below 20 hopeless.

    Raises:
        ValueError: a wrong argument, or a range that random removal does not reach.
    """
    check_positive_int("n", n)
    size = check_positive_int("box", box) ** 2
    low, high = clues
    if not 0 < low <= high <= size * size:
        raise ValueError(f"clues: expected 0 < fewest <= most <= {size * size}, got {clues}.")
    rng, search = random.Random(seed), _Search(box)
    puzzles: list[list[int]] = []
    solutions: list[list[int]] = []
    tries = 0
    while len(puzzles) < n:
        solution = next(search.solutions([0] * size * size, rng))
        puzzle = _thin_out(search, solution, rng.randint(low, high), rng)
        tries += 1
        if low <= sum(map(bool, puzzle)) <= high:
            puzzles.append(puzzle)
            solutions.append(solution)
            tries = 0
        elif tries >= _TRIES:
            raise ValueError(f"clues: {_TRIES} boards in a row had more than {high} givens left. Ask for more givens.")
    shape = (n, size, size)
    return torch.tensor(puzzles).reshape(shape), torch.tensor(solutions).reshape(shape)


def _thin_out(search: _Search, solution: list[int], clues: int, rng: random.Random) -> list[int]:
    puzzle, count = solution.copy(), len(solution)
    for i in rng.sample(range(len(solution)), len(solution)):
        if count == clues:
            break
        if search.forced(puzzle, i) or search.unique([*puzzle[:i], 0, *puzzle[i + 1 :]]):
            puzzle[i] = 0
            count -= 1
    return puzzle


def read_boards(path: str | Path, box: int | None = None) -> tuple[Tensor, Tensor]:
    """Puzzles and solutions (n, N, N) from a file, checked: valid solutions that agree with their puzzles.

    ``.npz``: arrays "puzzles" and "solutions". Anything else is text, "puzzle solution" a line, N^2 digits each, 0 or .
    for a blank.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a board is wrong; the text names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    puzzles, solutions = _read_npz(path) if path.suffix == ".npz" else _read_text(path)
    box = round(puzzles.shape[-1] ** 0.5) if box is None else box
    try:
        puzzles = check_boards("puzzles", puzzles, box)
        solutions = check_boards("solutions", solutions, box)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    wrong = ~is_valid(solutions, puzzles)
    if bool(wrong.any()):
        raise ValueError(f"{path}: the solution of board {int(wrong.nonzero()[0])} does not solve its puzzle.")
    return puzzles, solutions


def _read_npz(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            puzzles, solutions = (_numbers(file[name]) for name in ("puzzles", "solutions"))
    except Exception as error:  # zipfile, zlib, numpy and KeyError, by what is damaged
        raise ValueError(f"{path}: expected an npz file with puzzles and solutions ({error}).") from error
    if puzzles.shape != solutions.shape or puzzles.dim() != 3:
        raise ValueError(
            f"{path}: expected puzzles and solutions of one shape (n, N, N), got {tuple(puzzles.shape)} and "
            f"{tuple(solutions.shape)}."
        )
    return puzzles, solutions


def _numbers(array: NDArray[Any]) -> Tensor:
    """Integers as int64, others as float64: whether these are whole is still to be checked."""
    return torch.as_tensor(array.astype(np.int64 if array.dtype.kind in "iub" else np.float64))


def _read_text(path: Path) -> tuple[Tensor, Tensor]:
    boards: tuple[list[list[int]], list[list[int]]] = ([], [])
    try:
        lines = path.read_text("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected lines of digits ({error}).") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        text = "".join(words).replace(".", "0")
        if len(words) != 2 or len(words[0]) != len(words[1]) or not text.isdigit():
            raise ValueError(f"{path}: line {number}: expected 'puzzle solution', as many digits each, got {line!r}.")
        for board, word in zip(boards, words, strict=True):
            board.append([int(digit) for digit in word.replace(".", "0")])
    sizes = {len(board) for board in boards[0]}
    size = round(max(sizes, default=0) ** 0.5)
    if len(sizes) != 1 or size * size not in sizes:
        raise ValueError(f"{path}: expected boards of one size, N^2 digits each, got {sorted(sizes) or 'none'}.")
    puzzles, solutions = (torch.tensor(board).reshape(-1, size, size) for board in boards)
    return puzzles, solutions
