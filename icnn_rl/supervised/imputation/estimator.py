"""Imputation of tables and images with a convex energy, as a scikit-learn transformer.

See :mod:`icnn_rl.supervised.imputation.module` for the energy. Needs scikit-learn: ``pip install -e ".[supervised]"``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from icnn_rl.checks import check_positive_int, check_range, check_widths
from icnn_rl.solvers import Solver
from icnn_rl.supervised.imputation.module import ImputationModule
from icnn_rl.supervised.training.fit import falling, fit

__all__ = ["ICNNImputer"]

_ROWS_AT_ONCE = 512


class ICNNImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills NaN, with scikit-learn's verbs: fit, transform, score.

    In training entries that are known are hidden at random, anew in every batch, and learned from; entries that are NaN
    in training teach nothing. What is filled in lies within the range of its column, for images of all entries.

    Args:
        shape: of a row seen as an image, (C, H, W); None: a row of a table.
        hidden: widths of the convex path; channels for images.
        context: widths of the context path; None: 128-128 for tables, 16, 32, 64 .. for images.
        solver: of the inner problem; None: BundleEntropy with 5 cuts.
        loss: "mse" or "energy", see :class:`ImputationModule`.
        fraction: of the known entries hidden in training and by ``score``.
        epochs: passes over the training data.
        batch_size: rows an update.
        learning_rate: Adam's, falling to 0 in a straight line.
        seed: of weights, order, and of what is hidden.
        device: "cpu", "cuda", ..
        progress_bar: show one while training.

    Attributes:
        module_: the trained :class:`ImputationModule`, which saves and loads, on entries scaled to [0, 1].
        low_, width_: (m,): an entry v is (v - low_) / width_ there.
        history_: what :func:`~icnn_rl.supervised.fit` returned.

    Shapes:
        X (B, m), NaN where hidden; images flattened, m = C H W. ``transform`` (B, m) in X's units; float64 for float64.

    Raises:
        ValueError: infinite entries, a column without any known entry, a wrong setting.

    Example:
        >>> filled = ICNNImputer(epochs=20, seed=0).fit_transform(X)
        >>> make_pipeline(ICNNImputer(), Ridge()).fit(X, y).score(X_test, y_test)
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        hidden: Sequence[int] = (64,),
        context: Sequence[int] | None = None,
        solver: Solver | None = None,
        loss: str = "mse",
        fraction: float = 0.3,
        epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 5e-3,
        seed: int = 0,
        device: str = "cpu",
        progress_bar: bool = False,
    ) -> None:
        self.shape = shape
        self.hidden = hidden
        self.context = context
        self.solver = solver
        self.loss = loss
        self.fraction = fraction
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.seed = seed
        self.device = device
        self.progress_bar = progress_bar

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train on X (B, m); ``y`` is ignored."""
        self._check_settings()
        rows = self._validated(X, reset=True)
        shape = (rows.shape[1],) if self.shape is None else tuple(self.shape)
        if math.prod(shape) != rows.shape[1]:
            raise ValueError(f"shape: {shape} are {math.prod(shape)} entries, X has {rows.shape[1]} a row.")
        self._fit_scale(rows, image=len(shape) == 3)
        unit = self._unit(rows).reshape(-1, *shape)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            self.module_ = ImputationModule(shape, self.hidden, self.solver, context=self.context, loss=self.loss)
        self.module_.to(self.device)
        self.module_.fit_start_(torch.where(unit.isnan(), unit.nanmean(0), unit))
        self.history_ = fit(
            self.module_,
            unit,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=falling(self.learning_rate),
            seed=self.seed,
            loss=lambda module, batch: module.loss((batch[0], _hide(batch[0], self.fraction, None))),
            max_grad_norm=1.0,
            progress_bar=self.progress_bar,
        )
        self.n_iter_ = self.epochs
        return self

    def _check_settings(self) -> None:
        check_widths("hidden", self.hidden)
        check_positive_int("epochs", self.epochs)
        check_positive_int("batch_size", self.batch_size)
        check_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True)
        check_range("fraction", self.fraction, 0.0, 1.0, open_low=True)

    def _validated(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        kinds = [np.float64, np.float32]
        return cast(NDArray[Any], validate_data(self, X, dtype=kinds, ensure_all_finite="allow-nan", reset=reset))

    def _fit_scale(self, rows: NDArray[Any], image: bool) -> None:
        unknown = np.isnan(rows).all(0)
        if unknown.any():
            raise ValueError(f"X: column {int(unknown.argmax())} is NaN in every row; leave such columns out.")
        low, high = np.nanmin(rows, 0).astype(np.float64), np.nanmax(rows, 0).astype(np.float64)
        if image:  # pixels have one scale
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        self.low_, self.width_ = low, np.where(high > low, high - low, 1.0)

    def _unit(self, rows: NDArray[Any]) -> Tensor:
        """Scaled to [0, 1], cut off there: the network knows of nothing beyond. NaN stays."""
        scaled = ((rows.astype(np.float64) - self.low_) / self.width_).clip(0.0, 1.0)
        return torch.from_numpy(scaled.astype(np.float32))

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """X with its NaN filled in; the other entries are as they were."""
        check_is_fitted(self)
        rows = self._validated(X, reset=False)
        filled = self.low_ + self.width_ * self._filled(self._unit(rows))
        return np.where(np.isnan(rows), filled, rows).astype(rows.dtype)

    def _filled(self, unit: Tensor) -> NDArray[np.float64]:
        self.module_.eval()
        with torch.no_grad():
            parts = []
            for part in torch.split(unit.to(self.device), _ROWS_AT_ONCE):
                images = part.reshape(-1, *self.module_.shape)
                parts.append(self.module_(images, ~images.isnan()).flatten(1).cpu())
        return cast(NDArray[np.float64], torch.cat(parts).double().numpy())

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Minus the root mean square error, in widths of the columns' ranges, at known entries that are hidden at
        random, always the same ones for one ``seed``: the larger the better, for GridSearchCV and the like."""
        check_is_fitted(self)
        unit = self._unit(self._validated(X, reset=False))
        seen = _hide(unit, self.fraction, torch.Generator().manual_seed(self.seed))
        hidden = ~seen & ~unit.isnan()
        if not bool(hidden.any()):
            raise ValueError(f"X: of its known entries fraction={self.fraction} hides none. Give more rows.")
        found = torch.from_numpy(self._filled(torch.where(seen, unit, torch.nan)))
        return -float((found - unit)[hidden].square().mean().sqrt())


def _hide(unit: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """A mask, true where an entry is known and was not hidden."""
    drawn = torch.rand(unit.shape, generator=generator, device=unit.device)
    return (drawn >= fraction) & ~unit.isnan()
