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
from icnn_rl.qp._tree import leaves, pick, rebuild, where
from icnn_rl.qp.external import External, likely_active
from icnn_rl.qp.kkt import Kkt, Mixed, Point, System
from icnn_rl.qp.primal_dual import PrimalDual, iterate, on_set
from icnn_rl.qp.problem import Problem, matvec, rmatvec
from icnn_rl.qp.verify import Residuals, residuals
from icnn_rl.solution import Status

__all__ = ["NonConvexError", "Outcome", "solve"]

#: Corrections of a point by its residual at most; a residual of so many eps needs none.
_CORRECTIONS, _EXACT = 8, 400.0
#: A smallest pivot or eigenvalue below this, relative, is none.
_SINGULAR = {torch.float64: 1e-9, torch.float32: 1e-4}
#: Share of the largest multiplier that is noise in a certificate, and its largest relative error.
_NOISE = 1e-11
_CERTIFIED = {torch.float64: 1e-8, torch.float32: 1e-4}
#: Active-set steps from the active set that another solver proposes.
_POLISH = 4


@dataclass(frozen=True)
class Outcome:
    """A row each: x, nu, z, the active set, relative residuals, factorisations, and the status. Where the status is
    PRIMAL_INFEASIBLE, nu and z are its certificate; where it is DUAL_INFEASIBLE, ``ray``, zero elsewhere."""

    x: Tensor
    nu: Tensor
    z: Tensor
    active: Tensor
    residuals: Residuals
    steps: Tensor
    status: Tensor
    ray: Tensor


def solve(problem: Problem, solver: PrimalDual | External, active: Tensor | None = None) -> tuple[Outcome, System]:
    """Solve all rows; every number in ``problem`` must be finite.

    Args:
        problem: the rows.
        solver: settings.
        active: (B, k) bool, a guess of the active constraints.

    Returns:
        The outcome, and the system factored on the active sets.

    Raises:
        NonConvexError: some Q has a negative eigenvalue.
    """
    problem = problem.with_norms()
    chol, semidefinite = _factor_q(problem)
    given = solver.answers(problem) if isinstance(solver, External) else None
    ours = PrimalDual(tol=solver.tol) if isinstance(solver, External) else solver
    outcome, first = _attempt(systems.choose(problem, chol, semidefinite), ours, active, given)
    failed = _unsolved(outcome)
    if failed is None:
        return outcome, first
    given = None if given is None else pick(failed, given)
    again, careful = _attempt(systems.equilibrate(pick(failed, problem)), ours, None, given)
    better = again.residuals.largest < outcome.residuals.largest[failed]
    outcome, system = _put(outcome, failed, again, better), Mixed(problem, first, failed, careful)
    failed = _unsolved(outcome)
    if failed is not None:
        part = pick(failed, problem)
        outcome = _put(outcome, failed, _diagnose(part, pick(failed, outcome), ours, semidefinite), None)
    return outcome, system


def _unsolved(outcome: Outcome) -> Tensor | None:
    rows = (outcome.status != Status.SUCCESS).nonzero().squeeze(-1)
    return rows if rows.numel() else None


def _put(whole: Outcome, index: Tensor, part: Outcome, marked: Tensor | None) -> Outcome:
    """``whole`` with the rows at ``index`` taken from ``part``, or those of them that are marked."""
    if marked is not None:
        index = index[marked]
    merged = []
    for a, b in zip(leaves(whole), leaves(part), strict=True):
        merged.append(a.index_copy(0, index, b if marked is None else b[marked]))
    return rebuild(whole, iter(merged))


def _attempt(system: Kkt, solver: PrimalDual, active: Tensor | None, given: Point | None = None) -> tuple[Outcome, Kkt]:
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
    point, fit = _correct(system, point, active)
    tol = solver.tolerance(point.x.dtype)
    out_of_steps = ~result.settled & (result.steps >= solver.max_steps)
    status = torch.where(out_of_steps, int(Status.MAX_STEPS), int(Status.NUMERICAL))
    status = torch.where(fit.largest <= tol, int(Status.SUCCESS), status)
    ray = torch.zeros_like(point.x)
    return Outcome(point.x, point.nu, point.z, active, fit, result.steps, status, ray), system


