"""Energies without a minimum are told from those whose minimum is far away, or not attained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from icnn_rl import Box, SolveError, Status, Unconstrained, minimize
from icnn_rl.nn import ICNN
from icnn_rl.solvers import ProjectedGradient, ProjectedNewton, Solver
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64
SOLVERS = [ProjectedNewton(), ProjectedGradient(max_steps=50)]


def _icnn(dtype: torch.dtype, pull: float) -> ICNN:
    """Grows at most by the sum of its weights in any direction, less ``pull`` along the first."""
    torch.manual_seed(0)
    net = ICNN(2, (8, 8)).to(dtype)
    with torch.no_grad():
        net.passthrough[-1].weight.copy_(torch.tensor([[[-pull, 0.0]]]))
    return net


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_network_without_a_minimum(solver: Solver, dtype: torch.dtype) -> None:
    net, y0 = _icnn(dtype, 100.0), torch.zeros(3, 2, dtype=dtype)
    solution = minimize(net, solver, y0, throw=False)
    assert (solution.status == Status.DUAL_INFEASIBLE).all()
    solution.value.sum().backward()
    assert all(part.grad is None or not part.grad.any() for part in net.parameters())
    with pytest.raises(SolveError, match="keeps falling along a ray"):
        minimize(net, solver, y0)
    half = minimize(net, solver, y0, domain=Box(-1.0, torch.inf), throw=False)
    assert (half.status == Status.DUAL_INFEASIBLE).all()
    other = minimize(
        net, solver, y0, domain=Box(torch.tensor([-1.0, -1.0], dtype=dtype), torch.tensor([1.0, torch.inf]))
    )
    assert (other.status == Status.SUCCESS).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_both_kinds(solver: Solver) -> None:
    slope = torch.tensor([0.5, 2.0, 0.9], dtype=DOUBLE)
    energy = lambda y: torch.nn.functional.softplus(y).sum(-1) - slope * y.sum(-1)  # noqa: E731
    solution = minimize(energy, solver, torch.zeros(3, 1, dtype=DOUBLE), throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.DUAL_INFEASIBLE, Status.SUCCESS]


@pytest.mark.parametrize("lower", [-torch.inf, -1.0])
@pytest.mark.parametrize("seed", range(6))
def test_random_cones(seed: int, lower: float) -> None:
    """max_i a_i . y has a minimum, 0, where no direction has a negative product with all a_i: a linear programme."""
    slopes = draw(seed, 1, 6, 4).double() + (0.6 if lower == -torch.inf else -0.6)
    energy = lambda y: (10 * (slopes @ y.unsqueeze(-1)).squeeze(-1)).logsumexp(-1) / 10  # noqa: E731
    box = Box(lower, torch.inf)
    solution = minimize(
        energy, ProjectedNewton(max_steps=200), torch.zeros(1, 4, dtype=DOUBLE), domain=box, throw=False
    )
    rows = np.hstack((slopes[0].numpy(), -np.ones((6, 1))))
    ends = [(-1.0 if lower == -torch.inf else 0.0, 1.0)] * 4 + [(None, None)]
    least = optimize.linprog([0, 0, 0, 0, 1.0], A_ub=rows, b_ub=np.zeros(6), bounds=ends).fun
    assert abs(least) > 1e-3 or least > -1e-9  # no case is in doubt
    assert (int(solution.status) == Status.DUAL_INFEASIBLE) == (least < -1e-3)


@pytest.mark.parametrize(
    "energy",
    [
        lambda y: (1e-12 * y * y - y).sum(-1),
        lambda y: torch.exp(-y).sum(-1),
        lambda y: (torch.sqrt(1 + y * y) - 0.9999 * y).sum(-1),
        lambda y: torch.nn.functional.softplus(-y).sum(-1),
    ],
    ids=["far", "not attained", "flat", "level"],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_minimum_that_is_far_or_not_attained(solver: Solver, energy: Callable[[Tensor], Tensor]) -> None:
    solution = minimize(energy, solver, torch.zeros(2, 2, dtype=DOUBLE), domain=Unconstrained(), throw=False)
    assert not (solution.status == Status.DUAL_INFEASIBLE).any()
