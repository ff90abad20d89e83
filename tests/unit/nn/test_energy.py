"""The bound energy's closed forms against autograd, every reduction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from icnn_rl import minimize
from icnn_rl.nn import ICNN, PICNN, EnsembleEnergy
from icnn_rl.solvers import ProjectedNewton
from icnn_rl.testing.convexity import ACTIVATIONS, midpoint_excess

DOUBLE = torch.float64
REDUCTIONS = ("none", "mean", "softmax")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _energies(hidden: tuple[int, ...], activation: str, ensemble: int | None, reduction: str) -> list[EnsembleEnergy]:
    picnn = PICNN(4, 3, (8,), hidden, activation=activation, ensemble=ensemble).double()
    icnn = ICNN(3, hidden, activation=activation, strong_convexity=0.1, ensemble=ensemble).double()
    x = torch.randn(5, 4, dtype=DOUBLE)
    return [picnn.bind(x, reduction, temperature=0.3), icnn.bind(reduction, temperature=0.3)]


def _by_autograd(energy: EnsembleEnergy, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian of every output on its own."""
    f = energy(y)
    flat_f = f.reshape(-1, len(y))
    gradients, hessians = [], []
    for member in range(len(flat_f)):
        leaf = y.clone().requires_grad_()
        (g,) = torch.autograd.grad(energy(leaf).reshape(-1, len(y))[member].sum(), leaf, create_graph=True)
        columns = []
        for j in range(y.shape[-1]):
            (column,) = torch.autograd.grad(g[:, j].sum(), leaf, retain_graph=True, materialize_grads=True)
            columns.append(column)
        gradients.append(g.detach())
        hessians.append(torch.stack(columns, -1))
    n = y.shape[-1]
    return f.detach(), torch.stack(gradients).reshape(*f.shape, n), torch.stack(hessians).reshape(*f.shape, n, n)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("ensemble", "reduction"), [(None, "none"), *((3, name) for name in REDUCTIONS)])
