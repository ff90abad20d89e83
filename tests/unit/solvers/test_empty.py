"""Batches without rows: an answer without rows, whatever the network, the solver and the domain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from icnn_rl import Ball, Box, Polytope, Simplex, Unconstrained, minimize
from icnn_rl.constraints import ActionProjection, OptNetHead, l1_ball
from icnn_rl.nn import ICNN, PICNN, ConvPICNN
from icnn_rl.qp import QPLayer
from icnn_rl.sets import Domain
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, ProjectedNewton, ProximalBundle, Solver, solve
from icnn_rl.solvers.lazy_rows import solve_with_lazy_rows
from icnn_rl.solvers.problem import Problem

N = 4
ROWS = Polytope(G=torch.ones(1, N), h=torch.ones(1), lb=-1.0, ub=1.0)


def _energies() -> dict[str, object]:
    torch.manual_seed(0)
    x, energies = torch.zeros(0, 3), {}
    for hidden in ((), (5,), (5, 5)):
        energies[f"icnn {hidden}"] = ICNN(N, hidden, strong_convexity=0.1).bind()
        for reduction in ("mean", "softmax"):
            net = PICNN(3, N, (6,), hidden, ensemble=2, context_norm=True, activation="squareplus")
            energies[f"picnn {hidden} {reduction}"] = net.bind(x, reduction=reduction)
    energies["picnn relu"] = PICNN(3, N, (), (5, 5), activation="relu").bind(x)
    energies["conv"] = ConvPICNN((1, 2, 2), (1, 2, 2), (2, 2), (2,), latent=3).eval().bind(torch.zeros(0, 1, 2, 2))
    energies["own"] = lambda y: (y * y).sum(-1)
    return energies


BOX = Box(-1.0, 1.0)
SETS = [BOX, ROWS, Simplex(), Ball(1.0)]
PAIRS: list[tuple[Solver, Domain]] = [(BundleEntropy(), BOX)]
PAIRS += [
    (solver, domain) for solver in (ProjectedNewton(), ProjectedGradient()) for domain in (*SETS, Unconstrained())
]
PAIRS += [(ProximalBundle(), domain) for domain in SETS]


@pytest.mark.parametrize("name", _energies())
@pytest.mark.parametrize(("solver", "domain"), PAIRS, ids=lambda part: type(part).__name__)
def test_no_rows(name: str, solver: Solver, domain: Domain) -> None:
    energy = _energies()[name]
    solution = minimize(energy, solver, torch.zeros(0, N), domain=domain)  # type: ignore[arg-type]
    assert solution.value.shape == (0, N)
    for part in (solution.fun, solution.gap, solution.status, solution.num_steps, solution.residual):
        assert part.shape == (0,)
    if solution.value.requires_grad:
        (solution.value.sum() + solution.fun.sum()).backward()


@pytest.mark.parametrize("name", _energies())
def test_derivatives_of_no_rows(name: str) -> None:
    energy, y = _energies()[name], torch.zeros(0, N)
    if hasattr(energy, "value_and_grad"):
        assert [tuple(part.shape) for part in energy.value_and_grad(y)] == [(0,), (0, N)]
    if hasattr(energy, "value_grad_hessian"):
        assert [tuple(part.shape) for part in energy.value_grad_hessian(y)] == [(0,), (0, N), (0, N, N)]
    problem = Problem(energy, Box(-1.0, 1.0), y)  # type: ignore[arg-type]
    for found in (
        solve(problem, ProjectedNewton(), y, averages=True),
        solve_with_lazy_rows(problem, ProjectedNewton(), y),
    ):
        assert found.value.shape == (0, N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers(dtype: torch.dtype) -> None:
    x: Tensor = torch.zeros(0, N, dtype=dtype, requires_grad=True)
    head = OptNetHead(N, N, l1_ball(1.0), low=-1.0, high=1.0, n_ineq=2).to(dtype)
    layers: list[nn.Module] = [QPLayer(N, n_ineq=2).to(dtype), head]
    for out in (*(layer(x) for layer in layers), ActionProjection(l1_ball(1.0), low=-1.0, high=1.0)(None, x)):
        assert out.shape == (0, N)
        out.sum().backward()
