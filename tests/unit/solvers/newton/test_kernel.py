"""The compiled kernel against the tensor code that it stands in for: same points, steps, certificates and statuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Solution, Status, minimize
from icnn_rl.nn import ICNN, PICNN, EnsembleEnergy
from icnn_rl.sets import Polytope, Simplex, Unconstrained
from icnn_rl.solvers import Problem, ProjectedNewton, solve
from icnn_rl.solvers.newton import constants, dispatch, method, smoothed_start
from icnn_rl.testing.minimisation import draw

kernel = pytest.importorskip("icnn_rl.solvers.newton.kernel", reason="numba is not installed")

BOX = Box(-1.0, 1.0)
DOUBLE = torch.float64
TOL = {torch.float32: 1e-6, DOUBLE: 1e-12}


def _steep(dtype: torch.dtype, n: int = 4, ensemble: int | None = 2, rows: int = 64) -> EnsembleEnergy:
    """Like a trained critic's: units bend within a fraction of the box, so that steps fail and the model is mended."""
    torch.manual_seed(n)
    net = PICNN(5, n, (16,), (64,), activation="squareplus", ensemble=ensemble).to(dtype)
    with torch.no_grad():
        net.passthrough[0].weight.mul_(15.0)
        net.heads.weight.mul_(3.0)
        return net.bind(draw(0, rows, 5).to(dtype), "none" if ensemble is None else "mean")


def _both(energy: EnsembleEnergy, domain: Box, y: Tensor, solver: ProjectedNewton) -> tuple[Solution, Solution]:
    problem = Problem(energy, domain, y)
    assert dispatch.fits(problem, y)
    return solve(problem, solver, y), solve(problem, dataclasses.replace(solver, compiled=False), y)


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize(("n", "ensemble"), [(1, 2), (4, None), (4, 3), (6, 2), (17, 2)])
def test_the_same_solutions(dtype: torch.dtype, n: int, ensemble: int | None) -> None:
    energy = _steep(dtype, n, ensemble)
    for start in (torch.zeros(64, n, dtype=dtype), draw(1, 64, n).to(dtype)):
        ours, torchs = _both(energy, BOX, start, ProjectedNewton(tol=10 * TOL[dtype]))
        assert ours.success.all()
        assert torchs.success.all()
        near = 1e-4 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(ours.value, torchs.value, atol=10 * near, rtol=0)
        torch.testing.assert_close(ours.fun, torchs.fun, atol=near, rtol=near)
        torch.testing.assert_close(ours.fun, energy(ours.value), atol=near, rtol=near)
        assert (ours.num_steps - torchs.num_steps).abs().float().mean() <= 0.3
        assert n < 6 or ours.num_steps.max() > 5  # or the mending was not tested


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_same_steps(steps: int) -> None:
    """In float64 rounding decides nothing this early: the points agree step by step, and so do certificates."""
    energy = _steep(DOUBLE)
    ours, torchs = _both(energy, BOX, energy.start(), ProjectedNewton(tol=1e-9, max_steps=steps))
    assert torch.equal(ours.status, torchs.status)
    assert torch.equal(ours.num_steps, torchs.num_steps)
    for name in ("value", "fun", "gap", "residual"):
        torch.testing.assert_close(getattr(ours, name), getattr(torchs, name), atol=1e-7, rtol=1e-7)


def test_a_gap_of_atol_is_enough() -> None:
    energy = _steep(DOUBLE)
    problem, solver = Problem(energy, BOX, energy.start()), ProjectedNewton(tol=1e-9)
    exact = solve(problem, solver, energy.start())
    for atol in (1e-2, 1e-1):
        ours, torchs = (
            solve(problem, dataclasses.replace(solver, compiled=compiled), energy.start(), atol=atol)
            for compiled in (True, False)
        )
        assert ours.success.all()
        assert torch.equal(ours.num_steps, torchs.num_steps)
        assert ours.num_steps.sum() < exact.num_steps.sum()
        assert 1e-6 < ours.gap.max() <= atol  # it did end early, and where it may
        assert (ours.fun - exact.fun).max() <= atol


@pytest.mark.parametrize("dtype", TOL)
def test_the_same_start(dtype: torch.dtype) -> None:
    energy = _steep(dtype)
    lower = torch.tensor([-1.0, 0.0, 2.0, 3.0], dtype=dtype)
    for domain in (
        BOX,
        Box(lower, torch.tensor([1.0, 0.5, 2.0, 9.0], dtype=dtype)),
        Box(-1.0 - draw(2, 64, 4).abs(), 1.0),
    ):
        zeros = energy.start()
        problem = Problem(energy, domain, zeros)
        ours = solve(problem, ProjectedNewton(tol=1.0), zeros, averages=True).value  # any point is good enough
        torchs = smoothed_start.smoothed_start(problem, zeros)
        torch.testing.assert_close(ours, torchs, atol=1e-3 if dtype == torch.float32 else 1e-9, rtol=0)


