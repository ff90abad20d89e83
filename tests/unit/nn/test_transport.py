"""Gradient maps that are affine to begin with, Gaussian transports, and the quadratic term that makes them possible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Status, minimize
from icnn_rl.nn import (
    ICNN,
    PICNN,
    EnsembleEnergy,
    gaussian_transport,
    initialise_gradient_map,
    to_cvxpy,
    to_linear_program,
    to_quadratic_program,
)
from icnn_rl.nn.linear import POSITIVITY
from icnn_rl.qp import solve_qp
from icnn_rl.solvers import ProjectedNewton, conjugate, gradient_map
from icnn_rl.testing.convexity import loop_icnn, loop_picnn, midpoint_excess
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64


def _positive(seed: int, n: int = 3) -> Tensor:
    root = draw(seed, n, n).double()
    return root @ root.mT + 0.2 * torch.eye(n, dtype=DOUBLE)


def _nets(**settings: Any) -> list[ICNN | PICNN]:
    torch.manual_seed(0)
    return [ICNN(3, (8, 6), **settings), PICNN(4, 3, (8,), (8, 6), **settings)]


def _gradient(net: ICNN | PICNN, y: Tensor) -> Tensor:
    f = net.bind() if isinstance(net, ICNN) else net.bind(draw(5, len(y), 4).to(y))
    return gradient_map(f, y).detach()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("positivity", POSITIVITY)
@pytest.mark.parametrize("ensemble", [None, 2])
def test_any_affine_map_with_a_full_quadratic_term(dtype: torch.dtype, positivity: str, ensemble: int | None) -> None:
    A, b, y = _positive(0), draw(1, 3).double(), draw(2, 20, 3).to(dtype)
    expected = y.double() @ A + b
    for rank in (3, 5):
        for net in _nets(quadratic_rank=rank, positivity=positivity, ensemble=ensemble):
            initialise_gradient_map(net.to(dtype), A, b)
            found = _gradient(net, y)
            scale = torch.finfo(dtype).eps * (1 + expected.abs().max())
            assert (found.double() - expected).abs().max() <= 32 * scale
            assert net.is_convex()


def test_the_identity_is_the_default() -> None:
    y = draw(2, 20, 3)
    for net in _nets(quadratic_rank=3):
        initialise_gradient_map(net)
        torch.testing.assert_close(_gradient(net, y), y)
    plain = ICNN(3, (8,), strong_convexity=1.0)
    initialise_gradient_map(plain, b=torch.ones(3))
    torch.testing.assert_close(_gradient(plain, y), y + 1)
    linear = ICNN(3, (), quadratic_rank=3)
    initialise_gradient_map(linear)
    torch.testing.assert_close(_gradient(linear, y), y)


def test_a_diagonal_map_needs_no_full_term_in_a_picnn() -> None:
    net, scale = PICNN(4, 3, (8,), (6,)), torch.tensor([0.5, 1.0, 2.0])
    initialise_gradient_map(net, torch.diag(scale))
    y = draw(2, 20, 3)
    torch.testing.assert_close(_gradient(net, y), scale * y)


@pytest.mark.parametrize("positivity", ["clamp", "relu"])
def test_training_leaves_the_affine_map(positivity: str) -> None:
    net = ICNN(2, (8, 8), quadratic_rank=2, positivity=positivity)
    initialise_gradient_map(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = draw(0, 200, 2)
    for _ in range(30):
        optimiser.zero_grad()
        (gradient_map(net, x) - x - 0.5 * x.sign()).square().mean().backward()
        optimiser.step()
    assert (gradient_map(net, x) - x - 0.5 * x.sign()).square().mean() < 0.2
    assert (net.nonneg[-1].weight_nonneg > 1e-3).any()
    assert midpoint_excess(net, draw(1, 50, 2), draw(2, 50, 2)) < 1e-5


def test_what_cannot_be_had_is_refused() -> None:
    skew = torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    full, weak = ICNN(3, (4,), quadratic_rank=3), ICNN(3, (4,), quadratic_rank=1, strong_convexity=0.1)
    for A, message in (
        (torch.eye(2), r"expected shapes \(3, 3\)"),
        (skew, "symmetric"),
        (-torch.eye(3), "eigenvalues > 0"),
        (torch.full((3, 3), torch.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            initialise_gradient_map(full, A)
    with pytest.raises(ValueError, match=r"at least 0\.1"):
        initialise_gradient_map(weak, torch.diag(torch.tensor([0.05, 1.0, 1.0])))
    with pytest.raises(ValueError, match="need 3 rows in R, and there are 1"):
        initialise_gradient_map(weak)
    initialise_gradient_map(weak, torch.diag(torch.tensor([0.1, 2.0, 0.1])))
    with pytest.raises(ValueError, match="there are 0"):
        initialise_gradient_map(ICNN(3, (4,)))
    with pytest.raises(ValueError, match="there are 0"):
        initialise_gradient_map(PICNN(4, 3, (4,), (4,)), _positive(0))
    with pytest.raises(ValueError, match="above strong_convexity"):
        initialise_gradient_map(PICNN(4, 3, (4,), (4,), strong_convexity=1.0, quadratic_rank=3))


def test_the_transport_of_gaussians() -> None:
    """It carries mean and covariance over, and is symmetric and positive definite: so, by Brenier, it is optimal."""
    mean, to_mean, S, T = draw(0, 3).double(), draw(1, 3).double(), _positive(2), _positive(3)
    A, b = gaussian_transport(mean, S, to_mean, T)
    torch.testing.assert_close(A @ S @ A.mT, T)
    torch.testing.assert_close(A @ mean + b, to_mean)
    assert torch.equal(A, A.mT)
    assert (torch.linalg.eigvalsh(A) > 0).all()
    back, c = gaussian_transport(to_mean, T, mean, S)
    torch.testing.assert_close(back @ A, torch.eye(3, dtype=DOUBLE))
    batch = gaussian_transport(mean.expand(2, 3), S.expand(2, 3, 3), to_mean, T)
    torch.testing.assert_close(batch[0][1], A)
    with pytest.raises(ValueError, match="to_cov: expected eigenvalues > 0"):
        gaussian_transport(mean, S, to_mean, 0 * T)

    net = ICNN(3, (8,), quadratic_rank=3).double()
    initialise_gradient_map(net, A, b)
    y = draw(4, 10, 3).double()
    torch.testing.assert_close(conjugate(net, y).maximiser, y @ back + c)


# the quadratic term itself


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)], ids=str)
@pytest.mark.parametrize(("ensemble", "reduction"), [(None, "none"), (3, "none"), (3, "mean"), (3, "softmax")])
def test_its_closed_forms(hidden: tuple[int, ...], ensemble: int | None, reduction: str) -> None:
    torch.manual_seed(0)
    icnn = ICNN(3, hidden, quadratic_rank=2, ensemble=ensemble).double()
    picnn = PICNN(4, 3, (5,), hidden, quadratic_rank=4, ensemble=ensemble).double()
    x, y = draw(0, 5, 4).double(), draw(1, 5, 3).double()
    for member in range(ensemble or 1):
        torch.testing.assert_close(
            icnn(y).reshape(-1, 5)[member], torch.stack([loop_icnn(icnn, member, one) for one in y])
        )
        expected = torch.stack([loop_picnn(picnn, member, *pair) for pair in zip(x, y, strict=True)])
        torch.testing.assert_close(picnn(x, y).reshape(-1, 5)[member], expected)
    for energy in (icnn.bind(reduction, 0.3), picnn.bind(x, reduction, 0.3)):
        _check_closed_forms(energy, y)
        _check_closed_forms(energy.tilted(y), y)
        _check_curvature(energy, y)
        if energy.separable:
            index = torch.tensor([3, 1])
            torch.testing.assert_close(energy.tilted(y).rows(index)(y[index]), energy.tilted(y)(y)[index])


def _check_closed_forms(energy: EnsembleEnergy, y: Tensor) -> None:
    f, g, h = energy.value_grad_hessian(y)
    torch.testing.assert_close(energy(y), f)
    torch.testing.assert_close(energy.double()(y), f)
    for member in range(f.numel() // len(y)):
        one = lambda y, member=member: energy(y).reshape(-1, len(y))[member].sum()  # noqa: E731
        torch.testing.assert_close(g.reshape(-1, *y.shape)[member], torch.func.grad(one)(y))
        rows = torch.func.jacrev(torch.func.grad(one))(y).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        torch.testing.assert_close(h.reshape(-1, len(y), 3, 3)[member], rows)


def _check_curvature(energy: EnsembleEnergy, y: Tensor) -> None:
    _, _, h = energy.value_grad_hessian(y)
    rest = h - torch.diag_embed(energy.curvature.expand(h.shape[:-1]))
    assert (torch.linalg.eigvalsh(rest) >= -1e-12).all()


@pytest.mark.parametrize("activation", ["softplus", "squareplus"])
def test_it_certifies_a_network_without_other_strong_convexity(activation: str) -> None:
    """On all of space, and on a box, where the compiled kernel, which knows of no such term, must not be asked."""
    torch.manual_seed(0)
    net = ICNN(3, (8,), activation=activation, quadratic_rank=3).double()
    assert (net.bind().curvature > 0).all()
    y = 3 * draw(0, 20, 3).double()
    found = conjugate(net, y)
    assert (found.gap < 1e-9).all()
    torch.testing.assert_close(gradient_map(net, found.maximiser), y)
    boxed = minimize(net.tilted(y), ProjectedNewton(tol=1e-12), torch.zeros_like(y), domain=Box(-1.0, 1.0))
    plain = minimize(
        lambda x: net(x) - (x * y).sum(-1), ProjectedNewton(tol=1e-12), torch.zeros_like(y), domain=Box(-1.0, 1.0)
    )
    torch.testing.assert_close(boxed.fun, plain.fun, rtol=1e-9, atol=1e-9)
    assert (boxed.gap < 1e-9).all()


def test_it_goes_into_programmes() -> None:
    cp = pytest.importorskip("cvxpy")
    torch.manual_seed(0)
    net = ICNN(3, (6, 5), activation="relu", quadratic_rank=2, ensemble=2).double()
    programme = to_quadratic_program(net.bind("mean"), Box(-1.0, 1.0))
    solution = solve_qp(**programme.arguments)
    least = (solution.fun + programme.constant).detach()
    torch.testing.assert_close(net.bind("mean")(programme.inputs(solution.value)[None])[0].detach(), least)
    y = cp.Variable(3)
    found = cp.Problem(cp.Minimize(to_cvxpy(net.bind("mean"), y)), [cp.abs(y) <= 1]).solve(solver="CLARABEL")
    torch.testing.assert_close(torch.tensor(found, dtype=DOUBLE), least, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="quadratic term"):
        to_linear_program(net.bind("mean"))
    picnn = PICNN(2, 3, (4,), (5,), activation="relu", quadratic_rank=2).double().bind(draw(0, 4, 2).double())
    programme = to_quadratic_program(picnn, Box(-1.0, 1.0))
    solution = solve_qp(**programme.arguments)
    torch.testing.assert_close(picnn(programme.inputs(solution.value)), solution.fun + programme.constant)


def test_weights_that_are_not_finite_have_a_status() -> None:
    net = ICNN(3, (4,), quadratic_rank=3)
    assert net.root is not None
    with torch.no_grad():
        net.root[0, 0, 0] = torch.nan
    found = conjugate(net, draw(0, 4, 3), throw=False)
    assert (found.status == Status.NONFINITE_INPUT).all()
    assert found.value.isnan().all()


def test_rank_must_be_positive() -> None:
    with pytest.raises(ValueError, match="quadratic_rank: expected an integer >= 1"):
        ICNN(3, (4,), quadratic_rank=0)
