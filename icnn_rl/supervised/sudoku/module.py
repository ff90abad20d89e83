"""Sudoku without being told the rules: an OptNet layer that learns them from solved boards.

    z(x) = argmin_{z >= 0}  q/2 |z|^2 - x^T z    subject to    A z = b,   b = A z_0

x is the puzzle, one-hot, a blank all zero; A and z_0 start at random and are learned so that z is the solved board.

References:
    B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017, section 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from icnn_rl.checks import check_choice, check_positive_int, check_range, check_widths
from icnn_rl.qp import PrimalDual, QPLayer
from icnn_rl.supervised.sudoku.boards import check_boards, generate, is_valid, one_hot, read_boards, rules
from icnn_rl.supervised.training.batches import Batch, TensorPairs
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = [
    "ConvNet",
    "SudokuDataset",
    "SudokuModule",
    "cell_score",
    "is_valid",
    "principal_angles",
    "score",
    "score_by_clues",
]


class SudokuDataset(TensorPairs):
    """Puzzles and their solutions: samples are pairs of int64 boards (N, N), 0 for a blank.

    Args:
        puzzles, solutions: (n, N, N); see :mod:`icnn_rl.supervised.sudoku.boards`.
        box: N = box^2.

    Raises:
        ValueError: boards of another shape, digits out of range, a board that contradicts itself, a solution that does
            not solve its puzzle.
    """

    def __init__(self, puzzles: Tensor, solutions: Tensor, box: int) -> None:
        self.box = check_positive_int("box", box)
        self.puzzles = check_boards("puzzles", puzzles, box)
        self.solutions = check_boards("solutions", solutions, box)
        if self.puzzles.shape != self.solutions.shape or self.puzzles.dim() != 3:
            raise ValueError(
                f"puzzles, solutions: expected one shape (n, {box * box}, {box * box}), got "
                f"{tuple(self.puzzles.shape)} and {tuple(self.solutions.shape)}."
            )
        wrong = ~is_valid(self.solutions, self.puzzles)
        if bool(wrong.any()):
            raise ValueError(f"solutions: board {int(wrong.nonzero()[0])} does not solve its puzzle.")

    @classmethod
    def generate(cls, n: int, box: int = 2, clues: tuple[int, int] = (4, 10), seed: int = 0) -> Self:
        """n random puzzles with exactly one solution and clues[0] to clues[1] givens."""
        return cls(*generate(n, box, clues, seed), box)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an npz file with "puzzles" and "solutions", or lines "puzzle solution"."""
        puzzles, solutions = read_boards(path)
        return cls(puzzles, solutions, round(puzzles.shape[-1] ** 0.5))

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """(puzzles, solutions)."""
        return self.puzzles, self.solutions

    @property
    def clues(self) -> Tensor:
        """(n,), the number of givens."""
        return (self.puzzles > 0).flatten(1).sum(1)

    def subset(self, index: Tensor | slice) -> Self:
        """The samples at these places, or where a mask is true."""
        return type(self)(self.puzzles[index], self.solutions[index], self.box)

    def first(self, count: int | None) -> Self:
        """The first ``count`` samples; None: all."""
        return self.subset(slice(count))

    def split(self, fraction: float) -> tuple[Self, Self]:
        """The first ``fraction`` of the samples, and the rest."""
        check_range("fraction", fraction, 0.0, 1.0, open_low=True)
        cut = round(fraction * len(self))
        return self.subset(slice(cut)), self.subset(slice(cut, None))

    def unseen(self, other: SudokuDataset) -> Tensor:
        """(n,) bool: whether a sample's puzzle is none of ``other``'s."""
        seen = {tuple(board) for board in other.puzzles.flatten(1).tolist()}
        return torch.tensor([tuple(board) not in seen for board in self.puzzles.flatten(1).tolist()], dtype=torch.bool)


