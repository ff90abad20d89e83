"""NAF's critic: the quadratic form by hand, and its closed-form derivatives."""

from __future__ import annotations

import torch

from icnn_rl import Box, Status, minimize
from icnn_rl.agents.naf import NAFNetwork, QuadraticEnergy
from icnn_rl.solvers import ProjectedNewton


def _energy(ensemble: int) -> QuadraticEnergy:
    torch.manual_seed(0)
    net = NAFNetwork(5, 3, (16,), torch.relu, context_norm=True, ensemble=ensemble).double()
    with torch.no_grad():
        return net.bind(torch.randn(7, 5, dtype=torch.float64))


def test_quadratic_form_by_hand() -> None:
    energy = _energy(2)
    a = torch.rand(7, 3, dtype=torch.float64) * 2 - 1
    values = energy.member_values(a)
    for e in range(2):
        for b in range(7):
            d = a[b] - energy.mean[e, b]
            p = energy.factor[e, b] @ energy.factor[e, b].T
            torch.testing.assert_close(values[e, b], 0.5 * d @ p @ d - energy.value[e, b])


def test_derivatives_match_autograd() -> None:
    energy = _energy(2)
    a = torch.rand(7, 3, dtype=torch.float64, requires_grad=True)
    f, g, h = energy.value_grad_hessian(a)
    (expected,) = torch.autograd.grad(energy(a).sum(), a, create_graph=True)
    torch.testing.assert_close(f, energy(a))
    torch.testing.assert_close(g, expected)
    columns = [torch.autograd.grad(expected[:, j].sum(), a, retain_graph=True)[0] for j in range(3)]
    torch.testing.assert_close(h, torch.stack(columns, -1))


def test_curvature_is_positive_definite_and_the_mean_is_inside_the_box() -> None:
    energy = _energy(1)
    assert torch.linalg.eigvalsh(energy.factor @ energy.factor.mT).min() > 0
    assert energy.mean.abs().max() < 1


def test_one_member_starts_at_its_optimum() -> None:
    energy = _energy(1)
    solution = minimize(energy, ProjectedNewton(), energy.start(), domain=Box(-1.0, 1.0), adjoint=None)
    assert (solution.num_steps == 0).all()
    assert (solution.status == Status.SUCCESS).all()
