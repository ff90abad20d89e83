"""The losses on numbers worked out by hand, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icnn_rl.nn import PICNN
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, ProjectedNewton
from icnn_rl.supervised.training.losses import (
    LossAugmented,
    argmin_loss,
    binary_cross_entropy,
    binary_entropy,
    energy_loss,
    hamming,
    loss_augmented_argmin,
    max_margin,
)

DOUBLE = torch.float64


def _tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


def _bowl(y: Tensor) -> Tensor:
    """f(y) = (y_1 - 1/4)^2 + 2 (y_2 - 1/2)^2."""
    return (y[..., 0] - 0.25) ** 2 + 2 * (y[..., 1] - 0.5) ** 2


def test_hamming_by_hand() -> None:
    y, target = _tensor([0.2, 0.9, 0.5], [1.0, 0.0, 1.0]), _tensor([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    torch.testing.assert_close(hamming(y, target), torch.tensor([0.2 + 0.1 + 0.5, 2.0], dtype=DOUBLE))


def test_entropy_and_cross_entropy_by_hand() -> None:
    y = _tensor([0.5, 0.25, 0.0, 1.0])
    expected = math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    torch.testing.assert_close(binary_entropy(y), torch.tensor([expected], dtype=DOUBLE))
    value = binary_cross_entropy(y, _tensor([1.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(value, torch.tensor([math.log(2) + math.log(4)], dtype=DOUBLE), rtol=0, atol=4e-6)
    wrong = binary_cross_entropy(_tensor([0.0]), _tensor([1.0]))
    torch.testing.assert_close(wrong, torch.tensor([-math.log(1e-6)], dtype=DOUBLE))


def test_max_margin_by_hand() -> None:
    # f - Delta with y* = (0, 1): gradient 2 (y1 - 1/4) - 1 = 0 at y1 = 3/4, and 4 (y2 - 1/2) + 1 = 0 at y2 = 1/4
    target = _tensor([0.0, 1.0])
    solution = loss_augmented_argmin(_bowl, ProjectedGradient(tol=1e-12), target)
    torch.testing.assert_close(solution.value, _tensor([0.75, 0.25]), rtol=0, atol=1e-5)
    # f(y*) = 1/16 + 1/2, f(y^) = 1/4 + 1/8, Delta(y^, y*) = 3/4 + 3/4
    loss = max_margin(_bowl, target, solution.value)
    torch.testing.assert_close(loss, torch.tensor([0.5625 - 0.375 + 1.5], dtype=DOUBLE), rtol=0, atol=1e-5)
    # a tenth of the margin: y1 = 0.3, y2 = 0.475
    less = loss_augmented_argmin(_bowl, ProjectedGradient(tol=1e-12), target, margin=0.1).value
    torch.testing.assert_close(less, _tensor([0.3, 0.475]), rtol=0, atol=1e-5)


def test_max_margin_is_zero_where_the_margin_is_kept() -> None:
    def steep(y: Tensor) -> Tensor:  # minimum at y* = (0, 1), slope 3 in every direction
        return 3 * (y[..., 0] + 1 - y[..., 1])

    target = _tensor([0.0, 1.0])
    found = loss_augmented_argmin(steep, ProjectedGradient(tol=1e-9), target).value
    torch.testing.assert_close(max_margin(steep, target, found), torch.zeros(1, dtype=DOUBLE), rtol=0, atol=1e-6)


def test_the_margin_with_entropy_bounds_the_loss_from_both_sides() -> None:
    # linear f = c . y, tau = 1: min f - H - Delta = Delta-shifted softplus, in closed form
    c, target = _tensor([0.7, -1.2, 0.3]), _tensor([0.0, 1.0, 1.0])
    found = loss_augmented_argmin(lambda y: (c * y).sum(-1), BundleEntropy(tol=1e-12), target).value
    slope = c - (1 - 2 * target)
    torch.testing.assert_close(found, torch.sigmoid(-slope))
    minimum = -F.softplus(-slope).sum(-1) - target.sum(-1)
    loss = max_margin(lambda y: (c * y).sum(-1), target, found, entropy=1.0)
    torch.testing.assert_close(loss, (c * target).sum(-1) - minimum)


def test_energy_loss_of_a_linear_energy_is_the_logistic_loss() -> None:
    c, target = _tensor([0.7, -1.2, 0.3], [-2.0, 0.0, 5.0]), _tensor([0.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    for tau in (1.0, 0.5):
        loss = energy_loss(lambda y: (c * y).sum(-1), target, torch.sigmoid(-c / tau), entropy=tau)
        expected = tau * F.binary_cross_entropy_with_logits(-c / tau, target, reduction="none").sum(-1)
        torch.testing.assert_close(loss, expected)


def test_energy_loss_by_hand() -> None:
    loss = energy_loss(_bowl, _tensor([0.0, 1.0], [0.25, 0.5]), _tensor([0.25, 0.5], [0.25, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([0.5625, 0.0], dtype=DOUBLE))


def test_argmin_loss_by_hand() -> None:
    # y^ = argmin 1/2 (y - c)^2 = c inside the box, so the loss (y^ - y*)^2 has gradient 2 (c - y*); 0 outside
    c = torch.tensor([[0.3, 1.5]], dtype=DOUBLE, requires_grad=True)
    target = _tensor([1.0, 0.0])

    def squared(y: Tensor, target: Tensor) -> Tensor:
        return ((y - target) ** 2).sum()

    loss = argmin_loss(lambda y: 0.5 * ((y - c) ** 2).sum(-1), ProjectedNewton(tol=1e-12), target, squared)
    torch.testing.assert_close(loss, torch.tensor(0.49 + 1.0, dtype=DOUBLE))
    loss.backward()
    torch.testing.assert_close(c.grad, _tensor([2 * (0.3 - 1.0), 0.0]))


def test_gradients_hold_the_point_found_fixed() -> None:
    torch.manual_seed(0)
    net = PICNN(3, 4, (6,), (5,)).double()
    x, target = torch.randn(6, 3, dtype=DOUBLE), (torch.rand(6, 4) < 0.5).double()
    solver = BundleEntropy(tol=1e-10, max_steps=60)
    parameter = net.passthrough[0].weight

    def loss() -> Tensor:
        energy = net.bind(x)
        found = loss_augmented_argmin(energy, solver, target).value
        return max_margin(energy, target, found, entropy=1.0).sum()

    (slope,) = torch.autograd.grad(loss(), parameter)
    direction = torch.randn_like(parameter)
    with torch.no_grad():  # Danskin: the same as the difference quotient with the argmin found anew
        parameter += 1e-4 * direction
        up = loss()
        parameter -= 2e-4 * direction
        down = loss()
    torch.testing.assert_close((slope * direction).sum(), (up - down) / 2e-4, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("closed_form", [True, False])
def test_augmented_energy(closed_form: bool) -> None:
    torch.manual_seed(0)
    energy = PICNN(3, 4, (6,), (5,)).double().bind(torch.randn(6, 3, dtype=DOUBLE))
    augmented = LossAugmented(energy if closed_form else energy.__call__, (torch.rand(6, 4) < 0.5).double(), 0.7)
    y = torch.rand(6, 4, dtype=DOUBLE, requires_grad=True)
    f, g = augmented.value_and_grad(y)
    torch.testing.assert_close(f, augmented(y))
    torch.testing.assert_close(g, torch.autograd.grad(augmented(y).sum(), y)[0])
    assert augmented.smooth == closed_form
    assert (augmented.curvature is None) == (not closed_form)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        loss_augmented_argmin(_bowl, ProjectedNewton(), _tensor([0.0, 1.0]), margin=-1.0)