class SudokuModule(SavedModule):
    """Puzzles to boards, through a quadratic programme with learned equations.

    Args:
        box: n; boards have N = n^2 rows, columns and digits, the programme N^3 variables.
        n_constraints: rows of A. By default the rank of the true rules, 40 for n = 2 and 249 for n = 3; their number,
            4 N^2, with ``init="rules"``.
        q_penalty: q > 0.
        init: "random", A uniform on [0, N^(-3/2)) and z_0 = 1 / N; or "rules", the true A and z_0 = 1 / N.
        learn: whether A and z_0 are parameters. A module that does not learn is the control.
        solver: settings of the quadratic programme.

    Raises:
        ValueError: a wrong argument.

    Example:
        >>> train, test = SudokuDataset.generate(1000, box=2, clues=(4, 10), seed=0).split(0.9)
        >>> model = SudokuModule(box=2)
        >>> history = fit(model, train, epochs=10, batch_size=150, lr=1e-3, metrics={"solved": score}, validation=test)
        >>> model.solve(test.puzzles).shape
        torch.Size([100, 4, 4])
    """

    def __init__(
        self,
        box: int = 2,
        n_constraints: int | None = None,
        q_penalty: float = 0.1,
        *,
        init: str = "random",
        learn: bool = True,
        solver: PrimalDual | None = None,
    ) -> None:
        super().__init__()
        self.box, self.size = check_positive_int("box", box), box * box
        self.init, self.learn = check_choice("init", init, ("random", "rules")), learn
        self.q_penalty = check_range("q_penalty", q_penalty, 0.0, float("inf"), open_low=True)
        true = rules(box)
        default = len(true) if init == "rules" else int(torch.linalg.matrix_rank(true))
        self.n_constraints = default if n_constraints is None else check_positive_int("n_constraints", n_constraints)
        self.solver = PrimalDual() if solver is None else solver
        n = self.size**3
        if init == "rules":
            A = true
            if len(A) != self.n_constraints:
                raise ValueError(f"n_constraints: the rules are {len(A)} equations, got {n_constraints}. Leave it out.")
        else:
            A = torch.rand(self.n_constraints, n) / n**0.5  # its scale is free: it sets what a learning rate means
        self._sparse = A.to_sparse() if init == "rules" and not learn else None  # four times as fast
        self.layer = QPLayer(
            n,
            n_eq=self.n_constraints,
            learn=("A", "b") if learn else (),
            Q=self.q_penalty,
            A=A if self._sparse is None else None,
            b=None if self._sparse is None else torch.ones(self.n_constraints),
            lb=0.0,
            z0=self._middle() if self._sparse is None else None,
            solver=self.solver,
            throw=False,
        )
        self.solves = SolveCount()

    def arguments(self) -> dict[str, Any]:
        return {
            "box": self.box,
            "n_constraints": self.n_constraints,
            "q_penalty": self.q_penalty,
            "init": self.init,
            "learn": self.learn,
            "solver": self.solver,
        }

    @property
    def A(self) -> Tensor:  # noqa: N802  the mathematics' name
        """(n_constraints, N^3), the rules as they are now."""
        if self._sparse is not None:
            return self.true_rules()
        assert self.layer.A is not None
        return self.layer.A

    def _middle(self) -> Tensor:
        """The middle of all boards: every digit as much as any other in every cell."""
        return torch.full((self.size**3,), 1.0 / self.size)

    def true_rules(self) -> Tensor:
        """What A is to find, (4 N^2, N^3); the space of its rows, not the rows themselves."""
        return rules(self.box).to(self.layer.Q_constant)

    @torch.no_grad()
    def fit_rules_(self, solutions: Tensor) -> None:
        """The rules in closed form: A z = b becomes the affine hull of solved boards x, (n, N, N).

        The rows of A are an orthonormal basis of { v : v^T (x - 1 / N) = 0 for every x }, and z_0 = 1 / N again,
        wherever training has moved it.

        Raises:
            ValueError: the boards are too few to leave n_constraints equations, or the module does not learn.
        """
        if not self.learn:
            raise ValueError("learn: False; a module with constant rules cannot fit them.")
        boards = one_hot(check_boards("solutions", solutions, self.box)).flatten(1).double()
        values, vectors = torch.linalg.eigh((boards - 1.0 / self.size).mT @ (boards - 1.0 / self.size))
        basis = vectors[:, values <= 1e-9 * values[-1]].mT
        if len(basis) != self.n_constraints:
            raise ValueError(
                f"solutions: {len(boards)} boards leave {len(basis)} equations, expected n_constraints = "
                f"{self.n_constraints}. The hull of all boards leaves as many as the rules' rank; give more boards."
            )
        self.A.copy_(basis)
        self.layer.move_z0_(self._middle())

    def relaxed(self, puzzles: Tensor) -> Tensor:
        """z >= 0, (B, N, N, N): row, column, digit. Rows that were not solved are counted in ``solves``.

        Raises:
            ValueError: boards of another shape, digits out of range, boards that contradict themselves.
        """
        boards = check_boards("puzzles", puzzles, self.box).to(self.layer.Q_constant.device)
        flat = boards.reshape(-1, self.size, self.size)
        p = -one_hot(flat).flatten(1).to(self.layer.Q_constant.dtype)
        A = None if self._sparse is None else self._sparse.to(p)
        z, solution = self.layer(p, A=A, return_solution=True)
        self.solves.add(solution.status)
        relaxed: Tensor = z.reshape(*boards.shape, self.size)
        return relaxed

    def forward(self, puzzles: Tensor) -> Tensor:
        """z cut off at 1, (B, N, N, N) in [0, 1]: how much each digit (last dimension) is the cell's."""
        return self.relaxed(puzzles).clamp(0.0, 1.0)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of z against the solved board."""
        puzzles, solutions = batch
        z = self.relaxed(puzzles)
        return mse_loss(z, one_hot(solutions).to(z.dtype))

    @torch.no_grad()
    def solve(self, puzzles: Tensor, resolves: int = 0, sure: float = 0.9) -> Tensor:
        """Digits 1..N, int64 (B, N, N): the largest z of each cell; givens stay as they are.

        Args:
            resolves: so many times, write into the puzzle what is sure and solve again: the blanks whose digit has a
                share of at least ``sure`` in the cell's sum, or the surest one, as far as they contradict nothing.
        """
        puzzles = check_boards("puzzles", puzzles, self.box)
        filled = puzzles.reshape(-1, self.size, self.size)
        for _ in range(resolves):
            filled = self._write_sure(filled, sure)
        return _fill(filled, self.relaxed(filled)).reshape(puzzles.shape)

    def _write_sure(self, boards: Tensor, sure: float) -> Tensor:
        """One round of ``resolves``."""
        z = self.relaxed(boards)
        share, digit = (z / z.sum(-1, keepdim=True).clamp(min=1e-9)).max(-1)
        share = share.masked_fill(boards > 0, 0.0)
        best = share.flatten(1).amax(1)[:, None, None]
        wanted = (share >= best.clamp(max=sure)) & (boards == 0)
        result = boards.clone()
        for board, marks, digits, shares in zip(result, wanted, digit + 1, share, strict=True):
            places = marks.nonzero()[shares[marks].argsort(descending=True)]
            for r, c in places.tolist():
                if not _clashes(board, r, c, int(digits[r, c]), self.box):
                    board[r, c] = digits[r, c]
        return result


def principal_angles(model: SudokuModule, rtol: float = 1e-3) -> Tensor:
    """The angles between the row spaces of A and of the true rules, in radians, ascending: all 0 for the same space.

    As many as the smaller of the two ranks; a singular value below ``rtol`` of the largest counts as none.
    """
    bases = []
    for matrix in (model.A.detach().double(), model.true_rules().double()):
        _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
        bases.append(rows[values > rtol * values[0]])
    cosines = torch.linalg.svdvals(bases[0] @ bases[1].mT)
    angles: Tensor = cosines.clamp(max=1.0).acos().sort().values
    return angles


def _clashes(board: Tensor, r: int, c: int, digit: int, box: int) -> bool:
    top, left = r - r % box, c - c % box
    units = board[r], board[:, c], board[top : top + box, left : left + box]
    return any(bool((unit == digit).any()) for unit in units)


def _fill(puzzles: Tensor, z: Tensor) -> Tensor:
    return torch.where(puzzles > 0, puzzles, z.argmax(-1).to(puzzles.device) + 1)


class ConvNet(SavedModule):
    """The baseline: 3 x 3 convolutions of the one-hot board, a softmax over the digits of each cell.

    Args:
        box: n.
        channels: of each hidden layer; the paper's net has ten of 512.
    """

    def __init__(self, box: int = 2, channels: Sequence[int] = (512,) * 10) -> None:
        super().__init__()
        self.box, self.size = check_positive_int("box", box), box * box
        self.channels = check_widths("channels", channels)
        widths = (self.size, *self.channels)
        layers = [part for a, b in pairwise(widths) for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], self.size, 3, padding=1))
        for layer in layers[::2]:  # torch's own start fades out over ten layers of ReLU
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def arguments(self) -> dict[str, Any]:
        return {"box": self.box, "channels": self.channels}

    def forward(self, puzzles: Tensor) -> Tensor:
        """Probabilities (B, N, N, N): row, column, digit."""
        boards = check_boards("puzzles", puzzles, self.box)
        x = one_hot(boards).reshape(-1, self.size, self.size, self.size).to(next(self.parameters()))
        logits: Tensor = self.net(x.movedim(-1, 1)).movedim(1, -1)
        return logits.softmax(-1).reshape(*boards.shape, self.size)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error against the solved board."""
        puzzles, solutions = batch
        probabilities = self(puzzles)
        return mse_loss(probabilities, one_hot(solutions).to(probabilities.dtype))

    @torch.no_grad()
    def solve(self, puzzles: Tensor, resolves: int = 0) -> Tensor:
        """The likeliest digits, int64 (B, N, N); givens stay. ``resolves`` must be 0."""
        if resolves:
            raise ValueError(f"resolves: expected 0 for a convolutional net, got {resolves}.")
        puzzles = check_boards("puzzles", puzzles, self.box)
        return _fill(puzzles, self(puzzles))


