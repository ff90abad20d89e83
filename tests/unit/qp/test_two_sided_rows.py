"""Rows with two sides, h_low <= G z <= h: against one-sided rows, equations, the conditions of optimality and finite
differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import SolveError, Status
from icnn_rl.qp import ActiveSet, Diagonal, PrimalDual, solve_qp

DOUBLE = torch.float64
INF = float("inf")


def two_sided(seed: int, batch: int = 3, n: int = 5, m: int = 6, dtype: torch.dtype = DOUBLE) -> dict[str, Any]:
    """Rows that all have a point in common; the objective pulls far out, so sides of either kind are active."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    root, G, inside = normal(batch, n, n), normal(m, n), normal(batch, n)
    at, width = inside @ G.mT, torch.rand(batch, m, generator=generator, dtype=DOUBLE) + 0.1
    parts = {
        "Q": root @ root.mT + 0.5 * torch.eye(n, dtype=DOUBLE),
        "p": 10 * normal(batch, n),
        "G": G,
        "h": at + width,
        "h_low": at - 0.7 * width,
    }
    return {name: part.to(dtype) for name, part in parts.items()}


def one_sided(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with every side a row of its own."""
    rest = {name: part for name, part in arguments.items() if name != "h_low"}
    G, h = arguments["G"], arguments["h"]
    return {**rest, "G": torch.cat((G, -G), -2), "h": torch.cat((h, -arguments["h_low"]), -1)}


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_answer_and_its_multipliers(compiled: bool, dtype: torch.dtype) -> None:
    arguments, tol = two_sided(0, dtype=dtype), 1e-9 if dtype == DOUBLE else 1e-4
    solver = PrimalDual(compiled=compiled)
    solution, expected = solve_qp(**arguments, solver=solver), solve_qp(**one_sided(arguments))
    torch.testing.assert_close(solution.value, expected.value, rtol=tol, atol=tol)
    high, low = solution.dual_ineq, solution.dual_ineq_low
    assert (high.amax(-1) > 0).any()
    assert (low.amax(-1) > 0).any()
    assert high.min() >= 0
    assert low.min() >= 0
    Q, p, G = arguments["Q"], arguments["p"], arguments["G"]
    gradient = (Q @ solution.value.unsqueeze(-1)).squeeze(-1) + p + (high - low) @ G
    assert gradient.abs().max() <= tol * p.abs().max() * 10
    at = solution.value @ G.mT
    torch.testing.assert_close(solution.slack, arguments["h"] - at, rtol=tol, atol=tol)
    torch.testing.assert_close(solution.slack_low, at - arguments["h_low"], rtol=tol, atol=tol)
    assert (high * solution.slack).abs().max() <= 10 * tol * p.abs().max()
    assert (low * solution.slack_low).abs().max() <= 10 * tol * p.abs().max()
    assert solution.active.ineq_low is not None
    assert torch.equal(solution.active.ineq, high > 0)
    assert torch.equal(solution.active.ineq_low, low > 0)


def test_by_hand() -> None:
    # the nearest point to (3, -3, 0) with |z_i| <= 1, said in rows; the multipliers are the distances
    eye, one = torch.eye(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    solution = solve_qp(1.0, torch.tensor([-3.0, 3.0, 0.0], dtype=DOUBLE), eye, one, h_low=-one)
    assert torch.equal(solution.value, torch.tensor([1.0, -1.0, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(solution.dual_ineq, torch.tensor([2.0, 0.0, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(solution.dual_ineq_low, torch.tensor([0.0, 2.0, 0.0], dtype=DOUBLE))


def test_the_lower_side_alone() -> None:
    arguments = {name: part for name, part in two_sided(1).items() if name != "h"}
    solution = solve_qp(**arguments)
    rest = {name: part for name, part in arguments.items() if name != "h_low"}
    mirrored = solve_qp(**{**rest, "G": -arguments["G"], "h": -arguments["h_low"]})
    torch.testing.assert_close(solution.value, mirrored.value)
    torch.testing.assert_close(solution.dual_ineq_low, mirrored.dual_ineq)
    assert not solution.dual_ineq.any()
    assert (solution.slack == INF).all()
    again = solve_qp(**arguments, warm_start=solution.warm_start)
    assert torch.equal(again.active.ineq_low, solution.active.ineq_low)


def test_infinite_sides_are_none() -> None:
    arguments = two_sided(2)
    arguments["h"][:, ::2], arguments["h_low"][:, 1::2] = INF, -INF
    solution = solve_qp(**arguments)
    G, h, low = arguments["G"], arguments["h"], arguments["h_low"]
    single = solve_qp(
        arguments["Q"], arguments["p"], torch.cat((-G[::2], G[1::2])), torch.cat((-low[:, ::2], h[:, 1::2]), -1)
    )
    torch.testing.assert_close(solution.value, single.value)
    assert not solution.dual_ineq[:, ::2].any()
    assert not solution.dual_ineq_low[:, 1::2].any()


@pytest.mark.parametrize("compiled", [True, False])
def test_equal_sides_are_an_equation(compiled: bool) -> None:
    arguments = two_sided(3, m=2)
    arguments["h_low"] = arguments["h"]
    solution = solve_qp(**arguments, solver=PrimalDual(compiled=compiled))
    equation = solve_qp(arguments["Q"], arguments["p"], A=arguments["G"], b=arguments["h"])
    torch.testing.assert_close(solution.value, equation.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.dual_ineq - solution.dual_ineq_low, equation.dual_eq, rtol=1e-8, atol=1e-8)


def test_crossed_sides_are_infeasible() -> None:
    arguments = two_sided(4)
    arguments["h_low"][1, 2] = arguments["h"][1, 2] + 1.0
    solution = solve_qp(**arguments, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.PRIMAL_INFEASIBLE, Status.SUCCESS]
    high, low = solution.dual_ineq[1], solution.dual_ineq_low[1]
    assert ((high - low) @ arguments["G"]).abs().max() <= 1e-8 * high.abs().max()
    assert arguments["h"][1] @ high - arguments["h_low"][1] @ low < 0
    with pytest.raises(SolveError, match="1 of 3 rows: PRIMAL_INFEASIBLE"):
        solve_qp(**arguments)


@pytest.mark.parametrize("name", ["Q", "p", "G", "h", "h_low"])
def test_derivatives_of_either_order(name: str) -> None:
    arguments = two_sided(5, batch=2)

    def function(value: Tensor) -> tuple[Tensor, ...]:
        value = 0.5 * (value + value.mT) if name == "Q" else value
        found = solve_qp(**{**arguments, name: value})
        return found.value, found.dual_ineq, found.dual_ineq_low, found.fun

    value = arguments[name].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, value)
    assert torch.autograd.gradgradcheck(function, value)


def test_a_warm_start_holds_both_sides() -> None:
    arguments = {**two_sided(6), "lb": -3.0}
    solver = PrimalDual(compiled=False)
    cold = solve_qp(**arguments, solver=solver)
    warm = solve_qp(**arguments, solver=solver, warm_start=cold.warm_start)
    torch.testing.assert_close(warm.value, cold.value)
    assert warm.num_steps.max() < cold.num_steps.min()
    without = ActiveSet(*cold.warm_start[:3])
    with pytest.raises(ValueError, match=r"warm_start: .*ineq_low \(3, 6\).*got NoneType"):
        solve_qp(**arguments, warm_start=without)


def test_rows_stay_shared_and_their_gradient_is_the_sum() -> None:
    arguments = two_sided(7)
    shared = arguments["G"].clone().requires_grad_()
    solve_qp(**{**arguments, "G": shared}).value.sum().backward()
    expanded = arguments["G"].expand(3, -1, -1).clone().requires_grad_()
    solve_qp(**{**arguments, "G": expanded}).value.sum().backward()
    assert shared.grad is not None
    assert expanded.grad is not None
    torch.testing.assert_close(shared.grad, expanded.grad.sum(0))


def test_sparse_rows() -> None:
    arguments = {**two_sided(8), "Q": Diagonal(torch.linspace(1.0, 2.0, 5, dtype=DOUBLE))}
    dense = arguments["G"] * (arguments["G"].abs() > 0.7)
    arguments |= {"h": torch.full((6,), 0.6, dtype=DOUBLE), "h_low": torch.full((6,), -0.4, dtype=DOUBLE)}
    leaf = dense.clone().requires_grad_()
    expected = solve_qp(**{**arguments, "G": leaf})
    expected.value.sum().backward()
    entries = dense.to_sparse_coo().requires_grad_()
    solution = solve_qp(**{**arguments, "G": entries})
    torch.testing.assert_close(solution.value, expected.value)
    torch.testing.assert_close(solution.dual_ineq_low, expected.dual_ineq_low)
    solution.value.sum().backward()
    assert leaf.grad is not None
    assert entries.grad is not None
    torch.testing.assert_close(entries.grad.to_dense(), leaf.grad * (dense != 0))


def test_function_transforms() -> None:
    arguments = two_sided(9)
    rest = {name: arguments[name] for name in ("Q", "p", "G", "h")}

    def value(low: Tensor, row: int) -> Tensor:
        one = {name: part if name == "G" else part[row] for name, part in rest.items()}
        return solve_qp(**one, h_low=low).value

    low = arguments["h_low"]
    leaf = low.clone().requires_grad_()
    (expected,) = torch.autograd.grad(solve_qp(**rest, h_low=leaf).value[1, 0], leaf)
    torch.testing.assert_close(torch.func.jacrev(value)(low[1], 1)[0], expected[1])
    looser = low[1] - torch.tensor([[0.0], [0.3], [3.0]], dtype=DOUBLE)
    batched = torch.func.vmap(lambda low: value(low, 1))(looser)
    torch.testing.assert_close(batched, torch.stack([value(row, 1) for row in looser]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"G": None}, r"^G: missing. G and h go together"),
        ({"G": None, "h": None}, r"^G: missing. G and h_low go together"),
        ({"h": None, "h_low": None}, r"^h or h_low: missing|^h: missing"),
        ({"h_low": torch.zeros(3, 5, dtype=DOUBLE)}, r"^h_low: expected shape \(\.\.\., 6\)"),
        ({"h_low": torch.zeros(3, 6)}, r"^h_low: dtype torch\.float32 differs"),
        ({"h_low": 0.0}, r"^h_low: expected a torch\.Tensor"),
        ({"h_low": torch.zeros(2, 6, dtype=DOUBLE)}, r"broadcast: .*h_low \(2,\)"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_qp(**{**two_sided(0), **changes})
