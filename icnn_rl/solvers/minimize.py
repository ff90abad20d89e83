"""Convex minimisation over the inputs of a network: the entry point, and the one loop that all solvers share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_same_kind
from icnn_rl.eager import eager, no_forward_mode, transforms
from icnn_rl.sets import Domain, Unconstrained
from icnn_rl.solution import Solution, SolveError, Status
from icnn_rl.solvers.adjoints import DualKKT, Implicit, ImplicitCG, Unrolled, differentiable
from icnn_rl.solvers.bundle import BundleEntropy
from icnn_rl.solvers.derivatives import EnergyFunction
from icnn_rl.solvers.envelope import minimum
from icnn_rl.solvers.gradient import ProjectedGradient
from icnn_rl.solvers.loop import finite_start, freeze, report, solved
from icnn_rl.solvers.newton import dispatch
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.newton.smoothed_start import STAGES, smoothed_start
from icnn_rl.solvers.problem import Problem, Progress, Solver
from icnn_rl.solvers.proximal_bundle import ProximalBundle
from icnn_rl.solvers.unbounded import without_minimum

__all__ = ["check_adjoint", "minimize", "with_gradients"]

_WORTH_SHRINKING = 32  # smaller batches take as long as one sample does: calling the operations is what costs

Adjoint = Implicit | ImplicitCG | DualKKT | Unrolled


@eager("minimize", dual=True)
def minimize(
    energy: EnergyFunction,
    solver: Solver,
    y0: Tensor,
    *,
    domain: Domain | None = None,
    adjoint: Adjoint | str | None = "auto",
    warm_start: Tensor | None = None,
    throw: bool = True,
) -> Solution:
    """Find argmin_y energy(y) over a domain, for every sample of a batch on its own.

    Args:
        energy: convex function y (B, n) -> (B,), each sample on its own: ``net.bind(x)``, an :class:`ICNN`, or any
            callable. Methods ``value_and_grad`` and ``value_grad_hessian`` are used where present, autograd elsewhere;
            an attribute ``curvature`` (n,) or (B, n), m >= 0 with energy - 1/2 sum_j m_j y_j^2 convex, sharpens the
            certificate. The package's networks are convex whatever their weights; that a callable is has to be known,
            and an attribute ``convex`` that is false takes the certificate away.
        solver: settings, for instance ``ProjectedNewton(tol=1e-6, max_steps=50)``.
        y0: (B, n) starting point, float32 or float64; projected onto the domain first. Any number of leading batch
            dimensions, or none.
        domain: ``Box(lower, upper)``, ``Unconstrained()`` (the default), ``Polytope(...)``, ``Simplex()``,
            ``Ball(radius)``, or any :class:`icnn_rl.sets.ConvexSet`.
        adjoint: how gradients of ``value`` with respect to what the energy depends on are computed. ``"auto"``: DualKKT
            for BundleEntropy on an energy that is not known to be smooth, None for ProximalBundle on such a one,
            Implicit otherwise. Unrolled: ProjectedGradient only. With any of them ``fun`` has the gradient of the
            minimum, by the envelope theorem, which takes no linear solve; Unrolled: that of the steps. None: value and
            fun are detached.
        warm_start: (B, n), taken instead of ``y0`` as the starting point: ``solution.warm_start`` of a similar problem;
            of a batch with more rows the first ones.
        throw: raise if any sample failed to meet its tolerance; otherwise look at ``solution.status``.

    Returns:
        A :class:`Solution`. ``gap`` is certified for convex energies: on a box one gradient bounds the minimum from
        below, on other sets the multipliers of its rows together with the gradient. A sample with a non-finite energy,
        or set, keeps its starting point, NaN in ``fun`` and the status NONFINITE_INPUT; one whose set is empty gets the
        point that violates it least, NaN in ``fun`` and PRIMAL_INFEASIBLE; one whose energy falls for ever along a ray
        of an unbounded box DUAL_INFEASIBLE. None of this affects the others, and failed samples pass no gradient on.
        With the default tolerances a value is off by about 1e-3 of its scale, and a gradient likewise: for gradcheck
        take float64, ``ProjectedNewton(tol=1e-14)`` and ``adjoint=Implicit(damping=0.0)``.

    Raises:
        SolveError: some sample did not succeed and ``throw`` is set; carries the solution.
        ValueError: a wrong argument.

    Example:
        >>> energy = lambda y: ((y - 2.0) ** 2).sum(-1)
        >>> minimize(energy, ProjectedNewton(), torch.zeros(1, 2), domain=Box(-1.0, 1.0)).value
        tensor([[1., 1.]])
    """
    domain = Unconstrained() if domain is None else domain
    check_adjoint(adjoint)
    if transforms()[1] and not isinstance(adjoint, Unrolled):
        raise no_forward_mode("minimize")
    start = _check_arguments(energy, solver, y0, domain, warm_start)
    problem = Problem(energy, domain, start)
    solution = _unroll(problem, solver, start) if isinstance(adjoint, Unrolled) else solve(problem, solver, start)
    falling = without_minimum(problem, solution, start)
    if bool(falling.any()):
        status = torch.where(falling, int(Status.DUAL_INFEASIBLE), solution.status)
        solution = dataclasses.replace(solution, status=status)
    if not getattr(energy, "convex", True):
        solution = dataclasses.replace(solution, gap=torch.full_like(solution.gap, torch.inf))
    if throw and not bool(solution.success.all()):
        raise SolveError(solution)
    return with_gradients(problem, solver, solution, domain, adjoint)


def with_gradients(
    problem: Problem, solver: Solver, solution: Solution, domain: Domain, adjoint: Adjoint | str | None
) -> Solution:
    """``value`` and ``fun`` as functions of what the energy and the domain depend on, as ``adjoint`` says."""
    chosen = _default_adjoint(problem.energy, solver) if adjoint == "auto" else adjoint
    if chosen is None or isinstance(chosen, Unrolled) or not torch.is_grad_enabled():
        return solution
    assert not isinstance(chosen, str)  # checked before
    live = differentiable(chosen, problem, solver, solution, domain)
    return dataclasses.replace(solution, value=live.value, fun=minimum(problem, solver, solution, domain, live))


def check_adjoint(adjoint: object) -> None:
    if adjoint not in ("auto", None) and not isinstance(adjoint, Adjoint):
        raise ValueError(
            f"adjoint: expected 'auto', None, Implicit(), ImplicitCG(), DualKKT() or Unrolled(), got {adjoint!r}."
        )


def _check_arguments(energy: object, solver: object, y0: Tensor, domain: object, warm_start: Tensor | None) -> Tensor:
    if not callable(energy):
        raise ValueError(f"energy: expected a callable y (B, n) -> (B,), got {type(energy).__name__}.")
    if isinstance(solver, type) or not all(hasattr(solver, name) for name in ("init", "step", "progress", "max_steps")):
        raise ValueError(f"solver: expected a solver object such as ProjectedNewton(), got {solver!r}.")
    if isinstance(domain, type) or not isinstance(domain, Domain):
        raise ValueError(
            "domain: expected Box(lower, upper), Unconstrained(), Polytope(...), Simplex(), Ball(radius) or a "
            f"ConvexSet, got {domain!r}."
        )
    start = check_float_tensor("y0", y0)
    if start.dim() == 0:
        raise ValueError("y0: expected shape (..., n), got a number. Give it at least one dimension.")
    if warm_start is not None:
        check_same_kind("warm_start", check_float_tensor("warm_start", warm_start), "y0", y0)
        start = _fitted(warm_start, y0)
    start = start.detach()
    try:
        with torch.no_grad():
            f = energy(start)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"energy: cannot be evaluated at y0 of shape {tuple(start.shape)}: {error}. y0 needs the energy's rows and "
            "variables; a network of x and y is bound to x first: net.bind(x)."
        ) from error
    if not isinstance(f, Tensor) or f.shape != start.shape[:-1]:
        came = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(
            f"energy: expected one number a row, shape {tuple(start.shape[:-1])} for y0 {tuple(start.shape)}, got "
            f"{came}."
        )
    return start


def _fitted(warm_start: Tensor, y0: Tensor) -> Tensor:
    """The warm start of a batch; of one with more rows, the first: the last batch of an epoch may be smaller."""
    if warm_start.dim() == y0.dim() == 2 and len(warm_start) > len(y0):
        warm_start = warm_start[: len(y0)]
    if warm_start.shape != y0.shape:
        raise ValueError(
            f"warm_start: expected y0's shape {tuple(y0.shape)}, or one with more rows, got {tuple(warm_start.shape)}."
        )
    return warm_start


def _default_adjoint(energy: EnergyFunction, solver: Solver) -> Implicit | DualKKT | None:
    piecewise_linear = not getattr(energy, "smooth", False)
    if isinstance(solver, ProximalBundle):
        return None if piecewise_linear else Implicit()
    return DualKKT() if isinstance(solver, BundleEntropy) and piecewise_linear else Implicit()


def _unroll(problem: Problem, solver: Solver, start: Tensor) -> Solution:
    """All ``max_steps`` steps with the graph kept: no early end, so that the answer is one fixed composition of
    steps."""
    if not isinstance(solver, ProjectedGradient):
        raise ValueError(f"adjoint: Unrolled() needs ProjectedGradient, got {type(solver).__name__}; use Implicit().")
    if problem.region is not None:
        raise ValueError("adjoint: Unrolled() goes through the steps on a box; on other sets use Implicit().")
    problem = problem.with_graph()
    state = solver.init(problem, problem.project(start))
    for _ in range(solver.max_steps):
        state = solver.step(problem, state)
    live = solver.progress(problem, state)
    progress = Progress(*(item.detach() for item in live))
    sound = finite_start(progress)
    steps = torch.full_like(progress.fun, solver.max_steps, dtype=torch.int64)
    return dataclasses.replace(report(solver, state, progress, sound, steps), fun=live.fun)


@eager("solve")
@torch.no_grad()
def solve(
    problem: Problem, solver: Solver, y0: Tensor, *, averages: bool = False, atol: float | Tensor = 0.0
) -> Solution:
    """Run ``solver`` from ``y0`` until every sample is done: :func:`minimize` without its checks and gradients.

    Finished samples are frozen, and taken out of a large batch once they are the majority; none depends on another.
    With ``averages`` the search begins from :func:`~icnn_rl.solvers.newton.smoothed_start.smoothed_start`, not from
    ``y0`` itself. A sample is also done, and successful, once its certified gap is at most ``atol``, in f's units.
    """
    one_for_all = not isinstance(atol, Tensor) or atol.numel() == 1
    if isinstance(solver, ProjectedNewton) and solver.compiled and one_for_all:
        if dispatch.fits(problem, y0):
            return dispatch.newton(problem, y0, solver, STAGES if averages else 0, float(atol))
        if not averages and dispatch.fits_polytopes(problem, y0):
            found = dispatch.newton_on_set(problem, y0, solver, float(atol))
            if found is not None and problem.region is not None and problem.region.meets(found.value):
                return found
    if averages:
        y0 = smoothed_start(problem, y0)
    problem, start, excluded = problem.start(y0)
    everything, whole = problem, solver.init(problem, start)
    progress = solver.progress(problem, whole)
    sound = finite_start(progress)
    num_steps = torch.zeros_like(progress.fun, dtype=torch.int64)
    state, index = whole, None  # the rows still worked on, and where they belong; None: all of them
    active = sound & ~solved(progress, solver.tol, atol)
    if excluded is not None:
        active = active & (excluded == Status.SUCCESS)
    for _ in range(solver.max_steps):
        remaining = int(active.sum())
        if remaining == 0:
            break
        if 2 * remaining <= active.numel() >= _WORTH_SHRINKING and problem.separable:
            whole = _put_back(whole, state, index)
            chosen = active.nonzero().squeeze(-1)
            index = chosen if index is None else index[chosen]
            problem, active = problem.rows(chosen), active[chosen]
            state = type(state)(*(None if part is None else part.index_select(0, chosen) for part in state))
        stepped = solver.step(problem, state)
        state = stepped if remaining == active.numel() else freeze(active, stepped, state)
        progress = solver.progress(problem, state)
        if index is None:
            num_steps += active
        else:
            num_steps[index] += active
        active = active & ~(solved(progress, solver.tol, atol) | progress.stalled)
    whole = _put_back(whole, state, index)
    if index is not None:
        progress = solver.progress(everything, whole)
    solution = report(solver, whole, progress, sound, num_steps, atol)
    return solution if excluded is None else _exclude(solution, excluded)


def _exclude(solution: Solution, status: Tensor) -> Solution:
    """The report with the rows that had no set to solve over."""
    bad = status != Status.SUCCESS
    return dataclasses.replace(
        solution,
        fun=torch.where(bad, torch.nan, solution.fun),
        gap=torch.where(bad, torch.inf, solution.gap),
        residual=torch.where(bad, torch.inf, solution.residual),
        status=torch.where(bad, status, solution.status),
    )


def _put_back(whole: Any, state: Any, index: Tensor | None) -> Any:
    """The batch with the rows at ``index`` brought up to date."""
    if index is None:
        return state
    parts = zip(whole, state, strict=True)
    return type(whole)(*(None if part is None else part.index_copy(0, index, fresh) for part, fresh in parts))
