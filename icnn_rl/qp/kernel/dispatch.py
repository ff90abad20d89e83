"""Which problems go to the compiled kernel, :mod:`icnn_rl.qp.kernel.tiny`, and how. Without numba none does."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.qp.active_set import PHASES, phases_of
from icnn_rl.qp.certificates import Residuals
from icnn_rl.qp.driver import Outcome
from icnn_rl.qp.kkt import Factor, Primal, Triple
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.sparse import SparseRows
from icnn_rl.solution import Status

#: n and k of the largest problems. A block has left the first cache by then, and still takes a fifth of torch's time.
_LARGEST = 16, 128


Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.qp.kernel.tiny")


@functools.cache
def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def fits(problem: Problem, solver: PrimalDual, data: torch.dtype) -> bool:
    """Whether the problem is small enough, of the right kind, and to be solved here; ``data``: the dtype it came in."""
    if not solver.compiled or (solver.dtype == "input" and data != torch.float64):
        return False
    k = problem.d.shape[-1]
    small = problem.n <= _LARGEST[0] and 0 < k <= _LARGEST[1] and problem.p.shape[0] > 0
    return small and problem.A is None and not problem.sparse and problem.p.device.type == "cpu" and available()


def solve(problem: Problem, solver: PrimalDual, guess: Tensor | None) -> tuple[Outcome, Primal, Tensor | None] | None:
    """Solve the rows that can be solved here; for problems that fit.

    Args:
        problem: its d may hold infinities, and any number NaN: such rows are left.
        solver: settings.
        guess: (B, k) bool, active sets to try first.

    Returns:
        The outcome, the system factored on the active sets, and the indices of the rows that are left, if any; None if
        Q of some row is not positive definite.
    """
    batch, n, k = problem.p.shape[0], problem.n, problem.d.shape[-1]
    kernel, (q, g) = _kernel(), _matrices(problem)
    found = _nothing_found(batch, n, k)
    left = kernel.solve(
        q,
        _array(problem.p),
        g,
        _array(problem.d),
        problem.lower,
        np.empty((0, k), np.bool_) if guess is None else _array(guess),
        float(solver.tol),
        solver.max_steps,
        np.array(phases_of(problem, guessed=guess is not None)),
        found,
    )
    if left < 0:
        return None
    x, z, s, active, w, chol, fit, steps, status = map(torch.from_numpy, found)
    none = x.new_zeros(1, 1)  # what else there is in a system is for iterations, which are over
    system = Primal(problem, None, none, none, factor=Factor(none, w, chol), compiled=True)
    fit_of_rows = Residuals(*fit)
    outcome = Outcome(x, problem.b, z, s, active, fit_of_rows, steps, status, torch.zeros_like(x))
    return outcome, system, status.nonzero().squeeze(-1) if left else None


def nearest(point: Array, G: Array, h: Array, lb: Array, ub: Array) -> tuple[Array, Array] | None:
    """The nearest points of polytopes { y : G y <= h, lb <= y <= ub }, without gradients: 30 microseconds for one.

    Args:
        point: (B, n) float64, all arguments.
        G, h: (B, m, n) and (B, m), m > 0.
        lb, ub: (B, n).

    Returns:
        The points (B, n) and whether they were found (B,) bool; None where these problems are not for the kernel.
    """
    batch, n = point.shape
    k = h.shape[-1] + 2 * n
    if not available() or n > _LARGEST[0] or k > _LARGEST[1]:
        return None
    found, solver = _nothing_found(batch, n, k), PrimalDual()
    _kernel().solve(
        np.eye(n)[None],
        -point,
        np.ascontiguousarray(G),
        np.concatenate((h, -lb, ub), -1),
        True,
        np.empty((0, k), np.bool_),
        float(solver.tol),
        solver.max_steps,
        np.array(PHASES),
        found,
    )
    return found.x, found.status == int(Status.SUCCESS)


def _nothing_found(batch: int, n: int, k: int) -> Any:
    """The arrays that the kernel fills."""
    return _kernel().Found(
        x=np.zeros((batch, n)),
        z=np.zeros((batch, k)),
        s=np.zeros((batch, k)),
        active=np.zeros((batch, k), np.bool_),
        w=np.zeros((batch, k)),
        U=np.zeros((batch, n, n)),
        fit=np.zeros((4, batch)),
        steps=np.zeros(batch, np.int64),
        status=np.full(batch, int(Status.NUMERICAL)),
    )


def inverse(system: Primal, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
    """``system.solve`` and corrections by the residual."""
    assert system.factor is not None
    (q, g), w, chol = _matrices(system.problem), _array(system.factor.w), _array(system.factor.chol)
    dx, dz = np.empty(rx.shape), np.empty(rc.shape)
    _kernel().inverse(q, g, system.problem.lower, w, chol, _array(rx), _array(rc), corrections, dx, dz)
    return torch.from_numpy(dx), torch.zeros_like(ra), torch.from_numpy(dz)


def minus_outers(u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """-(u v^T + s t^T), a row each."""
    out = np.empty((*u.shape, v.shape[-1]))
    _kernel().minus_outers(_array(u), _array(v), _array(s), _array(t), out)
    return torch.from_numpy(out)


def _matrices(problem: Problem) -> tuple[Array, Array]:
    """Q and G."""
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    assert not isinstance(problem.G, SparseRows)  # see fits
    return _array(q), np.empty((1, 0, problem.n)) if problem.G is None else _array(problem.G)


def _array(t: Tensor) -> Array:
    return np.ascontiguousarray(t.detach().numpy())
