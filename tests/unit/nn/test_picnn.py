"""The partially input-convex network: the paper's equation, convex in y and only in y, before and after training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from icnn_rl.nn import PICNN
from icnn_rl.nn.linear import POSITIVITY
from icnn_rl.testing.convexity import ACTIVATIONS, loop_picnn, midpoint_excess, shake

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _expected(net: PICNN, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    members = range(net.ensemble or 1)
    f = torch.stack([torch.stack([loop_picnn(net, e, x[b], y[b]) for b in range(len(y))]) for e in members])
    return f[0] if net.ensemble is None else f


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("gate", ["softplus", "relu"])
@pytest.mark.parametrize("quadratic", [False, True])
def test_forward_is_the_papers_equation(
    hidden: tuple[int, ...], ensemble: int | None, norm: bool, gate: str, quadratic: bool
) -> None:
    net = PICNN(
        4, 3, (7, 6), hidden, context_norm=norm, gate=gate, quadratic=quadratic, strong_convexity=0.2, ensemble=ensemble
    ).double()
    if net.norms is not None:
        for one in net.norms:
            torch.nn.init.normal_(one.bias)
    x, y = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    torch.testing.assert_close(net(x, y), _expected(net, x, y))
    torch.testing.assert_close(net.bind(x)(y), net(x, y))


def test_without_a_context_path_and_with_another_activation() -> None:
    net = PICNN(4, 3, (), (5, 5), activation=torch.nn.Softplus(beta=4.0)).double()
    x, y = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    torch.testing.assert_close(net(x, y), _expected(net, x, y))
    wavy = PICNN(4, 3, (6,), (5,), context_activation=torch.sin).double()
    torch.testing.assert_close(wavy(x, y), _expected(wavy, x, y))


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6), (8, 6, 4)], ids=str)
@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_convex_in_y_at_the_start_and_after_training(
    hidden: tuple[int, ...], ensemble: int | None, activation: str, positivity: str
) -> None:
    net = PICNN(4, 3, (8,), hidden, activation=activation, positivity=positivity, ensemble=ensemble).double()
    x = 2 * torch.randn(64, 4, dtype=DOUBLE)
    a, b = (3 * torch.randn(64, 3, dtype=DOUBLE) for _ in range(2))
    target = torch.randn(64, dtype=DOUBLE)
    for trained in (False, True):
        if trained:
            shake(net, lambda: ((net(x, a) - target) ** 2).mean())
        assert net.is_convex()
        with torch.no_grad():
            energy = net.bind(x)
            assert midpoint_excess(energy, a, b) <= 1e-12
            # the curvature is a lower bound: what is left without it is convex too
            rest = energy.curvature
            assert (rest >= 1e-3).all()
            assert midpoint_excess(lambda y: energy(y) - 0.5 * (rest * y * y).sum(-1), a, b) <= 1e-12  # noqa: B023
            h = energy.value_grad_hessian(a)[2]
            least = torch.linalg.eigvalsh(h - torch.diag_embed(rest)).min()
            assert least >= -1e-9 * (1 + h.abs().max())


def test_convex_in_float32_up_to_rounding() -> None:
    net = PICNN(4, 3, (16,), (16, 16))
    x, a, b = torch.randn(256, 4), torch.randn(256, 3), torch.randn(256, 3)
    assert midpoint_excess(net.bind(x), a, b) <= 1e-5


def test_not_convex_in_x() -> None:
    net = PICNN(4, 3, (16,), (8,), context_activation=torch.sin).double()
    y = torch.randn(1, 3, dtype=DOUBLE).expand(256, 3)
    a, b = 3 * torch.randn(2, 256, 4, dtype=DOUBLE)
    assert midpoint_excess(lambda x: net(x, y), a, b) > 1e-3
    assert midpoint_excess(lambda x: -net(x, y), a, b) > 1e-3


def test_a_negative_parameter_is_harmless_and_a_missing_one_seen() -> None:
    for layer in range(2):
        net = PICNN(2, 3, (4,), (4, 4), ensemble=2)
        for value in (-1.0, float("nan")):
            with torch.no_grad():
                net.nonneg[layer].weight[1, 0, 0] = value
            assert net.is_convex() == (value == -1.0)
            net.clamp_weights_()
            assert net.is_convex() == (value == -1.0)  # a NaN cannot be projected away


def test_members_with_their_own_inputs() -> None:
    net = PICNN(4, 3, (6,), (5,), ensemble=2).double()
    x, y = torch.randn(2, 5, 4, dtype=DOUBLE), torch.randn(2, 5, 3, dtype=DOUBLE)
    f = net(x, y)
    assert f.shape == (2, 5)
    for member in range(2):
        torch.testing.assert_close(f[member], net(x[member], y[member])[member])


def test_the_start_is_of_order_one_whatever_the_width() -> None:
    """Hoedt and Klambauer's bias enters through the offsets: a wide network must not start at a large mean."""
    for width in (32, 256):
        net = PICNN(8, 4, (64,), (width, width, width))
        f = net(torch.randn(256, 8), torch.rand(256, 4) * 2 - 1).detach()
        assert float(f.abs().mean()) < 10.0


