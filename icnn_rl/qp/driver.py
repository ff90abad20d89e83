"""From a problem to its solution and what is known about it: attempts, corrections, certificates. No gradients here.

Rows that the quick attempt leaves unsolved are solved again with equilibrated data and more care; what is still
unsolved is asked whether it is infeasible or unbounded, each question a quadratic programme that always has a solution.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp import kkt as systems
from icnn_rl.qp.active_set import iterate, on_set
from icnn_rl.qp.certificates import Residuals, residuals
from icnn_rl.qp.external import External, likely_active
from icnn_rl.qp.kkt import Kkt, Mixed, Point, System
from icnn_rl.qp.problem import TINY, Problem, matvec, rmatvec
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.tensor_tree import leaves, pick, rebuild, where
from icnn_rl.solution import Status

__all__ = ["NonConvexError", "Outcome", "solve"]

#: Corrections of a point by its residual at most; a residual of so many eps needs none.
_CORRECTIONS, _EXACT = 8, 100.0
#: How many times as many for rows that were not solved at once.
_PATIENCE = 8
#: A smallest pivot or eigenvalue below this, relative, is none; below minus this it is a negative one.
_SINGULAR = 1e-9
_NEGATIVE = {torch.float64: 1e-12, torch.float32: 1e-5}
#: Active-set steps at most from the answer of another solver.
_POLISH = 4
#: Of certificates: the share of the largest multiplier that is noise, the largest relative error, and the length, where
#: 1 is possible, below which a projection counts as 0.
_NOISE, _CERTIFIED, _SHORT = 1e-11, 1e-8, 1e-7


@dataclass(frozen=True)
class Outcome:
    """A row each: x, nu, z, s = d - C x, the active set, relative residuals, factorisations, and the status. Where the
    status is PRIMAL_INFEASIBLE, nu and z are its certificate; where it is DUAL_INFEASIBLE, ``ray``, zero elsewhere."""

    x: Tensor
    nu: Tensor
    z: Tensor
    s: Tensor
    active: Tensor
    residuals: Residuals
    steps: Tensor
    status: Tensor
    ray: Tensor


def solve(
    problem: Problem, solver: PrimalDual | External, data: torch.dtype, active: Tensor | None = None
) -> tuple[Outcome, System]:
    """Solve all rows; every number in ``problem`` must be finite.

    Args:
        problem: the rows.
        solver: settings.
        data: dtype that the numbers came in: how well they are known.
        active: (B, k) bool, a guess of the active constraints.

    Returns:
        The outcome, and the system factored on the active sets.

    Raises:
        NonConvexError: some Q has a negative eigenvalue.
    """
    problem = problem.with_norms()
    problem, chol, semidefinite = _factor_q(problem, data)
    given = solver.answers(problem) if isinstance(solver, External) else None
    ours = PrimalDual(tol=solver.tol) if isinstance(solver, External) else solver
    system = systems.choose(problem, chol, semidefinite)
    if data == torch.float32 and ours.dtype == "input":
        system = systems.in_single(system)
    outcome, first = _attempt(system, ours, active, given)
    failed = _unsolved(outcome)
    if failed is None:
        return outcome, first
    given = None if given is None else pick(failed, given)
    again, careful = _attempt(systems.equilibrate(pick(failed, problem)), ours, None, given, patience=_PATIENCE)
    better = ~(again.residuals.largest >= outcome.residuals.largest[failed])  # true next to a NaN
    outcome, mixed = put(outcome, failed, again, better), Mixed(problem, first, failed, careful)
    failed = _unsolved(outcome)
    if failed is not None:
        part = pick(failed, problem)
        outcome = put(outcome, failed, _diagnose(part, pick(failed, outcome), ours, semidefinite))
    return outcome, mixed


def _unsolved(outcome: Outcome) -> Tensor | None:
    rows = (outcome.status != Status.SUCCESS).nonzero().squeeze(-1)
    return rows if rows.numel() else None


def put(whole: Outcome, index: Tensor, part: Outcome, marked: Tensor | None = None) -> Outcome:
    """``whole`` with the rows at ``index`` taken from ``part``, or those of them that are marked."""
    if marked is not None:
        index = index[marked]
    merged = []
    for a, b in zip(leaves(whole), leaves(part), strict=True):
        merged.append(a.index_copy(0, index, b if marked is None else b[marked]))
    return rebuild(whole, iter(merged))


def _attempt(
    system: Kkt, solver: PrimalDual, active: Tensor | None, given: Point | None = None, patience: int = 1
) -> tuple[Outcome, Kkt]:
    """Find the active sets, then the points that belong to them; ``given`` are points that another solver found."""
    steps = solver.max_steps
    if given is not None:
        active, steps = likely_active(system.problem, given), _POLISH
    guess = None if active is None else system.guess(active)
    result, factored = iterate(system.inner, steps, guess)
    system, active = systems.with_inner(system, factored), system.outer(result.active)
    point = system.lift(result.point)
    if given is not None:  # it stays where the set did not settle, and where there was no answer: that is NaN
        point = where(result.settled & ~given.x.isnan().any(-1), point, given)
    point, fit = _correct(system, point, active, patience)
    out_of_steps = ~result.settled & (result.steps >= solver.max_steps)
    status = torch.where(out_of_steps, int(Status.MAX_STEPS), int(Status.NUMERICAL))
    status = torch.where(fit.largest <= solver.tol, int(Status.SUCCESS), status)
    ray = torch.zeros_like(point.x)
    return Outcome(point.x, point.nu, point.z, point.s, active, fit, result.steps, status, ray), system


def _correct(system: Kkt, point: Point, active: Tensor, patience: int) -> tuple[Point, Residuals]:
    """Solve the equations of the active set again and again for the residual that is left; the best point counts.

    Each correction must halve the residual of some row; with patience, what counts is the mean over more of them.
    """
    problem = system.problem
    best, fit = point, None
    enough = _EXACT * torch.finfo(point.x.dtype).eps
    x, z = point.x, point.z
    for _ in range(_CORRECTIONS * patience):
        nu, z = point.nu, z.clamp(min=0.0)
        at = problem.products(x, nu, z)
        now = residuals(problem, x, nu, z, at)
        trial = Point(x, nu, z, problem.d - at.cx)
        if fit is None:
            best, fit, progress = trial, now, True
        else:
            better = ~(now.largest >= fit.largest)
            progress = bool((better & (now.largest < 0.5 ** (1 / patience) * fit.largest)).any())
            best, fit = where(better, trial, best), where(better, now, fit)
        if not progress or bool((fit.largest <= enough).all()):
            break
        dx, dnu, dz = system.solve(*at.left(problem.p, problem.b, problem.d))
        point = Point(x + dx, nu + dnu, z + dz, point.s)
        x, z = on_set(problem, point, active)
    assert fit is not None
    return best, fit


def _factor_q(problem: Problem, data: torch.dtype) -> tuple[Problem, Tensor | None, bool]:
    """L L^T = Q for a dense Q, and whether some row's Q is singular or close to it.

    An eigenvalue below 0 by the rounding of the dtype that Q came in is lifted to 0.
    """
    q, chol = problem.Q, None
    if problem.diagonal:
        largest, least = q.abs().amax(-1), q.amin(-1)
    else:
        chol, info = torch.linalg.cholesky_ex(q)
        largest = q.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        least = torch.where(info == 0, chol.diagonal(dim1=-2, dim2=-1).square().amin(-1), -torch.inf)
    near = ~(least > _SINGULAR * largest)
    if not bool(near.any()):
        return problem, chol, False
    eigenvalues = q[near] if problem.diagonal else torch.linalg.eigvalsh(q[near])
    lowest = eigenvalues.amin(-1)
    negative = (lowest < -_NEGATIVE[data] * eigenvalues.abs().amax(-1)).nonzero().squeeze(-1)
    if negative.numel():
        raise NonConvexError(int(near.nonzero()[negative[0]]), float(lowest[negative[0]]))
    lift = torch.zeros_like(largest)
    lift[near] = -lowest.clamp(max=0.0)
    q = q + lift.unsqueeze(-1) if problem.diagonal else q + torch.diag_embed(lift.unsqueeze(-1).expand(-1, problem.n))
    return dataclasses.replace(problem, Q=q), chol, True


class NonConvexError(ValueError):
    """Q of a row has a negative eigenvalue."""

    def __init__(self, row: int, eigenvalue: float) -> None:
        self.row, self.eigenvalue = row, eigenvalue
        super().__init__(
            f"Q: expected a positive semidefinite matrix, got one with the eigenvalue {eigenvalue:.4g} in row {row} of "
            "the batch. Such a problem is not convex; adding a multiple of the identity makes it so."
        )


def _diagnose(problem: Problem, outcome: Outcome, solver: PrimalDual, semidefinite: bool) -> Outcome:
    """Unsolved rows: is there a proof that no point is feasible, or that the objective falls for ever?"""
    nearest, nu, z, infeasible = _farkas(problem, solver)
    ray, unbounded = (
        _ray(problem, solver) if semidefinite else (torch.zeros_like(nearest), torch.zeros_like(infeasible))
    )
    unbounded = unbounded & ~infeasible
    row = infeasible.unsqueeze(-1)
    status = torch.where(unbounded, int(Status.DUAL_INFEASIBLE), outcome.status)
    x = torch.where(row, nearest, outcome.x.nan_to_num(0.0, 0.0, 0.0))
    return dataclasses.replace(
        outcome,
        x=x,
        s=problem.d - problem.Cx(x),
        nu=torch.where(row, nu, outcome.nu),
        z=torch.where(row, z, outcome.z),
        status=torch.where(infeasible, int(Status.PRIMAL_INFEASIBLE), status),
        ray=torch.where(unbounded.unsqueeze(-1), ray, 0.0),
    )


def _farkas(problem: Problem, solver: PrimalDual) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The point that violates the constraints least, nu and z, and whether these prove that none can be met.

    With R = [A; C], r = (b, d) and y = (nu, z), the projection of -r onto the cone {R^T y = 0, z >= 0} has r^T y =
    -|y|^2. Where this is negative, no x has A x = b and C x <= d, for y^T R x = 0 would be at most r^T y. The
    multiplier of R^T y = 0 is the point. Rows of R have norm 1 here.
    """
    rows = systems.stack(problem.A, problem.constraint_matrix())
    right = torch.cat((problem.b, problem.d), -1)
    norms = torch.linalg.vector_norm(rows, dim=-1)
    scale = torch.where(norms > 0, 1.0 / norms, 1.0)
    q = problem.b.shape[-1]
    exists = torch.nn.functional.pad(_ones_if_none(problem), (q, 0), value=1.0)
    scale = scale * exists
    rows, right = rows * scale.unsqueeze(-1), right * scale
    size = torch.linalg.vector_norm(right, dim=-1, keepdim=True).clamp(min=TINY[right.dtype])
    signed = torch.nn.functional.pad(_ones_if_none(problem), (q, 0))
    y, x = _onto_cone(-right / size, rows.mT, signed, solver)
    # what is rounding next to the largest must go: a proof has no tolerance in units
    y = torch.where((signed > 0) & (y < 0), 0.0, y) * exists
    y = torch.where(y.abs() > _NOISE * torch.linalg.vector_norm(y, dim=-1, keepdim=True), y, 0.0)
    off, slope = rmatvec(rows, y), rmatvec(rows.abs(), y.abs())
    value, weight = (right * y).sum(-1), (right * y).abs().sum(-1)
    long = torch.linalg.vector_norm(y, dim=-1) > _SHORT
    proven = long & (off.abs() <= _CERTIFIED * slope).all(-1) & (value < -_SHORT * weight)
    y = y * scale
    return -size * x, y[:, :q], y[:, q:], proven


