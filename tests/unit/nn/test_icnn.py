"""The fully input-convex network: the paper's equation, convexity before and after training, shapes, errors."""

from __future__ import annotations

import copy

import pytest
import torch

from icnn_rl import Box, minimize
from icnn_rl.nn import ICNN
from icnn_rl.nn.linear import POSITIVITY
from icnn_rl.solvers import ProjectedNewton, ProximalBundle, Solver
from icnn_rl.testing.convexity import ACTIVATIONS, loop_icnn, midpoint_excess, shake

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_the_papers_equation(hidden: tuple[int, ...], ensemble: int | None, activation: str) -> None:
    net = ICNN(4, hidden, activation=activation, strong_convexity=0.3, ensemble=ensemble).double()
    y = torch.randn(5, 4, dtype=DOUBLE)
    f = net(y)
    expected = torch.stack([torch.stack([loop_icnn(net, e, row) for row in y]) for e in range(ensemble or 1)])
    torch.testing.assert_close(f, expected[0] if ensemble is None else expected)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6), (8, 6, 4)], ids=str)
@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_convex_at_the_start_and_after_training(
    hidden: tuple[int, ...], ensemble: int | None, activation: str, positivity: str
) -> None:
    net = ICNN(3, hidden, activation=activation, positivity=positivity, ensemble=ensemble).double()
    a, b = (3 * torch.randn(64, 3, dtype=DOUBLE) for _ in range(2))
    y, target = torch.randn(32, 3, dtype=DOUBLE), torch.randn(32, dtype=DOUBLE)
    for trained in (False, True):
        if trained:
            shake(net, lambda: ((net(y) - target) ** 2).mean())
        assert net.is_convex()
        assert midpoint_excess(net, a, b) <= 1e-12
        h = net.bind().value_grad_hessian(a)[2]
        assert torch.linalg.eigvalsh(h).min() >= -1e-9 * (1 + h.abs().max())


def test_strong_convexity() -> None:
    net = ICNN(3, (8, 8), strong_convexity=0.7).double()
    a, b = torch.randn(2, 32, 3, dtype=DOUBLE)
    assert midpoint_excess(lambda y: net(y) - 0.35 * (y * y).sum(-1), a, b) <= 1e-12
    assert torch.linalg.eigvalsh(net.bind().value_grad_hessian(a)[2]).min() >= 0.7 - 1e-9
    assert (net.bind().curvature == 0.7).all()


def test_a_negative_parameter_is_harmless_and_a_missing_one_seen() -> None:
    for layer in range(2):
        net = ICNN(3, (4, 4))
        for value in (-1.0, float("nan")):
            with torch.no_grad():
                net.nonneg[layer].weight[0, 0, 0] = value
            assert net.is_convex() == (value == -1.0)
            net.clamp_weights_()
            assert net.is_convex() == (value == -1.0)  # a NaN cannot be projected away


@pytest.mark.parametrize("solver", [ProjectedNewton(), ProximalBundle()])
def test_plain_training_keeps_it_convex_and_minimisers_right(solver: Solver) -> None:
    """Adam alone, on a function that is not convex: what is found is the least value of a grid, nearly."""
    net = ICNN(2, (32, 32), activation="softplus")
    y = 4 * torch.rand(512, 2) - 2
    target = torch.sin(3 * y).sum(-1) - 0.3 * (y * y).sum(-1)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        (net(y) - target).square().mean().backward()
        optimiser.step()
    assert any((layer.weight < 0).any() for layer in net.nonneg)  # else this would show nothing
    assert net.is_convex()
    net.double()
    found = minimize(net, solver, torch.zeros(1, 2, dtype=DOUBLE), domain=Box(-2.0, 2.0), adjoint=None)
    axis = torch.linspace(-2, 2, 201, dtype=DOUBLE)
    least = net(torch.cartesian_prod(axis, axis)).min().detach()
    assert float(found.fun - least) <= 1e-6
    assert float(found.fun - found.gap - least) <= 1e-6
    assert midpoint_excess(net, *(4 * torch.rand(2, 256, 2, dtype=DOUBLE) - 2)) <= 1e-12


