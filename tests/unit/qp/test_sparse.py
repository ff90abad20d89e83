"""Sparse G and A: the same answers and gradients as their dense forms, and memory that follows the entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import Diagonal, PrimalDual, solve_qp
from icnn_rl.qp.sparse import SparseRows
from icnn_rl.testing.qp_families import sudoku_rules

DOUBLE = torch.float64


def draw(seed: int, *shape: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def thinned(seed: int, k: int, n: int) -> Tensor:
    """About half of the entries are zero."""
    return draw(seed, k, n) * (draw(seed + 1, k, n) > 0)


def number_of_pairs(rows: SparseRows) -> int:
    """How many products M D M^T takes."""
    return int(torch.bincount(rows.column[0]).square().sum())


def rules_of(order: int) -> Tensor:
    """Sudoku's equations on one-hot variables."""
    rules = sudoku_rules(0, 1, order)["A"]
    assert isinstance(rules, Tensor)
    return rules


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_products_are_those_of_the_dense_matrix(layout: torch.layout) -> None:
    dense = thinned(0, 7, 5)
    sparse = SparseRows.of(dense.to_sparse(layout=layout))
    x, y, d = draw(2, 3, 5), draw(3, 3, 7), draw(4, 3, 5).exp()
    torch.testing.assert_close(sparse.dense()[0], dense)
    torch.testing.assert_close(sparse.matvec(x), x @ dense.T)
    torch.testing.assert_close(sparse.rmatvec(y), y @ dense)
    torch.testing.assert_close(sparse.norms()[0], dense.norm(dim=1))
    torch.testing.assert_close(sparse.pairs().gram(d), (dense * d[:, None]) @ dense.T)
    torch.testing.assert_close(sparse.outer(y, x)[0], (y.T @ x)[dense != 0])


def problem() -> dict[str, Tensor]:
    G, A, inside = thinned(10, 5, 6), thinned(20, 2, 6), draw(30, 3, 6)
    return {
        "d": draw(40, 6).exp(),
        "p": 3.0 * draw(50, 3, 6),
        "G": G,
        "h": inside @ G.T + 0.1,
        "A": A,
        "b": inside @ A.T,
        "ub": inside + 0.3,
    }