def _ray(problem: Problem, solver: PrimalDual) -> tuple[Tensor, Tensor]:
    """-p projected onto {r: Q r = 0, A r = 0, C r <= 0}, and whether the objective falls along it for ever.

    The projection r has p^T r = -|r|^2, so r = 0 says that there is no such direction.
    """
    tiny = TINY[problem.p.dtype]
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    q = q / q.abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
    flat = systems.stack(problem.A, q)
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True).clamp(min=tiny)
    cone = problem.changed(
        Q=torch.ones_like(problem.p[:1]),
        p=problem.p / size,
        A=flat,
        b=problem.p.new_zeros(problem.p.shape[0], flat.shape[-2]),
        d=torch.zeros_like(problem.d),
    )
    outcome, _ = _attempt(systems.eliminate(cone, False), solver, None)
    ray, certified = outcome.x, _CERTIFIED
    falls = (problem.p * ray).sum(-1) < -_SHORT * (problem.p * ray).abs().sum(-1)
    length = torch.linalg.vector_norm(ray, dim=-1, keepdim=True)
    stays = (matvec(flat, ray).abs() <= certified * torch.linalg.vector_norm(flat, dim=-1) * length).all(-1)
    inside = (problem.Cx(ray) * _ones_if_none(problem) <= certified * problem.row_norms() * length).all(-1)
    return ray, falls & stays & inside & (length.squeeze(-1) > _SHORT)


def _onto_cone(target: Tensor, flat: Tensor, signed: Tensor, solver: PrimalDual) -> tuple[Tensor, Tensor]:
    """The point of {y: F y = 0, y_i >= 0 where signed} nearest to target (B, N), and the multiplier of F y = 0."""
    zeros = torch.zeros_like(target)
    cone = Problem(
        Q=torch.ones_like(target[:1]),
        p=-target,
        G=None,
        A=flat,
        b=target.new_zeros(target.shape[0], flat.shape[-2]),
        d=zeros,
        lower=True,
        upper=False,
        present=signed.expand_as(target),
    ).with_norms()
    outcome, _ = _attempt(systems.eliminate(cone, False), solver, None)
    return outcome.x, outcome.nu


def _ones_if_none(problem: Problem) -> Tensor:
    """Which rows of C exist, (B, k)."""
    return torch.ones_like(problem.d) if problem.present is None else problem.present
