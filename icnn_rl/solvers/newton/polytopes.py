"""Newton's method over polytopes in compiled code, many rows at a time."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from icnn_rl.qp.kernel import dispatch as programmes
from icnn_rl.sets import ConvexSet
from icnn_rl.solution import Status
from icnn_rl.solvers.newton.found import Found
from icnn_rl.solvers.newton.method import ProjectedNewton

__all__ = ["Polytopes", "newton_on_polytopes", "outside"]

Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.solvers.newton.polytope_kernel")


class Polytopes(NamedTuple):
    """{ y : G y <= h, lower <= y <= upper } for the rows of a batch, or one for all. float64."""

    G: Array  # (B, m, n) or (1, m, n); m may be 0
    h: Array  # (B, m) or (1, m)
    lower: Array  # (B, n) or (1, n), finite
    upper: Array

    @staticmethod
    def of(s: ConvexSet, n: int) -> Polytopes | None:
        """A set as it is, where it is of this kind and none of its bounds cross."""
        if s.lifted or s.A is not None or s.ellipsoid is not None or s.lb is None or s.ub is None:
            return None
        lower, upper = (_array(b, n) for b in (s.lb, s.ub))
        if not (lower <= upper).all() or not np.isfinite(lower).all() or not np.isfinite(upper).all():
            return None
        if s.G is None or s.h is None:
            return Polytopes(np.zeros((1, 0, n)), np.zeros((1, 0)), lower, upper)
        G, h = (part.detach().double().numpy() for part in (s.G, s.h))
        return Polytopes(G[None] if G.ndim == 2 else G, h[None] if h.ndim == 1 else h, lower, upper)

    def moved(self, y: Array) -> Array | None:
        """The nearest points, (B, n) float64; None where one was not found."""
        lower, upper = (np.broadcast_to(b, y.shape) for b in (self.lower, self.upper))
        near: Array = np.clip(y, lower, upper)
        rows = np.flatnonzero(outside(near, self.G, self.h)) if self.h.shape[1] else ()
        if not len(rows):
            return near
        G, h = (part[np.zeros_like(rows) if len(part) == 1 else rows] for part in (self.G, self.h))
        found = programmes.nearest(y[rows], G, h, lower[rows], upper[rows])
        if found is None or not found[1].all():
            return None
        near[rows] = found[0]
        return near


def _array(bound: Any, n: int) -> Array:
    """(n,), (B, n) or a number -> (1, n) or (B, n)."""
    full = torch.as_tensor(bound, dtype=torch.float64).detach().expand(*torch.as_tensor(bound).shape[:-1], n)
    array: Array = full.reshape(-1, n).numpy()
    return array


def outside(y: Array, G: Array, h: Array) -> Array:
    """Whether a row of G y <= h is not met, or is not known to be: (B, n) -> (B,)."""
    answer: Array = _kernel().outside(y, G, h)
    return answer


def newton_on_polytopes(
    energies: Sequence[Any],
    bounds: Sequence[Array],
    G: Array,
    h: Array,
    rows: Array,
    start: Array,
    solver: ProjectedNewton,
    atol: float,
) -> Found | None:
    """argmin of f over { y : G y <= h, lower <= y <= upper } for some rows of a batch.

    Args:
        energies: the fields of the kernel's ``Energies``, for the whole batch.
        bounds: lower and upper, (1, n) or (B, n); finite.
        G, h: (B, m, n) and (B, m), or one for all, float64.
        rows: (K,), the rows to solve.
        start: (K, n), in the data's dtype: the search begins at the points of the sets nearest to these.
        solver: its settings.
        atol: a gap that is small enough, in f's units.

    Returns:
        None where a programme on the way was not solved, or is not for compiled code: a set may be empty.
    """
    kernel = _kernel()
    own_G, own_h = (part if len(part) == 1 else part[rows] for part in (G, h))
    lower, upper = (np.broadcast_to(b if len(b) == 1 else b[rows], start.shape).astype(np.float64) for b in bounds)
    many = len(rows)
    own_G, own_h = np.broadcast_to(own_G, (many, *own_G.shape[1:])), np.broadcast_to(own_h, (many, own_h.shape[1]))
    near = programmes.nearest(start.astype(np.float64), own_G, own_h, lower, upper)
    if near is None or not near[1].all():
        return None
    s = _new_state(kernel, rows, near[0].astype(start.dtype))
    parts = kernel.Energies(*energies)
    settings = float(solver.tol), atol
    kernel.begin(parts, *bounds, *settings, s)
    for _ in range(solver.max_steps):
        at_work = np.flatnonzero(s.sound & ~s.solved & ~s.stalled)
        if not len(at_work):
            break
        Q, p = np.empty((len(at_work), *s.H.shape[1:])), np.empty((len(at_work), s.y.shape[1]))
        kernel.models(s, at_work, Q, p)
        found = programmes.minimisers(Q, p, own_G[at_work], own_h[at_work], lower[at_work], upper[at_work])
        if found is None or not found[2].all():
            return None
        kernel.advance(parts, *bounds, G, h, at_work, Q, found[0], found[1], *settings, s)
    status = np.select(
        [~s.sound, s.solved, s.stalled],
        [int(Status.NONFINITE_INPUT), int(Status.SUCCESS), int(Status.NUMERICAL)],
        int(Status.MAX_STEPS),
    )
    residual = s.gap / np.maximum(s.scale, np.finfo(np.float64).tiny)
    return Found(s.y, s.f, np.maximum(s.gap, 0.0), residual, s.steps, status)


def _new_state(kernel: ModuleType, rows: Array, y: Array) -> Any:
    many, n = y.shape
    f, gap, scale, noise, damping = np.zeros((5, many))
    solved, stalled, sound = np.zeros((3, many), np.bool_)
    return kernel.State(
        rows=rows,
        y=np.ascontiguousarray(y),
        f=f,
        g=np.zeros((many, n)),
        H=np.zeros((many, n, n)),
        gap=gap,
        scale=scale,
        noise=noise,
        damping=damping,
        steps=np.zeros(many, np.int64),
        solved=solved,
        stalled=stalled,
        sound=sound,
    )
