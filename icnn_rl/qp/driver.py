"""From a batch of problems to their solutions and what is known about them. No gradients here.

The compiled kernels come first where a problem fits. Of what they leave, problems with NaN or infinite numbers are set
aside; the others get a quick attempt; what that leaves unsolved is solved again in equilibrated data with more care;
and what is still unsolved is tested for infeasibility and unboundedness, each test a quadratic programme that always
has a solution. In this module a row is a problem of the batch.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp import certificates, emptiness, interior_point
from icnn_rl.qp.active_set import find_active_sets, on_set
from icnn_rl.qp.certificates import Residuals, Yardstick, residuals
from icnn_rl.qp.constants import CORRECTIONS, NEGATIVE, SINGULAR, TINY
from icnn_rl.qp.external import External, likely_active
from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.linear.base import Point, Reduction, System
from icnn_rl.qp.linear.mixed import Mixed
from icnn_rl.qp.linear.scale import Scale
from icnn_rl.qp.linear.select import choose, of_cone
from icnn_rl.qp.linear.stagewise import least_pivots
from icnn_rl.qp.outcome import Outcome, Solved
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import leaves, map_tensors, select_rows, where_rows
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.solution import Status

__all__ = ["NonConvexError", "check_convex", "solve_batch"]

#: A residual of so many eps needs no correction.
_EXACT = 100.0
#: How many times as many for rows that were not solved at once, and how close to the tolerance they are tried on.
_PATIENCE, _CLOSE = 8, 10.0
#: What is added to a sparse Q, relative, before it is factored.
_SHIFT = 1e-10
#: Active-set steps at most from the answer of another solver.
_POLISH = 4


class NonConvexError(ValueError):
    """Q of a row has a negative eigenvalue; ``largest``: that of the largest magnitude."""

    def __init__(self, row: int, eigenvalue: float, largest: float) -> None:
        self.row, self.eigenvalue, self.largest = row, eigenvalue, largest
        super().__init__(
            f"Q: expected a positive semidefinite matrix, got one with the eigenvalue {eigenvalue:.4g} in row {row} of "
            f"the batch, {abs(eigenvalue) / largest:.1g} of the largest. Such a problem is not convex. If that is "
            f"rounding, pass solver=PrimalDual(convex='assume') or add {_upwards(-eigenvalue):.2g} times the identity."
        )


def _upwards(number: float) -> float:
    """A little more: two digits of it are no less than the number."""
    return 1.1 * number


def solve_batch(problem: Problem, solver: PrimalDual | External, data: torch.dtype, guess: Tensor | None) -> Solved:
    """Solve all rows: by the compiled kernels where the problem fits, and what these leave by torch.

    Args:
        problem: the rows; any number may be infinite or NaN.
        solver: settings.
        data: dtype that the numbers came in: how well they are known.
        guess: (B, k) bool, a guess of the active constraints.
    """
    solver = solver.for_data(data)
    quick = None
    if isinstance(solver, PrimalDual) and dispatch.fits(problem, solver, data):
        quick = dispatch.run_kernels(problem, solver, guess)
    if quick is None:
        return Solved.of(*_solve_by_torch(problem, solver, data, guess))
    outcome, system, left = quick
    if left is None:
        return Solved(outcome, system, True)
    assert isinstance(solver, PrimalDual)  # or there would be no quick answer
    outcome, empty, left = emptiness.settle(problem, outcome, left)
    if len(empty):  # their factors mean nothing
        trivial = dispatch.run_kernels(_neutral(select_rows(empty, problem)), solver, None)
        assert trivial is not None
        system = Mixed(problem, system, empty, trivial[1])
    outcome, left = _confirmed(problem, outcome, left, solver)
    if not len(left):
        return Solved(outcome, system, False)
    guess = None if guess is None else guess[left]
    others, second = _solve_by_torch(select_rows(left, problem), solver, data, guess)
    if len(left) == len(outcome.x):
        return Solved.of(others, second)
    mixed = Mixed(_with_finite_matrices(problem, left, second.problem), system, left, second)
    return Solved.of(outcome.put(left, others), mixed)


def check_convex(problem: Problem, outcome: Outcome) -> None:
    """Raise a NonConvexError for the first row that was set aside as not convex."""
    rows = (outcome.status == Status.NON_CONVEX).nonzero()
    if rows.numel():
        q = select_rows(rows[0], problem).dense().Q[0]
        eigenvalues = q if q.dim() == 1 else torch.linalg.eigvalsh(q)
        raise NonConvexError(int(rows[0]), float(eigenvalues.min()), float(eigenvalues.abs().max()))


def _confirmed(problem: Problem, outcome: Outcome, left: Tensor, solver: PrimalDual) -> tuple[Outcome, Tensor]:
    """For rows that the kernel claims to have no solution, look for the proof of :mod:`.certificates`, and no more.

    Returns:
        The outcome with what was confirmed, and the indices of the rows that are still left.
    """
    claims = outcome.status[left]
    unbounded = claims == Status.DUAL_INFEASIBLE
    claimed = unbounded | (claims == Status.PRIMAL_INFEASIBLE)
    if not bool(claimed.any()):
        return outcome, left
    told = left[claimed]
    part = select_rows(told, problem).without_infinite().with_norms()
    asked = select_rows(told, outcome)
    asked = dataclasses.replace(asked, status=torch.full_like(told, int(Status.NUMERICAL)))
    found = _diagnose(part, asked, solver, bool(unbounded.any()))
    found = dataclasses.replace(found, s=problem.d[told] - part.Cx(found.x))
    finite = torch.isfinite(torch.cat((found.x, found.nu, found.z, found.residuals.largest.unsqueeze(-1)), -1)).all(-1)
    sure = finite & (found.status == outcome.status[told])
    rest = claimed.clone()
    rest[claimed] = sure
    return outcome.put(told, found, sure), left[~rest]


def _with_finite_matrices(problem: Problem, left: Tensor, finite: Problem) -> Problem:
    """The problem with the matrices of the rows at ``left`` taken from ``finite``: a NaN in one of them, times the
    gradient 0 of a failed row, would be a NaN in what all rows share."""
    g = problem.G
    if isinstance(g, Tensor) and isinstance(finite.G, Tensor):
        g = _with_rows(g, left, finite.G)
    return dataclasses.replace(problem, Q=_with_rows(problem.Q, left, finite.Q), G=g)


def _with_rows(whole: Tensor, index: Tensor, part: Tensor) -> Tensor:
    """``whole`` with these rows replaced; what all rows share stays."""
    return whole if whole.shape[0] == 1 else whole.index_copy(0, index, part.expand(len(index), *part.shape[1:]))


def _solve_by_torch(
    given: Problem, solver: PrimalDual | External, data: torch.dtype, guess: Tensor | None
) -> tuple[Outcome, System]:
    """:func:`_attempt_and_diagnose` for the rows that can be solved; copies of one of them stand in for the others."""
    problem, impossible = given.without_infinite(), (given.d == -torch.inf).any(-1)
    bad = torch.zeros_like(impossible)
    for tensor in leaves(problem):
        bad = bad | ~torch.isfinite(tensor.flatten(1).sum(-1))  # one pass, unlike isfinite of all
    if bool(bad.any()):
        bad = torch.zeros_like(impossible)
        for tensor in leaves(problem):
            bad = bad | ~torch.isfinite(tensor).flatten(1).all(-1)
    excluded = bad | impossible
    assume = isinstance(solver, PrimalDual) and solver.convex == "assume"
    finite, problem = problem, _with_stand_ins(problem, excluded).with_norms()
    curved, saddle = _factor_q(problem, data, assume=assume), None
    if curved.saddle is not None:
        saddle = curved.saddle & ~excluded
        excluded = excluded | saddle
        problem = _with_stand_ins(problem, excluded).with_norms()
        curved = _factor_q(problem, data, assume=assume)
    some = bool(excluded.any())
    guess = None if some and bool(excluded.all()) else guess
    outcome, system = _attempt_and_diagnose(problem, curved, solver, data, guess)
    outcome = _set_aside(finite, outcome, bad, impossible, saddle) if some else outcome
    if some or problem.present is not None:
        outcome = dataclasses.replace(outcome, s=given.d - given.Cx(outcome.x))
    if bool((outcome.status != Status.SUCCESS).any()):
        # a failed row gets no gradient, but 0 times a factor that is NaN would be one
        system = map_tensors(lambda t: torch.nan_to_num(t, 0.0, 0.0, 0.0) if t.is_floating_point() else t, system)
    return outcome, system


def _with_stand_ins(problem: Problem, excluded: Tensor) -> Problem:
    """Copies of a row that can be solved in place of those that are ``excluded``."""
    if not bool(excluded.any()):
        return problem
    if bool(excluded.all()):
        return _neutral(problem)
    rows = torch.arange(excluded.shape[0], device=excluded.device)
    return select_rows(rows.where(~excluded, (~excluded).nonzero()[0]), problem)


def _set_aside(problem: Problem, outcome: Outcome, bad: Tensor, impossible: Tensor, saddle: Tensor | None) -> Outcome:
    """Replace the stand-ins' answers by what the rows that were set aside report: NaN where an input is;
    0, infinitely far from the set, where no point can meet a constraint; 0 and its residuals where Q is not convex."""
    value = torch.where(bad, torch.nan, 0.0)
    off = torch.where(bad, torch.nan, torch.inf)
    excluded = bad | impossible if saddle is None else bad | impossible | saddle
    row = excluded.unsqueeze(-1)
    x, nu, z = (torch.where(row, value.unsqueeze(-1), part) for part in (outcome.x, outcome.nu, outcome.z))
    status = torch.where(impossible, int(Status.PRIMAL_INFEASIBLE), outcome.status)
    fit = map_tensors(lambda t: torch.where(excluded, off, t), outcome.residuals)
    if saddle is not None:
        status = torch.where(saddle, int(Status.NON_CONVEX), status)
        fit = where_rows(saddle, residuals(problem, Yardstick.of(problem), x, nu, z, problem.products(x, nu, z)), fit)
    return dataclasses.replace(
        outcome,
        x=x,
        nu=nu,
        z=z,
        active=outcome.active & ~row,
        residuals=fit,
        steps=torch.where(excluded, 0, outcome.steps),
        status=torch.where(bad, int(Status.NONFINITE_INPUT), status),
        ray=torch.where(row, 0.0, outcome.ray),
    )


def _neutral(problem: Problem) -> Problem:
    """A problem of the same form that is solved by 0."""
    ones = (
        torch.ones_like(problem.Q) if problem.Q.dim() == 2 else torch.eye(problem.n).to(problem.Q).expand_as(problem.Q)
    )
    # sparse rows keep their places: at one place, all their entries would meet
    zeros = map_tensors(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, problem)
    return dataclasses.replace(zeros, Q=ones)


def _attempt_and_diagnose(
    problem: Problem, curved: _Curved, solver: PrimalDual | External, data: torch.dtype, active: Tensor | None
) -> tuple[Outcome, System]:
    """The outcome, and the system factored on the active sets; every number in ``problem`` must be finite."""
    ours = PrimalDual(tol=solver.tol) if isinstance(solver, External) else solver
    yardstick = Yardstick.of(problem)
    problem, chol, semidefinite, _ = curved
    given = solver.answers(problem) if isinstance(solver, External) else None
    active = active if given is None else likely_active(problem, given)
    quick = choose(problem, chol, semidefinite)
    if data == torch.float32 and ours.dtype == "input":
        quick = quick.in_single()
    outcome, first = _attempt(quick, yardstick, ours, active, given)
    failed = outcome.unsolved()
    if failed is None:
        return outcome, first
    part, measure = select_rows(failed, problem), select_rows(failed, yardstick)
    spent = outcome.steps[failed]
    left = ours.max_steps - int(spent.max())
    system: Reduction | Mixed = first
    if given is not None:
        assert active is not None
        again, careful = _attempt(Scale.of(part), measure, ours, active[failed], select_rows(failed, given), _PATIENCE)
    elif left > _POLISH:
        again, careful = _robust(part, measure, ours, left)
    else:
        again, careful = select_rows(failed, outcome), None
        again = dataclasses.replace(again, status=torch.full_like(again.status, int(Status.MAX_STEPS)))
    if careful is not None:
        again = dataclasses.replace(again, steps=again.steps + spent)
        system = Mixed(problem, first, failed, careful)
    better = ~(again.residuals.largest > outcome.residuals.largest[failed])  # true next to a NaN
    outcome = outcome.put(failed, again, better)
    failed = outcome.unsolved()
    if failed is not None:
        part, measure = select_rows(failed, problem), select_rows(failed, yardstick)
        found = _diagnose(part, select_rows(failed, outcome), ours, semidefinite)
        outcome = outcome.put(failed, _kept_finite(part, measure, found) if given is None else found)
    return outcome, system


def _kept_finite(problem: Problem, yardstick: Yardstick, outcome: Outcome) -> Outcome:
    """Where iterations ended in NaN or infinity, 0 with multipliers 0 is reported, and its residuals."""
    point = outcome.x, outcome.nu, outcome.z
    off = ~torch.isfinite(torch.cat(point, -1)).all(-1)
    lost = off | ~torch.isfinite(outcome.residuals.largest)
    if not bool(lost.any()):
        return outcome
    x, nu, z = (torch.where(off.unsqueeze(-1), 0.0, part) for part in point)
    at = problem.products(x, nu, z)
    fit = where_rows(lost, residuals(problem, yardstick, x, nu, z, at), outcome.residuals)
    return dataclasses.replace(outcome, x=x, nu=nu, z=z, s=problem.d - at.cx, residuals=fit)


def _robust(problem: Problem, yardstick: Yardstick, solver: PrimalDual, steps: int) -> tuple[Outcome, Reduction]:
    """The second line: the homogeneous method in equilibrated data, made exact where the active set is regular."""
    scaled = Scale.of(problem)
    ended = interior_point.follow_central_path(scaled, steps - _POLISH)
    outcome, system = _attempt(scaled, yardstick, solver, ended.active, ended.point, patience=_PATIENCE)
    out_of_steps = (outcome.status != Status.SUCCESS) & (ended.steps >= steps - _POLISH)
    status = torch.where(out_of_steps, int(Status.MAX_STEPS), outcome.status)
    return dataclasses.replace(outcome, steps=ended.steps + outcome.steps, status=status), system


def _attempt(
    system: Reduction,
    yardstick: Yardstick,
    solver: PrimalDual,
    active: Tensor | None,
    given: Point | None = None,
    patience: int = 1,
) -> tuple[Outcome, Reduction]:
    """Find the active sets, then the points that belong to them; ``given`` are points that another method found, and
    ``active`` what it says is active there."""
    steps = solver.max_steps if given is None else _POLISH
    guess = None if active is None else system.guess(active)
    result, factored = find_active_sets(system.inner, steps, guess)
    system, active = system.with_inner(factored), system.outer(result.active)
    point = system.lift(result.point)
    point, fit = _correct(system, yardstick, point, active, solver.tolerance, patience)
    if given is not None:  # it stays where it is better, and where there was no answer: that is NaN
        there = dataclasses.replace(given, z=given.z.clamp(min=0.0))
        at = system.problem.products(there.x, there.nu, there.z)
        own = residuals(system.problem, yardstick, there.x, there.nu, there.z, at)
        kept = ~(own.largest >= fit.largest)
        point, fit = where_rows(kept, there, point), where_rows(kept, own, fit)
    out_of_steps = ~result.settled & (result.steps >= solver.max_steps)
    status = torch.where(out_of_steps, int(Status.MAX_STEPS), int(Status.NUMERICAL))
    status = torch.where(fit.largest <= solver.tolerance, int(Status.SUCCESS), status)
    ray = torch.zeros_like(point.x)
    return Outcome(point.x, point.nu, point.z, point.s, active, fit, result.steps, status, ray), system


def _correct(
    system: Reduction, yardstick: Yardstick, point: Point, active: Tensor, tol: float, patience: int
) -> tuple[Point, Residuals]:
    """Solve the equations of the active set again and again for the residual that is left; the best point counts.

    Each correction must halve the residual of some row; with patience, what counts is the mean over more of them.
    """
    problem = system.problem
    best, fit = point, None
    enough = _EXACT * torch.finfo(point.x.dtype).eps
    x, z = point.x, point.z
    for _ in range(CORRECTIONS * patience):
        nu, z = point.nu, z.clamp(min=0.0)
        at = problem.products(x, nu, z)
        now = residuals(problem, yardstick, x, nu, z, at)
        trial = Point(x, nu, z, problem.d - at.cx)
        if fit is None:
            best, fit, progress = trial, now, True
        else:
            better = ~(now.largest >= fit.largest)
            progress = bool((better & (now.largest < 0.5 ** (1 / patience) * fit.largest)).any())
            # what is so close is rounding, which the next correction draws anew
            close = (now.largest > tol) & (now.largest < _CLOSE * tol)
            progress = progress or (patience > 1 and bool(close.any()))
            best, fit = where_rows(better, trial, best), where_rows(better, now, fit)
        if not progress or bool((fit.largest <= enough).all()):
            break
        dx, dnu, dz = system.solve(*at.left(problem.p, problem.b, problem.d))
        point = Point(x + dx, nu + dnu, z + dz, point.s)
        x, z = on_set(problem, point, active)
    assert fit is not None
    return best, fit


class _Curved(NamedTuple):
    """What is known of Q.

    Attributes:
        problem: with a Q that is convex as far as it was rounding that was not.
        chol: L L^T = Q (1|B, n, n) for a dense Q.
        semidefinite: whether some row's Q is singular or close to it.
        saddle: (B,) the rows whose Q has a negative eigenvalue, None if there are none.
    """

    problem: Problem
    chol: Tensor | None
    semidefinite: bool
    saddle: Tensor | None


def _factor_q(problem: Problem, data: torch.dtype, *, assume: bool) -> _Curved:
    """An eigenvalue below 0 by the rounding of float32, where Q came in that, is lifted to 0; any, if Q is to be
    assumed convex."""
    if problem.coupling is not None and problem.stage is None:
        problem = problem.dense()  # no use of a sparse Q
    q, chol = problem.Q, None
    if problem.diagonal:
        largest, least = q.abs().amax(-1), q.amin(-1)
    elif problem.coupling is not None:
        largest = problem.largest_diagonal().clamp(min=TINY[q.dtype])
        shifted = dataclasses.replace(problem, Q=q + _SHIFT * largest.unsqueeze(-1))
        least = least_pivots(shifted, largest)
    else:
        chol, info = torch.linalg.cholesky_ex(q)
        largest = q.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        least = torch.where(info == 0, chol.diagonal(dim1=-2, dim2=-1).square().amin(-1), -torch.inf)
    near = ~(least > SINGULAR * largest)
    if not bool(near.any()):
        return _Curved(problem, chol, False, None)
    if problem.coupling is not None:
        if not bool((least < 0).any()):
            return _Curved(problem, None, True, None)  # eigenvalues are above -shift, which is noise next to rho
        near, q = least < 0, torch.diag_embed(q) + problem.coupling.dense()
    eigenvalues = q[near] if problem.diagonal else torch.linalg.eigvalsh(q[near])
    lowest, size = eigenvalues.amin(-1), eigenvalues.abs().amax(-1)
    saddle = torch.zeros_like(near)
    if not assume:
        saddle[near] = lowest < -NEGATIVE[data] * size
    # what is rounding in float64 is left: a lift would give a minimum to an objective that falls for ever
    lift = torch.zeros_like(largest)
    lift[near] = torch.where(lowest < -NEGATIVE[torch.float64] * size, -lowest, 0.0)
    if bool((lift > 0).any()):
        row, q = lift.unsqueeze(-1), problem.Q
        q = q + (row if q.dim() == 2 else torch.diag_embed(row.expand(-1, problem.n)))
        problem = dataclasses.replace(problem, Q=q)
    return _Curved(problem, chol, True, saddle.expand(len(problem.p)) if bool(saddle.any()) else None)


def _diagnose(problem: Problem, outcome: Outcome, solver: PrimalDual, semidefinite: bool) -> Outcome:
    """Unsolved rows: is there a proof that no point is feasible, or that the objective falls for ever? The compiled
    kernel is asked first, and torch, which is slower and more exact, where its answer proves nothing."""

    def by_torch(cone: Problem) -> tuple[Tensor, Tensor]:
        found, _ = _attempt(of_cone(cone), Yardstick.of(cone), solver, None)
        return found.x, found.nu

    def by_kernel(cone: Problem) -> tuple[Tensor, Tensor]:
        quick = dispatch.run_kernels(cone, solver, None) if dispatch.fits(cone, solver, cone.p.dtype) else None
        return by_torch(cone) if quick is None else (quick[0].x, quick[0].nu)

    if not dispatch.fits(problem, solver, problem.p.dtype):
        return _with_proofs(problem, outcome, semidefinite, by_torch)
    found = _with_proofs(problem, outcome, semidefinite, by_kernel)
    left = (found.status == outcome.status).nonzero().squeeze(-1)
    if not len(left):
        return found
    return found.put(left, _with_proofs(select_rows(left, problem), select_rows(left, outcome), semidefinite, by_torch))


def _with_proofs(problem: Problem, outcome: Outcome, semidefinite: bool, minimise: certificates.Minimise) -> Outcome:
    """The outcome with the proofs that ``minimise``, which projects onto cones, leads to."""
    infeasible = torch.zeros_like(outcome.status, dtype=torch.bool)
    nearest, nu, z = outcome.x, outcome.nu, outcome.z
    if nu.shape[-1] + z.shape[-1]:
        nearest, nu, z, infeasible = certificates.farkas(problem, minimise)
    ray, unbounded = torch.zeros_like(nearest), torch.zeros_like(infeasible)
    if semidefinite:
        ray, unbounded = certificates.ray(problem, minimise)
    unbounded = unbounded & ~infeasible
    row = infeasible.unsqueeze(-1)
    status = torch.where(unbounded, int(Status.DUAL_INFEASIBLE), outcome.status)
    x = torch.where(row, nearest, outcome.x)
    return dataclasses.replace(
        outcome,
        x=x,
        s=problem.d - problem.Cx(x),
        nu=torch.where(row, nu, outcome.nu),
        z=torch.where(row, z, outcome.z),
        status=torch.where(infeasible, int(Status.PRIMAL_INFEASIBLE), status),
        ray=torch.where(unbounded.unsqueeze(-1), ray, 0.0),
    )
