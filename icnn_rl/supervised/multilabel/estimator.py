"""Multi-label classification with a convex energy over all labels at once, as a scikit-learn estimator.

See :mod:`icnn_rl.supervised.multilabel.module` for the energy. Needs scikit-learn: ``pip install -e '.[supervised]'``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import f1_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from icnn_rl.checks import check_choice, check_positive_int, check_range, check_widths
from icnn_rl.solvers import Solver
from icnn_rl.supervised.multilabel.module import LOSSES, MultiLabelModule
from icnn_rl.supervised.training.checkpoint import Row
from icnn_rl.supervised.training.fit import falling, fit

__all__ = ["MultiLabelICNN", "best_threshold"]

AVERAGES = ("macro", "samples")

_PREDICT_ROWS = 512
_TUNING_ROWS = 20  # a threshold chosen on fewer is a guess


class MultiLabelICNN(ClassifierMixin, BaseEstimator):
    """Multi-label classifier with scikit-learn's verbs: fit, predict, predict_proba, score.

    Args:
        hidden: widths of the convex path over the labels; () leaves a feedforward net with independent labels.
        context: widths of the path over the features.
        loss: "argmin", "max_margin" or "energy", see :class:`MultiLabelModule`.
        solver: of the inner problem; None: BundleEntropy with 10 cuts.
        epochs: passes over the training data.
        batch_size: rows an update.
        learning_rate: Adam's, falling to 0 in a straight line.
        dropout: share of the context's units dropped in training.
        input_dropout: share of the features dropped in training.
        threshold: a label is predicted where its probability is at least this. None: it is chosen on
            ``validation_fraction`` of the training rows, which are then not trained on, for the best score; 1/2 if
            these are fewer than 20, or Y has one dimension.
        validation_fraction: see ``threshold``.
        average: which macro-F1 ``score`` and the choice of the threshold go by: "samples", the mean over rows, which
            the ICNN paper's code computes under that name; "macro", the mean over labels, scikit-learn's.
        seed: of weights, order and dropout.
        device: "cpu", "cuda", ..
        progress_bar: show one while training.

    Attributes:
        module_: the trained :class:`MultiLabelModule`, which saves and loads. threshold_: the threshold used.
        thresholds_: of both averages.
        history_: what :func:`~icnn_rl.supervised.fit` returned. classes_: for every label its two classes.

    Shapes:
        X (B, m), dense or sparse; Y (B, n) with two classes a column, usually 0 and 1. ``predict_proba`` (B, n): of
        every label the probability of its second class; ``predict`` (B, n), of Y's dtype: bool for a bool Y. Also Y
        (B,) of two classes, as scikit-learn's binary classifiers: then ``predict`` (B,), ``predict_proba`` (B, 2).

    Example:
        >>> clf = MultiLabelICNN(epochs=20, seed=0).fit(X, Y)
        >>> clf.predict_proba(X_test).shape, clf.score(X_test, Y_test)
    """

    def __init__(
        self,
        hidden: Sequence[int] = (32,),
        context: Sequence[int] = (600,),
        loss: str = "argmin",
        solver: Solver | None = None,
        epochs: int = 12,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        dropout: float = 0.5,
        input_dropout: float = 0.3,
        threshold: float | None = None,
        validation_fraction: float = 0.1,
        average: str = "samples",
        seed: int = 0,
        device: str = "cpu",
        progress_bar: bool = False,
    ) -> None:
        self.hidden = hidden
        self.context = context
        self.loss = loss
        self.solver = solver
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.threshold = threshold
        self.validation_fraction = validation_fraction
        self.average = average
        self.seed = seed
        self.device = device
        self.progress_bar = progress_bar

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        tags.classifier_tags.multi_class = False
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        log_dir: str | Path | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[list[Row]], None] | None = None,
    ) -> Self:
        """Train on X (B, m), y (B, n), called Y elsewhere.

        ``log_dir``, ``checkpoint``, ``resume`` and ``on_epoch`` are those of :func:`~icnn_rl.supervised.fit`.

        Raises:
            ValueError: a checkpoint of another training, NaN or infinite features, Y that is sparse, does not fit X
                or has columns with more than two classes, a wrong setting.
        """
        self._check_settings()
        _refuse_sparse(y)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float32, multi_output=True)
        check_classification_targets(y)
        target = self._encode(np.asarray(y))
        x, labels = _tensor(X), torch.from_numpy(target)
        generator = np.random.default_rng(self.seed)
        held = self._held_out(len(x), generator)
        kept = torch.from_numpy(np.setdiff1d(np.arange(len(x)), held))
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            self.module_ = MultiLabelModule(
                x.shape[1],
                labels.shape[1],
                self.context,
                self.hidden,
                solver=self.solver,
                loss=self.loss,
                dropout=self.dropout,
                input_dropout=self.input_dropout,
            ).to(self.device)
        with torch.no_grad():
            self._start_at_the_shares(labels)
        self.history_ = fit(
            self.module_,
            torch.utils.data.TensorDataset(x[kept], labels[kept]),
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=falling(self.learning_rate),
            seed=self.seed,
            progress_bar=self.progress_bar,
            log_dir=log_dir,
            checkpoint=checkpoint,
            resume=resume,
            on_epoch=on_epoch,
        )
        self.n_iter_ = self.epochs
        self._choose_thresholds(x[torch.from_numpy(held)], target[held])
        return self

    def _check_settings(self) -> None:
        check_widths("hidden", self.hidden)
        check_choice("loss", self.loss, LOSSES)
        check_choice("average", self.average, AVERAGES)
        check_positive_int("epochs", self.epochs)
        check_positive_int("batch_size", self.batch_size)
        check_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True)
        check_range("validation_fraction", self.validation_fraction, 0.0, 0.9)
        if self.threshold is not None:
            check_range("threshold", self.threshold, 0.0, 1.0)

    def _encode(self, Y: NDArray[Any]) -> NDArray[np.float32]:
        """0 for a column's first class, 1 for its second: (B, n)."""
        columns = Y.reshape(len(Y), -1)
        if Y.ndim == 2 and Y.dtype.kind in "fiub" and bool(np.isin(columns, (0, 1)).all()):
            classes = [np.array([0, 1], columns.dtype)] * columns.shape[1]
        else:
            classes = [np.unique(column) for column in columns.T]
        most = max(len(found) for found in classes)
        if most > 2:
            worst = next(j for j, found in enumerate(classes) if len(found) > 2)
            raise ValueError(
                f"Only binary classification is supported. Y: column {worst} has {most} classes, "
                f"{classes[worst][:5]}; give one column of 0 and 1 for each class."
            )
        self.classes_ = classes[0] if Y.ndim == 1 else classes
        return np.stack([_second(column, found) for column, found in zip(columns.T, classes, strict=True)], 1).astype(
            np.float32
        )

    def _held_out(self, rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Rows that the threshold is chosen on; none where it is given."""
        count = int(self.validation_fraction * rows)
        if self.threshold is not None or count < _TUNING_ROWS or self._one_output:
            return np.empty(0, np.int64)
        return np.sort(generator.permutation(rows)[:count])

    def _choose_thresholds(self, x: Tensor, target: NDArray[np.float32]) -> None:
        fixed = 0.5 if self.threshold is None else float(self.threshold)
        self.thresholds_ = dict.fromkeys(AVERAGES, fixed)
        if len(x) > 0:
            found = self._probabilities(x)
            self.thresholds_ = {average: best_threshold(found, target, average) for average in AVERAGES}
        self.threshold_ = self.thresholds_[self.average]

    def _start_at_the_shares(self, y: Tensor) -> None:
        """Every label's probability starts near its share of the rows: rare labels need not be unlearned first."""
        share = ((y.sum(0) + 0.5) / (len(y) + 1.0)).to(self.device)
        bias = self.module_.net.heads.bias
        assert bias is not None
        bias[0, 0, self.module_.net.head_slice("linear")] = -torch.logit(share) * max(self.module_.entropy, 1e-3)

    def _probabilities(self, x: Tensor) -> NDArray[np.float32]:
        self.module_.eval()
        with torch.no_grad():
            parts = [self.module_(rows.to(self.device)).cpu() for rows in torch.split(x, _PREDICT_ROWS)]
        return cast(NDArray[np.float32], torch.cat(parts).numpy())

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """(B, n): for every label the probability of its second class; (B, 2), of both classes, if Y was (B,)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float32, reset=False)
        p = self._probabilities(_tensor(X))
        return np.concatenate((1.0 - p, p), 1) if self._one_output else p

    @property
    def _one_output(self) -> bool:
        return isinstance(self.classes_, np.ndarray)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(B, n), or (B,): every label's class, of Y's dtype."""
        p = self.predict_proba(X)
        columns = [p[:, 1]] if self._one_output else list(p.T)
        classes = [self.classes_] if self._one_output else self.classes_
        chosen = [
            found[np.where(column >= self.threshold_, len(found) - 1, 0)]
            for column, found in zip(columns, classes, strict=True)
        ]
        return cast(NDArray[Any], chosen[0]) if self._one_output else np.stack(chosen, 1)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """F1 of the predicted labels, averaged as ``average`` says; rows or labels without any count as 0."""
        _refuse_sparse(y)
        predicted = self.predict(X)
        truth = np.asarray(y).reshape(predicted.shape)
        classes = [self.classes_] if self._one_output else self.classes_
        on = [
            np.stack([_second(c, f) for c, f in zip(side.reshape(len(side), -1).T, classes, strict=True)], 1)
            for side in (truth, predicted)
        ]
        return _f1(on[0], on[1], self.average, sample_weight)


def _refuse_sparse(y: Any) -> None:
    if sparse.issparse(y):
        raise ValueError(f"y: expected a dense array (B, n), got {type(y).__name__}. Pass y.toarray().")


def _second(column: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column has the second of its two classes; nowhere if there is only one."""
    if len(classes) == 1:
        return np.zeros(len(column), np.bool_)
    return cast(NDArray[np.bool_], column == classes[1])


def best_threshold(
    probabilities: NDArray[np.floating], target: NDArray[np.floating], average: str = "samples"
) -> float:
    """The threshold in 0.02, 0.04 .. 0.98 with the best F1. For calibrated probabilities half the F1 reached, well
    below 1/2 (Lipton, Elkan, Naryanaswamy, ECML PKDD 2014). 1/2 where every threshold has an F1 of 0, as where
    ``target`` holds no positive: nothing can be chosen on such rows."""
    grid = np.linspace(0.02, 0.98, 49)
    scores = [_f1(target > 0.5, probabilities >= threshold, average) for threshold in grid]
    return float(grid[int(np.argmax(scores))]) if max(scores) > 0.0 else 0.5


def _f1(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], average: str, sample_weight: ArrayLike | None = None
) -> float:
    if truth.shape[1] == 1:  # scikit-learn knows one column only as a binary target
        return float(f1_score(truth[:, 0], predicted[:, 0], zero_division=0.0, sample_weight=sample_weight))
    return float(f1_score(truth, predicted, average=average, zero_division=0.0, sample_weight=sample_weight))


def _tensor(X: Any) -> Tensor:
    dense = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    return torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32))
