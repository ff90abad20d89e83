"""``solve_qp``: check, build the problem, solve, attach the graph, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from icnn_rl.eager import eager, transformed
from icnn_rl.qp import driver, inputs
from icnn_rl.qp.elastic import Elastic, check_prices, with_slacks
from icnn_rl.qp.external import External
from icnn_rl.qp.functorch import as_one_operation
from icnn_rl.qp.gradients import differentiable, needs_graph
from icnn_rl.qp.inputs import Arguments
from icnn_rl.qp.outcome import Solved
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.pytree import map_tensors
from icnn_rl.qp.report import Report, Sides
from icnn_rl.qp.rounding import reconciled
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.qp.sparse import Sparse
from icnn_rl.qp.value import optimal_value
from icnn_rl.solution import SolveError

__all__ = ["solve_qp", "solve_with_precision"]

_DEFAULT = PrimalDual()


@eager("solve_qp", mapped=True)
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
    h_low: Tensor | None = None,
    elastic: Tensor | float | Elastic | None = None,
    solver: PrimalDual | External | None = None,
    warm_start: ActiveSet | None = None,
    blocks: Sequence[int] | None = None,
    throw: bool = True,
) -> QPSolution:
    """Solve a batch of convex quadratic programmes, differentiably.

        min_z  1/2 z^T Q z + p^T z    subject to    h_low <= G z <= h,  A z = b,  lb <= z <= ub.

    Leading batch dimensions broadcast; what lacks them is shared by all problems, and its gradient is the sum over
    these. None drops a block. Every problem is solved and judged on its own.

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
        h_low: (..., m), lower sides for the rows of G; -inf: none. Either of h and h_low may be left out. Where both
            are equal the row is an equation.
        elastic: the price rho > 0 of a unit of violation, a number or (...): rows of G (both sides) and equations may
            be broken, at rho (sum_i max(G z - h, h_low - G z, 0)_i + |A z - b|_1) more in the objective and in ``fun``.
            Bounds stay hard. ``Elastic(ineq=..., eq=...)`` takes a price for each row, and leaves hard what it has no
            price for. Every problem then has a feasible point, as long as lb <= ub. Multipliers are at most rho.
        solver: settings; ``PrimalDual()`` by default. ``External(name)`` has another package find the solution.
        warm_start: ``solution.warm_start`` of a similar problem with the same shapes, or with more rows, of which the
            first are taken. It is tried first and changes nothing but the time.
        blocks: sizes of stages, n in all, that the variables come in: no row of G or A, and no entry of Q, may reach
            further than from one stage to the next, as in optimal control. Time and memory are then linear in the
            number of stages. Entries of dense matrices outside this pattern are 0 and get no gradient, nor do blocks
            of Q that are 0. Stages of sparse matrices are found without this.
        throw: raise if any problem failed; otherwise look at ``solution.status``.

    Returns:
        A :class:`QPSolution` in the dtype that came. Where a constraint is active with a zero multiplier the solution
        has a kink, and the gradient is the one on the side of the active set found. Failed problems pass no gradient
        on.

    Raises:
        ValueError: a wrong argument; NonConvexError, a ValueError, where Q has a negative eigenvalue and ``throw`` is
                set.
        SolveError: some problem failed and ``throw`` is set; carries the solution.

    Example:
        >>> solve_qp(1.0, torch.tensor([-1.0, -3.0]), lb=0.0, ub=2.0).value
        tensor([1., 2.])

    References:
        B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017.
    """
    given = Arguments(Q, p, G, h, A, b, lb, ub, h_low)
    return solve_with_precision(
        given, None, elastic=elastic, solver=solver, warm_start=warm_start, blocks=blocks, throw=throw
    )


def solve_with_precision(
    given: Arguments,
    known: torch.dtype | None,
    *,
    elastic: Tensor | float | Elastic | None = None,
    solver: PrimalDual | External | None = None,
    warm_start: ActiveSet | None = None,
    blocks: Sequence[int] | None = None,
    throw: bool = True,
) -> QPSolution:
    """:func:`solve_qp` for numbers that were ``known`` in this dtype, whichever they come in: it decides on tolerances,
    and it is that of the answer. None: it is the one that they come in."""
    solver = _DEFAULT if solver is None else solver
    inputs.check(given, solver)
    data = given.p.dtype if known is None else known
    prices = None if elastic is None else check_prices(elastic, given.p, given.G, given.A)
    costs = {} if prices is None else {"elastic.ineq": prices.ineq, "elastic.eq": prices.eq}
    shape = inputs.batch_shape(given, **costs)
    live, form = inputs.build(given, shape, blocks)
    if prices is not None:
        live, form = with_slacks(live, form, prices, shape)
    guess = None if warm_start is None else inputs.stack_active(warm_start, live, form, shape)

    def solve_or_raise(problem: Problem, guess: Tensor | None, mapped: tuple[int, ...] = ()) -> Solved:
        if problem.Q.dim() == 3 and not torch.equal(problem.Q, problem.Q.mT):
            problem = dataclasses.replace(problem, Q=0.5 * (problem.Q + problem.Q.mT))
        if data == torch.float32:
            problem = reconciled(problem)
        solved = driver.solve_batch(problem, solver, data, guess)
        if throw and not solved.success:
            outcome = solved.outcome
            driver.check_convex(problem, outcome)
            point, fun = (outcome.x, outcome.nu, outcome.z), problem.objective(outcome.x)
            whole = torch.Size((*mapped, *shape))
            failed = Report(form, Sides.of(problem), outcome, point, fun, whole, data, traced=False)
            raise SolveError(failed.solution(), inputs.nonfinite(problem, form))
        return solved

    traced = needs_graph(live)
    if transformed():
        solved = as_one_operation(
            lambda problem, guess, mapped: solve_or_raise(problem, guess, mapped).spread(), live, guess
        )
    elif traced:
        with torch.no_grad():
            solved = solve_or_raise(map_tensors(Tensor.detach, live), guess)
    else:
        solved = solve_or_raise(live, guess)
    outcome, good = solved.outcome, None
    point = outcome.x, outcome.nu, outcome.z
    if traced:
        point, good = differentiable(solved, live)
        fun = optimal_value(live, point, outcome.x, good)
    else:
        fun = live.objective(outcome.x)
    return Report(form, Sides.of(live), outcome, point, fun, shape, data, traced).solution()
