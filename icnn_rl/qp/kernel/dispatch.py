"""Which problems go to the compiled kernels, and how. Without numba none does.

:mod:`icnn_rl.qp.kernel.tiny` takes batches of tiny problems without equalities whose Q is definite, and
:mod:`icnn_rl.qp.kernel.dense` all others that are not too large.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.eager import batched
from icnn_rl.numba_support import available
from icnn_rl.qp.active_set import PHASES, phases_of
from icnn_rl.qp.certificates import Residuals
from icnn_rl.qp.linear import primal
from icnn_rl.qp.linear.base import Refined, System, Triple
from icnn_rl.qp.linear.dense import cholesky, cholesky_solve
from icnn_rl.qp.linear.mixed import Mixed
from icnn_rl.qp.outcome import Outcome
from icnn_rl.qp.problem import Problem, matvec, rmatvec
from icnn_rl.qp.pytree import select_rows
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.sparse import SparseRows
from icnn_rl.solution import Status

#: n and k of the largest tiny problems. A block has left the first cache by then, and still takes a fifth of torch's
#: time. Fewer rows than ``_ROWS`` leave so many lanes empty that the dense kernel is faster.
_LARGEST, _ROWS = (16, 128), 4
#: n of the largest dense problems, and how many times fewer rows of G and A a problem with a diagonal Q must have, from
#: a size on, for torch's systems in the space of these rows to be cheaper.
_DENSE, _FEW, _WIDE = 600, 4, 64
#: Rows of the batch from which on, and n up to which, torch's batched systems are no slower where Q is diagonal and
#: their size, the number of rows of G and A, is between n / 2 and n.
_MANY, _MODERATE = 64, 128

#: What a kernel returns, see :func:`run_kernels`.
Quick = tuple[Outcome, System, Tensor | None]
Array = np.ndarray[Any, np.dtype[Any]]

_NO_GUESS = np.empty((0, 0), np.bool_)


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.qp.kernel.tiny")


@functools.cache
def _dense_kernel() -> tuple[ModuleType, tuple[int, ...]]:
    """The kernel and the addresses it calls."""
    kernel = importlib.import_module("icnn_rl.qp.kernel.dense")
    addresses: tuple[int, ...] = importlib.import_module("icnn_rl.qp.kernel.lapack").addresses()
    return kernel, addresses


def fits(problem: Problem, solver: PrimalDual, data: torch.dtype) -> bool:
    """Whether the problem is small enough, of the right kind, and to be solved here; ``data``: the dtype it came in."""
    if not solver.compiled or (solver.dtype == "input" and data != torch.float64):
        return False
    if problem.sparse or problem.p.device.type != "cpu" or problem.p.shape[0] == 0:
        return False
    if not solver.dense:
        return _tiny(problem) and available()
    rows = problem.m + problem.b.shape[-1]
    narrow = problem.diagonal and problem.n > _WIDE and _FEW * rows < problem.n
    together = problem.diagonal and problem.p.shape[0] >= _MANY and rows <= problem.n <= min(2 * rows - 1, _MODERATE)
    return (_tiny(problem) or (problem.n <= _DENSE and not narrow and not together)) and available()


def _tiny(problem: Problem) -> bool:
    k = problem.d.shape[-1]
    return problem.n <= _LARGEST[0] and 0 < k <= _LARGEST[1] and problem.A is None


@dataclass(frozen=True)
class KernelFactor(Refined):
    """H = Q + C^T W C = U^T U on the active sets that the kernel found; where torch need not see how, it solves, too.

    w (B, k), chol = U (B, n, n). Next to :class:`icnn_rl.qp.linear.primal.Primal` nothing is left to iterate on.
    """

    problem: Problem
    w: Tensor
    chol: Tensor

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        dx, dz = primal.solve_normal_equations(self.problem, self.w, self.chol, rx, rc)
        return dx, ra, dz

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        if batched(rx):
            return super().refined(rx, ra, rc, corrections)
        (q, g), w, chol = _matrices(self.problem), _array(self.w), _array(self.chol)
        dx, dz = np.empty(rx.shape), np.empty(rc.shape)
        _kernel().inverse(q, g, self.problem.lower, w, chol, _array(rx), _array(rc), corrections, dx, dz)
        return torch.from_numpy(dx), torch.zeros_like(ra), torch.from_numpy(dz)

    def minus_outers(self, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        if batched(u) or torch.is_grad_enabled():
            return super().minus_outers(u, v, s, t)
        out = np.empty((*u.shape, v.shape[-1]))
        _kernel().minus_outers(_array(u), _array(v), _array(s), _array(t), out)
        return torch.from_numpy(out)


@dataclass(frozen=True)
class DenseFactor(Refined):
    """The systems that the dense kernel ended with, and its scales; see ``dense.Found``. Nothing is factored yet."""

    problem: Problem
    w: Tensor
    columns: Tensor
    a_rows: Tensor
    c_rows: Tensor
    units: Tensor

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        if not batched(rx):
            return self._inverse(rx, ra, rc, 0)
        # in torch, which has to see it: the kernel's system in the user's units
        problem, kernel = self.problem, _dense_kernel()[0]
        energy = self._energy()
        w = self.w * self.c_rows.square() / energy
        rho, bounds = kernel.KKT_RHO / (energy * self.columns.square()), problem.on_diagonal(w)
        h = torch.diag_embed(rho if bounds is None else rho + bounds)  # torch.func maps w, so nothing is added in place
        h = h + (torch.diag_embed(problem.Q) if problem.diagonal else problem.Q)
        if problem.G is not None:
            assert isinstance(problem.G, Tensor)
            h = h + (problem.G.mT * w[:, : problem.m].unsqueeze(-2)) @ problem.G
        chol = cholesky(h)
        t = rx + problem.Ctz(w * rc)
        if problem.A is None:
            dx, dnu = cholesky_solve(t, chol), ra
        else:
            assert isinstance(problem.A, Tensor)
            half = torch.linalg.solve_triangular(chol.mT, problem.A.mT.expand(len(t), -1, -1), upper=False)
            schur = half.mT @ half + torch.diag_embed(kernel.KKT_DELTA * energy / self.a_rows.square())
            y = torch.linalg.solve_triangular(chol.mT, t.unsqueeze(-1), upper=False).squeeze(-1)
            dnu = cholesky_solve(rmatvec(half, y) - ra, cholesky(schur))
            y = y - matvec(half, dnu)
            dx = torch.linalg.solve_triangular(chol, y.unsqueeze(-1), upper=True).squeeze(-1)
        return dx, dnu, w * (problem.Cx(dx) - rc)

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        if not batched(rx):
            return self._inverse(rx, ra, rc, corrections)
        # as in the kernel
        energy, delta, on = self._energy(), _dense_kernel()[0].KKT_DELTA, self.w > 0
        e = torch.where(on, 1.0 / torch.where(on, self.w, 1.0) - delta, 0.0)
        e = torch.where(e > 1e-3 * delta, e, 0.0) * energy / self.c_rows.square()

        def size(rx: Tensor, ra: Tensor, rc: Tensor) -> Tensor:
            cost, length = self.units[:, 1:], self.units[:, :1]
            parts = cost * length * self.columns * rx, self.a_rows * ra / length, self.c_rows * rc / length * on
            return torch.cat(parts, -1).abs().amax(-1, keepdim=True)

        x, nu, z = self.solve(rx, ra, rc)
        before = size(rx, ra, rc)
        for _ in range(corrections):
            rest_x, rest_a, rest_c = self.problem.products(x, nu, z).left(-rx, ra, rc)
            rest = rest_x, rest_a, (rest_c + e * z) * on
            now = size(*rest)
            better = now < 0.5 * before
            dx, dnu, dz = (torch.where(better, part, 0.0) for part in self.solve(*rest))
            x, nu, z, before = x + dx, nu + dnu, z + dz, torch.where(better, now, before)
        return x, nu, z

    def _energy(self) -> Tensor:
        """(B, 1): what a unit of the kernel's objective is in the user's."""
        return (self.units[:, 1] * self.units[:, 0].square()).unsqueeze(-1)

    def _inverse(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        kernel, addresses = _dense_kernel()
        q, a, g = _dense_matrices(self.problem)
        scales = kernel.Scales(*(_array(t) for t in (self.w, self.columns, self.a_rows, self.c_rows, self.units)))
        out = tuple(np.empty(r.shape) for r in (rx, ra, rc))
        right = (_array(rx), _array(ra), _array(rc))
        kernel.inverse(q, a, g, self.problem.lower, self.problem.upper, scales, *right, corrections, addresses, *out)
        dx, dnu, dz = map(torch.from_numpy, out)
        return dx, dnu, dz


def run_kernels(problem: Problem, solver: PrimalDual, guess: Tensor | None) -> Quick | None:
    """Solve the rows that can be solved here; for problems that fit.

    Args:
        problem: its d may hold infinities, and any number NaN: such rows are left.
        solver: settings.
        guess: (B, k) bool, active sets to try first.

    Returns:
        The outcome, the system of the active sets, and the indices of the rows that are left, if any; None if Q of
        some row has a negative eigenvalue.
    """
    full = problem.p.shape[0] >= _ROWS
    quick = _run_tiny(problem, solver, guess) if _tiny(problem) and (full or not solver.dense) else None
    if not solver.dense:
        return quick
    if quick is None:
        return _run_dense(problem, solver, guess)
    outcome, system, left = quick
    if left is None:
        return quick
    second = _run_dense(select_rows(left, problem), solver, None)
    if second is None:
        return quick
    others, factor, rest = second
    if len(left) == len(outcome.x):
        return second
    return outcome.put(left, others), Mixed(problem, system, left, factor), None if rest is None else left[rest]


def _run_dense(problem: Problem, solver: PrimalDual, guess: Tensor | None) -> Quick | None:
    batch, n, k, equations = problem.p.shape[0], problem.n, problem.d.shape[-1], problem.b.shape[-1]
    kernel, addresses = _dense_kernel()
    found = kernel.Found(
        x=np.empty((batch, n)),
        nu=np.empty((batch, equations)),
        z=np.empty((batch, k)),
        s=np.empty((batch, k)),
        active=np.empty((batch, k), np.bool_),
        fit=np.empty((5, batch)),
        steps=np.empty(batch, np.int64),
        status=np.empty(batch, np.int64),
        ray=np.empty((batch, n)),
        scales=kernel.Scales(
            w=np.empty((batch, k)),
            columns=np.empty((batch, n)),
            a_rows=np.empty((batch, equations)),
            c_rows=np.empty((batch, k)),
            units=np.empty((batch, 2)),
        ),
    )
    q, a, g = _dense_matrices(problem)
    left = kernel.solve_rows(
        q,
        _array(problem.p),
        a,
        _array(problem.b),
        g,
        _array(problem.d),
        problem.lower,
        problem.upper,
        _NO_GUESS if guess is None else _array(guess),
        solver.tolerance,
        solver.max_steps,
        addresses,
        found,
    )
    if left < 0:
        return None
    x, nu, z, s, active, fit, steps, status, ray = map(torch.from_numpy, found[:9])
    outcome = Outcome(x, nu, z, s, active, Residuals(*fit.unbind()), steps, status, ray)
    factor = DenseFactor(problem, *map(torch.from_numpy, found.scales))
    return outcome, factor, status.nonzero().squeeze(-1) if left else None


def _dense_matrices(problem: Problem) -> tuple[Array, Array, Array]:
    """Q, or its diagonal in a column, A and G."""
    q = problem.Q.unsqueeze(-1) if problem.diagonal else problem.Q
    assert not isinstance(problem.G, SparseRows)  # see fits
    assert not isinstance(problem.A, SparseRows)
    none = np.empty((1, 0, problem.n))
    return _array(q), none if problem.A is None else _array(problem.A), none if problem.G is None else _array(problem.G)


def _run_tiny(problem: Problem, solver: PrimalDual, guess: Tensor | None) -> Quick | None:
    """None if Q of some row is not positive definite."""
    batch, n, k = problem.p.shape[0], problem.n, problem.d.shape[-1]
    kernel, (q, g) = _kernel(), _matrices(problem)
    found = _nothing_found(batch, n, k)
    left = kernel.solve_blocks(
        q,
        _array(problem.p),
        g,
        _array(problem.d),
        problem.lower,
        np.empty((0, k), np.bool_) if guess is None else _array(guess),
        solver.tolerance,
        solver.max_steps,
        _table(phases_of(problem, guessed=guess is not None)),
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
        Residuals(*fit),
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
    found = minimisers(np.eye(point.shape[-1]), -point, G, h, lb, ub)
    return None if found is None else (found[0], found[2])


def minimisers(Q: Array, p: Array, G: Array, h: Array, lb: Array, ub: Array) -> tuple[Array, Array, Array] | None:
    """argmin 1/2 y^T Q y + p^T y over the same sets, Q (n, n) or (B, n, n) positive definite: the points (B, n), the
    multipliers (B, m + n + n) of rows, lower and upper bounds, and whether they were found."""
    batch, n = p.shape
    k = h.shape[-1] + 2 * n
    if n > _LARGEST[0] or k > _LARGEST[1] or not available():
        return None
    found, solver = _nothing_found(batch, n, k), PrimalDual()
    _kernel().solve_blocks(
        Q if Q.ndim == 3 else Q[None],
        p,
        np.ascontiguousarray(G),
        np.concatenate((h, -lb, ub), -1),
        True,
        np.empty((0, k), np.bool_),
        solver.tolerance,
        solver.max_steps,
        np.array(PHASES),
        found,
    )
    return found.x, found.z, found.status == int(Status.SUCCESS)


def _nothing_found(batch: int, n: int, k: int) -> Any:
    """The arrays that the kernel fills."""
    return _kernel().Found(
        x=np.zeros((batch, n)),
        z=np.zeros((batch, k)),
        s=np.zeros((batch, k)),
        active=np.zeros((batch, k), np.bool_),
        w=np.zeros((batch, k)),
        U=np.zeros((batch, n, n)),
        fit=np.zeros((5, batch)),
        steps=np.zeros(batch, np.int64),
        status=np.full(batch, int(Status.NUMERICAL)),
    )


def _matrices(problem: Problem) -> tuple[Array, Array]:
    """Q and G."""
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    assert not isinstance(problem.G, SparseRows)  # see fits
    return _array(q), np.empty((1, 0, problem.n)) if problem.G is None else _array(problem.G)


def _array(t: Tensor) -> Array:
    return np.ascontiguousarray((t.detach() if t.requires_grad else t).numpy())


@functools.cache
def _table(phases: tuple[tuple[int, int], ...]) -> Array:
    return np.array(phases)
