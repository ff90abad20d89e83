"""The gradient of the minimum: against finite differences of whole solves, and a dual loss worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from icnn_rl import Ball, Box, Polytope, Unconstrained, minimize
from icnn_rl.nn import ICNN
from icnn_rl.sets import Domain
from icnn_rl.solvers import (
    BundleEntropy,
    Implicit,
    ImplicitCG,
    ProjectedGradient,
    ProjectedNewton,
    ProximalBundle,
    Solver,
    Unrolled,
)
from icnn_rl.testing.minimisation import MaxAffine, draw

DOUBLE = torch.float64
NEWTON = ProjectedNewton(tol=1e-14)
ZERO = torch.zeros(2, 3, dtype=DOUBLE)


def _data() -> tuple[Tensor, Tensor]:
    return draw(0, 2, 3, 3).double().requires_grad_(), (1.5 * draw(1, 2, 3).double()).requires_grad_()


def _quadratic(root: Tensor, centre: Tensor) -> Callable[[Tensor], Tensor]:
    h = root @ root.mT + torch.eye(3, dtype=DOUBLE)

    def energy(y: Tensor) -> Tensor:
        d = y - centre
        return 0.5 * torch.einsum("...i,...ij,...j->...", d, h, d) + 0.1 * (y**4).sum(-1)

    energy.smooth = True  # type: ignore[attr-defined]
    return energy


@pytest.mark.parametrize(
    ("solver", "domain", "adjoint"),
    [
        (NEWTON, Box(-0.5, 0.5), "auto"),
        (NEWTON, Box(-0.5, 0.5), ImplicitCG()),
        (NEWTON, Unconstrained(), "auto"),
        (NEWTON, Polytope(G=torch.ones(1, 3, dtype=DOUBLE), h=-torch.ones(1, dtype=DOUBLE), lb=-1.0, ub=1.0), "auto"),
        (ProjectedGradient(tol=1e-9, max_steps=200), Box(-0.5, 0.5), "auto"),
        (ProximalBundle(tol=1e-10), Box(-0.5, 0.5), "auto"),
    ],
    ids=["newton", "cg", "unconstrained", "rows", "gradient", "bundle"],
)
def test_gradcheck_in_what_the_energy_depends_on(solver: Solver, domain: Domain, adjoint: object) -> None:
    def minimum(root: Tensor, centre: Tensor) -> Tensor:
        solution = minimize(
            _quadratic(root, centre),
            solver,
            ZERO,
            domain=domain,
            adjoint=adjoint,
            throw=False,  # type: ignore[arg-type]
        )
        return solution.fun

    root, centre = _data()
    if solver is NEWTON:
        assert torch.autograd.gradcheck(minimum, (root, centre), rtol=1e-3, atol=1e-5)
    else:
        root = root.detach()
        assert torch.autograd.gradcheck(
            lambda c: minimum(root, c), (centre,), eps=1e-3, rtol=1e-2, atol=1e-3, fast_mode=True
        )


@pytest.mark.parametrize("adjoint", ["auto", ImplicitCG()], ids=["implicit", "cg"])
def test_gradcheck_in_the_bounds(adjoint: Implicit | ImplicitCG | str) -> None:
    energy = _quadratic(*(t.detach() for t in _data()))
    lower = torch.full((3,), -0.5, dtype=DOUBLE, requires_grad=True)
    upper = (0.4 + 0.1 * torch.arange(6, dtype=DOUBLE).reshape(2, 3)).requires_grad_()

    def minimum(lower: Tensor, upper: Tensor) -> Tensor:
        return minimize(energy, NEWTON, ZERO, domain=Box(lower, upper), adjoint=adjoint, throw=False).fun

    assert torch.autograd.gradcheck(minimum, (lower, upper), rtol=1e-3, atol=1e-5)
    assert all(part.abs().max() > 0 for part in torch.autograd.grad(minimum(lower, upper).sum(), (lower, upper)))


def test_gradcheck_with_the_entropy() -> None:
    """Of min f - tau H, in the cuts that f is made of and in the bounds, which the entropy moves with."""
    slopes, offsets = draw(8, 1, 5, 2).double().requires_grad_(), draw(9, 1, 5).double().requires_grad_()
    lower, upper = (torch.full((2,), end, dtype=DOUBLE, requires_grad=True) for end in (-1.0, 2.0))

    def minimum(slopes: Tensor, offsets: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        solver, start = BundleEntropy(0.5, tol=1e-12, max_steps=8), torch.zeros(1, 2, dtype=DOUBLE)
        return minimize(MaxAffine(slopes, offsets), solver, start, domain=Box(lower, upper), throw=False).fun

    inputs = (slopes, offsets, lower, upper)
    assert torch.autograd.gradcheck(minimum, inputs, eps=1e-5, rtol=1e-3, atol=1e-4, fast_mode=True)


def test_gradcheck_in_the_tensors_of_a_set() -> None:
    root, centre = _data()
    energy = _quadratic(root.detach(), centre.detach())
    G = draw(5, 2, 3).double().requires_grad_()
    h = torch.tensor([-0.4, 0.1], dtype=DOUBLE, requires_grad=True)
    middle = (0.5 * draw(6, 3).double()).requires_grad_()

    def over_rows(G: Tensor, h: Tensor) -> Tensor:
        return minimize(energy, NEWTON, ZERO, domain=Polytope(G=G, h=h, lb=-2.0, ub=2.0)).fun

    def over_ball(middle: Tensor) -> Tensor:
        return minimize(energy, NEWTON, ZERO, domain=Ball(0.3, middle)).fun

    assert torch.autograd.gradcheck(over_rows, (G, h), rtol=1e-3, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradcheck(over_ball, (middle,), rtol=1e-3, atol=1e-5, fast_mode=True)


def test_a_conjugates_dual_loss() -> None:
    """f*(x) = max_y x . y - f(y) with f(y) = w/2 |y|^2: f* = |x|^2 / (2 w), and d f* / dw = -|x|^2 / (2 w^2)."""
    w, x = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True), draw(0, 4, 3).double().requires_grad_()
    minimum = minimize(lambda y: 0.5 * w * (y * y).sum(-1) - (x * y).sum(-1), NEWTON, torch.zeros_like(x)).fun
    dw, dx = torch.autograd.grad(-minimum.sum(), (w, x))
    torch.testing.assert_close(dw, -(x * x).sum().detach() / 8)
    torch.testing.assert_close(dx, x.detach() / 2)


def test_of_unrolled_steps_it_is_that_of_the_steps() -> None:
    def after_steps(root: Tensor, centre: Tensor) -> Tensor:
        solver = ProjectedGradient("momentum", lr=0.05, momentum=0.5, max_steps=5)
        return minimize(
            _quadratic(root, centre), solver, ZERO, domain=Box(-1.0, 1.0), adjoint=Unrolled(), throw=False
        ).fun

    assert torch.autograd.gradcheck(after_steps, _data(), rtol=1e-3, atol=1e-6)


def test_failed_rows_pass_none_and_second_derivatives_are_refused() -> None:
    scale = torch.tensor([1.0, torch.inf], dtype=DOUBLE, requires_grad=True)
    shift = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    solution = minimize(
        lambda y: scale * ((y - shift) ** 2).sum(-1),
        NEWTON,
        torch.ones(2, 3, dtype=DOUBLE),
        domain=Box(-0.1, 0.1),
        throw=False,
    )
    assert solution.failed.tolist() == [False, True]
    (g,) = torch.autograd.grad(solution.fun[:1].sum(), scale, create_graph=True)
    torch.testing.assert_close(g[0], torch.tensor(3 * 0.16, dtype=DOUBLE))
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(g[0], shift)
    net = ICNN(3, (4,)).double()
    assert not minimize(net, NEWTON, ZERO, domain=Box(-1.0, 1.0), adjoint=None).fun.requires_grad
    with torch.no_grad():
        assert not minimize(net, NEWTON, ZERO, domain=Box(-1.0, 1.0)).fun.requires_grad
