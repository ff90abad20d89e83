"""The convolutional network: its equation pixel by pixel, convex in y and only in y, before and after training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from icnn_rl import Box, minimize
from icnn_rl.nn import ConvEnergy, ConvPICNN, NonNegativeConv2d
from icnn_rl.nn.linear import POSITIVITY
from icnn_rl.solvers import BundleEntropy, Implicit, ProjectedGradient
from icnn_rl.testing.convexity import ACTIVATIONS, midpoint_excess

DOUBLE = torch.float64
SIZES = [(8, 8), (7, 10)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _net(size: tuple[int, int] = (8, 8), hidden: tuple[int, ...] = (4, 3), **settings: object) -> ConvPICNN:
    return ConvPICNN((2, *size), (1, *size), (3, 4, 5), hidden, latent=6, **settings).double()  # type: ignore[arg-type]


def _loop_convolution(image: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """One image (C, H, W), output pixel by output pixel."""
    kernel = weight.shape[-1]
    p = (kernel - 1) // 2
    padded = F.pad(image, (p, p, p, p))
    rows = range(0, image.shape[1] + 2 * p - kernel + 1, stride)
    columns = range(0, image.shape[2] + 2 * p - kernel + 1, stride)
    pixels = [[(weight * padded[:, r : r + kernel, c : c + kernel]).sum((1, 2, 3)) for c in columns] for r in rows]
    return torch.stack([torch.stack(row, -1) for row in pixels], -2)


def _loop(energy: ConvEnergy, b: int, y: torch.Tensor) -> torch.Tensor:
    """f of one image y (n,)."""
    image, z = y.view(energy.shape), None
    for layer in energy.layers:
        p = layer.offset[b] + _loop_convolution(image * layer.y_gate[b], layer.passthrough, layer.y_stride.stride)
        if z is not None:
            assert layer.weight is not None
            assert layer.z_gate is not None
            p = p + _loop_convolution(z * layer.z_gate[b], layer.weight, layer.z_stride.stride)
        z = energy.activation.value(p)
    assert z is not None
    return (energy.out_weight[b] * z).sum() + energy.linear[b] @ y + energy.constant[b] + energy.quadratic[b] @ y**2 / 2


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("gate", ["softplus", "relu"])
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_forward_is_the_equation(size: tuple[int, int], gate: str, quadratic: bool, kernel: int) -> None:
    net = _net(size, gate=gate, quadratic=quadratic, strong_convexity=0.1, kernel=kernel).eval()
    x, y = torch.rand(3, 2, *size, dtype=DOUBLE), torch.rand(3, 1, *size, dtype=DOUBLE)
    energy = net.bind(x)
    expected = torch.stack([_loop(energy, b, y[b].flatten()) for b in range(3)])
    torch.testing.assert_close(energy(y.flatten(1)), expected)
    torch.testing.assert_close(net(x, y), expected)
    assert (energy.curvature >= 0.1).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_is_autograds(size: tuple[int, int], activation: str) -> None:
    net = _net(size, activation=activation, quadratic=True)
    energy = net.bind(torch.rand(3, 2, *size, dtype=DOUBLE))
    y = torch.rand(3, size[0] * size[1], dtype=DOUBLE, requires_grad=True)
    f, g = energy.value_and_grad(y)
    torch.testing.assert_close(f, energy(y))
    torch.testing.assert_close(g, torch.autograd.grad(energy(y).sum(), y)[0])


@pytest.mark.parametrize("hidden", [(4,), (4, 3)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_convex_in_y_at_the_start_and_after_training(hidden: tuple[int, ...], activation: str, positivity: str) -> None:
    net = _net(hidden=hidden, activation=activation, positivity=positivity)
    x = torch.rand(16, 2, 8, 8, dtype=DOUBLE)
    a, b = (2 * torch.randn(16, 64, dtype=DOUBLE) for _ in range(2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for step in range(9):
        if step in (0, 8):
            assert net.is_convex()
            with torch.no_grad():
                assert midpoint_excess(net.eval().bind(x), a, b) <= 1e-12
        optimiser.zero_grad()
        (net.train().bind(x)(a) - 1.0).square().mean().backward()
        optimiser.step()
        net.clamp_weights_()


def test_a_negative_parameter_is_harmless() -> None:
    net = _net()
    with torch.no_grad():
        net.nonneg[0].weight[0, 3] = -1.0
    assert net.is_convex()
    x = torch.rand(4, 2, 8, 8, dtype=DOUBLE)
    with torch.no_grad():
        before = net.eval()(x, x[:, :1])
        net.clamp_weights_()
        assert torch.equal(net(x, x[:, :1]), before)


def test_the_twin_keeps_its_signs() -> None:
    twin = _net(convex=False)
    with torch.no_grad():
        twin.nonneg[0].weight[0, 3] = -1.0
    twin.clamp_weights_()
    assert not twin.is_convex()
    solver, y0 = ProjectedGradient(max_steps=3), torch.zeros(2, 64, dtype=DOUBLE)
    x, box = torch.rand(2, 2, 8, 8, dtype=DOUBLE), Box(0.0, 1.0)
    assert (minimize(twin.eval().bind(x), solver, y0, domain=box, throw=False).gap == torch.inf).all()
    assert (minimize(_net().eval().bind(x), solver, y0, domain=box, throw=False).gap < torch.inf).all()
    with pytest.raises(ValueError, match='expected "clamp" with convex=False'):
        _net(convex=False, positivity="softplus")


def test_not_convex_in_x() -> None:
    net = _net().eval()
    y = torch.rand(64, 64, dtype=DOUBLE)
    a, b = (4 * torch.randn(64, 2, 8, 8, dtype=DOUBLE) for _ in range(2))
    with torch.no_grad():
        assert midpoint_excess(lambda x: net.bind(x)(y), a, b) > 1e-3


def test_energies_of_some_rows_are_those_rows() -> None:
    net = _net(quadratic=True).eval()
    energy, y = net.bind(torch.rand(5, 2, 8, 8, dtype=DOUBLE)), torch.rand(5, 64, dtype=DOUBLE)
    index = torch.tensor([3, 1])
    torch.testing.assert_close(energy.rows(index)(y[index]), energy(y)[index])
    assert energy.start().shape == (5, 64)


def test_a_tilted_energy_loses_a_linear_function() -> None:
    energy = _net((4, 5)).eval().bind(torch.rand(3, 2, 4, 5, dtype=DOUBLE))
    y, p = torch.rand(2, 3, 20, dtype=DOUBLE)
    f, g = energy.value_and_grad(y)
    found = energy.tilted(p).value_and_grad(y)
    torch.testing.assert_close(found, (f - (p * y).sum(-1), g - p))


@pytest.mark.parametrize("solver", [BundleEntropy(entropy=0.5, tol=1e-4), ProjectedGradient(tol=1e-4)], ids=repr)
def test_every_solver_takes_it_and_gradients_flow(solver: BundleEntropy | ProjectedGradient) -> None:
    net = _net(quadratic=True, strong_convexity=0.3)
    y0 = torch.full((4, 64), 0.5, dtype=DOUBLE)
    solution = minimize(
        net.bind(torch.rand(4, 2, 8, 8, dtype=DOUBLE)), solver, y0, domain=Box(0.0, 1.0), adjoint=Implicit()
    )
    assert solution.success.all()
    solution.value.square().sum().backward()
    for name, parameter in net.named_parameters():
        if "constant" not in name:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all()


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="y_shape: expected x_shape's height and width"):
        ConvPICNN((2, 8, 8), (1, 8, 4))
    with pytest.raises(ValueError, match="x_shape: expected \\(channels, height, width\\)"):
        ConvPICNN((8, 8), (1, 8, 8))
    with pytest.raises(ValueError, match="hidden: expected at least one layer"):
        ConvPICNN((2, 8, 8), (1, 8, 8), (4, 4), (4, 4))
    with pytest.raises(ValueError, match="kernel: expected an odd number"):
        ConvPICNN((2, 8, 8), (1, 8, 8), kernel=4)
    with pytest.raises(ValueError, match="decreases"):
        ConvPICNN((2, 8, 8), (1, 8, 8), activation=F.silu)
    net = _net()
    with pytest.raises(ValueError, match="x: expected shape \\(B, 2, 8, 8\\)"):
        net.bind(torch.rand(3, 1, 8, 8, dtype=DOUBLE))
    with pytest.raises(ValueError, match="y: expected shape \\(B, 1, 8, 8\\)"):
        net(torch.rand(3, 2, 8, 8, dtype=DOUBLE), torch.rand(3, 64, dtype=DOUBLE))
    with pytest.raises(ValueError, match="dtype"):
        net.bind(torch.rand(3, 2, 8, 8))


def test_non_negative_convolution() -> None:
    layer = NonNegativeConv2d(2, 3, 3, 2)
    assert layer.is_nonneg()
    image = torch.rand(4, 2, 7, 6)
    torch.testing.assert_close(layer(image)[1], _loop_convolution(image[1], layer.kernels, 2))
    assert "kernel=3" in repr(layer)
    with pytest.raises(ValueError, match="in_channels"):
        NonNegativeConv2d(0, 3)
