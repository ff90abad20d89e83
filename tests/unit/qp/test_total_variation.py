"""Total-variation denoising against dense solvers, finite differences and the optimality conditions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from icnn_rl.qp.total_variation import total_variation
from icnn_rl.solution import SolveError, Status
from icnn_rl.testing import minimisation_references as references
from icnn_rl.testing.minimisation import draw

Array = NDArray[np.float64]
NAN, INF = float("nan"), float("inf")


def _problem(seed: int, rows: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps with noise, penalties and weights of all sizes."""
    y = 3 * draw(seed, rows, n).cumsum(-1).double().round() + draw(seed + 1, rows, n).double()
    return y, draw(seed + 2, rows, n - 1).double().exp() * 2, draw(seed + 3, rows, n).double().exp()


def _dual(y: Array, lam: Array, w: Array) -> tuple[Array, Array]:
    """D W^-1/2 and W^1/2 y: the dual is min |A^T u - b|^2 over |u_i| <= lam_i, and x = W^-1/2 (b - A^T u)."""
    return np.diff(np.eye(len(y)), axis=0) / np.sqrt(w), np.sqrt(w) * y


def _dense(y: Tensor, lam: Tensor, w: Tensor) -> Tensor:
    """Every row by SciPy's dense active-set method for least squares with bounds."""
    answer = []
    for row in zip(y.numpy(), lam.numpy(), w.numpy(), strict=True):
        a, b = _dual(*row)
        u = optimize.lsq_linear(a.T, b, (-row[1], row[1]), method="bvls", tol=1e-15, max_iter=10_000).x
        answer.append((b - a.T @ u) / np.sqrt(row[2]))
    return torch.as_tensor(np.stack(answer))


def _enumerated(y: Tensor, lam: Tensor, w: Tensor) -> Tensor:
    """Every row by trying all active sets of the dual."""
    answer = []
    for row in zip(y.numpy(), lam.numpy(), w.numpy(), strict=True):
        a, b = _dual(*row)
        u = references.box_qp_by_enumeration(a @ a.T, -a @ b, -row[1], row[1])
        answer.append((b - a.T @ u) / np.sqrt(row[2]))
    return torch.as_tensor(np.stack(answer))


def _assert_optimal(x: Tensor, y: Tensor, lam: Tensor, w: Tensor, tol: float) -> None:
    """u_i = sum_{j<=i} w_j (x_j - y_j) stays within +-lam, sits on the bound where x jumps, and returns to 0."""
    u = (w * (x - y)).cumsum(-1)
    jump = x.diff(dim=-1)
    assert (u[..., -1].abs() <= tol).all()
    assert (u[..., :-1].abs() <= lam + tol).all()
    assert ((u[..., :-1] - lam * jump.sign()).abs()[jump != 0] <= tol).all()


@pytest.mark.parametrize("n", [2, 3, 6])
def test_matches_enumeration(n: int) -> None:
    problem = _problem(10 * n, 12, n)
    torch.testing.assert_close(total_variation(*problem).value, _enumerated(*problem), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [17, 40])
