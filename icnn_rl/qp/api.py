"""``solve_qp``: check, build the problem, solve, attach the graph, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from icnn_rl.qp import driver, inputs
from icnn_rl.qp.external import External
from icnn_rl.qp.functorch import as_one_operation, transformed
from icnn_rl.qp.gradients import differentiable
from icnn_rl.qp.linear.base import Triple
from icnn_rl.qp.outcome import Outcome, Solved
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.qp.sparse import Sparse
from icnn_rl.qp.tensor_tree import map_tensors
from icnn_rl.solution import SolveError

__all__ = ["solve_qp"]


def solve_qp(
    Q: Tensor | Sparse | Diagonal | float,
    p: Tensor,
    G: Tensor | Sparse | None = None,
    h: Tensor | None = None,
    A: Tensor | Sparse | None = None,
    b: Tensor | None = None,
    lb: Tensor | float | None = None,
    ub: Tensor | float | None = None,
    *,
    solver: PrimalDual | External | None = None,
    warm_start: ActiveSet | None = None,
    blocks: Sequence[int] | None = None,
    throw: bool = True,
) -> QPSolution:
    """Solve a batch of convex quadratic programmes, differentiably.

        min_z  1/2 z^T Q z + p^T z    subject to    G z <= h,  A z = b,  lb <= z <= ub.

    Leading batch dimensions broadcast; what lacks them is shared by all rows, and its gradient is the sum over the
    rows. None drops a block. Every row is solved and judged on its own.

    Args:
        Q: positive semidefinite: (..., n, n), of which only the symmetric part matters; ``Diagonal(d)`` with d
            (..., n); a number (a tensor without dimensions may carry a gradient), the multiple of the identity; or
            sparse, as G and A may be.
        p: (..., n), float32 or float64.
        G, h: (..., m, n) and (..., m); +inf in h: no constraint. G and A may be sparse: tensors of torch, or
            :class:`Sparse` where a batch has one pattern. Time and memory follow the entries where Q is diagonal and
            positive, or where all matrices are sparse and the problem comes in stages, see ``blocks``.
        A, b: (..., q, n) and (..., q). Dependent rows are welcome as long as they agree.
        lb, ub: (..., n) or numbers; -inf and +inf: no bound. lb = ub fixes a variable.
        solver: settings; ``PrimalDual()`` by default. ``External(name)`` has another package find the solution.
        warm_start: ``solution.warm_start`` of a similar problem with the same shapes. It is tried first and
            changes nothing but the time.
        blocks: sizes of stages, n in all, that the variables come in: no row of G or A, and no entry of Q, may reach
            further than from one stage to the next, as in optimal control. Time and memory are then linear in the
            number of stages. Entries of dense matrices outside this pattern are 0 and get no gradient, nor do blocks
            of Q that are 0. Stages of sparse matrices are found without this.
        throw: raise if any row failed; otherwise look at ``solution.status``.

    Returns:
        A :class:`QPSolution` in the dtype that came. Where a constraint is active with a zero multiplier the solution
        has a kink, and the gradient is the one on the side of the active set found. Failed rows pass no gradient on.

    Raises:
        ValueError: a wrong argument; NonConvexError, a ValueError, where Q has a negative eigenvalue.
        SolveError: some row failed and ``throw`` is set; carries the solution.

    Example:
        >>> solve_qp(1.0, torch.tensor([-1.0, -3.0]), lb=0.0, ub=2.0).value
        tensor([1., 2.])

    References:
        B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017.
    """
    solver = PrimalDual() if solver is None else solver
    inputs.check(Q, p, G, h, A, b, lb, ub, solver)
    shape = inputs.batch_shape(p=p, Q=Q, G=G, h=h, A=A, b=b, lb=lb, ub=ub)
    live = inputs.build(Q, p, G, h, A, b, lb, ub, shape, blocks)
    guess = None if warm_start is None else inputs.stack_active(warm_start, live, shape)

    def solve(problem: Problem, guess: Tensor | None, mapped: tuple[int, ...] = ()) -> Solved:
        if problem.Q.dim() == 3 and not torch.equal(problem.Q, problem.Q.mT):
            problem = dataclasses.replace(problem, Q=0.5 * (problem.Q + problem.Q.mT))
        solved = driver.solve(problem, solver, p.dtype, guess)
        if throw and not solved.success:
            outcome = solved.outcome
            point = outcome.x, outcome.nu, outcome.z
            raise SolveError(_report(problem, outcome, point, torch.Size((*mapped, *shape)), p.dtype))
        return solved

    if transformed():
        solved = as_one_operation(lambda problem, guess, mapped: solve(problem, guess, mapped).spread(), live, guess)
    else:
        with torch.no_grad():
            solved = solve(map_tensors(lambda t: t.detach() if t.requires_grad else t, live), guess)
    point, good = differentiable(solved, live)
    return _report(live, solved.outcome, point, shape, p.dtype, good)


def _report(
    problem: Problem,
    outcome: Outcome,
    point: Triple,
    shape: torch.Size,
    dtype: torch.dtype,
    good: Tensor | None = None,
) -> QPSolution:
    """The solution in the user's shapes and dtype. ``point`` carries the graph of the rows that were solved, marked in
    ``good`` (B, 1); None: all of them, or there is no graph."""
    x, nu, z = point

    def out(t: Tensor) -> Tensor:
        t = t if len(shape) == 1 else t.reshape((*shape, *t.shape[1:]))
        return t if t.dtype == dtype or not t.is_floating_point() else t.to(dtype)

    z_g, z_lower, z_upper = problem.blocks(z)
    on_g, on_lower, on_upper = problem.blocks(outcome.active)
    none = torch.zeros_like(outcome.x)
    off = none > 0
    return QPSolution(
        value=out(x),
        fun=out(_objective(problem, x, outcome.x, good)),
        gap=out(outcome.residuals.duality),
        status=out(outcome.status),
        num_steps=out(outcome.steps),
        residual=out(outcome.residuals.largest),
        dual_ineq=out(z_g),
        dual_eq=out(nu),
        dual_lb=out(z_lower if problem.lower else none),
        dual_ub=out(z_upper if problem.upper else none),
        slack=out(outcome.s[:, : problem.m]),
        primal_residual=out(outcome.residuals.primal),
        dual_residual=out(outcome.residuals.dual),
        active=ActiveSet(out(on_g), out(on_lower if problem.lower else off), out(on_upper if problem.upper else off)),
        ray=out(outcome.ray),
    )


def _objective(problem: Problem, x: Tensor, found: Tensor, good: Tensor | None) -> Tensor:
    """1/2 x^T Q x + p^T x; of rows that are not good without a graph, and without the NaN that their data may hold."""
    if good is None:
        return problem.objective(x)
    with torch.no_grad():
        value = problem.objective(found)
    q, off = problem.Q, problem.coupling
    if q.shape[0] > 1:
        q = torch.where(good if q.dim() == 2 else good.unsqueeze(-1), q, 0.0)
    if off is not None and not off.shared:
        off = dataclasses.replace(off, values=torch.where(good, off.values, 0.0))
    kept = dataclasses.replace(problem, Q=q, coupling=off, p=torch.where(good, problem.p, 0.0))
    return torch.where(good.squeeze(-1), kept.objective(torch.where(good, x, 0.0)), value)
