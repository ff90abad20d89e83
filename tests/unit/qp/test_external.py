"""External: every solver that is installed gives our answers, statuses and gradients; what it gets wrong is said."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from icnn_rl.qp import Diagonal, External, PrimalDual, QPLayer, solve_qp
from icnn_rl.solution import SolveError, Status
from icnn_rl.testing.minimisation import draw

qpsolvers = pytest.importorskip("qpsolvers")
SOLVERS = [name for name in ("clarabel", "piqp", "osqp", "daqp", "quadprog") if name in qpsolvers.available_solvers]
INF = float("inf")


def _problem(seed=0, batch=4, n=6, m=5, q=2, dtype=torch.float64):
    """Q, p, G, h, A, b, lb, ub, with rows and bounds that are absent; a point within all of them is known."""
    inside = draw(seed, batch, n).clamp(-0.8, 0.8)
    root, G, A = draw(seed + 1, batch, n, n), draw(seed + 2, m, n), draw(seed + 3, q, n)
    h = inside @ G.T + draw(seed + 4, batch, m).abs()
    h[0, 1] = INF
    ub = torch.ones(n)
    ub[2] = INF
    Q = root @ root.mT / n + 0.1 * torch.eye(n)
    return [t.to(dtype) for t in (Q, 3 * draw(seed + 5, batch, n), G, h, A, inside @ A.T, -torch.ones(n), ub)]


def _solved(parts, solver, weight):
    """The solution, and the gradients of everything."""
    leaves = [t.detach().clone().requires_grad_() for t in parts]
    solution = solve_qp(*leaves, solver=solver)
    total = (solution.value * weight).sum() + solution.dual_ineq.square().sum() + solution.dual_lb.sum()
    return solution, torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_answers_and_gradients(name, dtype):
    for seed in (0, 100, 200):
        parts, weight = _problem(seed, dtype=dtype), draw(seed + 6, 4, 6).to(dtype)
        theirs, gradients = _solved(parts, External(name), weight)
        ours, expected = _solved(parts, PrimalDual(), weight)
        assert theirs.value.dtype == dtype
        assert theirs.residual.max() < 1e-12
        torch.testing.assert_close(theirs.value, ours.value)
        torch.testing.assert_close(theirs.dual_eq, ours.dual_eq)
        torch.testing.assert_close(theirs.dual_ub, ours.dual_ub)
        torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("name", SOLVERS)
def test_by_hand(name):
    solver = External(name)
    p = torch.tensor([-1.0, -3.0])
    torch.testing.assert_close(solve_qp(1.0, p, lb=0.0, ub=2.0, solver=solver).value, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(solve_qp(1.0, p, solver=solver).value, torch.tensor([1.0, 3.0]))
    together = solve_qp(1.0, p, A=torch.tensor([[1.0, -1.0]]), b=torch.zeros(1), solver=solver)
    torch.testing.assert_close(together.value, torch.tensor([2.0, 2.0]))
    nowhere = solve_qp(1.0, p, torch.eye(2), torch.full((2,), INF), solver=solver)
    torch.testing.assert_close(nowhere.value, torch.tensor([1.0, 3.0]))
    assert solve_qp(1.0, torch.ones(0, 2), lb=0.0, solver=solver).value.shape == (0, 2)


def test_few_digits_are_made_up_for():
    coarse = External("clarabel", tol_gap_abs=1e-2, tol_gap_rel=1e-2, tol_feas=1e-2)
    parts = _problem()
    solution = solve_qp(*parts, solver=coarse)
    assert solution.residual.max() < 1e-12
    torch.testing.assert_close(solution.value, solve_qp(*parts).value)


@pytest.mark.parametrize("name", SOLVERS)
def test_verdicts_are_proofs_of_ours(name):
    # row 0 is fine, in row 1 z_1 <= -1 and z_1 >= 2, row 2 is not a number
    G, h = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 1.0], [-1.0, -2.0], [INF - INF, 1.0]])
    solution = solve_qp(1.0, torch.ones(3, 2), G, h, solver=External(name), throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.PRIMAL_INFEASIBLE, Status.NONFINITE_INPUT]
    y = solution.dual_ineq[1]
    assert (y >= 0).all()
    torch.testing.assert_close(G.T @ y, torch.zeros(2))
    assert h[1] @ y < 0
    with pytest.raises(SolveError, match="1 of 2 rows: PRIMAL_INFEASIBLE"):
        solve_qp(1.0, torch.ones(2, 2), G, h[:2], solver=External(name))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "quadprog"])  # which needs Q > 0
def test_falling_for_ever(name):
    Q, p = Diagonal(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    solution = solve_qp(Q, p, lb=torch.tensor([-5.0, 0.0]), solver=External(name), throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.DUAL_INFEASIBLE]
    assert solution.ray[1, 1] > 0


def _pretend(monkeypatch, answer):
    """A solver whose answers are (found, x, z)."""

    def solve_problem(problem, name, **options):
        solution = qpsolvers.Solution(problem)
        solution.found, solution.x, solution.z = answer(problem)
        return solution

    monkeypatch.setattr(qpsolvers, "solve_problem", solve_problem)


def test_a_solver_that_gives_up(monkeypatch):
    _pretend(monkeypatch, lambda problem: (False, None, None))
    solution = solve_qp(1.0, -torch.ones(2, 3), torch.eye(3), torch.zeros(3), solver=External(), throw=False)
    assert solution.status.tolist() == [Status.NUMERICAL] * 2
    assert solution.residual.isnan().all()


def test_a_solver_that_claims_too_much(monkeypatch):
    # half of sixty rows in twelve dimensions: so wrong a set that a few active-set steps do not mend it
    parts = _problem(7, batch=1, n=12, m=60, q=0)[:4]
    assert solve_qp(*parts).success.all()
    _pretend(monkeypatch, lambda problem: (True, np.full(12, 1e3), (np.arange(len(problem.h)) % 2).astype(float)))
    leaves = [t.requires_grad_() for t in parts]
    wrong = solve_qp(*leaves, solver=External(), throw=False)
    assert wrong.status.tolist() == [Status.NUMERICAL]
    assert wrong.residual.item() > 1e-9
    wrong.value.sum().backward()
    assert all((t.grad == 0).all() for t in leaves)


def test_rows_that_the_package_refuses(monkeypatch):
    def refuse(problem, name, **options):
        raise qpsolvers.ProblemError("matrix P is not positive definite")

    monkeypatch.setattr(qpsolvers, "solve_problem", refuse)
    assert solve_qp(1.0, torch.ones(2), lb=0.0, solver=External(), throw=False).status == Status.NUMERICAL


def test_options_reach_the_solver():
    with pytest.raises(ValueError, match=r"clarabel does not take the options .*nonsense"):
        solve_qp(1.0, torch.ones(2), lb=0.0, solver=External("clarabel", nonsense=1))


def test_names():
    with pytest.raises(ValueError, match=r"External\.name: expected one of .*'clarabel'.*, got 'simplex'"):
        External("simplex")
    with pytest.raises(ValueError, match=r"External\.tol"):
        External(tol=0.0)
    with pytest.raises(ValueError, match=r"solver: expected PrimalDual\(\.\.\.\) or External\(\.\.\.\), got 'piqp'"):
        solve_qp(1.0, torch.ones(2), solver="piqp")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "qpsolvers", None)
    with pytest.raises(ValueError, match=r"which is not installed. pip install -e '.\[qpsolvers\]'"):
        External()


def test_settings_are_a_value():
    solver = External("clarabel", max_iter=50)
    assert repr(solver) == "External(name='clarabel', tol=None, options={'max_iter': 50})"
    assert solver == External("clarabel", max_iter=50) != External("clarabel")
    assert hash(solver) == hash(External("clarabel", max_iter=50))
    assert pickle.loads(pickle.dumps(solver)) == copy.deepcopy(solver) == solver


def test_within_vmap_and_a_layer():
    parts = _problem()
    Q, p, G, h, A, b, lb, ub = parts
    mapped = torch.func.vmap(lambda Q, p, h, b: solve_qp(Q, p, G, h, A, b, lb, ub, solver=External()).value)(Q, p, h, b)
    torch.testing.assert_close(mapped, solve_qp(*parts).value)
    layer = QPLayer(6, n_ineq=3, learn=("G", "h"), lb=-1.0, dtype=torch.float64)
    expected = layer(p)
    layer.solver = External()
    torch.testing.assert_close(layer(p), expected)
