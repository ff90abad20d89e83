"""The stand-in for qpth's QPFunction: numbers worked out by hand, solve_qp, and qpth where it is installed."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from icnn_rl.qp import solve_qp
from icnn_rl.qp.qpth_compat import QPFunction, QPSolvers
from icnn_rl.solution import SolveError
from icnn_rl.testing.minimisation import draw

NOTHING = torch.Tensor()  # how a program for qpth says that there are no such rows
NAMES = ("Q", "p", "G", "h", "A", "b")


def _parts(batch=3, n=5, m=4, q=2, dtype=torch.float64):
    """Q, p, G, h, A, b with a batch; 0 is feasible."""
    root = draw(1, batch, n, n).to(dtype)
    return [
        root @ root.mT + torch.eye(n, dtype=dtype),
        3 * draw(2, batch, n).to(dtype),
        draw(3, batch, m, n).to(dtype),
        draw(4, batch, m).to(dtype).abs(),
        draw(5, batch, q, n).to(dtype),
        torch.zeros(batch, q, dtype=dtype),
    ]


def _gradients(function, parts, weight):
    leaves = [t.detach().clone().requires_grad_() if t.numel() else t for t in parts]
    z = function(*leaves)
    (z * weight[: z.shape[0]]).sum().backward()
    return z.detach(), [t.grad for t in leaves if t.numel()]


def test_by_hand():
    # the nearest points to (1, 3) with z <= 2, and with z_1 = z_2
    Q, p = torch.eye(2), torch.tensor([-1.0, -3.0])
    z = QPFunction(verbose=-1)(Q, p, torch.eye(2), torch.full((2,), 2.0), NOTHING, NOTHING)
    torch.testing.assert_close(z, torch.tensor([[1.0, 2.0]]))
    z = QPFunction()(Q, p, NOTHING, NOTHING, torch.tensor([[1.0, -1.0]]), torch.zeros(1))
    torch.testing.assert_close(z, torch.tensor([[2.0, 2.0]]))
    assert torch.equal(QPFunction()(Q, p, None, None, None, None), torch.tensor([[1.0, 3.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [(), ("Q",), ("p",), ("G", "h", "A", "b"), ("Q", "p", "A"), NAMES])
def test_any_part_may_be_shared(shared, dtype):
    parts = [t[0] if name in shared else t for name, t in zip(NAMES, _parts(dtype=dtype), strict=True)]
    batch = 1 if shared == NAMES else 3
    z = QPFunction()(*parts)
    assert z.shape == (batch, 5)
    assert z.dtype == dtype
    torch.testing.assert_close(z, solve_qp(*parts).value.expand(batch, -1))


def test_empty_parts_of_another_dtype():
    parts = _parts()
    expected = solve_qp(*parts[:4]).value
    assert torch.equal(QPFunction()(*parts[:4], NOTHING, NOTHING), expected)  # torch.Tensor() is float32


def test_gradients_of_shared_parts_are_sums_unless_means_are_asked_for():
    Q, p, G, h, A, b = _parts()
    parts, weight = [Q, p, G[0], h[0], A[0], b[0]], draw(6, 3, 5).double()
    _, sums = _gradients(QPFunction(), parts, weight)
    _, means = _gradients(QPFunction(average_shared_gradients=True), parts, weight)
    _, reference = _gradients(lambda *given: solve_qp(*given).value, parts, weight)
    for i, (whole, mean, expected) in enumerate(zip(sums, means, reference, strict=True)):
        assert torch.equal(whole, expected)
        assert torch.equal(mean, whole if i < 2 else whole / 3)


def test_gradients_against_finite_differences():
    Q, p, G, h, A, b = _parts(batch=2, n=3, m=2, q=1)
    assert torch.autograd.gradcheck(QPFunction(), [t.requires_grad_() for t in (Q[0], p, G[0], h, A[0], b[0])])


def test_a_shared_linear_term_in_a_batch():
    # z = -p in each of the four rows: the gradient of the sum of all z is -4
    p = torch.tensor([1.0, 2.0], requires_grad=True)
    QPFunction()(torch.eye(2).expand(4, 2, 2), p, NOTHING, NOTHING, NOTHING, NOTHING).sum().backward()
    assert torch.equal(p.grad, torch.tensor([-4.0, -4.0]))


def test_a_matrix_that_is_not_positive_definite():
    Q, p = torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([-1.0, 1.0])
    G, h = -torch.eye(2), torch.zeros(2)
    with pytest.raises(RuntimeError, match="Q is not SPD"):
        QPFunction()(Q, p, G, h, NOTHING, NOTHING)
    z = QPFunction(check_Q_spd=False)(Q, p, G, h, NOTHING, NOTHING)
    torch.testing.assert_close(z, torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="positive semidefinite"):
        QPFunction(check_Q_spd=False)(torch.diag(torch.tensor([1.0, -1.0])), p, G, h, NOTHING, NOTHING)


def test_a_row_without_a_solution_is_an_error():
    G, h = torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.0, 0.0], [0.0, -1.0]])  # z <= 0; z >= 0, z >= 1
    with pytest.raises(SolveError, match="1 of 2 rows: PRIMAL_INFEASIBLE") as caught:
        QPFunction()(torch.eye(1), torch.zeros(1), G, h, NOTHING, NOTHING)
    assert caught.value.solution.success.tolist() == [True, False]


def test_settings_that_qpth_takes():
    assert [solver.name for solver in QPSolvers] == ["PDIPM_BATCHED", "CVXPY"]
    positional = list(inspect.signature(QPFunction).parameters)[:6]
    assert positional == ["eps", "verbose", "notImprovedLim", "maxIter", "solver", "check_Q_spd"]
    parts = _parts()
    expected = solve_qp(*parts).value
    function = QPFunction(1e-4, 1, 1, 1, QPSolvers.PDIPM_BATCHED, True)  # coarse in qpth, exact here
    torch.testing.assert_close(function(*parts), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(function))(*parts), expected)
    torch.testing.assert_close(copy.deepcopy(function)(*parts), expected)


def test_rows_one_after_the_other():
    pytest.importorskip("qpsolvers")
    parts, weight = _parts(), draw(6, 3, 5).double()
    z, gradients = _gradients(QPFunction(solver=QPSolvers.CVXPY), parts, weight)
    expected, reference = _gradients(QPFunction(), parts, weight)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(gradients, reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": NOTHING}, "p: expected numbers, got an empty tensor"),
        ({"G": draw(1, 1, 3, 4, 5).double()}, "G: expected 3 dimensions, or 2 if all rows share it, got 4"),
        ({"h": NOTHING}, "h: missing"),
        ({"Q": torch.eye(5)}, "Q: dtype torch.float32 differs from p's torch.float64"),
        ({"b": draw(1, 2, 2).double()}, "Batch dimensions do not broadcast"),
        ({"p": [1.0] * 5}, "p: expected a torch.Tensor, got list"),
    ],
)
def test_wrong_parts(change, message):
    with pytest.raises(ValueError, match=message):
        QPFunction()(*{**dict(zip(NAMES, _parts(), strict=True)), **change}.values())


def test_wrong_settings():
    with pytest.raises(ValueError, match="solver: expected one of"):
        QPFunction(solver=1)
    with pytest.raises(ValueError, match="maxIter"):
        QPFunction(maxIter=0)
    with pytest.raises(ValueError, match="eps"):
        QPFunction(eps=-1.0)


@pytest.mark.parametrize("shared", [(), ("G", "h", "A", "b"), NAMES])
def test_against_qpth(shared):
    qpth = pytest.importorskip("qpth.qp", exc_type=ImportError)
    weight = draw(6, 3, 5).double()
    parts = [t[0] if name in shared else t for name, t in zip(NAMES, _parts(), strict=True)]
    z, gradients = _gradients(QPFunction(average_shared_gradients=True), parts, weight)
    theirs, reference = _gradients(qpth.QPFunction(verbose=-1), parts, weight)
    torch.testing.assert_close(z, theirs, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(gradients, reference, atol=1e-5, rtol=1e-4)
