"""The method: a few interior-point steps find out which constraints are active, active-set steps make it exact.

Mehrotra's predictor-corrector steps come close to the solution quickly, and then spend most of their time on digits.
But the set of active constraints shows early, and given the right set the solution is that of one linear system. So:
a few interior-point steps, then primal-dual active-set steps (add what is violated, drop what has a negative
multiplier) until the set settles; rows whose set does not settle go back to the interior-point method for more steps
before the next attempt. What is reported was verified against the data, whatever the path that led there.

References:
    S. Mehrotra, On the implementation of a primal-dual interior point method, SIAM J. Optim. 2, 1992.
    M. Hintermueller, K. Ito, K. Kunisch, The primal-dual active set strategy as a semismooth Newton method, SIAM J.
    Optim. 13, 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from icnn_rl.qp.constants import BACK_OFF, LEAST, SIGN, TINY, UNMET
from icnn_rl.qp.linear.base import Factor, Inner, Point, System
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import leaves, select_rows, where_rows

#: Interior-point steps, then active-set steps at most; for the rows that are left, the next pair. Sets of bounds settle
#: from a coarser guess than sets of general rows: fewer steps before the first attempt, and one more next to equations.
PHASES = ((5, 3), (2, 3), (2, 3), (3, 4), (4, 4), (8, 5), (12, 6))
BOUND_PHASES = ((3, 4), *PHASES[1:])
BOUND_AND_EQUATION_PHASES = ((4, 4), *PHASES[1:])
#: Along a chain of stages a wrong constraint moves its neighbours: the set settles from a good guess only.
STAGE_PHASES = ((7, 3), (3, 3), (3, 3), (3, 3), (4, 4), (8, 5))
#: Pairs before a row is left to the interior-point method. The compiled kernel, whose steps cost next to nothing, takes
#: them all.
_QUICK = 3
#: The proximal term's pull, relative to the other forces, at which a point has arrived.
_HELD = 1e-10

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """Where the iterations ended for each problem: the point, the set taken as active, whether that settled, and the
    number of factorisations."""

    point: Point
    active: Tensor
    settled: Tensor
    steps: Tensor


def find_active_sets(system: Inner, max_steps: int, active: Tensor | None = None) -> tuple[Result, Inner]:
    """Find every row's active set.

    Args:
        system: of the problem in which iterations are cheapest.
        max_steps: factorisations a row may take.
        active: (B, k) bool, a set to try first (warm start).

    Returns:
        The result, and the system factored on the active sets.
    """
    work, point, trial = _Work(system), None, origin(system.problem)
    phases = phases_of(system.problem, guessed=active is not None)[: _QUICK + (active is not None)]
    if system.problem.d.shape[-1] == 0:
        phases, active = ((0, 1),), torch.zeros_like(system.problem.d, dtype=torch.bool)
    for phase, (interior, exact) in enumerate(phases):
        interior = min(interior, max_steps - work.steps - (2 if point is None else 1))
        if interior > 0:
            if point is None:
                point = start_point(work.system)
                work.steps += 1
            point, active = interior_point_steps(work.system, point, interior)
            work.steps += interior
            trial = point
        if active is None:  # too few steps for an interior point
            active = torch.zeros_like(system.problem.d, dtype=torch.bool)
        for attempt in range(exact):
            work.factor(active)
            before, trial = trial, solve_on_set(work.system, trial, active)
            wrong, settled = wrong_side(work.system, before, trial, active)
            last = work.steps >= max_steps or (attempt == exact - 1 and phase == len(phases) - 1)
            if last and point is not None:
                # the interior point is what is known of rows whose set never settled
                trial = where_rows(settled, trial, point)
            if _on_gpu(trial) and attempt < exact - 1 and not last:
                active = active ^ wrong  # asking how many rows are left would make the host wait
                continue
            kept = work.retire(trial, active, settled, last=last)
            if kept is None:
                return work.result()
            trial, active = kept(trial), kept(active ^ wrong)
            point = None if point is None else kept(point)
    raise AssertionError("the last attempt returns")


def _on_gpu(point: Point) -> bool:
    return point.x.device.type != "cpu"


def phases_of(problem: Problem, *, guessed: bool) -> tuple[tuple[int, int], ...]:
    """How many steps of either kind to take in turn; a guess of the active set is tried first."""
    phases: tuple[tuple[int, int], ...] = BOUND_PHASES if problem.A is None else BOUND_AND_EQUATION_PHASES
    phases = PHASES if problem.m else phases
    phases = phases if problem.stage is None else STAGE_PHASES
    return ((0, 4), *phases) if guessed else phases


class _Work:
    """The rows still worked on, and what was found for those that are done."""

    def __init__(self, system: Inner) -> None:
        self.system = system
        self.steps = 0
        self._first = system
        self._index: Tensor | None = None  # where the rows in work belong; None: all rows are
        self._found: tuple[Result, Factor] | None = None

    def factor(self, active: Tensor) -> None:
        """Factor the equations of an active set."""
        self.system = self.system.factored(torch.where(active, 0.0, torch.inf))
        self.steps += 1

    def retire(self, point: Point, active: Tensor, settled: Tensor, *, last: bool) -> Callable[[T], T] | None:
        """Take out rows whose set has settled, once they are enough to pay for the copies.

        Returns what picks the other rows out of a batch, or None where none are left; ``last`` gives up on them.
        """
        remaining = int((~settled).sum())
        if 4 * remaining > 3 * settled.numel() and not last:
            return lambda tree: tree
        steps = torch.full(settled.shape, self.steps, device=settled.device)
        assert self.system.factor is not None
        self._record((Result(point, active, settled, steps), self.system.factor))
        if remaining == 0 or last:
            return None
        index = (~settled).nonzero().squeeze(-1)
        self._index = index if self._index is None else self._index[index]
        self.system = select_rows(index, self.system)
        return lambda tree: select_rows(index, tree)

    def _record(self, part: tuple[Result, Factor]) -> None:
        if self._index is None or self._found is None:
            self._found = part
            return
        for found, whole in zip(self._found, part, strict=True):
            for target, source in zip(leaves(found), leaves(whole), strict=True):
                if target.shape[0] > 1:  # else shared by all rows
                    target.index_copy_(0, self._index, source.expand(self._index.shape[0], *source.shape[1:]))

    def result(self) -> tuple[Result, Inner]:
        assert self._found is not None
        result, factor = self._found
        return result, self._first.with_factor(factor)


def origin(problem: Problem) -> Point:
    """All zeros."""
    zeros = torch.zeros_like(problem.d)
    return Point(torch.zeros_like(problem.p), torch.zeros_like(problem.b), zeros, problem.d)


def start_point(system: Inner) -> Point:
    """The penalised problem, s = -e z, then s and z pushed apart from 0."""
    problem, e = system.problem, system.start
    x, nu, _ = system.factored(e.expand_as(problem.d)).solve(-problem.p, problem.b, problem.d)
    s = problem.d - problem.Cx(x)
    root = e.sqrt()
    t = _masked(s / root, problem.present)
    size = t.square().mean(-1, keepdim=True).sqrt()
    # in the unit of t: what C x = 0 is a rounded version of, and 1 where that is 0 as well
    rounding = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * (problem.row_norms() / root).amax(-1, keepdim=True)
    least = LEAST * torch.maximum(size, 1e-3 * rounding)
    least = torch.where(least > 0, least, 1.0)
    z = torch.maximum(-t, least) / root
    if problem.present is not None:
        z = torch.where(problem.present > 0, z, TINY[z.dtype])  # a row that is absent pulls at nothing
    return Point(x, nu, z, torch.maximum(t, least) * root)


def interior_point_steps(system: Inner, point: Point, steps: int) -> tuple[Point, Tensor]:
    """Mehrotra's predictor and corrector, both with one factor, a number of times.

    The predictor aims at z s = 0; the corrector aims at z s = sigma mu less the predictor's second-order error,
    sigma = (mu after the predictor / mu)^3. Returns also a guess of the active set: the rows whose s the predictor
    shrinks more than their z.
    """
    problem, (x, nu, z, s) = system.problem, (point.x, point.nu, point.z, point.s)
    present = problem.present
    count = problem.d.shape[-1] if present is None else present.sum(-1, keepdim=True).clamp(min=1.0)
    # residuals; a step changes them by what its own equations say, which saves the products with Q, A and C
    rx, ra, rc = problem.products(x, nu, z).left(problem.p, problem.b, problem.d)  # rc = s once primal feasible
    for _ in range(steps):
        system = system.factored(s / z)
        assert system.factor is not None
        e = system.factor.e
        _, _, dz = system.solve(rx, ra, rc)
        ds = _masked(-torch.addcmul(s, e, dz), present)  # rc - s - C dx, with C dx = rc + e dz
        active = dz * s > ds * z
        step = _step_length(s, ds, z, dz)
        mu = _masked(s * z, present).sum(-1, keepdim=True).clamp(min=TINY[z.dtype])
        after = _masked(torch.addcmul(s, step, ds) * torch.addcmul(z, step, dz), present).sum(-1, keepdim=True)
        shift = _masked(ds * dz - (after / mu) ** 3 * mu / count, present) / z
        dx, dnu, dz = system.solve(rx, ra, rc + shift)
        qdx, adx = system.spent(rx, ra, dx, dnu)
        ds = _masked(-torch.addcmul(s + shift, e, dz), present)
        step = BACK_OFF * _step_length(s, ds, z, dz)
        x, nu, z, s = (torch.addcmul(t, step, dt) for t, dt in ((x, dx), (nu, dnu), (z, dz), (s, ds)))
        rx, ra = torch.addcmul(rx, step, qdx, value=-1.0), torch.addcmul(ra, step, adx, value=-1.0)
        rc = torch.addcmul(rc, step, torch.addcmul(rc + shift, e, dz), value=-1.0)
    return Point(x, nu, z, s), active


def _step_length(s: Tensor, ds: Tensor, z: Tensor, dz: Tensor) -> Tensor:
    """(B, 1): the largest step <= 1 that keeps s and z >= 0."""
    fastest = torch.minimum(ds / s, dz / z).amin(-1, keepdim=True)
    return (-fastest).clamp(min=1.0).reciprocal()


def _masked(t: Tensor, present: Tensor | None) -> Tensor:
    return t if present is None else t * present


def on_set(problem: Problem, point: Point, active: Tensor) -> tuple[Tensor, Tensor]:
    """x with active bounds met exactly, which no correction can improve on, and z without what is not active."""
    return problem.snap(point.x, active), torch.where(active, point.z, 0.0)


def solve_on_set(system: System, point: Point, active: Tensor) -> Point:
    """One solve of the equations of the active set, C_i x = d_i and z_i = 0 elsewhere, as a correction of ``point``."""
    problem = system.problem
    x, z = on_set(problem, point, active)
    left = problem.products(x, point.nu, z).left(problem.p, problem.b, problem.d)
    dx, dnu, dz = system.solve(*left)
    x = problem.snap(x + dx, active)  # dx misses bounds by delta: on the inside no residual shows it
    return Point(x, point.nu + dnu, z + dz, problem.d - problem.Cx(x))


def wrong_side(system: Inner, before: Point, point: Point, active: Tensor) -> tuple[Tensor, Tensor]:
    """Active rows with z < 0 and others with s < 0, beyond rounding (B, k); and whether the set is the solution's (B,).

    It is if no row is on the wrong side, the active ones can all be met at once, and the proximal term no longer holds
    the point back. ``before`` is where the point was reached from: where the solution is 0 only the way there tells
    what is rounding.
    """
    problem, rounding = system.problem, SIGN[point.x.dtype]
    norms = problem.row_norms()
    pull = point.z * norms
    largest = pull.abs().amax(-1, keepdim=True) if pull.shape[-1] else pull.sum(-1, keepdim=True)
    size = torch.linalg.vector_norm(torch.stack((before.x, point.x)), dim=(0, -1)).unsqueeze(-1)
    length = problem.d.abs() + norms * size
    wrong = torch.where(active, pull < -rounding * largest, point.s < -rounding * length)
    wrong = wrong if problem.present is None else wrong & (problem.present > 0)
    unmet = active & (point.s.abs() > UNMET[point.x.dtype] * length)
    settled = ~(wrong | unmet).any(-1)
    held = system.held(before.x, point.x)
    if held is not None:
        force = torch.linalg.vector_norm(problem.p, dim=-1) + largest.squeeze(-1)
        settled = settled & (held <= _HELD * force)
    return wrong, settled
