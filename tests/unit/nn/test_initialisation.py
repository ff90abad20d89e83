"""Initial weights of non-negative layers: the closed forms of the paper, and what they are for."""

from __future__ import annotations

import math

import pytest
import torch

from icnn_rl.nn import CONVEX_ACTIVATIONS, NonNegativeLinear
from icnn_rl.nn.initialisation import log_normal_, non_negative_moments


@pytest.mark.parametrize("n", [1, 2, 16, 64, 512])
def test_relu_matches_the_closed_forms_of_hoedt_and_klambauer(n: int) -> None:
    moments = non_negative_moments(n, CONVEX_ACTIVATIONS["relu"])
    bottom = 6 * (math.pi - 1) + (n - 1) * (3 * math.sqrt(3) + 2 * math.pi - 6)
    assert moments.mean == pytest.approx(math.sqrt(6 * math.pi / (n * bottom)), rel=1e-3)
    assert moments.std == pytest.approx(math.sqrt(1 / n), rel=1e-3)
    assert moments.bias == pytest.approx(-math.sqrt(3 * n / bottom), rel=1e-3)


@pytest.mark.parametrize("name", sorted(CONVEX_ACTIVATIONS))
def test_moments_solve_the_three_equations(name: str) -> None:
    """E[g^2], Var[g], Cov[g, g'] and E[g] from four million correlated normals instead of quadrature."""
    activation, n = CONVEX_ACTIVATIONS[name], 50
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1_000_000, generator=generator, dtype=torch.float64)
    g, other = activation.value(x), activation.value(0.5 * x + math.sqrt(0.75) * noise)
    moments = non_negative_moments(n, activation)
    assert n * moments.std**2 * float((g * g).mean()) == pytest.approx(0.5, rel=2e-2)
    covariance = float(((g - g.mean()) * (other - other.mean())).mean())
    assert n * moments.mean**2 * (float(g.var()) + (n - 1) * covariance) == pytest.approx(0.5, rel=2e-2)
    assert moments.bias == pytest.approx(-n * moments.mean * float(g.mean()), abs=2e-2 * abs(moments.bias) + 1e-2)


def test_log_normal_has_the_moments_asked_for() -> None:
    torch.manual_seed(0)
    weight = log_normal_(torch.empty(1000, 1000, dtype=torch.float64), mean=0.2, std=0.1)
    assert (weight > 0).all()
    assert float(weight.mean()) == pytest.approx(0.2, rel=1e-2)
    assert float(weight.std()) == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("name", sorted(CONVEX_ACTIVATIONS))
def test_the_signal_keeps_its_scale_through_eight_layers(name: str) -> None:
    """Pre-activations start with mean 0 and variance 1. They are near that after two layers and of order one after
    eight (what the units share is no longer normal by then: a few inputs drift off), where |W| lets them explode."""
    torch.manual_seed(1)
    width, activation = 256, CONVEX_ACTIVATIONS[name]
    # correlated by one half between units, as the theory assumes
    p = math.sqrt(0.5) * (torch.randn(512, 1) + torch.randn(512, width))
    naive = p
    for depth in range(8):
        layer = NonNegativeLinear(width, width, activation=name)
        p = layer(activation.value(p)).detach()
        naive = activation.value(naive) @ (torch.randn(width, width) / math.sqrt(width)).abs().T
        if depth == 1:
            assert abs(float(p.mean())) < 0.3
            assert 0.6 < float(p.std()) < 1.7
    assert 0.05 < float(p.abs().median()) < 2.0
    assert abs(float(p.mean())) < 10.0
    assert float(naive.abs().median()) > 1e5
