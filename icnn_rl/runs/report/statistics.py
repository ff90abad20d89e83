"""Statistics of a few runs: interquartile mean, probability of improvement, bootstrap intervals.

References:
    Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "improvement", "interquartile_mean", "interval"]

Array: TypeAlias = NDArray[np.float64]

_LEVEL = 0.95
_SEED = 0


def interquartile_mean(scores: Array, axis: int = -1) -> Array:
    """Mean of the middle half of n scores along an axis; the plain mean where n < 4, since nothing is cut off then."""
    from scipy import stats

    return np.asarray(stats.trim_mean(scores, 0.25, axis=axis))


def improvement(x: Sequence[Array], y: Sequence[Array]) -> Array:
    """Probability that a run of X is better than one of Y: share of pairs, ties counted half, averaged over tasks.

    Args:
        x, y: for every task the scores (..., n) of the runs; n may differ.

    Returns:
        (...,)
    """
    # 1 for a win, 1/2 for a tie, 0 for a loss
    shares = [
        (1.0 + np.sign(a[..., :, None] - b[..., None, :]).mean((-2, -1))) / 2.0 for a, b in zip(x, y, strict=True)
    ]
    return np.asarray(np.mean(shares, axis=0))


def interval(samples: Sequence[Array], statistic: Callable[..., Array], resamples: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval, each sample resampled on its own (stratified); None if a sample has one run.

    Args:
        samples: (n_i,) scores each.
        statistic: of ``len(samples)`` arrays (..., n_i) and ``axis=-1``, giving (...,).
        resamples: number of resamples.
    """
    if min(len(sample) for sample in samples) < 2:
        return None
    from scipy import stats

    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