def test_shapes_and_dtypes() -> None:
    for dtype in (torch.float32, DOUBLE):
        y = torch.randn(5, 3, dtype=dtype)
        assert ICNN(3, (4,)).to(dtype)(y).shape == (5,)
        assert ICNN(3, (4,)).to(dtype)(y).dtype == dtype
        ensemble = ICNN(3, (4,), ensemble=2).to(dtype)
        assert ensemble(y).shape == (2, 5)
        torch.testing.assert_close(ensemble(y.expand(2, 5, 3)), ensemble(y))
        assert ensemble.bind("mean")(y).shape == (5,)


def test_float32_is_near_float64() -> None:
    net, y = ICNN(3, (16, 16)), torch.randn(8, 3)
    single = net(y)
    torch.testing.assert_close(single.double(), net.double()(y.double()), rtol=1e-4, atol=1e-4)


def test_bind_equals_forward_and_gradients_flow() -> None:
    net, y = ICNN(3, (6, 6)).double(), torch.randn(5, 3, dtype=DOUBLE)
    torch.testing.assert_close(net.bind()(y), net(y))
    net.bind().value_and_grad(y)[1].sum().backward()
    assert net.nonneg[0].weight.grad is not None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ICNN(0), r"in_features: expected an integer >= 1, got 0"),
        (lambda: ICNN(3, 64), r"hidden: expected a sequence of layer widths"),
        (lambda: ICNN(3, "64"), r"hidden: expected a sequence"),
        (lambda: ICNN(3, (64, 0)), r"hidden\[1\]: expected an integer >= 1, got 0"),
        (lambda: ICNN(3, activation="tanh"), r"activation: 'tanh'"),
        (lambda: ICNN(3, activation=torch.tanh), r"activation 'tanh' is not convex"),
        (lambda: ICNN(3, strong_convexity=-0.1), r"strong_convexity: expected a number in \[0"),
        (lambda: ICNN(3, positivity="abs"), r"positivity: expected one of"),
        (lambda: ICNN(3, ensemble=0), r"ensemble: expected an integer >= 1, got 0"),
        (
            lambda: ICNN(3, activation=torch.nn.ReLU),
            r"activation: .* got the class ReLU\. Pass an instance of it, ReLU\(\)",
        ),
        (lambda: ICNN(3)(torch.zeros(2, 4, 3)), r"y: expected shape \(B, 3\), got \(2, 4, 3\)\. Flatten"),
        (lambda: ICNN(3, ensemble=2)(torch.zeros(3, 4, 3)), r"y: expected shape \(B, 3\) or \(2, B, 3\)"),
        (lambda: ICNN(3)(torch.zeros(3)), r"y: expected shape \(B, 3\), got \(3,\)\. Give it a batch"),
        (lambda: ICNN(3)(torch.zeros(2, 4)), r"y: expected shape \(\.\.\., 3\), got \(2, 4\)"),
        (
            lambda: ICNN(3)(torch.zeros(2, 3, dtype=torch.int32)),
            r"y: expected dtype float32 or float64, got torch\.int32",
        ),
        (lambda: ICNN(3)([[0.0] * 3]), r"y: expected a torch\.Tensor, got list"),
        (lambda: ICNN(3)(torch.zeros(2, 3, dtype=DOUBLE)), r"y: dtype torch\.float64 differs"),
        (lambda: ICNN(3).bind("max"), r"reduction: expected one of 'none', 'mean', 'softmax', got 'max'"),
    ],
)
def test_wrong_use_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_survives_state_dict_and_deepcopy() -> None:
    net, y = ICNN(3, (4, 4), strong_convexity=0.1), torch.randn(5, 3)
    other = ICNN(3, (4, 4), strong_convexity=0.1)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(y), net(y))
    assert torch.equal(copy.deepcopy(net)(y), net(y))
    assert "hidden=(4, 4)" in repr(net)


def test_a_missing_batch_dimension_is_named() -> None:
    with pytest.raises(ValueError, match=r"y: expected shape \(B, 3\), got \(3,\)"):
        ICNN(3)(torch.zeros(3))
