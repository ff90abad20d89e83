"""Rows with holes: scikit-learn's bundled tables, and the imputers that the convex energy is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from icnn_rl.checks import check_choice, check_range

__all__ = ["IMPUTERS", "TABLES", "RandomlyMasked", "impute", "load_table", "split_table"]

TABLES = ("iris", "wine", "breast_cancer", "diabetes", "faces16")
IMPUTERS = ("mean", "knn", "iterative")


def load_table(name: str, data: str | None = None) -> Tensor:
    """Rows (N, n) of a bundled data set, in its own units.

    "faces16": the Olivetti faces at 16 x 16 pixels, from ``data`` (see :func:`load_faces`).
    """
    check_choice("name", name, TABLES)
    if name == "faces16":
        from icnn_rl.supervised.imputation.faces import load_faces

        return torch.nn.functional.avg_pool2d(load_faces(data), 4).flatten(1)
    from sklearn import datasets  # an extra

    return torch.tensor(getattr(datasets, f"load_{name}")().data, dtype=torch.float32)


def split_table(name: str, seed: int = 0, data: str | None = None) -> tuple[Tensor, Tensor]:
    """Rows to train and to test on, every column scaled by its extremes among the rows to train on.

    These then lie in [0, 1]; entries of the others may lie outside. Seven rows of ten are drawn to train on; of the
    faces, whose grey levels stay as they are, it is the first 350: the others are of people not seen before.
    """
    rows = load_table(name, data)
    if name == "faces16":
        return rows[:350], rows[350:]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    cut = int(0.7 * len(rows))
    low, high = rows[order[:cut]].amin(0), rows[order[:cut]].amax(0)
    scaled = (rows[order] - low) / (high - low).clamp(min=1e-12)
    return scaled[:cut], scaled[cut:]


class RandomlyMasked(Dataset[tuple[Tensor, Tensor]]):
    """Samples (row, mask): every draw hides each entry with probability ``fraction``, by torch's generator."""

    def __init__(self, rows: Tensor, fraction: float) -> None:
        self.rows, self.fraction = rows, check_range("fraction", fraction, 0.0, 1.0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        return row, torch.rand(row.shape) >= self.fraction


def impute(name: str, train: Tensor, test: Tensor, mask: Tensor, seed: int = 0) -> Tensor:
    """``test`` with its hidden entries filled by one of scikit-learn's imputers, fitted on the complete ``train``."""
    import numpy as np
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # makes the next import work
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    check_choice("name", name, IMPUTERS)
    if name == "mean":
        imputer = SimpleImputer()
    elif name == "knn":
        imputer = KNNImputer(n_neighbors=5)
    else:  # the nearest 50 columns: all of them take minutes on images
        near = 50 if train.shape[1] > 50 else None
        imputer = IterativeImputer(random_state=seed, max_iter=20, n_nearest_features=near)
    imputer.fit(train.numpy())
    if name == "iterative":
        _replay(imputer)
    filled = imputer.transform(np.where(mask.numpy(), test.numpy(), np.nan))
    return torch.where(mask, test, torch.tensor(filled, dtype=test.dtype))


def _replay(imputer: Any) -> None:
    """Let ``transform`` of an IterativeImputer fitted on complete rows go through its regressions max_iter times.

    ``transform`` makes as many rounds as ``fit`` made. On complete rows ``fit`` has nothing to fill, so it stops after
    one round, whatever max_iter is; rows with holes need several, since one hole is estimated from the fillings of
    the others. More rounds of ``fit`` would be the same regressions over again, but for a new draw of near columns.
    """
    imputer.imputation_sequence_ = imputer.imputation_sequence_ * (imputer.max_iter // imputer.n_iter_)
    imputer.n_iter_ = imputer.max_iter