def test_dtypes_and_gradients() -> None:
    for dtype in (torch.float32, DOUBLE):
        net = PICNN(4, 3, (6,), (5, 5)).to(dtype)
        x, y = torch.randn(5, 4, dtype=dtype, requires_grad=True), torch.randn(5, 3, dtype=dtype, requires_grad=True)
        f = net(x, y)
        assert f.dtype == dtype
        f.sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        assert x.grad is not None
        assert y.grad is not None


X, Y = torch.zeros(2, 4), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PICNN(0, 3), r"x_features: expected an integer >= 1, got 0"),
        (lambda: PICNN(4, True), r"y_features: expected an integer >= 1, got True"),
        (lambda: PICNN(4, 3, context=7), r"context: expected a sequence of layer widths"),
        (lambda: PICNN(4, 3, context=(8, -1)), r"context\[1\]: expected an integer >= 1, got -1"),
        (lambda: PICNN(4, 3, hidden=(2.5,)), r"hidden\[0\]: expected an integer >= 1, got 2\.5"),
        (lambda: PICNN(4, 3, activation=F.silu), r"activation 'silu' decreases"),
        (lambda: PICNN(4, 3, gate="sigmoid"), r"gate: expected one of 'softplus', 'relu', got 'sigmoid'"),
        (lambda: PICNN(4, 3, strong_convexity=-1.0), r"strong_convexity: expected a number in"),
        (lambda: PICNN(4, 3, positivity="square"), r"positivity: expected one of"),
        (lambda: PICNN(4, 3, context_activation=torch.nn.ReLU), r"context_activation: .* the class ReLU"),
        (lambda: PICNN(4, 3, context_activation="relu"), r"context_activation: expected a function, got 'relu'"),
        (lambda: PICNN(4, 3).bind(torch.zeros(2, 5, 4)), r"x: expected shape \(B, 4\), got \(2, 5, 4\)"),
        (lambda: PICNN(4, 3).bind(torch.zeros(4)), r"x: expected shape \(B, 4\), got \(4,\)"),
        (lambda: PICNN(4, 3)(torch.zeros(5, 4), torch.zeros(6, 3)), r"y: expected as many rows as x has, 5, got"),
        (lambda: PICNN(4, 3, ensemble=-2), r"ensemble: expected an integer >= 1, got -2"),
        (lambda: PICNN(4, 3)(Y, Y), r"x: expected shape \(\.\.\., 4\), got \(2, 3\)"),
        (lambda: PICNN(4, 3)(X, X), r"y: expected shape \(\.\.\., 3\), got \(2, 4\)"),
        (lambda: PICNN(4, 3)(X.double(), Y), r"y: dtype torch\.float32 differs from x's torch\.float64"),
        (
            lambda: PICNN(4, 3)(X.double(), Y.double()),
            r"x: dtype torch\.float64 differs from the network's parameters' torch\.float32",
        ),
        (lambda: PICNN(4, 3)(X.long(), Y), r"dtype"),
        (lambda: PICNN(4, 3).bind([1.0]), r"x: expected a torch\.Tensor, got list"),
        (lambda: PICNN(4, 3).bind(X, reduction="min"), r"reduction: expected one of"),
    ],
)
def test_wrong_use_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device() -> None:
    net, x, y = PICNN(4, 3, (8,), (8, 8), ensemble=2), torch.randn(5, 4), torch.randn(5, 3)
    here = net(x, y)
    torch.testing.assert_close(net.cuda()(x.cuda(), y.cuda()).cpu(), here, rtol=1e-4, atol=1e-4)


def test_settings_are_shown() -> None:
    assert "context=(8,), hidden=(4,)" in repr(PICNN(4, 3, (8,), (4,)))


def test_second_derivatives_of_a_network_with_a_normalised_context() -> None:
    net = PICNN(3, 2, (4,), (4,), context_norm=True, activation="squareplus")
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    parameters = list(net.parameters())
    first = torch.autograd.grad(net(x, y).sum(), parameters, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), parameters, allow_unused=True)
    assert any(part is not None and part.abs().max() > 0 for part in second)