def score(model: nn.Module, batch: Batch) -> float:
    """The share of a batch's boards that ``model.solve`` gets right in every cell. A metric for ``fit``."""
    puzzles, solutions = batch
    solved = _solved(model, puzzles)
    return float((solved == solutions).flatten(1).all(1).double().mean())


def cell_score(model: nn.Module, batch: Batch) -> float:
    """The share of a batch's blank cells that ``model.solve`` gets right. A metric for ``fit``."""
    puzzles, solutions = batch
    solved = _solved(model, puzzles)
    blank = puzzles == 0
    return float((solved == solutions)[blank].double().mean())


def score_by_clues(
    model: nn.Module, data: SudokuDataset, resolves: Sequence[int] = (0,), batch_size: int = 16
) -> list[dict[str, float]]:
    """A row for each number of givens: "clues", "boards" and, for each k of ``resolves``, "boards_solved/k" and
    "cells_solved/k", of the blanks."""
    solve: Callable[..., Tensor] = model.solve  # type: ignore[assignment]
    rows = []
    for clues in sorted(set(data.clues.tolist())):
        part = data.subset(data.clues == clues)
        row: dict[str, float] = {"clues": clues, "boards": len(part)}
        for k in resolves:
            solved = torch.cat([solve(boards, k) for boards in torch.split(part.puzzles, batch_size)])
            right = solved == part.solutions
            row[f"boards_solved/{k}"] = float(right.flatten(1).all(1).double().mean())
            row[f"cells_solved/{k}"] = float(right[part.puzzles == 0].double().mean())
        rows.append(row)
    return rows


def _solved(model: nn.Module, puzzles: Tensor) -> Tensor:
    solve: Callable[[Tensor], Tensor] = model.solve  # type: ignore[assignment]
    return solve(puzzles)
