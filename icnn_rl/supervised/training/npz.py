"""Arrays from .npz files, without pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_npz"]


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
