"""The start from averages of the energy: near the minimiser, and never in the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icnn_rl.nn import ICNN, PICNN, EnsembleEnergy
from icnn_rl.sets import Box, Unconstrained
from icnn_rl.solvers import Problem, ProjectedNewton, Solver, solve
from icnn_rl.solvers.newton.smoothed_start import smoothed_start
from icnn_rl.testing.minimisation import draw

BOX = Box(-1.0, 1.0)


def _steep(hidden: tuple[int, ...] = (64,), rows: int = 64) -> EnsembleEnergy:
    """Like a trained critic's: weights so large that units bend within a fraction of the box."""
    torch.manual_seed(0)
    net = PICNN(5, 4, (16,), hidden, activation="squareplus", ensemble=2)
    with torch.no_grad():
        for layer in net.passthrough:
            layer.weight.mul_(15.0)
        net.heads.weight.mul_(3.0)
        return net.bind(draw(0, rows, 5).float(), "mean")


def _steps(energy: EnsembleEnergy, start: Tensor, solver: Solver) -> Tensor:
    solution = solve(Problem(energy, BOX, start), solver, start)
    assert solution.success.all()
    return solution.num_steps


def test_it_saves_more_steps_than_it_takes() -> None:
    energy, solver = _steep(), ProjectedNewton(tol=1e-5)
    zeros = energy.start()
    near = smoothed_start(Problem(energy, BOX, zeros), zeros)
    cold, warm = _steps(energy, zeros, solver), _steps(energy, near, solver)
    assert warm.float().mean() <= cold.float().mean() - 1.0
    assert warm.max() < cold.max()


@pytest.mark.parametrize("hidden", [(8,), (8, 8)], ids=str)
@pytest.mark.parametrize("domain", [BOX, Box(torch.tensor([-1.0, 0.0, 2.0, 3.0]), torch.tensor([1.0, 0.5, 2.0, 9.0]))])
def test_it_stays_in_the_box(hidden: tuple[int, ...], domain: Box) -> None:
    energy = _steep(hidden, rows=8)
    zeros = energy.start()
    problem = Problem(energy, domain, zeros)
    near = smoothed_start(problem, zeros)
    assert ((near >= problem.lower) & (near <= problem.upper)).all()


def test_without_averages_or_bounds_the_start_is_kept() -> None:
    energy, y = _steep(rows=8), draw(1, 8, 4).float()
    assert smoothed_start(Problem(lambda y: (y * y).sum(-1), BOX, y), y) is y
    assert smoothed_start(Problem(energy, Unconstrained(), y), y) is y
    softplus = PICNN(5, 4, (16,), (8,), ensemble=2).bind(draw(0, 8, 5).float(), "mean")
    assert smoothed_start(Problem(softplus, BOX, y), y) is y


def test_rows_that_are_not_finite_keep_their_start_and_disturb_nobody() -> None:
    energy = _steep(rows=8)
    zeros = energy.start()
    clean = smoothed_start(Problem(energy, BOX, zeros), zeros)
    energy.layers[0].offset[:, 3] = float("nan")
    near = smoothed_start(Problem(energy, BOX, zeros), zeros)
    assert (near[3] == 0).all()
    others = torch.arange(8) != 3
    torch.testing.assert_close(near[others], clean[others])


@pytest.mark.parametrize("bound", [1.0, torch.ones(3), torch.ones(4, 3)])
@pytest.mark.parametrize("ensemble", [None, 4])
def test_bounds_of_every_shape_give_the_same_start(bound: float | Tensor, ensemble: int | None) -> None:
    torch.manual_seed(0)
    energy = ICNN(3, (8,), activation="squareplus", ensemble=ensemble).bind("mean")
    y = torch.zeros(4, 3)
    expected = smoothed_start(Problem(energy, Box(-torch.ones(4, 3), torch.ones(4, 3)), y), y)
    torch.testing.assert_close(smoothed_start(Problem(energy, Box(-bound, bound), y), y), expected)


def test_a_tolerance_for_every_row() -> None:
    energy = ICNN(3, (8,), activation="squareplus").bind()
    y = torch.zeros(2, 3)
    problem = Problem(energy, Box(-1.0, 1.0), y)
    found = solve(problem, ProjectedNewton(), y, atol=torch.tensor([1e9, 0.0]))
    assert found.success.all()
    assert found.num_steps[0] == 0 < found.num_steps[1]