def _correct(system: Kkt, point: Point, active: Tensor) -> tuple[Point, Residuals]:
    """Solve the equations of the active set again and again for the residual that is left; the best point counts."""
    problem = system.problem
    best, fit = point, None
    enough = _EXACT * torch.finfo(point.x.dtype).eps
    x, z = point.x, point.z
    for _ in range(_CORRECTIONS):
        nu, z = point.nu, z.clamp(min=0.0)
        at = problem.products(x, nu, z)
        now = residuals(problem, x, nu, z, at)
        trial = Point(x, nu, z, problem.d - at.cx)
        if fit is None:
            best, fit, progress = trial, now, True
        else:
            better = ~(now.largest >= fit.largest)
            progress = bool((better & (now.largest < 0.5 * fit.largest)).any())
            best, fit = where(better, trial, best), where(better, now, fit)
        if not progress or bool((fit.largest <= enough).all()):
            break
        dx, dnu, dz = system.solve(-at.gradient(problem.p), problem.b - at.ax, problem.d - at.cx)
        point = Point(x + dx, nu + dnu, z + dz, point.s)
        x, z = on_set(problem, point, active)
    assert fit is not None
    return best, fit


def _factor_q(problem: Problem) -> tuple[Tensor | None, bool]:
    """L L^T = Q for a dense Q, and whether some row's Q is singular or close to it."""
    q, chol = problem.Q, None
    if problem.diagonal:
        largest, least = q.amax(-1), q.amin(-1)
    else:
        chol, info = torch.linalg.cholesky_ex(q)
        largest = q.diagonal(dim1=-2, dim2=-1).amax(-1)
        least = torch.where(info == 0, chol.diagonal(dim1=-2, dim2=-1).square().amin(-1), 0.0)
    near = ~(least > _SINGULAR[q.dtype] * largest)
    if not bool(near.any()):
        return chol, False
    eigenvalues = q[near] if problem.diagonal else torch.linalg.eigvalsh(q[near])
    lowest = eigenvalues.amin(-1)
    negative = (lowest < -_SINGULAR[q.dtype] * eigenvalues.abs().amax(-1)).nonzero().squeeze(-1)
    if negative.numel():
        raise NonConvexError(int(near.nonzero()[negative[0]]), float(lowest[negative[0]]))
    return chol, True


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
    return dataclasses.replace(
        outcome,
        x=torch.where(row, nearest, outcome.x.nan_to_num(0.0, 0.0, 0.0)),
        nu=torch.where(row, nu, outcome.nu),
        z=torch.where(row, z, outcome.z),
        status=torch.where(infeasible, int(Status.PRIMAL_INFEASIBLE), status),
        ray=torch.where(unbounded.unsqueeze(-1), ray, 0.0),
    )