def test_closed_forms_match_autograd(
    hidden: tuple[int, ...], activation: str, ensemble: int | None, reduction: str
) -> None:
    y = torch.randn(5, 3, dtype=DOUBLE)
    for energy in _energies(hidden, activation, ensemble, reduction):
        f, g, h = _by_autograd(energy, y)
        for found in (energy.value_and_grad(y), energy.value_grad_hessian(y)[:2]):
            torch.testing.assert_close(found[0].detach(), f)
            torch.testing.assert_close(found[1].detach(), g)
        hessian = energy.value_grad_hessian(y)[2].detach().expand_as(h)
        torch.testing.assert_close(hessian, h, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(hessian, hessian.mT)
        again = energy.value_grad_hessian(2.0 * y)[2].detach()  # what is kept between calls does not depend on y
        torch.testing.assert_close(again.expand_as(h), _by_autograd(energy, 2.0 * y)[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ensemble", [None, 3])
def test_a_users_activation_gives_the_same(ensemble: int | None) -> None:
    net = PICNN(4, 3, (8,), (6, 5), activation=torch.nn.Softplus(beta=3.0), ensemble=ensemble).double()
    energy, y = net.bind(torch.randn(5, 4, dtype=DOUBLE)), torch.randn(5, 3, dtype=DOUBLE)
    for found, expected in zip(energy.value_grad_hessian(y), _by_autograd(energy, y), strict=True):
        torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_float32_is_near_float64(reduction: str) -> None:
    net, x, y = PICNN(4, 3, (8,), (6, 5), ensemble=2), torch.randn(5, 4), torch.randn(5, 3)
    single = net.bind(x, reduction).value_grad_hessian(y)
    double = net.double().bind(x.double(), reduction).value_grad_hessian(y.double())
    for found, expected in zip(single, double, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 10.0])
def test_the_soft_maximum_is_within_its_bounds(temperature: float) -> None:
    net = PICNN(4, 3, (8,), (6,), ensemble=4).double()
    x, y = torch.randn(9, 4, dtype=DOUBLE), torch.randn(9, 3, dtype=DOUBLE)
    top = net.bind(x)(y).amax(0)
    soft = net.bind(x, "softmax", temperature)(y)
    assert (soft >= top - 1e-12).all()
    assert (soft <= top + temperature * math.log(4) + 1e-12).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_are_convex_and_keep_their_curvature(reduction: str) -> None:
    net = PICNN(4, 3, (8,), (6, 5), ensemble=3).double()
    torch.nn.init.normal_(net.heads.weight)  # members that differ
    energy = net.bind(torch.randn(64, 4, dtype=DOUBLE), reduction, 0.1)
    a, b = 2 * torch.randn(2, 64, 3, dtype=DOUBLE)
    m = energy.curvature
    assert m.shape == ((3, 64, 3) if reduction == "none" else (64, 3))
    assert midpoint_excess(lambda y: energy(y) - 0.5 * (m * y * y).sum(-1), a, b) <= 1e-12
    h = energy.value_grad_hessian(a)[2]
    assert torch.linalg.eigvalsh(h - torch.diag_embed(m)).min() >= -1e-9 * (1 + h.abs().max())


def test_the_mean_is_the_mean_of_the_members() -> None:
    net = PICNN(4, 3, (8,), (6,), ensemble=3).double()
    x, y = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    torch.testing.assert_close(net.bind(x, "mean")(y), net.bind(x)(y).mean(0))
    torch.testing.assert_close(net.bind(x, "mean").member_values(y), net.bind(x)(y))


def test_smoothness_and_start() -> None:
    x = torch.randn(5, 4)
    assert PICNN(4, 3, activation="squareplus").bind(x).smooth
    assert not PICNN(4, 3, activation="relu").bind(x).smooth
    start = PICNN(4, 3, ensemble=2).double().bind(x.double(), "mean").start()
    assert start.shape == (5, 3)
    assert start.dtype == DOUBLE


@pytest.mark.parametrize(("ensemble", "reduction"), [(None, "none"), (3, "none"), (3, "mean")])
def test_a_blur_is_near_the_average_and_none_for_no_spread(ensemble: int | None, reduction: str) -> None:
    y, half = 0.3 * torch.randn(5, 3, dtype=DOUBLE), 1.0
    for energy in _energies((16,), "squareplus", ensemble, reduction):
        still = energy.blur(torch.zeros(5, 3, dtype=DOUBLE))
        assert still is not None
        for found, expected in zip(energy.grad_hessian(y, still), energy.value_grad_hessian(y)[1:], strict=True):
            torch.testing.assert_close(found.expand_as(expected), expected)
        blur = energy.blur(torch.full((5, 3), half * half / 3, dtype=DOUBLE))
        assert blur is not None
        g, h = energy.grad_hessian(y, blur)
        draws = y + half * (2 * torch.rand(2000, 1, 3, dtype=DOUBLE) - 1)
        parts = [energy.value_grad_hessian(draw) for draw in draws]
        mean_g, mean_h = torch.stack([p[1] for p in parts]).mean(0), torch.stack([p[2] for p in parts]).mean(0)
        assert (g - mean_g).norm() <= 0.05 * mean_g.norm()
        assert (h - mean_h).norm() <= 0.2 * mean_h.norm()
        assert torch.linalg.eigvalsh(h).min() >= 0


def test_energies_without_a_known_average_have_no_blur() -> None:
    assert _energies((6,), "softplus", 3, "mean")[0].blur(torch.ones(5, 3, dtype=DOUBLE)) is None
    assert _energies((6,), "squareplus", 3, "softmax")[0].blur(torch.ones(5, 3, dtype=DOUBLE)) is None


@pytest.mark.parametrize(("ensemble", "reduction"), [(None, "none"), (3, "mean"), (3, "softmax")])
def test_rows_are_the_energy_of_the_rows(ensemble: int | None, reduction: str) -> None:
    index, y = torch.tensor([3, 0, 4]), torch.randn(5, 3, dtype=DOUBLE)
    for energy in _energies((6, 5), "softplus", ensemble, reduction):
        energy.value_grad_hessian(y)
        assert energy.separable
        for part, whole in zip(
            energy.rows(index).value_grad_hessian(y[index]), energy.value_grad_hessian(y), strict=True
        ):
            torch.testing.assert_close(part, whole.expand(5, *whole.shape[1:])[index])
    assert not _energies((6,), "softplus", 3, "none")[0].separable


@pytest.mark.parametrize(("ensemble", "reduction"), [(None, "none"), *((3, name) for name in REDUCTIONS)])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_tilted_energy_loses_a_linear_function(ensemble: int | None, reduction: str, rows: int) -> None:
    y, p = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    energies = _energies((6, 4), "softplus", ensemble, reduction)
    energies[0] = PICNN(4, 3, (8,), (6, 4), ensemble=ensemble).double().bind(torch.randn(rows, 4).double(), reduction)
    for energy in energies:
        f, g, h = energy.value_grad_hessian(y)
        for slope in (p, p[0]):
            tilted = energy.tilted(slope)
            found = tilted.value_grad_hessian(y)
            torch.testing.assert_close(found[0], f - (slope * y).sum(-1))
            torch.testing.assert_close(found[1], g - slope)
            torch.testing.assert_close(found[2], h)
            torch.testing.assert_close(tilted(y), f - (slope * y).sum(-1))
            assert torch.equal(tilted.curvature.expand_as(g), energy.curvature.expand_as(g))
        if energy.separable:
            index = torch.tensor([3, 1])
            torch.testing.assert_close(energy.tilted(p).rows(index)(y[index]), (f - (p * y).sum(-1))[index])


def test_a_slope_must_fit() -> None:
    energy = _energies((6,), "softplus", None, "none")[0]
    with pytest.raises(ValueError, match=r"p: expected shape \(..., 3\)"):
        energy.tilted(torch.zeros(5, 2, dtype=DOUBLE))
    with pytest.raises(ValueError, match="p: expected 5 rows, as the energy has, got 4"):
        energy.tilted(torch.zeros(4, 3, dtype=DOUBLE))


def test_double_precision_is_the_same_function_with_its_graph() -> None:
    net, y = PICNN(4, 3, (8,), (6, 4)), torch.randn(5, 3)
    energy = net.bind(torch.randn(5, 4))
    found = energy.double()(y.double())
    assert found.dtype == DOUBLE
    torch.testing.assert_close(found.float(), energy(y))
    found.sum().backward()
    assert all(layer.weight.grad is not None for layer in net.context)


def test_values_and_gradients_carry_the_graph_to_x_and_the_parameters() -> None:
    net = PICNN(4, 3, (8,), (6, 5)).double()
    x = torch.randn(5, 4, dtype=DOUBLE, requires_grad=True)
    y = torch.randn(5, 3, dtype=DOUBLE)
    weight = torch.randn(5, 3, dtype=DOUBLE)

    def gradient_in_y(x: Tensor) -> Tensor:
        return (net.bind(x).value_and_grad(y)[1] * weight).sum(-1)

    assert torch.autograd.gradcheck(gradient_in_y, (x,))
    gradient_in_y(x).sum().backward()
    assert net.nonneg[0].weight.grad is not None
    assert net.passthrough[0].weight.grad is not None


# what is made once


def test_a_first_use_without_gradients_does_not_cost_later_ones_theirs() -> None:
    torch.manual_seed(0)
    net, x, y = PICNN(3, 2, (4,), (4,), ensemble=2), torch.randn(3, 3), torch.randn(3, 2)
    gradients = []
    for first in (False, True):
        energy = net.bind(x, "mean")
        if first:
            with torch.no_grad():
                energy.value_grad_hessian(y)
        total = sum(part.square().sum() for part in energy.value_grad_hessian(y))
        gradients.append(torch.autograd.grad(total, list(net.parameters())))
    for expected, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("reduction", ["mean", "softmax"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_reduction_over_no_ensemble_is_the_network(batch: int, reduction: str) -> None:
    net, x, y = PICNN(3, 2, (4,), (4,)), torch.randn(batch, 3), torch.randn(batch, 2)
    for expected, got in zip(
        net.bind(x).value_grad_hessian(y), net.bind(x, reduction).value_grad_hessian(y), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_a_network_without_hidden_layers_has_a_hessian_for_every_row() -> None:
    net = ICNN(3, (), strong_convexity=2.0)
    hessian = net.bind().value_grad_hessian(torch.randn(5, 3))[2]
    torch.testing.assert_close(hessian, 2.0 * torch.eye(3).expand(5, 3, 3))
    far = torch.zeros(64, 3)
    far[:40] = -net.bind().linear[0].detach() / 2.0
    found = minimize(net.bind(), ProjectedNewton(), far)
    torch.testing.assert_close(found.value, far[:1].expand(64, 3), rtol=0, atol=1e-5)


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature: expected a number in"):
        PICNN(3, 2, (4,), (4,), ensemble=2).bind(torch.randn(1, 3), "softmax", temperature=-1.0)
