"""Constraints with a price: the conditions of optimality of the penalised problem, the problem without prices where
they are high, finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import Diagonal, Elastic, PrimalDual, solve_qp
from icnn_rl.testing.qp_families import BY_NAME, INFEASIBLE, SOLVABLE, Arguments, Family, instance
from tests.unit.qp.test_two_sided_rows import two_sided

DOUBLE = torch.float64
INF = float("inf")
# the prices are as small as the rows are long, and two of four answers miss 1e-9 by little
REGULAR = [family for family in SOLVABLE if family.name not in ("tiny_rows", "sudoku_large", "n_300", "sudoku_rules")]
#: Without a feasible point for another reason than crossed bounds or an infinite side.
CONTRADICTORY = [family for family in INFEASIBLE if family.name != "crossed_bounds" and "infinite" not in family.name]


def mixed(seed: int, dtype: torch.dtype = DOUBLE, batch: int = 4) -> dict[str, Any]:
    """Two-sided rows, equations that contradict some of them, and bounds."""
    arguments = two_sided(seed, batch=batch)
    generator = torch.Generator().manual_seed(seed + 100)
    arguments["A"] = torch.randn(2, 5, generator=generator, dtype=DOUBLE)
    arguments["b"] = 3 * torch.randn(batch, 2, generator=generator, dtype=DOUBLE)
    arguments |= {"lb": torch.full((5,), -2.0, dtype=DOUBLE), "ub": torch.full((5,), 2.0, dtype=DOUBLE)}
    return {name: part.to(dtype) for name, part in arguments.items()}


def check_optimality(arguments: dict[str, Any], solution: Any, rho: Tensor, sigma: Tensor, tol: float) -> None:
    """Of the convex problem with the penalties, in z alone: these conditions are sufficient."""
    z, p, G, A = solution.value, arguments["p"], arguments["G"], arguments["A"]
    high, low, nu = solution.dual_ineq, solution.dual_ineq_low, solution.dual_eq
    gradient = (arguments["Q"] @ z.unsqueeze(-1)).squeeze(-1) + p + (high - low) @ G + nu @ A
    gradient = gradient - solution.dual_lb + solution.dual_ub
    force = p.abs().amax() + rho.max() * G.abs().max()
    assert gradient.abs().max() <= tol * force
    assert (z >= arguments["lb"]).all()
    assert (z <= arguments["ub"]).all()
    over, under, off = z @ G.mT - arguments["h"], arguments["h_low"] - z @ G.mT, z @ A.mT - arguments["b"]
    broken = torch.maximum(over, under).clamp(min=0.0)
    torch.testing.assert_close(solution.violation_ineq, broken, rtol=tol, atol=10 * tol)
    torch.testing.assert_close(solution.violation_eq, off, rtol=tol, atol=10 * tol)
    assert high.min() >= 0
    assert low.min() >= 0
    assert (high + low <= rho * (1 + tol)).all()
    assert (nu.abs() <= sigma * (1 + tol)).all()
    # a subgradient of the penalty: the price where a row is broken, zero where there is room
    rho, sigma = rho.expand_as(over), sigma.expand_as(off)
    for dual, excess, price in ((high, over, rho), (low, under, rho)):
        assert (dual[excess > tol] >= price[excess > tol] * (1 - tol)).all()
        assert (dual[excess < -tol] <= tol * price[excess < -tol]).all()
    assert (nu[off > tol] >= sigma[off > tol] * (1 - tol)).all()
    assert (nu[off < -tol] <= -sigma[off < -tol] * (1 - tol)).all()
    quadratic = 0.5 * (z * (arguments["Q"] @ z.unsqueeze(-1)).squeeze(-1)).sum(-1) + (p * z).sum(-1)
    penalty = (rho * broken).sum(-1) + (sigma * off.abs()).sum(-1)
    torch.testing.assert_close(solution.fun, quadratic + penalty, rtol=10 * tol, atol=10 * tol)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("kind", ["number", "a price a problem", "a price a row"])
def test_optimality(kind: str, dtype: torch.dtype) -> None:
    broken = 0
    for seed in range(5):
        arguments = mixed(seed, dtype)
        generator = torch.Generator().manual_seed(seed)
        if kind == "number":
            elastic: Any = 3.0
            rho = sigma = torch.tensor(3.0, dtype=dtype)
        elif kind == "a price a problem":
            elastic = torch.tensor([0.5, 2.0, 20.0, 200.0], dtype=dtype)
            rho = sigma = elastic.unsqueeze(-1)
        else:
            rho = torch.rand(6, generator=generator).to(dtype) * 5 + 0.1
            sigma = torch.rand(4, 2, generator=generator).to(dtype) * 5 + 0.1
            elastic = Elastic(rho, sigma)
        solution = solve_qp(**arguments, elastic=elastic)
        check_optimality(arguments, solution, rho, sigma, 1e-8 if dtype == DOUBLE else 1e-4)
        broken += int((solution.violation_ineq > 1e-3).sum())
    assert broken > 0


def test_by_hand() -> None:
    # min (z - 3)^2 / 2 + rho max(z - 1, 0) is 3 - rho as long as that exceeds 1, then 1
    p, G, h = torch.tensor([-3.0], dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    for rho, z, violation, dual in ((0.5, 2.5, 1.5, 0.5), (1.5, 1.5, 0.5, 1.5), (2.5, 1.0, 0.0, 2.0)):
        solution = solve_qp(1.0, p, G, h, elastic=rho)
        numbers = solution.value, solution.violation_ineq, solution.dual_ineq, solution.slack, solution.fun
        for found, expected in zip(
            numbers, (z, violation, dual, 1 - z, 0.5 * z * z - 3 * z + rho * violation), strict=True
        ):
            torch.testing.assert_close(float(found), expected)


@pytest.mark.parametrize("family", REGULAR, ids=str)
@pytest.mark.parametrize("factor", [2.0, 30.0])
def test_prices_above_the_multipliers_change_nothing(family: Family, factor: float) -> None:
    arguments, _ = instance(family)
    plain = solve_qp(**arguments)
    largest = max([float(dual.abs().max()) for dual in (plain.dual_ineq, plain.dual_eq) if dual.numel()] + [1e-3])
    solution = solve_qp(**arguments, elastic=factor * largest)
    scale = max(float(plain.value.abs().max()), 1e-9)
    assert (solution.value - plain.value).abs().max() <= 1e-9 * scale
    # what is left of a violation is rounding
    sizes = [
        float(side[side.isfinite()].abs().max()) for side in (arguments.get("h"), arguments.get("b")) if _any(side)
    ]
    for violation in (solution.violation_ineq, solution.violation_eq):
        assert not violation.numel() or violation.abs().max() <= 1e-12 * max(sizes)


def _any(side: Any) -> bool:
    return side is not None and bool(side.isfinite().any())


@pytest.mark.parametrize("family", CONTRADICTORY, ids=str)
def test_contradictions_are_solved(family: Family) -> None:
    arguments, _ = instance(family)
    solution = solve_qp(**arguments, elastic=10.0)
    broken = solution.violation_ineq.sum(-1) + solution.violation_eq.abs().sum(-1)
    assert (broken > 0.1).all()


def test_bounds_stay_hard() -> None:
    solution = solve_qp(**BY_NAME["crossed_bounds"].build(0, 4), elastic=10.0, throw=False)
    assert (solution.status == Status.PRIMAL_INFEASIBLE).all()
    assert (solution.dual_lb.amax(-1) > 0).all()


def test_what_has_no_price_stays_hard() -> None:
    arguments = mixed(1)
    off = solve_qp(**arguments, elastic=Elastic(ineq=1.0), throw=False)
    assert not off.violation_eq.any()
    solved = off.success
    assert solved.any()
    residual = (off.value @ arguments["A"].mT - arguments["b"])[solved]
    assert residual.abs().max() <= 1e-10
    rows = {name: arguments[name] for name in ("Q", "p", "G", "h")}
    only_rows = solve_qp(**rows, elastic=Elastic(eq=1.0))
    torch.testing.assert_close(only_rows.value, solve_qp(**rows).value)
    assert not only_rows.violation_ineq.any()
    assert only_rows.active.held is None


def test_without_prices_nothing_is_violated() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    solution = solve_qp(**arguments)
    assert torch.equal(solution.violation_ineq, torch.zeros_like(arguments["h"]))
    assert torch.equal(solution.violation_eq, torch.zeros_like(arguments["b"]))
    # and without rows prices do nothing
    bounds, _ = instance(BY_NAME["bounds_only"])
    assert torch.equal(solve_qp(**bounds, elastic=1.0).value, solve_qp(**bounds).value)


@pytest.mark.parametrize("name", ["p", "Q", "G", "h", "h_low", "A", "b", "lb", "ub", "rho", "sigma"])
def test_derivatives_of_either_order(name: str) -> None:
    arguments = mixed(2, batch=2)
    prices = {"rho": torch.linspace(1.0, 2.0, 6, dtype=DOUBLE), "sigma": torch.tensor([1.5, 3.0], dtype=DOUBLE)}

    def function(value: Tensor) -> tuple[Tensor, ...]:
        value = 0.5 * (value + value.mT) if name == "Q" else value
        parts, costs = dict(arguments), dict(prices)
        (costs if name in prices else parts)[name] = value
        found = solve_qp(**parts, elastic=Elastic(costs["rho"], costs["sigma"]))
        return found.value, found.dual_ineq, found.dual_eq, found.violation_ineq, found.violation_eq, found.fun

    value = {**arguments, **prices}[name].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, value)
    assert torch.autograd.gradgradcheck(function, value)


def test_the_price_of_the_whole() -> None:
    """A number with a gradient: d fun / d rho is the sum of the violations."""
    arguments = mixed(3)
    rho = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    solution = solve_qp(**arguments, elastic=rho)
    solution.fun.sum().backward()
    assert rho.grad is not None
    total = solution.violation_ineq.sum() + solution.violation_eq.abs().sum()
    torch.testing.assert_close(rho.grad, total.detach())


def test_rows_do_not_see_each_other() -> None:
    arguments = mixed(4)
    together = solve_qp(**arguments, elastic=2.0)
    for row in range(4):
        one = {name: part[row] if name in ("Q", "p", "h", "h_low", "b") else part for name, part in arguments.items()}
        torch.testing.assert_close(solve_qp(**one, elastic=2.0).value, together.value[row])


@pytest.mark.parametrize("bounded", [True, False])
def test_a_warm_start_knows_the_broken_rows(bounded: bool) -> None:
    arguments = mixed(5)
    if not bounded:
        arguments = {name: part for name, part in arguments.items() if name not in ("lb", "ub")}
    cold = solve_qp(**arguments, elastic=2.0)
    assert cold.active.held is not None
    assert cold.active.held.shape == (4, 6 + 4)
    assert torch.equal(cold.active.held[:, :6], cold.violation_ineq < 1e-12)
    warm = solve_qp(**arguments, elastic=2.0, warm_start=cold.warm_start)
    torch.testing.assert_close(warm.value, cold.value)
    assert warm.num_steps.max() <= 2
    with pytest.raises(ValueError, match=r"warm_start: .*held \(4, 10\)"):
        solve_qp(**arguments, elastic=2.0, warm_start=solve_qp(**arguments, throw=False).warm_start)


def test_sparse_rows() -> None:
    arguments: Arguments = {**mixed(6), "Q": Diagonal(torch.linspace(1.0, 2.0, 5, dtype=DOUBLE))}
    sparse = {**arguments, "G": arguments["G"].to_sparse_coo(), "A": arguments["A"].to_sparse_coo()}
    expected, found = solve_qp(**arguments, elastic=2.0), solve_qp(**sparse, elastic=2.0)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.violation_eq, expected.violation_eq)


def test_function_transforms() -> None:
    arguments = mixed(7)

    def violation(b: Tensor, rho: Tensor) -> Tensor:
        one = {name: part[0] if name in ("Q", "p", "h", "h_low") else part for name, part in arguments.items()}
        solution = solve_qp(**{**one, "b": b}, elastic=rho)
        return torch.cat((solution.value, solution.violation_ineq))

    rho = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE)
    batched = torch.func.vmap(violation)(arguments["b"], rho)
    for row in range(4):
        torch.testing.assert_close(batched[row], violation(arguments["b"][row], rho[row]))
    jacobian = torch.func.vmap(torch.func.jacrev(violation, argnums=(0, 1)))(arguments["b"], rho)
    expected = torch.autograd.functional.jacobian(violation, (arguments["b"][2], rho[2]))
    torch.testing.assert_close(jacobian[0][2], expected[0])
    torch.testing.assert_close(jacobian[1][2], expected[1])


@pytest.mark.parametrize("solver", [PrimalDual(compiled=False), PrimalDual(dtype="input")])
def test_settings(solver: PrimalDual) -> None:
    arguments = mixed(8, torch.float32)
    expected = solve_qp(**arguments, elastic=2.0)
    torch.testing.assert_close(solve_qp(**arguments, elastic=2.0, solver=solver).value, expected.value)


@pytest.mark.parametrize(
    ("elastic", "message"),
    [
        (0.0, r"^elastic: expected finite prices > 0, got 0\.0"),
        (INF, r"^elastic: expected finite prices > 0"),
        (True, r"^elastic: expected a number or a tensor .*got bool"),
        ("high", r"^elastic: expected a number or a tensor .*got str"),
        (torch.tensor([1.0, -1.0, 1.0], dtype=DOUBLE), r"^elastic: expected finite prices > 0"),
        (torch.ones(5, dtype=DOUBLE), r"broadcast: .*elastic\.ineq \(5,\)"),
        (torch.ones(3), r"^elastic: dtype torch\.float32 differs"),
        (Elastic(ineq=torch.ones(5, dtype=DOUBLE)), r"^elastic\.ineq: expected a number or shape \(\.\.\., 6\)"),
        (Elastic(eq=-1.0), r"^elastic\.eq: expected finite prices > 0"),
    ],
    ids=str,
)
def test_wrong_prices_are_named(elastic: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_qp(**two_sided(0), elastic=elastic)