def test_matches_a_dense_method(n: int) -> None:
    problem = _problem(10 * n, 8, n)
    torch.testing.assert_close(total_variation(*problem).value, _dense(*problem), rtol=1e-10, atol=1e-10)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_small_integers_with_all_their_ties(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 6))
    rows = [
        data.draw(st.lists(st.integers(low, 3), min_size=size, max_size=size))
        for low, size in ((-3, n), (0, n - 1), (1, n))
    ]
    y, lam, w = (torch.tensor([row], dtype=torch.float64) for row in rows)
    y, w = y.requires_grad_(), w.requires_grad_()
    solution = total_variation(y, lam.requires_grad_(), w)
    expected = _enumerated(y.detach(), lam.detach(), w.detach())
    torch.testing.assert_close(solution.value.detach(), expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(solution.value.square().sum(), (y, lam, w))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(("n", "lam"), [(100, 13.0), (10_000, 13.0), (10_000, 3000.0), (100_000, 1.0)])
def test_long_signals_satisfy_the_optimality_conditions(n: int, lam: float) -> None:
    y = 10 * draw(n, 2, n).double() + draw(n + 1, 2, n).double().cumsum(-1)
    y.requires_grad_()
    solution = total_variation(y, lam)
    x = solution.value.detach()
    everywhere = torch.full((1, n - 1), lam, dtype=torch.float64)
    _assert_optimal(x, y.detach(), everywhere, torch.ones_like(x), tol=1e-13 * float(y.detach().abs().sum(-1).max()))
    assert (solution.num_steps <= 40).all()
    (gradient,) = torch.autograd.grad(solution.value.sum(), y)
    torch.testing.assert_close(gradient, torch.ones_like(y))  # the mean is kept, so its gradient is 1 everywhere


def test_the_certificate_holds() -> None:
    y, lam, w = _problem(1, 6, 50)
    solution = total_variation(y, lam, w)
    x, u = solution.value, solution.state.dual
    assert (u.abs() <= lam).all()
    pulled = y + (torch.nn.functional.pad(u, (0, 1)) - torch.nn.functional.pad(u, (1, 0))) / w  # best x for this u
    dual = (0.5 * w * (pulled - y) ** 2).sum(-1) + (u * pulled.diff(dim=-1)).sum(-1)
    primal = (0.5 * w * (x - y) ** 2).sum(-1) + (lam * x.diff(dim=-1).abs()).sum(-1)
    torch.testing.assert_close(solution.fun, primal)
    torch.testing.assert_close(primal, dual, rtol=1e-12, atol=1e-12)
    assert ((solution.gap >= 0) & (solution.gap <= 1e-12 * primal)).all()
    assert (solution.residual <= 1e-14).all()
    assert torch.equal(solution.state.sign, x.diff(dim=-1).sign())


@pytest.mark.parametrize("n", [1, 2, 9])
def test_gradients_of_first_and_second_order(n: int) -> None:
    problem = tuple(part.requires_grad_() for part in _problem(20 + n, 3, n))

    def value(y: Tensor, lam: Tensor, w: Tensor) -> Tensor:
        return total_variation(y, lam, w).value

    assert torch.autograd.gradcheck(value, problem)
    assert torch.autograd.gradgradcheck(value, problem)


def test_gradients_of_shared_arguments_add_up() -> None:
    y, _, _ = _problem(30, 4, 12)
    lam, w = torch.tensor(1.5, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: total_variation(*given).value, tuple(part.requires_grad_() for part in (y, lam, w))
    )


def test_the_gradient_is_the_formula_of_the_docstring() -> None:
    y, lam, w = (part.requires_grad_() for part in _problem(31, 5, 30))
    x = total_variation(y, lam, w).value
    g = draw(32, 5, 30).double()
    found = torch.autograd.grad(x, (y, lam, w), g)
    for row in range(5):
        pieces = [list(piece) for _, piece in itertools.groupby(range(30), key=x[row].tolist().__getitem__)]
        for piece in pieces:
            mean = g[row, piece].sum() / w[row, piece].sum()
            torch.testing.assert_close(found[0][row, piece], w[row, piece] * mean)
            torch.testing.assert_close(found[2][row, piece], (y - x)[row, piece] * mean)
            assert (found[1][row, piece[:-1]] == 0).all()


def test_what_is_known_of_the_solution() -> None:
    y, lam, w = _problem(40, 6, 25)
    x = total_variation(y, lam, w).value
    torch.testing.assert_close((w * x).sum(-1), (w * y).sum(-1))  # the mean is kept
    torch.testing.assert_close(total_variation(y + 7, lam, w).value, x + 7)
    torch.testing.assert_close(total_variation(-y, lam, w).value, -x)
    torch.testing.assert_close(total_variation(3 * y, 3 * lam, w).value, 3 * x)
    torch.testing.assert_close(total_variation(y, 3 * lam, 3 * w).value, x)
    torch.testing.assert_close(total_variation(y.flip(-1), lam.flip(-1), w.flip(-1)).value, x.flip(-1))
    torch.testing.assert_close(total_variation(y, 0.0, w).value, y)
    torch.testing.assert_close(
        total_variation(y, 1e9, w).value, ((w * y).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)).expand_as(y)
    )


