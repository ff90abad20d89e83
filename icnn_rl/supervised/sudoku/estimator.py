"""Sudoku with learned rules, as a scikit-learn estimator.

See :mod:`icnn_rl.supervised.sudoku.module` for the quadratic programme. Needs scikit-learn: ``pip install
-e ".[supervised]"``.
"""

from __future__ import annotations

import math
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from icnn_rl.checks import check_choice, check_positive_int, check_range
from icnn_rl.qp import PrimalDual
from icnn_rl.supervised.sudoku.module import SudokuDataset, SudokuModule
from icnn_rl.supervised.training.fit import fit

__all__ = ["SudokuOptNet"]

_METHODS = ("gradient", "hull")
_ROWS_AT_ONCE = 64


class SudokuOptNet(BaseEstimator):
    """Learns the rules of Sudoku from solved boards, with scikit-learn's verbs: fit, predict, score.

    Args:
        method: "gradient": trained through the quadratic programme, as in the paper; "hull": the rules in closed form
            from the solutions alone (:meth:`SudokuModule.fit_rules_`), for which there must be enough of them.
        n_constraints: equations to learn; None: as many as the true rules have.
        q_penalty: of the quadratic programme.
        solver: its settings.
        epochs, batch_size, learning_rate: of "gradient": passes, boards an update, Adam's rate.
        resolves: of ``predict``, see :meth:`SudokuModule.solve`.
        seed: of the first equations and the order of boards.
        device: "cpu", "cuda", ..
        progress_bar: show one while training.

    Attributes:
        module_: the trained :class:`SudokuModule`, which saves and loads. history_: what
        :func:`~icnn_rl.supervised.fit` returned; empty for "hull". box_: boards have box_^2 rows. n_features_in_.

    Shapes:
        X: puzzles (B, N^2) row by row, or (B, N, N), whole numbers, 0 for a blank; N = 4, 9, .. is read off. y: the
        solved boards, likewise. ``predict`` gives X's shape, int64.

    Raises:
        ValueError: boards of another size, digits out of range, a solution that does not solve its puzzle, a wrong
            setting.

    Example:
        >>> model = SudokuOptNet(epochs=10).fit(puzzles, solutions)
        >>> model.score(other_puzzles, other_solutions)
    """

    def __init__(
        self,
        method: str = "gradient",
        n_constraints: int | None = None,
        q_penalty: float = 0.1,
        solver: PrimalDual | None = None,
        epochs: int = 20,
        batch_size: int = 150,
        learning_rate: float = 1e-3,
        resolves: int = 0,
        seed: int = 0,
        device: str = "cpu",
        progress_bar: bool = False,
    ) -> None:
        self.method = method
        self.n_constraints = n_constraints
        self.q_penalty = q_penalty
        self.solver = solver
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.resolves = resolves
        self.seed = seed
        self.device = device
        self.progress_bar = progress_bar

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on puzzles X and their solutions y."""
        check_choice("method", self.method, _METHODS)
        check_positive_int("epochs", self.epochs)
        check_positive_int("batch_size", self.batch_size)
        check_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True)
        puzzles, solutions = _boards("X", X), _boards("y", y)
        data = SudokuDataset(puzzles, solutions, round(puzzles.shape[-1] ** 0.5))
        self.box_, self.n_features_in_ = data.box, puzzles.shape[-1] ** 2
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            self.module_ = SudokuModule(self.box_, self.n_constraints, self.q_penalty, solver=self.solver)
        self.module_.to(self.device)
        self.history_ = []
        if self.method == "hull":
            self.module_.fit_rules_(solutions.to(self.device))
        else:
            self.history_ = fit(
                self.module_,
                data,
                epochs=self.epochs,
                batch_size=self.batch_size,
                lr=self.learning_rate,
                seed=self.seed,
                progress_bar=self.progress_bar,
            )
        self.module_.eval()
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The boards, filled; givens stay."""
        check_is_fitted(self)
        puzzles = self._like_training("X", X)
        parts = torch.split(puzzles.to(self.device), _ROWS_AT_ONCE)
        solved = torch.cat([self.module_.solve(part, self.resolves) for part in parts])
        return cast(NDArray[np.int64], solved.cpu().numpy().reshape(np.shape(X)))

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """The share of boards that are right in every cell."""
        wanted = self._like_training("y", y).flatten(1).numpy()
        return float((self.predict(X).reshape(len(wanted), -1) == wanted).all(1).mean())

    def _like_training(self, name: str, given: ArrayLike) -> Tensor:
        boards = _boards(name, given)
        if boards.shape[-1] ** 2 != self.n_features_in_:
            raise ValueError(
                f"{name}: boards of {boards.shape[-1] ** 2} cells, {type(self).__name__} was trained on "
                f"{self.n_features_in_}."
            )
        return boards

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _boards(name: str, given: ArrayLike) -> Tensor:
    """int64 boards (B, N, N) with N a square."""
    array = np.asarray(given)
    size = math.isqrt(array.shape[-1]) if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    fits = array.shape[1:] in ((size * size,), (size, size)) and math.isqrt(size) ** 2 == size and size > 1
    if not fits or array.dtype.kind not in "iuf" or not (array == np.floor(array)).all():
        raise ValueError(
            f"{name}: expected boards (B, N N) or (B, N, N), N = 4, 9, .., of whole numbers, 0 for a blank; got shape "
            f"{array.shape} of {array.dtype}."
        )
    return torch.from_numpy(np.ascontiguousarray(array.reshape(-1, size, size), dtype=np.int64))
