"""Bounds first, rows where they matter: the same answers as with the rows from the start."""

from __future__ import annotations

import pytest
import torch

from icnn_rl.nn import PICNN
from icnn_rl.sets import ConvexSet
from icnn_rl.solution import Status
from icnn_rl.solvers import ProjectedNewton
from icnn_rl.solvers.lazy_rows import solve_with_lazy_rows
from icnn_rl.solvers.minimize import solve
from icnn_rl.solvers.problem import Problem

BATCH, N = 64, 3


def programme(dtype: torch.dtype, h: float) -> tuple[Problem, torch.Tensor]:
    """Energies over sets with four rows each at distance ``h`` from the middle of the box."""
    torch.manual_seed(0)
    net = PICNN(4, N, context=(16,), hidden=(16,), activation="squareplus", ensemble=2).to(dtype)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.heads.weight.mul_(4.0)
    energy = net.bind(torch.randn(BATCH, 4, dtype=dtype), reduction="mean")
    G = torch.randn(BATCH, 4, N, dtype=torch.float64)
    rows = ConvexSet(G=G, h=h * G.norm(dim=-1), lb=-torch.ones(N), ub=torch.ones(N))
    start = torch.zeros(BATCH, N, dtype=dtype)
    return Problem(energy, rows, start), start


@pytest.mark.parametrize(("dtype", "tol", "close"), [(torch.float32, 1e-5, 5e-2), (torch.float64, 1e-11, 1e-4)])
@pytest.mark.parametrize("h", [0.02, 0.4, 5.0])
def test_the_same_minimisers_as_with_the_rows_from_the_start(dtype, tol, close, h):
    problem, start = programme(dtype, h)
    solver = ProjectedNewton(tol=tol)
    slow, quick = solve(problem, solver, start), solve_with_lazy_rows(problem, solver, start)
    assert bool(quick.success.all())
    torch.testing.assert_close(quick.value, slow.value, rtol=0, atol=close)
    torch.testing.assert_close(quick.fun, slow.fun, rtol=1e-5, atol=10 * tol)
    assert bool((quick.fun - quick.gap <= slow.fun + 1e-5).all())
    assert problem.region is not None
    assert not bool(problem.region.outside(quick.value, 16 * torch.finfo(dtype).eps).any())


def test_rows_that_do_not_matter_are_never_looked_at(monkeypatch):
    problem, start = programme(torch.float64, 5.0)
    monkeypatch.setattr("icnn_rl.solvers.region.Region.model", None)  # the model over the set: would fail
    assert bool(solve_with_lazy_rows(problem, ProjectedNewton(), start).success.all())


def test_empty_sets_and_nan_keep_their_status():
    problem, start = programme(torch.float64, 0.4)
    assert problem.region is not None
    assert problem.region.set.h is not None
    problem.region.set.h[3] = -10.0
    problem.energy.linear[:, 5] = torch.nan  # type: ignore[attr-defined]
    found = solve_with_lazy_rows(problem, ProjectedNewton(), start)
    assert found.status[3] == Status.PRIMAL_INFEASIBLE
    assert found.status[5] == Status.NONFINITE_INPUT
    others = torch.ones(BATCH, dtype=torch.bool)
    others[[3, 5]] = False
    assert bool(found.success[others].all())


def test_bounds_that_contradict_each_other_are_left_to_the_solver():
    problem, start = programme(torch.float64, 0.4)
    lb, ub = -torch.ones(BATCH, N), torch.ones(BATCH, N)
    lb[2] = 2.0
    problem = Problem(problem.energy, ConvexSet(lb=lb, ub=ub), start)
    found = solve_with_lazy_rows(problem, ProjectedNewton(), start)
    assert found.status[2] == Status.PRIMAL_INFEASIBLE
    assert int(found.success.sum()) == BATCH - 1
