"""Newton's method over polytopes, compiled: the solutions of the loop in torch, with certificates that hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl.nn import PICNN
from icnn_rl.numba_support import available
from icnn_rl.sets import ConvexSet
from icnn_rl.solution import Solution, Status
from icnn_rl.solvers import Problem, ProjectedNewton, solve
from icnn_rl.solvers.newton import dispatch
from icnn_rl.solvers.newton.polytopes import Polytopes, outside

pytestmark = pytest.mark.skipif(not available(), reason="needs numba")

ROWS, N = 40, 4


def draw(dtype: torch.dtype, shared: bool, m: int = 6, seed: int = 0) -> tuple[Problem, Tensor, ConvexSet]:
    """f over polytopes that hold the middle of the box, many of which cut off its minimiser."""
    torch.manual_seed(seed)
    net = PICNN(3, N, (8,), (16,), activation="squareplus", ensemble=2, strong_convexity=0.05).to(dtype)
    with torch.no_grad():
        net.heads.weight.mul_(4.0)
    energy = net.bind(torch.randn(ROWS, 3, dtype=dtype), reduction="mean")
    batch = () if shared else (ROWS,)
    G = torch.randn(*batch, m, N, dtype=torch.float64)
    G = G / G.norm(dim=-1, keepdim=True)
    h = 0.05 + 0.4 * torch.rand(*batch, m, dtype=torch.float64)
    region = ConvexSet(G, h, lb=-1.0, ub=1.0)
    start = torch.zeros(ROWS, N, dtype=dtype)
    return Problem(energy, region, start), start, region


def both(problem: Problem, start: Tensor, solver: ProjectedNewton) -> tuple[Solution, Solution]:
    assert dispatch.fits_polytopes(problem, start)
    compiled = dispatch.newton_on_set(problem, start, solver, 0.0)
    assert compiled is not None
    return compiled, solve(problem, dataclasses.replace(solver, compiled=False), start)


@pytest.mark.parametrize(("dtype", "tol", "close"), [(torch.float32, 1e-5, 1e-3), (torch.float64, 1e-11, 1e-6)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("m", [1, 6, 30])
def test_the_same_solutions(dtype: torch.dtype, tol: float, close: float, shared: bool, m: int) -> None:
    problem, start, region = draw(dtype, shared, m)
    compiled, plain = both(problem, start, ProjectedNewton(tol=tol, max_steps=40))
    assert bool(compiled.success.all())
    torch.testing.assert_close(compiled.value, plain.value, rtol=0, atol=close)
    torch.testing.assert_close(compiled.fun, plain.fun, rtol=close, atol=close)
    assert bool((region.violation(compiled.value.double()) <= 1e-6).all())
    assert bool((region.violation(compiled.value.double()) > -1e-6).any())  # some lie on a row


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_certificate_holds_at_every_step(steps: int) -> None:
    problem, start, _ = draw(torch.float64, False)
    least = solve(problem, ProjectedNewton(tol=1e-12, max_steps=60, compiled=False), start).fun
    found, _ = both(problem, start, ProjectedNewton(tol=1e-12, max_steps=steps))
    assert bool((found.gap >= found.fun - least - 1e-12).all())
    assert bool((found.num_steps <= steps).all())


def test_an_empty_set_is_left_to_the_loop_in_torch() -> None:
    problem, start, region = draw(torch.float64, False)
    assert region.h is not None
    assert region.G is not None
    G, h = region.G.clone(), region.h.clone()
    G[3, 0], G[3, 1] = torch.eye(N, dtype=torch.float64)[0], -torch.eye(N, dtype=torch.float64)[0]
    h[3, 0], h[3, 1] = -0.5, -0.5
    empty = Problem(problem.energy, ConvexSet(G, h, lb=-1.0, ub=1.0), start)
    assert dispatch.newton_on_set(empty, start, ProjectedNewton(), 0.0) is None
    solution = solve(empty, ProjectedNewton(), start)
    assert solution.status[3] == Status.PRIMAL_INFEASIBLE
    assert int(solution.success.sum()) == ROWS - 1


def test_a_row_that_is_not_finite_is_told_and_disturbs_nobody() -> None:
    problem, start, _ = draw(torch.float64, True)
    whole, _ = both(problem, start, ProjectedNewton(tol=1e-10))
    problem, start, region = draw(torch.float64, True)
    energy = dataclasses.replace(problem.energy, constant=problem.energy.constant.clone())  # type: ignore[attr-defined, type-var]
    energy.constant[:, 5] = torch.nan
    found = dispatch.newton_on_set(Problem(energy, region, start), start, ProjectedNewton(tol=1e-10), 0.0)
    assert found is not None
    assert found.status[5] == Status.NONFINITE_INPUT
    others = torch.arange(ROWS) != 5
    assert torch.equal(found.value[others], whole.value[others])


def test_polytopes_of_sets() -> None:
    _, _, region = draw(torch.float64, False)
    polytopes = Polytopes.of(region, N)
    assert polytopes is not None
    y = np.random.default_rng(0).normal(size=(ROWS, N))
    near = polytopes.moved(y)
    assert near is not None
    expected = region.project(torch.from_numpy(y)).value
    np.testing.assert_allclose(near, expected.numpy(), atol=1e-8)
    assert region.G is not None
    assert region.h is not None
    slack = region.h - (region.G @ torch.from_numpy(y).unsqueeze(-1)).squeeze(-1)
    np.testing.assert_array_equal(outside(y, polytopes.G, polytopes.h), (slack < 0).any(-1).numpy())
    assert Polytopes.of(ConvexSet(lb=-1.0), N) is None
    assert Polytopes.of(ConvexSet(lb=1.0, ub=0.0), N) is None
    box = Polytopes.of(ConvexSet(lb=-1.0, ub=torch.full((N,), 0.5, dtype=torch.float64)), N)
    assert box is not None
    np.testing.assert_allclose(box.moved(y), y.clip(-1.0, 0.5))  # type: ignore[arg-type]
