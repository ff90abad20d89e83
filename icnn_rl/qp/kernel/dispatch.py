"""Which problems go to the compiled kernel, :mod:`icnn_rl.qp.kernel.tiny`, and how. Without numba none does."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.qp.active_set import PHASES, phases_of
from icnn_rl.qp.certificates import Residuals
from icnn_rl.qp.functorch import transformed
from icnn_rl.qp.linear import primal
from icnn_rl.qp.linear.base import Refined, Triple
from icnn_rl.qp.outcome import Outcome
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


@dataclass(frozen=True)
class KernelFactor(Refined):
    """H = Q + C^T W C = U^T U on the active sets that the kernel found; where torch need not see how, it solves, too.

    w (B, k), chol = U (B, n, n). Next to :class:`icnn_rl.qp.linear.primal.Primal` nothing is left to iterate on.
    """

    problem: Problem
    w: Tensor
    chol: Tensor

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        dx, dz = primal.solve(self.problem, self.w, self.chol, rx, rc)
        return dx, ra, dz

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        if transformed():
            return super().refined(rx, ra, rc, corrections)
        (q, g), w, chol = _matrices(self.problem), _array(self.w), _array(self.chol)
        dx, dz = np.empty(rx.shape), np.empty(rc.shape)
        _kernel().inverse(q, g, self.problem.lower, w, chol, _array(rx), _array(rc), corrections, dx, dz)
        return torch.from_numpy(dx), torch.zeros_like(ra), torch.from_numpy(dz)

    def minus_outers(self, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        if transformed() or torch.is_grad_enabled():
            return super().minus_outers(u, v, s, t)
        out = np.empty((*u.shape, v.shape[-1]))
        _kernel().minus_outers(_array(u), _array(v), _array(s), _array(t), out)
        return torch.from_numpy(out)


def solve(
    problem: Problem, solver: PrimalDual, guess: Tensor | None
) -> tuple[Outcome, KernelFactor, Tensor | None] | None:
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
    outcome = Outcome(
        x,
        problem.b,
        z,
        s,
        active,
        Residuals(fit[0], fit[1], fit[2], fit[2], fit[3]),
        steps,
        status,
        torch.zeros_like(x),
    )
    return outcome, KernelFactor(problem, w, chol), status.nonzero().squeeze(-1) if left else None


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


def _matrices(problem: Problem) -> tuple[Array, Array]:
    """Q and G."""
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    assert not isinstance(problem.G, SparseRows)  # see fits
    return _array(q), np.empty((1, 0, problem.n)) if problem.G is None else _array(problem.G)


def _array(t: Tensor) -> Array:
    return np.ascontiguousarray(t.detach().numpy())
