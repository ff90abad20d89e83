"""Conjugates against closed forms, grids and finite differences; gradient maps and the way back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Simplex, SolveError, Status
from icnn_rl.nn import ICNN, PICNN, EnsembleEnergy
from icnn_rl.solvers import (
    Implicit,
    ImplicitCG,
    ProjectedGradient,
    ProjectedNewton,
    Unrolled,
    conjugate,
    gradient_map,
)
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64
EXACT = ProjectedNewton(tol=1e-14)
Energy = Callable[[Tensor], Tensor]


def _icnn(n: int = 3, **settings: object) -> ICNN:
    torch.manual_seed(0)
    return ICNN(n, (16, 16), **{"strong_convexity": 1e-3, **settings})  # type: ignore[arg-type]


def _picnn(batch: int, n: int = 3, **settings: object) -> EnsembleEnergy:
    torch.manual_seed(0)
    return PICNN(4, n, (16,), (16, 16), **settings).bind(draw(9, batch, 4))  # type: ignore[arg-type]


def _as_given(f: object, dtype: torch.dtype) -> Energy:
    return f.double() if dtype == DOUBLE else f  # type: ignore[attr-defined, no-any-return]


def _quartic(x: Tensor) -> Tensor:
    return (x**4).sum(-1) / 4


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_closed_forms(dtype: torch.dtype) -> None:
    y = draw(0, 20, 3).to(dtype)
    half_square = conjugate(lambda x: 0.5 * (x * x).sum(-1), y)
    torch.testing.assert_close(half_square.value.detach(), 0.5 * (y * y).sum(-1))
    torch.testing.assert_close(half_square.maximiser.detach(), y)
    quartic = conjugate(_quartic, y.sign() + y)
    torch.testing.assert_close(quartic.value.detach(), (y.sign() + y).abs().pow(4 / 3).sum(-1) * 0.75)
    entropy = conjugate(lambda x: (x * x.clamp(min=1e-30).log()).sum(-1), y, domain=Simplex(), throw=False)
    torch.testing.assert_close(entropy.value.detach(), y.logsumexp(-1), rtol=1e-4, atol=1e-4)
    assert half_square.value.dtype == half_square.maximiser.dtype == half_square.gap.dtype == dtype


@pytest.mark.parametrize("seed", range(3))
def test_the_value_and_its_gap_enclose_the_maximum_over_a_grid(seed: int) -> None:
    torch.manual_seed(seed)
    f = ICNN(1, (8,), strong_convexity=0.1).double()
    y = 2 * draw(seed, 6, 1).double()
    found = conjugate(f, y)
    grid = torch.linspace(-60, 60, 400_001, dtype=DOUBLE)
    most = (y * grid - f(grid[:, None])).amax(-1)
    assert (most <= found.value + found.gap + 1e-12).all()
    assert (found.value <= most + 1e-7).all()  # what lies between the points of the grid
    assert (found.gap <= 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("activation", ["softplus", "squareplus"])
@pytest.mark.parametrize("kind", ["icnn", "picnn", "mean", "soft maximum"])
def test_the_maximiser_inverts_the_gradient_map(kind: str, activation: str, scale: float, dtype: torch.dtype) -> None:
    x = (scale * draw(1, 1000, 3)).to(dtype)
    f: object = _icnn(activation=activation) if kind == "icnn" else _picnn(1000, activation=activation)
    if kind == "mean":
        f = _icnn(activation=activation, ensemble=2).bind("mean")
    if kind == "soft maximum":
        f = _icnn(activation=activation, ensemble=2).bind("softmax", temperature=0.5)
    f = _as_given(f, dtype)
    y = gradient_map(f, x).detach()
    found = conjugate(f, y)
    assert found.success.all()
    eps = torch.finfo(dtype).eps
    assert ((gradient_map(f, found.maximiser) - y).abs() <= 1e-7 + 32 * eps).all()  # the residual of y = grad f(x)
    young = f(x) + found.value - (x * y).sum(-1)  # 0 by Fenchel and Young, where y = grad f(x)
    assert (young.abs() <= 64 * eps * (1 + f(x).abs() + (x * y).abs().sum(-1))).all()
    assert (found.gap >= 0).all()
    assert (found.gap <= 1e-9).all()


def test_a_callable_of_single_precision_has_the_answers_of_its_kind() -> None:
    f = _icnn()
    x = draw(1, 50, 3)
    found = conjugate(lambda x: f(x), gradient_map(f, x).detach())
    torch.testing.assert_close(found.maximiser, x, rtol=1e-3, atol=1e-3)
    assert torch.isinf(found.gap).any()  # what it does not tell of its curvature nobody knows


def test_the_gradient_map_is_differentiable_twice() -> None:
    for f in (_icnn().double(), _picnn(4, activation="squareplus").double(), _quartic):
        x = draw(2, 4, 3).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, f=f: gradient_map(f, x), (x,))
        assert torch.autograd.gradgradcheck(lambda x, f=f: gradient_map(f, x).pow(2), (x,))
    net = _icnn()
    gradient_map(net, draw(2, 4, 3)).pow(2).sum().backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in net.nonneg)
    with torch.no_grad():
        assert not gradient_map(net, draw(2, 4, 3)).requires_grad


@pytest.mark.parametrize("domain", [None, Box(-0.5, 0.5)])
@pytest.mark.parametrize("adjoint", [Implicit(damping=0.0), ImplicitCG(tol=1e-10, damping=0.0)])
def test_gradients_in_y_and_the_parameters(adjoint: Implicit | ImplicitCG, domain: Box | None) -> None:
    net, y = _icnn(activation="squareplus", strong_convexity=0.5).double(), draw(3, 4, 3).double().requires_grad_()
    weights = net.passthrough[0].weight

    def both(y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        energy = net.bind()
        energy.layers[0] = energy.layers[0]._replace(passthrough=w)
        found = conjugate(energy, y, domain=domain, solver=EXACT, adjoint=adjoint, throw=False)
        return found.value, found.maximiser

    assert torch.autograd.gradcheck(both, (y, weights.detach().requires_grad_()), rtol=1e-3, atol=1e-6)


def test_the_gradient_of_the_value_is_the_maximiser() -> None:
    y = draw(3, 10, 3).requires_grad_()
    found = conjugate(_icnn(), y)
    found.value.sum().backward()
    torch.testing.assert_close(y.grad, found.maximiser)
    detached = conjugate(_icnn(), y, adjoint=None)
    assert not detached.value.requires_grad
    by_transform = torch.func.grad(lambda y: conjugate(_icnn(), y).value.sum())(y.detach())
    torch.testing.assert_close(by_transform, found.maximiser.detach())


def test_no_number_where_there_is_no_maximum() -> None:
    """A softplus has slopes between 0 and 1: outside f* is infinite, by however little; at 0 it is not attained."""
    softplus = lambda x: torch.nn.functional.softplus(x).sum(-1)  # noqa: E731
    y = torch.tensor([[0.3], [-1.0], [-1e-3], [-1e-9], [1 + 1e-9], [2.0], [torch.nan]], dtype=DOUBLE)
    y.requires_grad_()
    found = conjugate(softplus, y, throw=False)
    infinite, nothing = Status.DUAL_INFEASIBLE, Status.NONFINITE_INPUT
    assert found.status.tolist() == [Status.SUCCESS, *[infinite] * 5, nothing]
    assert found.value[1:6].eq(torch.inf).all()
    assert found.value[6].isnan()
    assert found.maximiser[1:].isnan().all()
    assert found.gap[1:].isinf().all()
    found.value[0].backward()
    torch.testing.assert_close(y.grad, torch.tensor([[-0.8472978603872034]] + 6 * [[0.0]], dtype=DOUBLE))
    with pytest.raises(SolveError, match=r"keeps falling along a ray.*-f\*\(y\)"):
        conjugate(softplus, y)


@pytest.mark.parametrize("activation", ["softplus", "squareplus"])
def test_a_network_that_is_not_strongly_convex(activation: str) -> None:
    f = _icnn(strong_convexity=0.0, activation=activation)
    inside = gradient_map(f, draw(0, 50, 3)).detach()
    found = conjugate(f, torch.cat((inside, 100 * draw(1, 50, 3))), throw=False)
    assert found.success[:50].all()
    assert found.gap[:50].isinf().all()
    assert (found.status[50:] == Status.DUAL_INFEASIBLE).all()
    assert found.value[50:].eq(torch.inf).all()
    bounded = conjugate(f, 100 * draw(1, 50, 3), domain=Box(-1.0, 1.0))
    assert bounded.success.all()
    assert bounded.gap.isfinite().all()


def test_nothing_is_certified_of_what_may_not_be_convex() -> None:
    def wave(x: Tensor) -> Tensor:
        return (0.1 * x * x + torch.cos(x)).sum(-1)

    wave.convex = False  # type: ignore[attr-defined]
    wave.curvature = torch.full((1,), 0.2)  # type: ignore[attr-defined]  # a lie
    found = conjugate(wave, torch.zeros(3, 1) + 0.1, throw=False)
    assert found.gap.isinf().all()


def test_kinks_on_a_box() -> None:
    torch.manual_seed(0)
    f = ICNN(1, (6,), activation="relu").double()
    y = draw(0, 5, 1).double()
    found = conjugate(f, y, domain=Box(-2.0, 2.0))
    grid = torch.linspace(-2, 2, 100_001, dtype=DOUBLE)
    torch.testing.assert_close(found.value, (y * grid - f(grid[:, None])).amax(-1), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="needs a bounded domain"):
        conjugate(f, y)


def test_compiled_code_takes_tilted_energies() -> None:
    """One layer of squareplus units on a box, all rows and one row of context."""
    pytest.importorskip("numba")
    for rows in (1, 40):
        torch.manual_seed(0)
        energy = PICNN(4, 3, (8,), (16,), activation="squareplus").bind(draw(1, rows, 4)).double()
        y, box = 3 * draw(2, 40, 3).double(), Box(-1.0, 1.0)
        plain = conjugate(energy, y, domain=box, solver=ProjectedNewton(compiled=False))
        torch.testing.assert_close(conjugate(energy, y, domain=box).value, plain.value, rtol=1e-9, atol=1e-9)


def test_other_solvers_and_a_warm_start() -> None:
    f, y = _icnn(strong_convexity=0.5).double(), draw(0, 10, 3).double()
    newton = conjugate(f, y)
    other = conjugate(f, y, solver=ProjectedGradient(max_steps=2000, tol=1e-10))
    torch.testing.assert_close(other.maximiser, newton.maximiser, rtol=1e-4, atol=1e-4)
    again = conjugate(f, y, warm_start=newton.maximiser)
    assert (again.num_steps == 0).all()


def test_wrong_arguments() -> None:
    f, y = _icnn(), draw(0, 4, 3)
    with pytest.raises(ValueError, match="f: expected a callable"):
        conjugate(3.0, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y: does not fit f"):
        conjugate(f, draw(0, 4, 2))
    with pytest.raises(ValueError, match=r"y: does not fit f.*float64"):
        conjugate(f, y.double())
    with pytest.raises(ValueError, match="Give it a batch dimension"):
        conjugate(f, y[0])
    with pytest.raises(ValueError, match="expected 5 rows"):
        conjugate(_picnn(5), y)
    with pytest.raises(ValueError, match="Unrolled"):
        conjugate(f, y, adjoint=Unrolled())
    with pytest.raises(ValueError, match="adjoint: expected"):
        conjugate(f, y, adjoint="implicit")
    with pytest.raises(ValueError, match="x: expected a torch"):
        gradient_map(f, [1.0])  # type: ignore[arg-type]
