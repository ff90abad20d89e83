"""Gradients through the minimiser: gradcheck in float64, degenerate rows, defaults."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Status, minimize
from icnn_rl.nn import PICNN
from icnn_rl.sets import Unconstrained
from icnn_rl.solvers import (
    BundleEntropy,
    DualKKT,
    Implicit,
    ImplicitCG,
    ProjectedGradient,
    ProjectedNewton,
    Solver,
    Unrolled,
)
from icnn_rl.testing.minimisation import MaxAffine, draw, picnn

DOUBLE = torch.float64
NEWTON = ProjectedNewton(tol=1e-14)
# gradcheck moves the minimiser by its eps: it must be found much more precisely than that
ACCELERATED = ProjectedGradient(tol=1e-8, max_steps=300)


def _quadratic(root: Tensor, centre: Tensor) -> Callable[[Tensor], Tensor]:
    h = root @ root.mT + torch.eye(3, dtype=DOUBLE)

    def energy(y: Tensor) -> Tensor:
        d = y - centre
        return 0.5 * torch.einsum("...i,...ij,...j->...", d, h, d) + 0.1 * (y**4).sum(-1)

    return energy


def _quadratic_data() -> tuple[Tensor, Tensor]:
    return draw(0, 2, 3, 3).double().requires_grad_(), (1.5 * draw(1, 2, 3).double()).requires_grad_()


@pytest.mark.parametrize(
    ("solver", "domain"),
    [(NEWTON, Box(-0.5, 0.5)), (NEWTON, Unconstrained()), (ACCELERATED, Box(-0.5, 0.5))],
    ids=["newton", "newton_unconstrained", "accelerated"],
)
def test_implicit_gradcheck(solver: Solver, domain: Box) -> None:
    root, centre = _quadratic_data()

    def argmin(root: Tensor, centre: Tensor) -> Tensor:
        return minimize(
            _quadratic(root, centre),
            solver,
            torch.zeros(2, 3, dtype=DOUBLE),
            domain=domain,
            adjoint=Implicit(0.0),
            throw=False,
        ).value

    value = argmin(root, centre)
    if isinstance(domain, Box):  # both kinds of coordinates are there
        assert (value.abs() == 0.5).any()
        assert (value.abs() < 0.5).any()
    if solver is NEWTON:
        assert torch.autograd.gradcheck(argmin, (root, centre), rtol=1e-3, atol=1e-5)
    else:
        fixed = root.detach()
        assert torch.autograd.gradcheck(lambda c: argmin(fixed, c), (centre,), eps=1e-3, rtol=1e-2, atol=1e-3)


def test_implicit_gradcheck_with_respect_to_the_bounds() -> None:
    root, centre = (item.detach() for item in _quadratic_data())
    lower = torch.full((3,), -0.5, dtype=DOUBLE, requires_grad=True)
    upper = (0.4 + 0.1 * torch.arange(6, dtype=DOUBLE).reshape(2, 3)).requires_grad_()

    def argmin(lower: Tensor, upper: Tensor) -> Tensor:
        return minimize(
            _quadratic(root, centre), NEWTON, torch.zeros(2, 3, dtype=DOUBLE), domain=Box(lower, upper), throw=False
        ).value

    assert torch.autograd.gradcheck(argmin, (lower, upper), rtol=1e-4, atol=1e-6)
    gradient = torch.autograd.grad(argmin(lower, upper).sum(), (lower, upper))
    assert all(part.abs().max() > 0 for part in gradient)


@pytest.mark.parametrize("reduction", ["mean", "softmax"])
def test_implicit_gradcheck_through_a_network(reduction: str) -> None:
    net = picnn(DOUBLE, "softplus", ensemble=2)
    x = draw(2, 3, 4).double().requires_grad_()
    domain = Box(-1.0, 1.0)

    def argmin(x: Tensor, bias: Tensor) -> Tensor:
        with torch.no_grad():
            assert net.heads.bias is not None
            net.heads.bias.copy_(bias)
        return minimize(
            net.bind(x, reduction=reduction), NEWTON, torch.zeros(3, 3, dtype=DOUBLE), domain=domain, throw=False
        ).value

    assert net.heads.bias is not None
    bias = net.heads.bias.detach().clone()
    value = argmin(x, bias)
    assert (value.abs() < 1).any()
    assert torch.autograd.gradcheck(lambda x: argmin(x, bias), (x,), rtol=1e-3, atol=1e-5)
    # a parameter, by differences of the whole solve
    weight = draw(3, 3, 3).double()
    (gradient,) = torch.autograd.grad((weight * argmin(x, bias)).sum(), net.heads.bias)
    direction = draw(4, *bias.shape).double()
    step = 1e-5
    plus, minus = ((weight * argmin(x, bias + sign * step * direction)).sum().detach() for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (plus - minus) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        ProjectedGradient("momentum", lr=0.05, momentum=0.5, max_steps=5),
        ProjectedGradient("adam", lr=0.05, max_steps=5),
        ProjectedGradient("accelerated", lr=0.05, max_steps=5),
        ProjectedGradient("accelerated", max_steps=5),
    ],
    ids=["momentum", "adam", "nesterov", "accelerated"],
)
def test_unrolled_gradcheck(solver: ProjectedGradient) -> None:
    root, centre = _quadratic_data()
    start = 0.3 * draw(5, 2, 3).double()

    def steps(root: Tensor, centre: Tensor) -> Tensor:
        return minimize(
            _quadratic(root, centre), solver, start, domain=Box(-1.0, 1.0), adjoint=Unrolled(), throw=False
        ).value

    assert torch.autograd.gradcheck(steps, (root, centre), rtol=1e-3, atol=1e-6)
    gradient = torch.autograd.grad(steps(root, centre).sum(), (root, centre))
    assert all(part.abs().max() > 0 for part in gradient)


def test_unrolling_a_network_ends_near_the_implicit_gradient() -> None:
    net = picnn(DOUBLE, "softplus")
    x, weight = draw(6, 3, 4).double(), draw(7, 3, 3).double()
    gradients = []
    for solver, adjoint in ((ProjectedGradient(lr=0.1, max_steps=150), Unrolled()), (NEWTON, Implicit())):
        solution = minimize(
            net.bind(x),
            solver,  # type: ignore[arg-type]
            torch.zeros(3, 3, dtype=DOUBLE),
            domain=Box(-1.0, 1.0),
            adjoint=adjoint,
            throw=False,
        )
        gradients.append(torch.autograd.grad((weight * solution.value).sum(), net.heads.weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_dual_kkt_gradcheck_on_a_max_affine_energy() -> None:
    slopes, offsets = draw(8, 1, 5, 2).double().requires_grad_(), draw(9, 1, 5).double().requires_grad_()

    def argmin(slopes: Tensor, offsets: Tensor) -> Tensor:
        return minimize(
            MaxAffine(slopes, offsets),
            BundleEntropy(entropy=0.5, tol=1e-12, max_steps=8),
            torch.zeros(1, 2, dtype=DOUBLE),
            domain=Box(-1.0, 2.0),
            adjoint=DualKKT(),
            throw=False,
        ).value

    assert torch.autograd.gradcheck(argmin, (slopes, offsets), eps=1e-5, rtol=1e-3, atol=1e-4)


def test_dual_kkt_through_a_relu_network() -> None:
    net = picnn(DOUBLE, "relu", seed=1, quadratic=False, strong_convexity=0.0)
    x = draw(20, 3, 4).double().requires_grad_()
    solver = BundleEntropy(entropy=0.5, tol=1e-12, max_steps=8)

    def argmin(x: Tensor) -> Tensor:
        return minimize(net.bind(x), solver, torch.zeros(3, 3, dtype=DOUBLE), domain=Box(-2.0, 2.0), throw=False).value

    assert torch.autograd.gradcheck(argmin, (x,), eps=1e-5, rtol=1e-3, atol=1e-4)
    argmin(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert net.nonneg[0].weight.grad is not None
    assert net.nonneg[0].weight.grad.abs().max() > 0


def test_implicit_gradient_through_the_bundle_method() -> None:
    """Along one direction, by differences of the whole solve."""
    net = picnn(DOUBLE, "softplus")
    x = draw(10, 3, 4).double().requires_grad_()

    def argmin(x: Tensor) -> Tensor:
        return minimize(
            net.bind(x),
            BundleEntropy(entropy=0.5, tol=1e-12, max_steps=25),
            torch.zeros(3, 3, dtype=DOUBLE),
            domain=Box(torch.tensor([-1.0, -2.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])),  # one coordinate fixed
            adjoint=Implicit(0.0),
            throw=False,
        ).value

    value, weight, direction, step = argmin(x), draw(18, 3, 3).double(), draw(19, 3, 4).double(), 1e-2
    assert value[:, 2].tolist() == [0.5] * 3
    (gradient,) = torch.autograd.grad((weight * value).sum(), x)
    plus, minus = ((weight * argmin(x + sign * step * direction)).sum().detach() for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (plus - minus) / (2 * step), rtol=1e-2, atol=1e-3)


def test_repeated_cuts_leave_the_gradient_finite_and_right() -> None:
    """Every cut of a linear energy is the same: the KKT matrix is singular, its answer is not."""
    slope = draw(11, 3, 4).double().requires_grad_()

    def argmin(slope: Tensor) -> Tensor:
        return minimize(
            lambda y: (slope * y).sum(-1),
            BundleEntropy(tol=1e-14, max_steps=5),
            torch.zeros(3, 4, dtype=DOUBLE),
            domain=Box(0.0, 1.0),
            adjoint=DualKKT(),
            throw=False,
        ).value

    (gradient,) = torch.autograd.grad(argmin(slope).sum(), slope)
    w = torch.sigmoid(-slope.detach())
    torch.testing.assert_close(gradient, -w * (1 - w), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", [Implicit(), DualKKT()], ids=str)
def test_an_optimum_at_the_border_has_a_finite_gradient(adjoint: Implicit | DualKKT) -> None:
    slope = torch.tensor([[1e3, -1e3], [1e6, 1.0]], dtype=DOUBLE, requires_grad=True)
    value = minimize(
        lambda y: (slope * y).sum(-1),
        BundleEntropy(),
        torch.zeros(2, 2, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        adjoint=adjoint,
        throw=False,
    ).value
    (gradient,) = torch.autograd.grad(value.sum(), slope)
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() < 1e-6


def _solved_with_one_bad_row(solver: Solver, adjoint: object) -> tuple[PICNN, Tensor, Tensor, Tensor]:
    net = picnn(DOUBLE, "softplus")
    x = draw(12, 4, 4).double().requires_grad_()
    y0 = torch.zeros(4, 3, dtype=DOUBLE)
    y0[1] = float("nan")
    solution = minimize(
        net.bind(x),
        solver,
        y0,
        domain=Box(-1.0, 1.0),
        adjoint=adjoint,
        throw=False,  # type: ignore[arg-type]
    )
    assert solution.status[1] == Status.NONFINITE_INPUT
    assert solution.failed.tolist() == [False, True, False, False]
    return net, x, y0, solution.value


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        (NEWTON, Implicit()),
        (ProjectedGradient(), Implicit()),
        (BundleEntropy(), Implicit()),
        (BundleEntropy(), DualKKT()),
    ],
    ids=["newton", "accelerated", "bundle_implicit", "bundle_kkt"],
)
def test_failed_rows_pass_no_gradient(solver: Solver, adjoint: object) -> None:
    """A NaN in one row's start once came back as NaN in every parameter."""
    net, x, y0, value = _solved_with_one_bad_row(solver, adjoint)
    assert value[1].isnan().all()
    keep = [0, 2, 3]
    weight = draw(13, 4, 3).double()
    inputs = [x, *net.parameters()]
    dirty = torch.autograd.grad((weight * value.nan_to_num()).sum(), inputs, allow_unused=True)
    assert (dirty[0][1] == 0).all()
    clean_value = minimize(
        net.bind(x[keep]),
        solver,
        y0[keep],
        domain=Box(-1.0, 1.0),
        adjoint=adjoint,
        throw=False,  # type: ignore[arg-type]
    ).value
    clean = torch.autograd.grad((weight[keep] * clean_value).sum(), inputs, allow_unused=True)
    for one, other in zip(dirty, clean, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.isfinite(one).all()
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_rows_short_of_steps_do_pass_a_gradient() -> None:
    net = picnn(DOUBLE, "softplus")
    x = draw(14, 4, 4).double().requires_grad_()
    solution = minimize(
        net.bind(x),
        ProjectedGradient(tol=1e-14, max_steps=3),
        torch.zeros(4, 3, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        throw=False,
    )
    assert (solution.status == Status.MAX_STEPS).any()
    assert torch.autograd.grad(solution.value.sum(), x)[0].abs().max() > 0


def test_parameters_and_context_both_receive_gradients() -> None:
    for solver in (NEWTON, ACCELERATED, BundleEntropy(tol=1e-5)):
        net = picnn(DOUBLE, "softplus")
        x = draw(15, 4, 4).double().requires_grad_()
        solution = minimize(net.bind(x), solver, torch.zeros(4, 3, dtype=DOUBLE), domain=Box(-3.0, 3.0), throw=False)
        solution.value.pow(2).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().max() > 0
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_without_an_adjoint_or_without_grad_the_value_is_detached() -> None:
    net = picnn(DOUBLE, "softplus")
    x, y0 = draw(16, 4, 4).double().requires_grad_(), torch.zeros(4, 3, dtype=DOUBLE)
    detached = minimize(net.bind(x), NEWTON, y0, adjoint=None)
    assert not detached.value.requires_grad
    assert not detached.fun.requires_grad
    with torch.no_grad():
        assert not minimize(net.bind(x), NEWTON, y0).value.requires_grad
    live = minimize(net.bind(x), NEWTON, y0)
    assert live.value.requires_grad
    assert live.fun.requires_grad
    assert not any(item.requires_grad for item in (live.gap, live.residual, live.warm_start))
    # a start that requires grad is a start, not a parameter
    moved = y0.clone().requires_grad_()
    value = minimize(net.bind(x), NEWTON, moved).value
    assert torch.autograd.grad(value.sum(), moved, allow_unused=True)[0] is None


def test_the_default_adjoint() -> None:
    """DualKKT for the bundle method on an energy not known to be smooth, Implicit elsewhere."""
    smooth, kinked = picnn(DOUBLE, "softplus"), picnn(DOUBLE, "relu")
    x, y0 = draw(17, 4, 4).double(), torch.zeros(4, 3, dtype=DOUBLE)
    bundle = BundleEntropy(tol=1e-5)
    expected: list[tuple[PICNN, Solver, Implicit | DualKKT]] = [
        (smooth, bundle, Implicit()),
        (kinked, bundle, DualKKT()),
        (smooth, NEWTON, Implicit()),
        (kinked, ProjectedGradient(max_steps=20), Implicit()),
    ]
    for net, solver, adjoint in expected:
        gradients = []
        for choice in ("auto", adjoint):
            value = minimize(net.bind(x), solver, y0, domain=Box(-1.0, 1.0), adjoint=choice, throw=False).value
            gradients.append(torch.autograd.grad(value.sum(), net.heads.weight)[0])
        assert torch.equal(*gradients)


def test_a_degenerate_corner_has_a_finite_gradient() -> None:
    """The gradient of f is zero exactly at the bound: the coordinate counts as fixed, and the answer is finite."""
    centre = torch.ones(1, 2, dtype=DOUBLE, requires_grad=True)
    value = minimize(
        lambda y: ((y - centre) ** 2).sum(-1), NEWTON, torch.zeros(1, 2, dtype=DOUBLE), domain=Box(0.0, 1.0)
    ).value
    (gradient,) = torch.autograd.grad(value.sum(), centre)
    assert ((gradient >= 0) & (gradient <= 1)).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Implicit(damping=-1.0), r"Implicit\.damping"),
        (lambda: DualKKT(threshold=-1e-3), r"DualKKT\.threshold"),
        (lambda: DualKKT(threshold=2.0), r"DualKKT\.threshold"),
    ],
    ids=["damping", "negative", "large"],
)
def test_wrong_settings_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_singular_hessian_in_float32_has_a_gradient() -> None:
    theta = torch.tensor(1.0, requires_grad=True)
    found = minimize(lambda y: (y.sum(-1) - theta) ** 2, ProjectedNewton(), torch.zeros(2, 2))
    (gradient,) = torch.autograd.grad(found.value.sum(), theta)
    assert float(gradient) == pytest.approx(2.0, rel=1e-3)  # sum_j y_j = theta in both rows