def test_no_penalty_has_the_gradient_of_the_identity_even_on_a_constant_signal() -> None:
    y = torch.full((1, 4), 0.1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: total_variation(y, 0.0).value[0], y)[:, 0]
    assert torch.equal(jacobian, torch.eye(4, dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda y: total_variation(y, 1.0).value[0], y)[:, 0]
    torch.testing.assert_close(jacobian, torch.full((4, 4), 0.25, dtype=torch.float64))


def test_the_derivative_from_above_where_there_is_no_penalty() -> None:
    y = torch.tensor([0.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda lam: total_variation(y, lam).value, torch.zeros(3, dtype=torch.float64)
    )
    assert jacobian.T.tolist() == [[1, -1, 0, 0], [0, -1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e250])
def test_scales(scale: float) -> None:
    y, lam, w = _problem(50, 4, 20)
    x = total_variation(y, lam, w).value
    torch.testing.assert_close(total_variation(scale * y, scale * lam, w).value / scale, x, rtol=1e-12, atol=1e-12)
    if 1e-200 < scale < 1e200:
        torch.testing.assert_close(total_variation(y, scale * lam, scale * w).value, x)


def test_weights_and_penalties_of_very_different_size() -> None:
    y, lam, w = _problem(51, 20, 40)
    lam, w = lam**8, w**8
    x = total_variation(y, lam, w).value
    _assert_optimal(x, y, lam, w, tol=1e-13 * float((w * y.abs()).sum(-1).max()))


def test_a_signal_that_takes_many_rounds() -> None:
    y = 2.0 ** torch.arange(200, dtype=torch.float64)  # the mean lies far up: few samples are cut off at a time
    solution = total_variation(y, 0.25)
    expected = torch.cat((y[:1] + 0.25, y[1:-1], y[-1:] - 0.25))
    torch.testing.assert_close(solution.value, expected)
    assert 10 < int(solution.num_steps) <= 200


def test_float32_is_the_rounded_float64_answer() -> None:
    y, lam, w = (part.float() for part in _problem(60, 6, 80))
    solution = total_variation(y, lam, w)
    assert {solution.value.dtype, solution.gap.dtype, solution.state.dual.dtype} == {torch.float32}
    assert torch.equal(solution.value, total_variation(y.double(), lam.double(), w.double()).value.float())
    assert (solution.gap <= 1e-9 * solution.fun).all()


def test_every_row_is_alone_and_shapes_broadcast() -> None:
    y, lam, w = _problem(70, 6, 15)
    whole = total_variation(y, lam, w)
    for row in range(6):
        alone = total_variation(y[row], lam[row], w[row])
        assert torch.equal(alone.value, whole.value[row])
        assert alone.status.shape == ()
        assert alone.num_steps == whole.num_steps[row]
    grid = total_variation(y.view(2, 3, 15), lam.view(2, 3, 14), w.view(2, 3, 15))
    assert torch.equal(grid.value.view(6, 15), whole.value)
    assert grid.fun.shape == (2, 3)
    outer = total_variation(y[:2, None], lam[:3], w[0])
    assert outer.value.shape == (2, 3, 15)
    assert torch.equal(outer.value[1, 2], total_variation(y[1], lam[2], w[0]).value)
    per_row = total_variation(y, lam[:, :1])
    assert torch.equal(per_row.value[4], total_variation(y[4], float(lam[4, 0])).value)
    assert total_variation(y[:0], 1.0).value.shape == (0, 15)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, in jacfwd
def test_vmap_and_function_transforms() -> None:
    y, lam, w = _problem(80, 4, 10)

    def value(y: Tensor, lam: Tensor, w: Tensor) -> Tensor:
        return total_variation(y, lam, w, throw=False).value

    torch.testing.assert_close(torch.func.vmap(value)(y, lam, w), value(y, lam, w))
    torch.testing.assert_close(torch.func.vmap(value, (1, None, None))(y.T, lam[0], w[0]), value(y, lam[0], w[0]))
    back = torch.func.vmap(torch.func.jacrev(value, argnums=(0, 1, 2)))(y, lam, w)
    forth = torch.func.vmap(torch.func.jacfwd(value, argnums=(0, 1, 2)))(y, lam, w)
    for one, other in zip(back, forth, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("which", "bad"), [("y", NAN), ("y", INF), ("lam", NAN), ("weights", NAN), ("weights", INF)])
def test_a_row_that_is_not_finite_fails_alone(which: str, bad: float) -> None:
    good = _problem(90, 3, 8)
    spoilt = dict(zip(("y", "lam", "weights"), (part.clone() for part in good), strict=True))
    spoilt[which][1, 4] = bad
    for part in spoilt.values():
        part.requires_grad_()
    solution = total_variation(**spoilt, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NONFINITE_INPUT, Status.SUCCESS]
    assert torch.isnan(solution.value[1]).all()
    assert solution.gap[1] == INF
    assert torch.equal(solution.value[::2], total_variation(*good).value[::2])
    gradients = torch.autograd.grad(solution.value.square().sum(), tuple(spoilt.values()))
    assert all(torch.isfinite(gradient).all() and (gradient[1] == 0).all() for gradient in gradients)
    with pytest.raises(SolveError, match="1 of 3 rows: NONFINITE_INPUT"):
        total_variation(**spoilt)


def test_sums_that_overflow_are_reported() -> None:
    y = torch.tensor([[1.5e308, 1.5e308, 1.6e308], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    solution = total_variation(y, 1.0, throw=False)
    assert solution.status.tolist() == [Status.NUMERICAL, Status.SUCCESS]
    (gradient,) = torch.autograd.grad(solution.value.sum(), y)
    assert gradient.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(3, dtype=torch.int64), 1.0), "y: expected dtype"),
        ((torch.tensor(1.0), 1.0), "y: expected shape"),
        ((torch.zeros(2, 0), 1.0), "y: expected shape"),
        ((torch.zeros(3), -1.0), "lam: expected finite numbers >= 0"),
        ((torch.zeros(3), INF), "lam: expected finite numbers >= 0"),
        ((torch.zeros(3), torch.tensor([1.0, -1.0])), "lam: expected finite numbers >= 0"),
        ((torch.zeros(3), True), "lam: expected a torch.Tensor"),
        ((torch.zeros(3), torch.zeros(3)), "lam: expected shape"),
        ((torch.zeros(3), torch.zeros(2).double()), "lam: dtype"),
        ((torch.zeros(3), 1.0, torch.zeros(3)), "weights: expected numbers > 0"),
        ((torch.zeros(3), 1.0, torch.ones(2)), "weights: expected shape"),
        ((torch.zeros(3), 1.0, 2.0), "weights: expected a torch.Tensor"),
        ((torch.zeros(2, 3), torch.ones(4, 2)), "expected batch shapes that broadcast"),
    ],
)
def test_wrong_arguments(given: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        total_variation(*given)  # type: ignore[arg-type]
