"""A fixed number of steps gives what the loop with its early ends gives, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.nn import PICNN, EnsembleEnergy
from icnn_rl.sets import Box, Simplex, Unconstrained
from icnn_rl.solvers import Problem, ProjectedNewton, solve
from icnn_rl.solvers.newton.fixed_steps import solve_fixed_steps
from icnn_rl.solvers.newton.smoothed_start import smoothed_start
from icnn_rl.solvers.shortcuts import without_shortcuts
from icnn_rl.testing.minimisation import draw


def _steep(dtype: torch.dtype = torch.float64) -> EnsembleEnergy:
    torch.manual_seed(0)
    net = PICNN(5, 4, (16,), (32,), activation="squareplus", ensemble=2).to(dtype)
    with torch.no_grad():
        for layer in net.passthrough:
            layer.weight.mul_(15.0)
        net.heads.weight.mul_(3.0)
        return net.bind(draw(0, 64, 5).to(dtype), "mean")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_steps", [1, 3, 6, 30])
def test_it_gives_what_the_loop_with_early_ends_gives(max_steps: int, dtype: torch.dtype) -> None:
    energy = _steep(dtype)
    solver, start = ProjectedNewton(tol=1e-5, max_steps=max_steps), energy.start()
    problem = Problem(energy, Box(-1.0, 1.0), start)
    loop, fixed = solve(problem, solver, start), solve_fixed_steps(problem, solver, start)
    close = 1e-4 if dtype is torch.float32 else 1e-10
    torch.testing.assert_close(fixed.value, loop.value, rtol=0, atol=close)
    torch.testing.assert_close(fixed.fun, loop.fun, rtol=close, atol=close)
    assert torch.equal(fixed.status, loop.status)
    assert torch.equal(fixed.num_steps, loop.num_steps)
    assert (fixed.num_steps.max() > 1) == (max_steps > 1)


def test_every_row_may_have_a_gap_that_is_enough() -> None:
    energy = _steep()
    solver, start = ProjectedNewton(tol=1e-9, compiled=False), energy.start()
    problem = Problem(energy, Box(-1.0, 1.0), start)
    atol = torch.logspace(-6, 0, len(start), dtype=start.dtype)
    fixed = solve_fixed_steps(problem, solver, start, atol=atol)
    for row, own in enumerate(atol.tolist()):
        loop = solve(problem, solver, start, atol=own)
        assert fixed.num_steps[row] == loop.num_steps[row]
        assert fixed.success[row]
    assert (fixed.gap > 0.01 * atol).any()


def test_the_start_from_averages_is_the_same_without_questions() -> None:
    energy = _steep()
    start = energy.start()
    problem = Problem(energy, Box(-1.0, 1.0), start)
    asked = smoothed_start(problem, start)
    with without_shortcuts():
        torch.testing.assert_close(smoothed_start(problem, start), asked)


def test_another_energy_on_the_same_box() -> None:
    energy = _steep()
    start, solver = energy.start(), ProjectedNewton()
    template = Problem(lambda y: y.sum(-1), Box(-1.0, 1.0), start)
    found, expected = (solve(one, solver, start) for one in (template.of(energy), Problem(energy, Box(-1, 1), start)))
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.gap, expected.gap)


def test_rows_that_are_not_finite_are_reported_and_stay() -> None:
    def energy(y: Tensor) -> Tensor:
        return ((y - 0.3) ** 2).sum(-1) * torch.tensor([1.0, torch.nan])

    start = torch.zeros(2, 3)
    solution = solve_fixed_steps(Problem(energy, Box(-1.0, 1.0), start), ProjectedNewton(max_steps=3), start)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NONFINITE_INPUT]
    torch.testing.assert_close(solution.value[0], torch.full((3,), 0.3))
    assert torch.equal(solution.value[1], start[1])


@pytest.mark.parametrize("domain", [Unconstrained(), Simplex()])
def test_other_domains_are_refused(domain: Unconstrained | Simplex) -> None:
    start = torch.full((1, 2), 0.5)
    with pytest.raises(ValueError, match="a fixed number of steps is for boxes with finite bounds"):
        solve_fixed_steps(Problem(lambda y: (y * y).sum(-1), domain, start), ProjectedNewton(), start)