@pytest.mark.parametrize("adjoint", [Implicit(), ImplicitCG()])
def test_a_second_derivative_is_refused(adjoint: Implicit | ImplicitCG) -> None:
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.zeros(1, 1, dtype=torch.float64)
    found = minimize(lambda y: (torch.exp(theta * y) - y).sum(-1), ProjectedNewton(tol=1e-12), y0, adjoint=adjoint)
    (first,) = torch.autograd.grad(found.value.sum(), theta, create_graph=True)
    assert first.item() == pytest.approx(-(1.0 - math.log(2.0)) / 4.0, rel=1e-6)  # y = -log(theta) / theta
    with pytest.raises(RuntimeError, match="second derivatives through this minimiser are not known"):
        torch.autograd.grad(first, theta)


@pytest.mark.parametrize("adjoint", [Implicit(), ImplicitCG()])
def test_a_gradient_that_comes_as_nan_stays_nan(adjoint: Implicit | ImplicitCG) -> None:
    theta = torch.ones(2, requires_grad=True)
    found = minimize(
        lambda y: ((y - theta[:, None]) ** 2).sum(-1), ProjectedNewton(), torch.zeros(2, 1), adjoint=adjoint
    )
    found.value.backward(torch.tensor([[float("nan")], [1.0]]))
    assert theta.grad is not None
    assert theta.grad.isnan().tolist() == [True, False]
