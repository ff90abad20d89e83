"""What is particular to the first-order methods: each step against the textbook's, warm starts, settings."""

from __future__ import annotations

import pytest
import torch

from icnn_rl import Box, minimize
from icnn_rl.solvers import ProjectedGradient, Unrolled
from icnn_rl.testing.minimisation import Quadratic, draw

DOUBLE = torch.float64


def _bowl() -> Quadratic:
    root = draw(0, 3, 3).double()
    return Quadratic(root @ root.mT + torch.eye(3, dtype=DOUBLE), draw(1, 4, 3).double())


def _last_iterate(solver: ProjectedGradient, y0: torch.Tensor) -> torch.Tensor:
    """Unrolled never stops early; on these few steps f falls at every one, so the best point is the last."""
    return minimize(_bowl(), solver, y0, domain=Box(-1.0, 1.0), adjoint=Unrolled(), throw=False).value.detach()


def test_momentum_is_the_heavy_ball() -> None:
    energy, y = _bowl(), torch.zeros(4, 3, dtype=DOUBLE)
    velocity, start = torch.zeros_like(y), y
    for _ in range(4):
        g = (energy.h @ (y - energy.c).unsqueeze(-1)).squeeze(-1)
        velocity = 0.5 * velocity - 0.02 * g
        moved = (y + velocity).clamp(-1, 1)
        velocity, y = moved - y, moved
    solver = ProjectedGradient("momentum", lr=0.02, momentum=0.5, max_steps=4)
    torch.testing.assert_close(_last_iterate(solver, start), y)


def test_adam_is_torch_adam() -> None:
    """Inside the box the iterates are torch.optim.Adam's."""
    energy, start = _bowl(), torch.zeros(4, 3, dtype=DOUBLE)
    y = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([y], lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        energy(y).sum().backward()
        optimiser.step()
    torch.testing.assert_close(
        _last_iterate(ProjectedGradient("adam", lr=0.01, max_steps=5), start), y.detach(), rtol=0, atol=1e-9
    )


def test_accelerated_with_a_given_step_length_is_nesterovs() -> None:
    energy, y = _bowl(), torch.zeros(4, 3, dtype=DOUBLE)
    previous, start = y, y
    for k in range(4):
        w = (y + k / (k + 3) * (y - previous)).clamp(-1, 1)
        g = (energy.h @ (w - energy.c).unsqueeze(-1)).squeeze(-1)
        previous, y = y, (w - 0.02 * g).clamp(-1, 1)
    torch.testing.assert_close(_last_iterate(ProjectedGradient(lr=0.02, max_steps=4), start), y)


@pytest.mark.parametrize("shift", [0.0, 1e-9, 1e-4])
@pytest.mark.parametrize(
    "solver", [ProjectedGradient(max_steps=100), ProjectedGradient("momentum", lr=0.05, max_steps=300)], ids=str
)
def test_a_start_beside_the_minimum_is_no_harder_than_any_other(solver: ProjectedGradient, shift: float) -> None:
    """The residual is relative to how much f varies over the box. Measured by the first gradient alone that would be
    nothing here, and the tolerance out of reach: such rows once ran into the step limit."""
    energy = Quadratic(torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=DOUBLE)), 0.3 * draw(2, 4, 3).double())
    solution = minimize(energy, solver, energy.c + shift, domain=Box(-2.0, 2.0), adjoint=None)
    assert (solution.num_steps <= 60).all()
    torch.testing.assert_close(solution.value, energy.c, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["accelerated", "momentum", "adam"])
def test_unrolling_from_the_minimum_itself_is_finite(method: str) -> None:
    """A gradient of exactly zero leaves no step length to guess: 0 / 0 once."""
    centre = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    lr = None if method == "accelerated" else 0.05
    solution = minimize(
        lambda y: ((y - centre) ** 2).sum(-1),
        ProjectedGradient(method, lr=lr, max_steps=5),
        torch.zeros(2, 3, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        adjoint=Unrolled(),
    )
    (gradient,) = torch.autograd.grad(solution.value.sum(), centre)
    assert torch.isfinite(solution.value).all()
    assert torch.isfinite(gradient).all()


def test_the_step_length_is_found_whatever_the_scale() -> None:
    for scale in (1e-6, 1.0, 1e6):
        energy = Quadratic(scale * torch.diag(torch.tensor([1.0, 10.0], dtype=DOUBLE)), draw(3, 4, 2).double())
        solution = minimize(energy, ProjectedGradient(), torch.ones(4, 2, dtype=DOUBLE), domain=Box(-1.0, 1.0))
        torch.testing.assert_close(solution.value, energy.c.clamp(-1, 1), rtol=0, atol=1e-3)


def test_a_box_far_larger_than_the_energy_can_bear() -> None:
    """exp overflows at the far end: what is found there must not spoil the scale."""
    solution = minimize(
        lambda y: (torch.exp(y) - 2.0 * y).sum(-1),
        ProjectedGradient(max_steps=2000),
        torch.zeros(1, 1, dtype=DOUBLE),
        domain=Box(-1e4, 1e4),
        adjoint=None,
    )
    assert torch.isfinite(solution.residual).all()
    assert (solution.fun <= 2.0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton"}, r"ProjectedGradient\.method: expected one of 'accelerated', 'momentum', 'adam'"),
        ({"method": "adam"}, r"ProjectedGradient\.lr: method 'adam' needs a step length"),
        ({"method": "momentum"}, r"ProjectedGradient\.lr: method 'momentum' needs a step length"),
        ({"lr": 0.0}, r"ProjectedGradient\.lr: expected a number in \(0"),
        ({"lr": -1.0}, r"ProjectedGradient\.lr"),
        ({"momentum": 1.5}, r"ProjectedGradient\.momentum"),
        ({"tol": 0}, r"ProjectedGradient\.tol"),
        ({"max_steps": False}, r"ProjectedGradient\.max_steps"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectedGradient(**arguments)  # type: ignore[arg-type]
