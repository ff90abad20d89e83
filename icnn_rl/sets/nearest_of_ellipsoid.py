"""The nearest points of ellipsoids, in NumPy.

:func:`icnn_rl.sets.trust_region.trust_region` finds them too, for M that can be factored. Here M may be singular, and a
single point takes a fraction of the time: the wrapper around an environment asks at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["nearest_of_ellipsoid"]

Array = np.ndarray[Any, np.dtype[Any]]

_NEWTON = 30  # steps to the border at most; five are the rule


def nearest_of_ellipsoid(M: Array, centre: Array, size: Array, a: Array) -> Array:
    """argmin ||x - a|| over (x - centre)^T M (x - centre) <= size, for a (B, n).

    With M = V diag(e) V^T and y = V^T (a - centre) the answer is centre + V (y / (1 + lam e)). lam >= 0 is the root of
    1 / sqrt(size) - 1 / sqrt(form(lam)), nearly linear in lam, to which Newton's steps from 0 climb (More and Sorensen
    1983).
    """
    e, V = np.linalg.eigh(M)
    e = np.maximum(e, 0.0)  # in the kernel of M there are eigenvalues of the size of rounding, of either sign
    y = np.matmul(np.swapaxes(V, -1, -2), (a - centre)[..., None])[..., 0]
    lam, floor = np.zeros(len(a)), np.finfo(np.float64).tiny
    for _ in range(_NEWTON):
        shrink = 1.0 + lam[:, None] * e
        share = e * np.square(y / shrink)
        form = np.maximum(share.sum(-1), floor)
        excess = np.sqrt(form / size) - 1.0
        if (excess <= 1e-14).all():
            break
        steepness = (share * e / shrink).sum(-1) / form
        lam = np.maximum(lam + excess / np.maximum(steepness, floor), 0.0)
    point: Array = centre + np.matmul(V, (y / (1.0 + lam[:, None] * e))[..., None])[..., 0]
    return point
