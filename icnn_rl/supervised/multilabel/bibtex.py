"""The BibTeX data set: 7395 entries, 1836 binary features (words), 159 labels (tags).

References:
    I. Katakis, G. Tsoumakas, I. Vlahavas, Multilabel text classification for automated tag suggestion, ECML PKDD 2008
    Discovery Challenge. Files: https://github.com/tsoumakas/mulan/tree/master/data/multi-label/bibtex
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icnn_rl.supervised.training.data_files import find_file
from icnn_rl.supervised.training.npz import read_npz

__all__ = ["MultiLabelData", "load_bibtex"]

FEATURES, LABELS = 1836, 159

_HINT = (
    "Give the folder with bibtex-train.arff and bibtex-test.arff of "
    "https://github.com/tsoumakas/mulan/tree/master/data/multi-label/bibtex (unpacked), or a bibtex.npz with their CSR "
    "parts."
)


class MultiLabelData(NamedTuple):
    """Features and labels, dense, float32 of 0 and 1."""

    X_train: NDArray[np.float32]
    Y_train: NDArray[np.float32]
    X_test: NDArray[np.float32]
    Y_test: NDArray[np.float32]


def load_bibtex(path: str | Path | None = None) -> MultiLabelData:
    """The published split, 4880 entries to train and 2515 to test.

    Args:
        path: bibtex.npz (for X_train, Y_train, X_test, Y_test the CSR parts ``NAME_indptr``, ``NAME_indices``,
            ``NAME_shape``; all values 1), a folder with it, or a folder with the two ARFF files. None: the folder named
            by ICNN_RL_DATA.

    Raises:
        FileNotFoundError: no file; the text says where to get it.
        ValueError: the file is damaged or something else; the text names it.
    """
    if path is not None and (Path(path) / "bibtex-train.arff").is_file():
        train, test = (read_sparse_arff(Path(path) / f"bibtex-{part}.arff") for part in ("train", "test"))
        return MultiLabelData(train[:, :FEATURES], train[:, FEATURES:], test[:, :FEATURES], test[:, FEATURES:])
    try:
        file = find_file("bibtex.npz", path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {_HINT}") from None
    parts = [f"{name}_{part}" for name in MultiLabelData._fields for part in ("indptr", "indices", "shape")]
    content = read_npz(file, parts)
    try:
        data = MultiLabelData(*(_dense(*(content[f"{name}_{part}"] for part in ("indptr", "indices", "shape")))
                                for name in MultiLabelData._fields))  # fmt: skip
    except (ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{file}: its CSR parts do not fit together ({error}).") from error
    for X, Y in ((data.X_train, data.Y_train), (data.X_test, data.Y_test)):
        if X.shape[1] != FEATURES or Y.shape[1] != LABELS or len(X) != len(Y):
            raise ValueError(
                f"{file}: expected {FEATURES} features and {LABELS} labels a row, got {X.shape} and {Y.shape}."
            )
    return data


def _dense(
    indptr: NDArray[np.generic], indices: NDArray[np.generic], shape: NDArray[np.generic]
) -> NDArray[np.float32]:
    rows, columns = (int(size) for size in shape)
    starts = indptr.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    if len(indptr) != rows + 1 or counts.min(initial=0) < 0 or counts.sum() != len(indices):
        raise ValueError(f"indptr of {len(indptr)} for {rows} rows and {len(indices)} entries")
    matrix = np.zeros((rows, columns), np.float32)
    matrix[np.repeat(np.arange(rows), counts), indices.astype(np.int64)] = 1.0
    return matrix


def read_sparse_arff(file: Path) -> NDArray[np.float32]:
    """A sparse ARFF file whose attributes are {0,1}: a data line is "{i 1,j 1}" with the columns that are 1."""
    columns, rows, in_data = 0, [], False
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        text = line.strip()
        if not in_data:
            columns += text.lower().startswith("@attribute")
            in_data = text.lower().startswith("@data")
        elif text and not text.startswith("%"):
            try:
                entries = [entry.split() for entry in text.strip("{}").split(",") if entry.strip()]
                rows.append([int(place) for place, value in entries if int(value) == 1])
            except ValueError:
                raise ValueError(f"{file}, line {number}: expected {{column 1,column 1}}, got {text[:60]!r}.") from None
    if columns != FEATURES + LABELS or not rows:
        raise ValueError(
            f"{file}: expected {FEATURES + LABELS} attributes and data, got {columns} and {len(rows)} rows."
        )
    matrix = np.zeros((len(rows), columns), np.float32)
    for i, places in enumerate(rows):
        if any(place >= columns or place < 0 for place in places):
            raise ValueError(f"{file}: row {i} names a column beyond the {columns} attributes.")
        matrix[i, places] = 1.0
    return matrix