@pytest.mark.parametrize("sparse_g", [False, True])
@pytest.mark.parametrize("sparse_a", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("definite", [False, True])
def test_answers_are_those_of_the_dense_form(sparse_g: bool, sparse_a: bool, bounded: bool, definite: bool) -> None:
    parts = problem()
    ub = parts["ub"] if bounded else None
    Q = Diagonal(parts["d"]) if definite else torch.diag(parts["d"]) + 0.1  # a dense Q
    G, A = (parts[name].to_sparse() if wanted else parts[name] for name, wanted in (("G", sparse_g), ("A", sparse_a)))
    expected = solve_qp(Q, parts["p"], parts["G"], parts["h"], parts["A"], parts["b"], ub=ub)
    found = solve_qp(Q, parts["p"], G, parts["h"], A, parts["b"], ub=ub)
    for name in ("value", "dual_ineq", "dual_eq", "dual_ub", "slack"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    again = solve_qp(Q, parts["p"], G, parts["h"], A, parts["b"], ub=ub, warm_start=found.warm_start)
    torch.testing.assert_close(again.value, expected.value, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_gradients_reach_the_entries() -> None:
    parts = problem()
    G, A = parts["G"].to_sparse().coalesce(), parts["A"].to_sparse().coalesce()

    def solve(g: Tensor, a: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        d, p, h, b, ub = others
        sparse_g, sparse_a = (torch.sparse_coo_tensor(m.indices(), v, m.shape) for m, v in ((G, g), (A, a)))
        solution = solve_qp(Diagonal(d), p, sparse_g, h, sparse_a, b, ub=ub)
        return solution.value, solution.dual_ineq, solution.dual_eq

    arguments = [
        part.clone().requires_grad_()
        for part in (G.values(), A.values(), *(parts[name] for name in ("d", "p", "h", "b", "ub")))
    ]
    assert torch.autograd.gradcheck(solve, arguments)
    assert torch.autograd.gradgradcheck(lambda *args: solve(*args)[0], arguments)


def test_dependent_rules_of_sudoku() -> None:
    """The 64 rules of the 4 x 4 puzzle have rank 40, those of the 9 x 9 puzzle 249 of 324."""
    rules = rules_of(2)
    assert torch.linalg.matrix_rank(rules) == 40
    p = -(draw(60, 8, 64) > 1.0).double()
    b = torch.ones(64, dtype=DOUBLE)
    expected = solve_qp(0.1, p, A=rules, b=b, lb=0.0)
    for solver in (PrimalDual(), PrimalDual(dtype="input")):
        found = solve_qp(0.1, p, A=rules.to_sparse(), b=b, lb=0.0, solver=solver)
        torch.testing.assert_close(found.value, expected.value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.value @ rules.T, torch.ones(8, 64, dtype=DOUBLE), rtol=1e-9, atol=1e-9)
    large = rules_of(3)
    assert torch.linalg.matrix_rank(large) == 249
    solution = solve_qp(0.1, -(draw(61, 2, 729) > 1.5).double(), A=large.to_sparse(), b=1.0 + 0.0 * large[:, 0], lb=0.0)
    assert solution.residual.max() <= 1e-9


def test_iterates_in_float32() -> None:
    """The places of the entries stay integers."""
    parts = {name: part.float() for name, part in problem().items()}
    G, A = parts["G"].to_sparse(), parts["A"].to_sparse()
    arguments = Diagonal(parts["d"]), parts["p"], G, parts["h"], A, parts["b"]
    found = solve_qp(*arguments, ub=parts["ub"], solver=PrimalDual(dtype="input"))
    torch.testing.assert_close(found.value, solve_qp(*arguments, ub=parts["ub"]).value, rtol=1e-6, atol=1e-6)


def test_failures_are_told() -> None:
    rules = rules_of(2)
    b = torch.ones(2, 64, dtype=DOUBLE)
    b[1, 0] = 3.0  # no longer agrees with the rules that depend on it
    solution = solve_qp(0.1, torch.zeros(2, 64, dtype=DOUBLE), A=rules.to_sparse(), b=b, lb=0.0, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.PRIMAL_INFEASIBLE]


def test_nan_costs_what_numbers_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no row can be solved, the entries stay where they are: at one place, all would meet all."""
    counts, pairs = [], SparseRows.pairs
    monkeypatch.setattr(SparseRows, "pairs", lambda self: counts.append(number_of_pairs(self)) or pairs(self))
    n = 50
    G, A = torch.eye(n, dtype=DOUBLE).to_sparse(), torch.ones(2, n, dtype=DOUBLE).to_sparse()
    h, b = torch.zeros(n, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    for number in (1.0, float("nan")):
        p = torch.full((n,), number, dtype=DOUBLE)
        solution = solve_qp(1.0, p, G, h, A=A, b=b, throw=False)
        assert int(solution.status) == (Status.SUCCESS if number == 1.0 else Status.NONFINITE_INPUT)
    assert counts[0] == 9 * n  # every variable is in three rows
    assert set(counts) == {counts[0]}


def test_a_mapped_sparse_matrix_is_an_error() -> None:
    def solve(values: Tensor) -> Tensor:
        A = SparseRows(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]), values[None], (1, 2))
        matrix = torch.sparse_coo_tensor(torch.cat((A.row, A.column)), values, (1, 2))
        return solve_qp(1.0, torch.zeros(2, dtype=DOUBLE), A=matrix, b=torch.ones(1, dtype=DOUBLE)).value

    with pytest.raises((ValueError, RuntimeError)):
        torch.func.vmap(solve)(torch.ones(3, 2, dtype=DOUBLE))
