"""The implicit gradient without a Hessian: the same numbers as with one, and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, minimize
from icnn_rl.nn import PICNN, ConvPICNN
from icnn_rl.sets import Unconstrained
from icnn_rl.solvers import BundleEntropy, Implicit, ImplicitCG, ProjectedNewton, Solver
from icnn_rl.solvers.conjugate_gradients import conjugate_gradients

DOUBLE = torch.float64
EXACT = ImplicitCG(tol=1e-13, max_steps=200)
SOLVERS = [(ProjectedNewton(tol=1e-12), 0.3), (BundleEntropy(entropy=0.3, tol=1e-9, max_steps=40), 1.0)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _gradients(net: PICNN, solver: Solver, x: Tensor, width: float, adjoint: Implicit | ImplicitCG) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y0 = torch.zeros(len(x), net.y_features, dtype=x.dtype)
    weight = torch.linspace(-1.0, 1.0, y0.numel(), dtype=x.dtype).view_as(y0)
    value = minimize(net.bind(x), solver, y0, domain=Box(-width, width), adjoint=adjoint, throw=False).value
    return list(torch.autograd.grad((weight * value).sum(), [x, *net.parameters()], allow_unused=True))


@pytest.mark.parametrize(("solver", "width"), SOLVERS, ids=["newton", "bundle"])
def test_the_same_as_with_the_hessian(solver: Solver, width: float) -> None:
    net, x = PICNN(3, 6, (8,), (7, 5)).double(), torch.randn(5, 3, dtype=DOUBLE)
    for dense, free in zip(
        _gradients(net, solver, x, width, Implicit()), _gradients(net, solver, x, width, EXACT), strict=True
    ):
        assert (dense is None) == (free is None)
        if dense is not None:
            torch.testing.assert_close(free, dense, rtol=1e-7, atol=1e-9)


def test_finite_differences_through_an_energy_without_closed_forms() -> None:
    def argmin(centre: Tensor) -> Tensor:
        def energy(y: Tensor) -> Tensor:
            return (torch.cosh(y - centre) + 0.3 * (y * y.roll(1, -1))).sum(-1)

        y0 = torch.zeros(2, 4, dtype=DOUBLE)
        return minimize(energy, ProjectedNewton(tol=1e-14), y0, domain=Unconstrained(), adjoint=EXACT).value

    centre = torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(argmin, (centre,), rtol=1e-4, atol=1e-6)


def test_thousands_of_variables() -> None:
    net = ConvPICNN((1, 40, 40), (1, 40, 40), (4, 4), (4,), latent=4)
    x = torch.rand(2, 1, 40, 40)
    y0 = torch.full((2, 1600), 0.5)
    solver = BundleEntropy(max_steps=5, tol=1e-3)
    value = minimize(net.bind(x), solver, y0, domain=Box(0.0, 1.0), adjoint=ImplicitCG(), throw=False).value
    value.square().sum().backward()
    gradient = net.passthrough[0].grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


def test_failed_rows_pass_no_gradient_on() -> None:
    scale = torch.tensor([1.0, float("nan")], dtype=DOUBLE, requires_grad=True)
    solution = minimize(
        lambda y: (scale[:, None] * y * y - y).sum(-1),
        ProjectedNewton(),
        torch.zeros(2, 3, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        adjoint=ImplicitCG(),
        throw=False,
    )
    solution.value[0].sum().backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad[0], torch.tensor(-1.5, dtype=DOUBLE))


def test_conjugate_gradients_row_by_row() -> None:
    root = torch.randn(4, 6, 6, dtype=DOUBLE)
    matrix = root @ root.mT + torch.eye(6, dtype=DOUBLE)
    right = torch.randn(4, 6, dtype=DOUBLE) * torch.tensor([1.0, 1e-6, 1e6, 0.0], dtype=DOUBLE)[:, None]
    x = conjugate_gradients(lambda v: (matrix @ v[..., None]).squeeze(-1), right, 1e-12, 50)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, right))
    first = conjugate_gradients(lambda v: (matrix[:1] @ v[..., None]).squeeze(-1), right[:1], 1e-12, 50)
    torch.testing.assert_close(first, x[:1], rtol=0, atol=0)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"ImplicitCG\.max_steps"):
        ImplicitCG(max_steps=0)
    with pytest.raises(ValueError, match=r"ImplicitCG\.tol"):
        ImplicitCG(tol=-1.0)
