"""Derivatives of an energy, with and without its own closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icnn_rl.sets import Box
from icnn_rl.solvers import derivatives
from icnn_rl.solvers.problem import Problem
from icnn_rl.testing.minimisation import CASES, Plain, Quadratic, draw, picnn

DOUBLE = torch.float64


@pytest.mark.parametrize("case", [case for case in CASES if case.smooth], ids=str)
def test_derivatives_against_finite_differences(case) -> None:
    problem = case.build(DOUBLE)
    y = 0.7 * torch.clamp(problem.y0, *problem.bounds()) + 0.01
    f, g, h = derivatives.value_grad_hessian(problem.energy, y)
    torch.testing.assert_close(f, problem.energy(y).detach())
    step = 1e-5
    for j in range(y.shape[-1]):
        d = torch.zeros_like(y)
        d[..., j] = step
        slope = (problem.energy(y + d) - problem.energy(y - d)).detach() / (2 * step)
        torch.testing.assert_close(g[..., j], slope, rtol=1e-6, atol=1e-6)
        plus, minus = (derivatives.value_and_grad(problem.energy, y + sign * d)[1] for sign in (1, -1))
        torch.testing.assert_close(h[..., j], (plus - minus) / (2 * step), rtol=1e-6, atol=1e-6)
    assert not any(item.requires_grad for item in (f, g, h))


def test_closed_forms_and_autograd_agree() -> None:
    energy = picnn(DOUBLE, "softplus").bind(draw(0, 5, 4).double())
    y = draw(1, 5, 3).double()
    for closed, plain in zip(
        derivatives.value_grad_hessian(energy, y), derivatives.value_grad_hessian(Plain(energy), y), strict=True
    ):
        torch.testing.assert_close(closed, plain)
    for closed, plain in zip(
        derivatives.value_and_grad(energy, y), derivatives.value_and_grad(Plain(energy), y), strict=True
    ):
        torch.testing.assert_close(closed, plain)


@pytest.mark.parametrize("wrap", [lambda e: e, Plain], ids=["closed", "plain"])
def test_what_is_differentiable_and_what_is_not(wrap) -> None:
    net = picnn(DOUBLE, "softplus")
    energy, y = wrap(net.bind(draw(2, 5, 4).double())), draw(3, 5, 3).double()
    with torch.no_grad():
        assert not any(item.requires_grad for item in derivatives.value_and_grad(energy, y))
        value, live = derivatives.live_value_and_grad(energy, y)
    assert value.requires_grad
    assert live.requires_grad
    gradient = torch.autograd.grad(live.sum(), net.heads.weight, retain_graph=True)[0]
    assert gradient.abs().max() > 0
    f, g = derivatives.value_and_grad(energy, y, differentiable=True)
    assert f.requires_grad
    assert g.requires_grad


def test_energies_without_curvature_or_gradient() -> None:
    y = draw(4, 3, 2).double()
    f, g, h = derivatives.value_grad_hessian(lambda y: y.sum(-1), y)
    assert torch.equal(g, torch.ones_like(y))
    assert (h == 0).all()
    f, g, h = derivatives.value_grad_hessian(lambda y: torch.ones(3, dtype=DOUBLE), y)
    assert (f == 1).all()
    assert (g == 0).all()
    assert (h == 0).all()


def test_curvature_is_read_from_the_energy() -> None:
    def bowl(y: Tensor) -> Tensor:
        return (y**2).sum(-1)

    assert derivatives.curvature_of(bowl) is None
    bowl.curvature = torch.tensor([2.0, 0.0], requires_grad=True)  # type: ignore[attr-defined]
    curvature = derivatives.curvature_of(bowl)
    assert curvature is not None
    assert not curvature.requires_grad
    assert curvature.tolist() == [2.0, 0.0]


def test_rows_of_a_problem_are_the_problem_of_the_rows() -> None:
    """Rows that are done leave the batch: what stays must be the same problem, shared tensors included."""
    y, index = draw(5, 6, 3).double(), torch.tensor([4, 1])
    lower = -draw(6, 6, 3).abs().double()
    net = picnn(DOUBLE, "squareplus", ensemble=2)
    for reduction in ("mean", "softmax"):
        energy = net.bind(draw(7, 6, 4).double(), reduction=reduction)
        for box in (Box(lower, 1.0), Box(lower[:1], torch.ones(3)), Box(-1.0, float("inf"))):
            problem = Problem(energy, box, y)
            assert problem.separable
            few = problem.rows(index)
            for part, whole in zip(few.value_grad_hessian(y[index]), problem.value_grad_hessian(y), strict=True):
                torch.testing.assert_close(part, whole[index])
            g = problem.value_and_grad(y)[1]
            torch.testing.assert_close(few.gap(y[index], g[index]), problem.gap(y, g)[index])
            torch.testing.assert_close(few.widths(y[index]).expand(2, 3), problem.widths(y).expand(6, 3)[index])
            torch.testing.assert_close(few.project(9 * y[index]), problem.project(9 * y)[index])
    assert not Problem(net.bind(draw(7, 6, 4).double()), Box(-1.0, 1.0), y).separable  # one number a member
    assert not Problem(Quadratic(torch.eye(3), y), Box(-1.0, 1.0), y).separable
