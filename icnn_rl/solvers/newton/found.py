"""What the compiled methods report; without numba, so that what calls them may name it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Found"]

Array = np.ndarray[Any, np.dtype[Any]]


class Found(NamedTuple):
    """What is reported of each sample, see :class:`icnn_rl.solution.Solution`."""

    value: Array
    fun: Array
    gap: Array
    residual: Array
    num_steps: Array
    status: Array
