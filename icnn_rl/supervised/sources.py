"""Where data files come from: a path that is given, or the folder named by the environment variable ICNN_RL_DATA.

No data is part of the package. Every loader says in its error where the file can be had.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATA_VARIABLE", "data_file", "read_npz"]

DATA_VARIABLE = "ICNN_RL_DATA"


def data_file(name: str, path: str | Path | None, hint: str) -> Path:
    """The file ``path``, ``path``/``name`` if that is a folder, or without a path $ICNN_RL_DATA/``name``.

    Raises:
        FileNotFoundError: it is not there; the text names it and says ``hint``.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if path is None and not folder:
        raise FileNotFoundError(f"{name}: no path given and {DATA_VARIABLE} is not set. {hint}")
    place = Path(folder or "") if path is None else Path(path)
    file = place / name if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. {hint}")
    return file


def read_npz(file: Path, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """These arrays of an .npz file. Pickled objects are refused.

    Raises:
        ValueError: the file is damaged, not an .npz file, or lacks an array; names the file.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            missing = [name for name in names if name not in content.files]
            if missing:
                raise ValueError(f"lacks the arrays {', '.join(missing)}; it has {', '.join(content.files)}")
            return {name: content[name] for name in names}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not a usable .npz file ({error}).") from error
