"""Activations of the convex path: convex, non-decreasing, with the right derivatives; the others are refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.nn import CONVEX_ACTIVATIONS, PICNN, ConvexActivation, resolve_activation

GRID = torch.linspace(-30.0, 30.0, 6001, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(CONVEX_ACTIVATIONS))
def test_the_known_ones_are_convex_and_non_decreasing(name: str) -> None:
    g = resolve_activation(name).value(GRID)
    slope = g.diff()
    assert (slope >= -1e-12).all()
    assert (slope.diff() >= -1e-12).all()


@pytest.mark.parametrize("name", sorted(CONVEX_ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jets_match_differences(name: str, dtype: torch.dtype) -> None:
    activation = resolve_activation(name)
    x = GRID[(GRID.abs() > 1e-3) & (GRID.abs() < 12)]  # a kink sits at 0
    g, first, second = activation.jet(x.to(dtype))
    assert g.dtype == first.dtype == second.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(g, activation.value(x.to(dtype)))
    h = 1e-4
    plus, here, minus = (activation.value(x + shift) for shift in (h, 0.0, -h))
    torch.testing.assert_close(first.double(), (plus - minus) / (2 * h), rtol=1e-5, atol=tolerance)
    torch.testing.assert_close(second.double(), (plus - 2 * here + minus) / h**2, rtol=1e-4, atol=10 * tolerance)


@pytest.mark.parametrize("name", sorted(CONVEX_ACTIVATIONS))
def test_jets_stay_finite_far_out_and_at_the_kink(name: str) -> None:
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    g, first, second = resolve_activation(name).jet(x)
    assert torch.isfinite(torch.stack((g, first, second))).all()
    assert ((first >= 0) & (first <= 1)).all()
    assert (second >= 0).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (F.silu, r"'silu' decreases near -?\d"),
        (F.gelu, r"'gelu' decreases near"),
        (torch.tanh, r"'tanh' is not convex near"),
        (torch.sigmoid, r"'sigmoid' is not convex near"),
        (torch.abs, r"'abs' decreases near -12"),
        (torch.square, r"'square' decreases near"),
        (torch.neg, r"'neg' decreases near"),
        (lambda x: -torch.exp(-x), r"'<lambda>' is not convex near"),
        (lambda x: x.clamp(max=1.0), r"is not convex near 1"),
        (nn.Mish(), r"'Mish' decreases"),
        (torch.sin, r"'sin'"),
        (lambda x: x.sum(), r"must map a tensor to finite numbers of the same shape"),
        (torch.log, r"must map a tensor to finite numbers"),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_the_others_are_refused_and_told_why(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_activation(function)
    with pytest.raises(ValueError, match=message if "'" not in message else "'mine'"):
        resolve_activation(ConvexActivation("mine", function, lambda x: (x, x, x), smooth=True))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"activation: 'tanh' is not a known .* choose one of elu, .*leaky_relu, .*relu"
    ):
        resolve_activation("tanh")
    with pytest.raises(ValueError, match=r"activation: expected a name or a function, got float"):
        resolve_activation(1.0)  # type: ignore[arg-type]


def test_a_users_function_gets_its_derivatives_by_autograd() -> None:
    activation = resolve_activation(nn.Softplus(beta=5.0))
    assert activation.smooth
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    g, first, second = activation.jet(x)
    sigma = torch.sigmoid(5 * x)
    torch.testing.assert_close(g, F.softplus(x, beta=5.0))
    torch.testing.assert_close(first, sigma)
    torch.testing.assert_close(second, 5 * sigma * (1 - sigma))
    assert not any(item.requires_grad for item in (g, first, second))
    live = activation.jet(x.clone().requires_grad_())
    assert all(item.requires_grad for item in live)


def test_smoothness_is_recognised() -> None:
    assert not resolve_activation(F.relu).smooth
    assert not resolve_activation(lambda x: F.leaky_relu(x, 0.2)).smooth
    assert resolve_activation(lambda x: F.softplus(x, beta=3.0)).smooth
    assert resolve_activation(lambda x: 2.0 * x).smooth
    assert {name for name, one in CONVEX_ACTIVATIONS.items() if one.smooth} == {"softplus", "squareplus"}


def test_jet_of_a_linear_function() -> None:
    g, first, second = resolve_activation(lambda x: 2.0 * x + 1.0).jet(torch.zeros(3))
    assert g.tolist() == [1.0] * 3
    assert first.tolist() == [2.0] * 3
    assert second.tolist() == [0.0] * 3


def test_what_is_resolved_stays_resolved() -> None:
    known = CONVEX_ACTIVATIONS["softplus"]
    assert resolve_activation("softplus") is known
    assert resolve_activation(known) is known


def _cubed_hinge(x: Tensor) -> Tensor:
    return x.relu() ** 3


@pytest.mark.parametrize("activation", [*CONVEX_ACTIVATIONS, _cubed_hinge])
def test_networks_can_be_pickled(activation: object) -> None:
    torch.manual_seed(0)
    net = PICNN(3, 2, (4,), (4,), activation=activation)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(net))
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    assert torch.equal(net(x, y), copy(x, y))


def _sharp(x: Tensor) -> Tensor:
    return F.softplus(x, beta=100.0, threshold=40.0)


def _sharp_jet(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(100 * x)
    return _sharp(x), s, 100 * (s - s * s)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_ones_own_activation_knows_all_of_it(copied: Callable[[object], object]) -> None:
    own = ConvexActivation("sharp", _sharp, _sharp_jet, smooth=True, square_width=None)
    assert copied(own) == own
    by_autograd = resolve_activation(_sharp)
    assert copied(by_autograd) == by_autograd
    assert copied(CONVEX_ACTIVATIONS["squareplus"]) is CONVEX_ACTIVATIONS["squareplus"]