@pytest.mark.parametrize("dtype", TOL)
def test_bounds_of_every_shape_and_fixed_coordinates(dtype: torch.dtype) -> None:
    energy = _steep(dtype)
    for lower in (-0.3, torch.tensor([-1.0, 0.0, 0.3, 0.5]), -draw(2, 64, 4).abs()):
        domain = Box(lower, 0.5)
        ours, torchs = _both(energy, domain, energy.start(), ProjectedNewton(tol=10 * TOL[dtype]))
        low, high = domain.bounds(energy.start())
        assert ((ours.value >= low) & (ours.value <= high)).all()
        torch.testing.assert_close(ours.fun, torchs.fun, atol=1e-4, rtol=1e-4)


def test_what_all_rows_share() -> None:
    """A fully convex network has one row for the whole batch, no gates and no head."""
    torch.manual_seed(0)
    net = ICNN(3, (16,), activation="squareplus").double()
    start = draw(0, 8, 3).double()
    ours = minimize(net, ProjectedNewton(tol=1e-10), start, domain=BOX, adjoint=None)
    torchs = minimize(net, ProjectedNewton(tol=1e-10, compiled=False), start, domain=BOX, adjoint=None)
    torch.testing.assert_close(ours.value, torchs.value)


def test_rows_that_are_not_finite_are_told_and_disturb_nobody() -> None:
    energy = _steep(torch.float32, rows=8)
    zeros, others = energy.start(), torch.arange(8) != 3
    clean, _ = _both(energy, BOX, zeros, ProjectedNewton(tol=1e-5))
    energy.layers[0].offset[:, 3] = float("nan")
    ours, torchs = _both(energy, BOX, zeros, ProjectedNewton(tol=1e-5))
    assert ours.status[3] == torchs.status[3] == Status.NONFINITE_INPUT
    assert (ours.value[3] == 0).all()
    assert ours.fun[3].isnan()
    for name in ("value", "fun", "gap", "status", "num_steps", "residual"):
        assert torch.equal(getattr(ours, name)[others], getattr(clean, name)[others])


def test_the_precision_of_the_data_decides_when_a_row_is_stuck() -> None:
    energy = _steep(torch.float32)
    ours, torchs = _both(energy, BOX, energy.start(), ProjectedNewton(tol=1e-30, max_steps=100))
    assert not ours.failed.all()  # a gap below rounding is as good as none
    assert (ours.status != Status.MAX_STEPS).all()
    assert (torchs.status != Status.MAX_STEPS).all()
    assert torch.equal(ours.gap >= 0, torch.ones_like(ours.gap, dtype=torch.bool))


def test_gradients_go_through() -> None:
    torch.manual_seed(0)
    net = PICNN(5, 4, (16,), (8,), activation="squareplus").double()
    x, start = draw(0, 3, 5).double(), torch.zeros(3, 4, dtype=DOUBLE)
    gradients = []
    for compiled in (True, False):
        net.zero_grad()
        solver = ProjectedNewton(tol=1e-12, compiled=compiled)
        minimize(net.bind(x), solver, start, domain=BOX).value.square().sum().backward()
        gradients.append(net.heads.weight.grad)
    torch.testing.assert_close(*gradients)


def test_everything_else_goes_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    energy, y = _steep(torch.float32), torch.zeros(64, 4)
    softplus = PICNN(5, 4, (16,), (8,), ensemble=2).bind(draw(0, 64, 5), "mean")
    deep = PICNN(5, 4, (16,), (8, 8), activation="squareplus", ensemble=2).bind(draw(0, 64, 5), "mean")
    members = dataclasses.replace(energy, reduction="softmax")
    for other in (softplus, deep, members, lambda y: (y * y).sum(-1)):
        assert not dispatch.fits(Problem(other, BOX, y), y)
    half = Polytope(G=torch.ones(1, 4), h=torch.ones(1), lb=-1.0, ub=1.0)
    for domain in (Unconstrained(), Box(0.0, float("inf")), Simplex(), half):
        assert not dispatch.fits(Problem(energy, domain, y), y)
    assert dispatch.fits(Problem(energy, BOX, y), y)
    monkeypatch.setattr(dispatch, "available", lambda: False)  # numba is not installed
    assert not dispatch.fits(Problem(energy, BOX, y), y)
    monkeypatch.setattr(dispatch, "_kernel", lambda: pytest.fail("asked for the kernel"))
    assert minimize(energy, ProjectedNewton(tol=1e-5), y, domain=BOX, adjoint=None).success.all()


def test_shares_its_constants_with_the_tensor_code() -> None:
    for name in (name for name in vars(constants) if name.isupper()):
        twin = method if hasattr(method, name) else smoothed_start
        assert getattr(kernel, name) is getattr(twin, name) is getattr(constants, name)
