"""[Q + C^T W C, A^T; A, -delta] with variables and equations in the order of their stages: block-tridiagonal."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.numba_support import available
from icnn_rl.qp.constants import DELTA, PENALTY
from icnn_rl.qp.linear.base import Factor, Innermost, Triple
from icnn_rl.qp.linear.cast import COARSER, Cast, single
from icnn_rl.qp.linear.dense import curvature, proximal_force, unit, weights, without_proximal
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows, sum_at, take
from icnn_rl.qp.stages import Layout, layout_of

#: delta of the rows of C where Q may be singular, as in .primal, and of equations, relative to ``unit``. Equations are
#: not weighed against anything: their delta only makes dependent ones harmless.
_SEMIDEFINITE, _DELTA_EQUATIONS = 1e-8, 1e-11
#: rho and delta in equilibrated data, where the matrices may be singular.
_EQUILIBRATED = 1e-8
#: rho, relative to the curvature of the objective.
_RHO = 1e-8
#: What the calls for a stage cost where torch makes them, in flops.
_CALLS = 1e6

Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def _kernel() -> ModuleType | None:
    """The compiled recursions, where numba works; importing it takes a second."""
    return importlib.import_module("icnn_rl.qp.kernel.stagewise") if available() else None


@dataclass(frozen=True)
class Stagewise(Innermost):
    """See the module.

    The diagonal blocks D_t are factored one after the other, D_{t+1} less L_t D_t^{-1} L_t^T, with pivots inside a
    block. An equation is in the block of the last stage that it touches, so that a state meets the dynamics that lead
    to it: [Q_t, I; I, -S] needs no positive Q_t. (Going forwards in time this is the Riccati recursion of the dual.)
    Time and memory grow linearly with the number of stages.

    ``base`` (1|B, length of the layout's buffer): all but C^T W C. ``rho`` (1|B, 1), ``delta`` and ``start`` (1|B, k),
    ``delta_equations`` (1|B, q); ``weight`` (1|B, P): the products of entries of G. ``proximal``: whether rho is there
    because Q may be singular. In ``factor``, ``chol`` is the buffer factored.
    """

    problem: Problem
    layout: Layout
    base: Tensor
    weight: Tensor
    rho: Tensor | None
    delta: Tensor
    delta_equations: Tensor
    start: Tensor
    proximal: bool = False
    factor: Factor | None = None

    @staticmethod
    def cost(problem: Problem, semidefinite: bool) -> float:
        if problem.stage is None:
            return math.inf
        layout = _layout(problem)
        s, r = layout.size, layout.reach
        arithmetic = 4.0 * (2.0 * s**3 / 3.0 + 2.0 * r * s**2 + 2.0 * r**2 * s)
        calls = 0.0 if _compiles(problem.p) else _CALLS / problem.p.shape[0]
        return layout.number * (arithmetic + calls)

    @staticmethod
    def of(problem: Problem, semidefinite: bool) -> Stagewise:
        """rho > 0 only where Q may be singular."""
        scale = curvature(problem)
        size, size_a = (unit(norms, scale) for norms in (problem.row_norms(), problem.equality_norms()))
        layout = _layout(problem)
        system = Stagewise(
            problem,
            layout,
            base=problem.p[:1],
            weight=_products(problem.G, layout),
            rho=_RHO * scale if semidefinite else None,
            delta=(_SEMIDEFINITE if semidefinite else DELTA) * size,
            delta_equations=_DELTA_EQUATIONS * size_a,
            start=PENALTY * size,
            proximal=semidefinite,
        )
        return system._with_base()

    @staticmethod
    def of_equilibrated(problem: Problem) -> Stagewise:
        """For entries of size 1, and a Q that may be singular."""
        layout, ones = _layout(problem), torch.ones_like(problem.d[:1])
        system = Stagewise(
            problem,
            layout,
            base=problem.p[:1],
            weight=_products(problem.G, layout),
            rho=problem.p.new_full((1, 1), _EQUILIBRATED),
            delta=_EQUILIBRATED * ones,
            delta_equations=_EQUILIBRATED * torch.ones_like(problem.b[:1]),
            start=PENALTY * ones,
            proximal=True,
        )
        return system._with_base()

    def _with_base(self) -> Stagewise:
        """With ``base`` computed from the rest."""
        problem, layout, (a, c) = self.problem, self.layout, (self.problem.A, self.problem.coupling)
        q = problem.Q if self.rho is None else problem.Q + self.rho
        parts = [(layout.diagonal[:, : problem.n], q), (layout.diagonal[:, problem.n :], -self.delta_equations)]
        parts += [(layout.unused, torch.ones_like(layout.unused, dtype=q.dtype))]
        if a is not None:
            assert isinstance(a, SparseRows)
            parts += [(layout.a_place, take(a.values, layout.a_entry))]
        parts += [] if c is None else [_placed(c, layout)]
        return dataclasses.replace(self, base=_buffer(layout, parts))

    def factored(self, e: Tensor) -> Stagewise:
        problem, layout = self.problem, self.layout
        e, w = weights(problem, e, self.delta)
        bounds = problem.on_diagonal(w)
        bounds = w[:, :0] if bounds is None else bounds
        kernel = _kernel() if _compiles(w) else None
        if kernel is None:
            chol, pivots = self._factored_by_torch(w, bounds)
            return self.with_factor(Factor(e, w, chol, pivots=pivots))
        chol = w.new_empty(w.shape[0], layout.length)
        pivots = torch.empty(w.shape[0], layout.number, layout.size, dtype=torch.int32)
        kernel.factor(
            _array(self.base),
            _array(layout.diagonal[0]),
            _array(bounds),
            _array(layout.g_place[0]),
            _array(layout.g_row[0]),
            _array(self.weight),
            _array(w),
            _array(layout.back[0]),
            layout.size,
            chol.numpy(),
            pivots.numpy(),
        )
        return self.with_factor(Factor(e, w, chol, pivots=pivots))

    def _factored_by_torch(self, w: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
        layout, batch = self.layout, w.shape[0]
        m = self.base.repeat(batch, 1) if self.base.shape[0] == 1 else self.base.clone()
        if bounds.shape[-1]:
            m.index_add_(1, layout.diagonal[0, : self.problem.n], bounds)
        if layout.g_place.shape[-1]:
            m.index_add_(1, layout.g_place[0], self.weight * take(w, layout.g_row))
        blocks, below = _blocks(m, layout)
        spread = _spread(layout, w.dtype)
        factors, reached, pivots = [], [], []
        block = blocks[:, 0]
        for t in range(layout.number):
            lu, pivot, _ = torch.linalg.lu_factor_ex(block)
            columns = torch.linalg.lu_solve(lu, pivot, below[:, t].mT)
            factors.append(lu)
            pivots.append(pivot)
            reached.append(columns.mT)
            if t + 1 < layout.number:
                update = torch.matmul(spread[t], torch.matmul(torch.matmul(below[:, t], columns), spread[t].mT))
                block = blocks[:, t + 1] - update
        flat = [torch.stack(parts, 1).flatten(1) for parts in (factors, reached)]
        return torch.cat(flat, -1), torch.stack(pivots, 1)

    def with_factor(self, factor: Factor) -> Stagewise:
        return dataclasses.replace(self, factor=factor)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        problem, layout, w = self.problem, self.layout, self.factor.w
        right = torch.cat((rx + problem.Ctz(w * rc), ra), -1)
        y = self._solved(sum_at(layout.member, right, layout.number * layout.size))
        found = take(y, layout.member)
        dx, dnu = found.split_with_sizes((problem.n, found.shape[-1] - problem.n), -1)
        return dx, dnu, w * (problem.Cx(dx) - rc)

    def _solved(self, y: Tensor) -> Tensor:
        """The solution of the factored system, (B, number * size)."""
        assert self.factor is not None
        assert self.factor.pivots is not None
        layout, chol, pivots = self.layout, self.factor.chol, self.factor.pivots
        kernel = _kernel() if _compiles(y) and not y.requires_grad else None
        if kernel is not None:
            stages = y.reshape(-1, layout.number, layout.size)
            kernel.substitute(_array(chol), _array(pivots), _array(layout.back[0]), stages.numpy())
            return stages.flatten(1)
        blocks, below = _blocks(chol, layout)
        links = torch.matmul(_spread(layout, y.dtype), below)
        right = y.reshape(-1, layout.number, layout.size, 1)
        forward = [right[:, 0]]
        for t in range(layout.number - 1):
            forward.append(right[:, t + 1] - torch.matmul(links[:, t], forward[-1]))
        alone = torch.linalg.lu_solve(blocks, pivots, torch.stack(forward, 1))
        backward = [alone[:, -1]]
        for t in range(layout.number - 2, -1, -1):
            backward.append(alone[:, t] - torch.matmul(links[:, t].mT, backward[-1]))
        return torch.stack(backward[::-1], 1).flatten(1)

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        rx = without_proximal(rx, self.rho, dx)
        return rx, torch.addcmul(ra, self.delta_equations, dnu)

    def held(self, before: Tensor, x: Tensor) -> Tensor | None:
        if not self.proximal:
            return None
        assert self.rho is not None
        return proximal_force(self.rho, before, x)

    def in_single(self) -> Cast:
        coarse = dataclasses.replace(
            self,
            rho=None if self.rho is None else COARSER * self.rho,
            delta=COARSER * self.delta,
            delta_equations=COARSER * self.delta_equations,
        )
        return Cast(self.problem, single(coarse._with_base()))


def _layout(problem: Problem) -> Layout:
    g, a = (part if isinstance(part, SparseRows) else None for part in (problem.G, problem.A))
    assert problem.stage is not None
    return layout_of(problem.stage, a, g, problem.coupling)


def _products(g: Any, layout: Layout) -> Tensor:
    """The products of entries of G that meet in its rows."""
    if g is None:
        return torch.zeros_like(layout.g_place, dtype=torch.float64)
    out: Tensor = take(g.values, layout.g_left) * take(g.values, layout.g_right)
    return out


def _blocks(m: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The diagonal blocks (B, number, s, s) and those below them (B, number, r, s) of a buffer."""
    number, s, r = layout.number, layout.size, layout.reach
    batch, end = m.shape[0], number * s * s
    return m[:, :end].reshape(batch, number, s, s), m[:, end:].reshape(batch, number, r, s)


def _spread(layout: Layout, dtype: torch.dtype) -> Tensor:
    """(number, s, r): puts the rows that reach back where they belong in the next stage."""
    places = torch.arange(layout.size, device=layout.back.device)
    return (layout.back[0].unsqueeze(-2) == places.unsqueeze(-1)).to(dtype)


def _compiles(t: Tensor) -> bool:
    """Whether numba can work on it."""
    return t.dtype == torch.float64 and t.device.type == "cpu" and not transformed() and _kernel() is not None


def _array(t: Tensor) -> Array:
    return np.ascontiguousarray(t.detach().numpy())


def least_pivots(problem: Problem, largest: Tensor) -> Tensor:
    """(1|B,): the least pivot of a Cholesky factorisation of Q, stage by stage, of a problem with stages whose largest
    diagonal elements are ``largest`` (1|B,) > 0; -inf where there is none."""
    assert problem.stage is not None
    assert problem.coupling is not None
    layout = layout_of(problem.stage, None, None, problem.coupling)
    others = largest.unsqueeze(-1).expand(-1, layout.unused.shape[-1])
    parts = [(layout.diagonal, problem.Q), (layout.unused, others), _placed(problem.coupling, layout)]
    blocks, below = _blocks(_buffer(layout, parts), layout)
    if layout.reach == 0:
        return _least(*torch.linalg.cholesky_ex(blocks)).amin(-1)
    spread, block, least = _spread(layout, blocks.dtype), blocks[:, 0], []
    for t in range(layout.number):
        chol, info = torch.linalg.cholesky_ex(block)
        least.append(_least(chol, info))
        half = torch.matmul(spread[t], torch.linalg.solve_triangular(chol, below[:, t].mT, upper=False).mT)
        block = blocks[:, min(t + 1, layout.number - 1)] - torch.matmul(half, half.mT)
    return torch.stack(least, -1).amin(-1)


def _least(chol: Tensor, info: Tensor) -> Tensor:
    return torch.where(info == 0, chol.diagonal(dim1=-2, dim2=-1).square().amin(-1), -torch.inf)


def _placed(coupling: SparseRows, layout: Layout) -> tuple[Tensor, Tensor]:
    """Places and values of the entries of Q off its diagonal."""
    return layout.q_place, take(coupling.values, layout.q_entry)


def _buffer(layout: Layout, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(1|B, length), by places (1, j) and values (1|B, j)."""
    batch = max(values.shape[0] for _, values in parts)
    place = torch.cat([place for place, _ in parts], -1)
    values = torch.cat([values.expand(batch, -1) for _, values in parts], -1)
    return sum_at(place, values, layout.length)
