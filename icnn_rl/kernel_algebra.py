"""Products of vectors for compiled code. Imports numba: only kernels, which are imported on demand, may import this."""

from __future__ import annotations

from typing import Any

import numpy as np

from icnn_rl.compiling import inner

Array = np.ndarray[Any, np.dtype[Any]]


@inner
def dot(a: Array, b: Array) -> float:
    """a . b, summed in any order."""
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