def _farkas(problem: Problem, solver: PrimalDual) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The point that violates the constraints least, nu and z, and whether these prove that none can be met.

    min 1/2 |A x - b|^2 + 1/2 |t|^2 s.t. C x - t <= d (rows of norm 1) always has a solution, and there nu = A x - b and
    z = t satisfy A^T nu + C^T z = 0 and b^T nu + d^T z = -(|nu|^2 + |z|^2). Where this is negative, no x has A x = b
    and C x <= d, for nu^T A x + z^T C x = 0 would be at most b^T nu + d^T z.
    """
    k, n = problem.d.shape[-1], problem.n
    norms = problem.row_norms()
    c_scale = torch.where(norms > 0, 1.0 / norms, 1.0)
    c = problem.constraint_matrix() * c_scale.unsqueeze(-1) if k else None
    d = problem.d * c_scale
    a_scale = torch.ones_like(problem.b)
    qq = torch.zeros(1, n, n, dtype=d.dtype, device=d.device)
    p = torch.zeros_like(problem.p)
    if problem.A is not None:
        a_norms = problem.equality_norms()
        a_scale = torch.where(a_norms > 0, 1.0 / a_norms, 1.0)
        a = problem.A * a_scale.unsqueeze(-1)
        qq, p = torch.matmul(a.mT, a), -rmatvec(a, a_scale * problem.b)
    batch = max(qq.shape[0], 1 if c is None else c.shape[0])
    big = torch.zeros(batch, n + k, n + k, dtype=d.dtype, device=d.device)
    big[:, :n, :n] = qq
    big.diagonal(dim1=-2, dim2=-1)[:, n:] = 1.0
    rows = None
    if c is not None:
        minus = -torch.eye(k, dtype=d.dtype, device=d.device).expand(batch, -1, -1)
        rows = torch.cat((c.expand(batch, -1, -1), minus), -1)
    phase = Problem(
        big, torch.cat((p, torch.zeros_like(d)), -1), rows, None, d[:, :0], d, False, False, problem.present
    )
    outcome, _ = _attempt(systems.primal(phase, True), solver, None)
    x = outcome.x[:, :n]
    nu, z = a_scale * (problem.Ax(x) - problem.b), outcome.z
    z = z if problem.present is None else z * problem.present
    # what is rounding next to the largest must go: a proof has no tolerance in units
    heavy = _NOISE * torch.cat((nu.abs(), z), -1).amax(-1, keepdim=True)
    nu, z = torch.where(nu.abs() > heavy, a_scale * nu, 0.0), torch.where(z > heavy, c_scale * z, 0.0)
    off = problem.Ctz(z) + problem.Aty(nu)
    weight = torch.cat((problem.b * nu, problem.d * z), -1)
    value, size = weight.sum(-1), weight.abs().sum(-1)
    slope = rmatvec(problem.A.abs(), nu.abs()) if problem.A is not None else 0.0
    slope = slope + (rmatvec(problem.constraint_matrix().abs(), z) if k else 0.0)
    certified = _CERTIFIED[x.dtype]
    exact = (off.abs() <= certified * slope).all(-1)
    return x, nu, z, exact & (value < -certified * size)


def _ray(problem: Problem, solver: PrimalDual) -> tuple[Tensor, Tensor]:
    """-p projected onto {r: Q r = 0, A r = 0, C r <= 0}, and whether the objective falls along it for ever.

    The projection r has p^T r = -|r|^2, so r = 0 says that there is no such direction.
    """
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    q = q / q.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)
    flat = [q] if problem.A is None else [q, problem.A]
    batch = max(part.shape[0] for part in flat)
    rows = torch.cat([part.expand(batch, -1, -1) for part in flat], -2)
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True).clamp(min=1e-300)
    cone = problem.changed(
        Q=torch.ones_like(problem.p[:1]),
        p=problem.p / size,
        A=rows,
        b=problem.p.new_zeros(problem.p.shape[0], rows.shape[-2]),
        d=torch.zeros_like(problem.d),
    )
    outcome, _ = _attempt(systems.eliminate(cone, False), solver, None)
    ray, certified = outcome.x, _CERTIFIED[problem.p.dtype]
    falls = (problem.p * ray).sum(-1) < -1e-6 * (problem.p * ray).abs().sum(-1)
    length = torch.linalg.vector_norm(ray, dim=-1, keepdim=True)
    stays = (matvec(rows, ray).abs() <= certified * torch.linalg.vector_norm(rows, dim=-1) * length).all(-1)
    up = problem.Cx(ray) if problem.present is None else problem.Cx(ray) * problem.present
    inside = (up <= certified * problem.row_norms() * length).all(-1)
    return ray, falls & stays & inside & (length.squeeze(-1) > 1e-6)
