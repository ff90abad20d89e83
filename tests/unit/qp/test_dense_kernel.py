"""The dense kernel, where it is asked for: hard problems solved or told, and on tame ones what torch finds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import NonConvexError, PrimalDual, QPSolution, certificates, driver, inputs, solve_qp
from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.problem import Problem
from icnn_rl.testing import qp_judge as judge
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_families import BY_NAME, FAMILIES, INF, Arguments, Family, answers, dense_rows, instance
from icnn_rl.testing.qp_hard import FAMILIES as HARD
from icnn_rl.testing.qp_hard import problems
from icnn_rl.testing.qp_judge import Kind
from tests.unit.qp.test_qp_fuzz import SHAPES, draw

kernel = pytest.importorskip(
    "icnn_rl.qp.kernel.dense", reason="the compiled kernels need numba: pip install -e '.[fast]'"
)

DENSE, TORCH = PrimalDual(dense=True), PrimalDual(compiled=False)


def test_hard_problems() -> None:
    found: Counter[tuple[bool, Kind]] = Counter()
    wrong = []
    for problem in problems(2 * len(HARD), seed=5):
        verdict = judge.judge(problem, judge.answer(problem, DENSE), judge.optimum(problem))
        found[problem.expected == Status.SUCCESS, verdict.kind] += 1
        if verdict.kind in (Kind.WRONG, Kind.NAN):
            wrong.append(f"{problem.name}: {verdict}")
    assert wrong == []
    assert found[True, Kind.SOLVED] >= 0.99 * sum(number for (feasible, _), number in found.items() if feasible)


@pytest.mark.parametrize("name", ["few_active", "many_active", "everything", "bounds_only", "dense_100"])
def test_value_and_gradients_are_those_of_torch(name: str) -> None:
    arguments, _ = instance(BY_NAME[name])
    found = []
    for solver in (DENSE, TORCH):
        p = arguments["p"].clone().requires_grad_()
        solution = solve_qp(**{**arguments, "p": p}, solver=solver)
        weights = torch.randn(solution.value.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)
        found.append((solution.value.detach(), *torch.autograd.grad((weights * solution.value).sum(), p)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


DOUBLE = torch.float64


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the kernel left; -1: all, for some Q has a negative eigenvalue."""
    calls: list[int] = []
    solve = kernel.solve_rows
    monkeypatch.setattr(dispatch, "_LARGEST", (0, 0))  # no problem is tiny
    monkeypatch.setattr(kernel, "solve_rows", lambda *arguments: calls.append(solve(*arguments)) or calls[-1])
    return calls


def problem_of(arguments: Arguments) -> Problem:
    given = inputs.Arguments(**arguments)
    problem = inputs.build(given, inputs.batch_shape(given))[0].dense()
    return problem if problem.diagonal else dataclasses.replace(problem, Q=0.5 * (problem.Q + problem.Q.mT))


def finite(problem: Problem) -> Problem:
    infinite = torch.isinf(problem.d)
    d = torch.where(infinite, 0.0, problem.d)
    return dataclasses.replace(problem, d=d, present=(~infinite).double()).with_norms()


def general(seed: int, batch: int) -> Arguments:
    """Rows of every kind."""
    arguments = dense_rows(9, 14, 3, 3.0)(seed, batch)
    distance = torch.rand(2, batch, 9, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    inside = torch.linalg.lstsq(arguments["A"], arguments["b"].unsqueeze(-1))[0].squeeze(-1)
    margin = (arguments["G"] @ inside.unsqueeze(-1)).squeeze(-1)
    return {
        **arguments,
        "h": torch.maximum(arguments["h"], margin + 0.1),
        "lb": inside - 0.1 - distance[0],
        "ub": inside + 0.1 + distance[1],
    }


def assert_optimal(arguments: Arguments, solution: QPSolution) -> None:
    data = references.dense(arguments)
    assert solution.success.all()
    assert references.kkt_residuals(data, references.point_of(solution)).worst.max() <= 1e-9


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_every_family(family: Family) -> None:
    arguments, data = instance(family)
    solution = solve_qp(**arguments, solver=DENSE, throw=False)
    assert (solution.status == family.status).all()
    if family.status != Status.SUCCESS:
        return
    assert_optimal(arguments, solution)
    for row, expected in enumerate(answers(family)):
        best = float(references.objective(data[row], expected.point.x))
        scale = max(1.0, float(references.objective_scale(data[row], expected.point.x)))
        assert abs(float(solution.fun[row]) - best) <= 1e-8 * scale


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize(("tol", "max_steps"), [(1e-9, 100), (1e-9, 3), (1e-3, 100)])
def test_reports_the_residuals_of_certificates(family: Family, tol: float, max_steps: int) -> None:
    """Of solved points and of others, where rounding does not hide a wrong formula."""
    problem = problem_of(instance(family)[0])
    quick = dispatch._run_dense(problem, PrimalDual(tol=tol, max_steps=max_steps), None)
    assert quick is not None
    outcome = quick[0]
    problem = finite(problem)
    at = problem.products(outcome.x, outcome.nu, outcome.z)
    expected = certificates.residuals(problem, certificates.Yardstick.of(problem), outcome.x, outcome.nu, outcome.z, at)
    # a proof or a row that was left comes with no residuals; absent rows count in the largest norm there, not here
    told = torch.isfinite(outcome.residuals.primal) & (outcome.status < 2) & problem.present.bool().all(-1)  # type: ignore[union-attr]
    for name in ("primal", "dual", "gap", "relative"):
        found, known = getattr(outcome.residuals, name)[told], getattr(expected, name)[told]
        torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_calls_solved_what_certificates_do(shape: tuple[int, int, int]) -> None:
    """Of programmes with rows of zeros, duplicates, no interior; in extreme numbers rounding would decide."""
    data = draw(300 + sum(shape), *shape, share=0.0)
    names = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
    problem = problem_of({name: torch.as_tensor(np.array(getattr(data, name))) for name in names})
    quick = dispatch._run_dense(problem, PrimalDual(), None)
    assert quick is not None
    outcome, problem = quick[0], finite(problem)
    at = problem.products(outcome.x, outcome.nu, outcome.z)
    found = certificates.residuals(problem, certificates.Yardstick.of(problem), outcome.x, outcome.nu, outcome.z, at)
    solved = outcome.status == Status.SUCCESS
    assert solved.sum() >= 200
    assert (found.largest[solved] <= 1e-9).all()


def test_a_row_of_zeros_that_no_point_meets() -> None:
    """It is not met however small its right-hand side is next to the others."""
    G, h = torch.tensor([[-1e-3], [0.0]], dtype=DOUBLE), torch.tensor([-1e12, -1e-12], dtype=DOUBLE)
    solution = solve_qp(0.0, torch.ones(1, dtype=DOUBLE), G, h, solver=DENSE, throw=False)
    assert int(solution.status) != Status.SUCCESS
    met = solve_qp(0.0, torch.ones(1, dtype=DOUBLE), G, h.abs() * torch.tensor([-1.0, 0.0]), solver=DENSE)
    assert met.dual_ineq.tolist() == pytest.approx([1e3, 0.0])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_warm_starts(batch: int, counted: list[int]) -> None:
    """From its own set one step; from that of a neighbour few or many, to the same answer."""
    arguments = general(3, batch)
    cold = solve_qp(**arguments, solver=DENSE)
    assert_optimal(arguments, cold)
    warm = solve_qp(**arguments, solver=DENSE, warm_start=cold.warm_start)
    assert counted == [0, 0]
    assert int(warm.num_steps.max()) == 1
    torch.testing.assert_close(warm.value, cold.value, rtol=0.0, atol=1e-11)
    for change in (0.01, 10.0):
        p = arguments["p"] + change * torch.randn(batch, 9, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        new = solve_qp(**{**arguments, "p": p}, solver=DENSE, warm_start=cold.warm_start)
        assert_optimal({**arguments, "p": p}, new)


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9, 1e-12])
def test_tolerances(tol: float, counted: list[int]) -> None:
    arguments = general(4, 5)
    solution = solve_qp(**arguments, solver=PrimalDual(tol=tol, dense=True))
    assert counted == [0]
    assert (solution.residual <= tol).all()


def test_shared_matrices_and_infinite_right_hand_sides(counted: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    arguments = {name: value[0] for name, value in general(5, 1).items()}
    arguments["p"] = 3.0 * torch.randn(6, 9, generator=generator, dtype=DOUBLE)
    h = arguments["h"].expand(6, -1)
    arguments["h"] = torch.where(torch.rand(h.shape, generator=generator) < 0.4, INF, h)
    arguments["lb"] = torch.where(torch.rand(6, 9, generator=generator) < 0.5, -INF, arguments["lb"])
    shared = solve_qp(**arguments, solver=DENSE)
    apart = {n: v.expand(6, *v.shape) if v.shape[0] != 6 else v for n, v in arguments.items()}
    alone = solve_qp(**apart, solver=DENSE)
    assert counted == [0, 0]
    assert_optimal(apart, shared)
    torch.testing.assert_close(shared.value, alone.value, rtol=0.0, atol=1e-12)


def test_dependent_equations_and_no_curvature(counted: list[int]) -> None:
    arguments = general(6, 3)
    A, b = torch.cat((arguments["A"], arguments["A"].sum(-2, keepdim=True)), -2), arguments["b"]
    arguments |= {"A": A, "b": torch.cat((b, b.sum(-1, keepdim=True)), -1), "Q": 0.0}
    solution = solve_qp(**arguments, solver=DENSE)
    assert counted == [0]
    assert_optimal(arguments, solution)


def test_equations_alone(counted: list[int]) -> None:
    arguments = {name: value for name, value in general(7, 3).items() if name in ("Q", "p", "A", "b")}
    solution = solve_qp(**arguments, solver=DENSE)
    assert counted == [0]
    assert solution.num_steps.tolist() == [1, 1, 1]
    assert_optimal(arguments, solution)


def test_rows_stand_alone(counted: list[int]) -> None:
    arguments = general(8, 9)
    good = solve_qp(**arguments, solver=DENSE)
    broken = {name: value.clone() for name, value in arguments.items()}
    broken["p"][1, 1] = torch.nan
    broken["Q"][3, 1, 1] = INF
    broken["h"][5, 2] = -INF
    broken["lb"][7, 0] = broken["ub"][7, 0] + 1.0
    solution = solve_qp(**broken, solver=DENSE, throw=False)
    assert counted == [0, 4, 0]  # the last is the proof
    status = torch.zeros(9, dtype=torch.int64)
    status[[1, 3]] = int(Status.NONFINITE_INPUT)
    status[[5, 7]] = int(Status.PRIMAL_INFEASIBLE)
    assert torch.equal(solution.status, status)
    assert torch.equal(solution.value[status == 0], good.value[status == 0])


def test_a_negative_eigenvalue_is_an_error(counted: list[int]) -> None:
    arguments = general(9, 3)
    arguments["Q"] = arguments["Q"].clone()
    arguments["Q"][2, 0, 0] = -1.0
    with pytest.raises(NonConvexError, match="row 2"):
        solve_qp(**arguments, solver=DENSE)
    assert counted == [-1]


def test_without_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = instance(BY_NAME["dense_100"])
    found = []
    for addresses in (dispatch._dense_kernel()[1], (0, 0, 0, 0)):
        monkeypatch.setattr(dispatch, "_dense_kernel", lambda addresses=addresses: (kernel, addresses))
        found.append(solve_qp(**arguments, solver=DENSE).value)
    torch.testing.assert_close(*found, rtol=0.0, atol=1e-10)


def leaves(arguments: Arguments, shared: bool) -> list[Tensor]:
    names = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
    parts = [arguments[name] if name == "p" or not shared else arguments[name][0] for name in names]
    return [part.clone().requires_grad_() for part in parts]


def value(*parts: Tensor, **options: Any) -> tuple[Tensor, ...]:
    s = solve_qp(*parts, **options)
    return s.value, s.fun, s.dual_ineq, s.dual_eq, s.dual_lb, s.dual_ub


@pytest.mark.parametrize("shared", [False, True], ids=["a_row_each", "shared"])
def test_gradients_of_any_order_are_those_of_torch(shared: bool, counted: list[int]) -> None:
    orders = []
    for solver in (DENSE, TORCH):
        parts = leaves(general(10, 3), shared)
        weights = torch.Generator().manual_seed(0)
        total: Tensor = sum(  # type: ignore[assignment]
            (torch.randn(part.shape, generator=weights, dtype=DOUBLE) * part.sin()).sum()
            for part in value(*parts, solver=solver)
        )
        first = torch.autograd.grad(total, parts, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), parts)  # type: ignore[arg-type]
        orders.append([*first, *second])
    assert set(counted) == {0}
    for one, other in zip(*orders, strict=True):
        size = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-8 * max(1.0, size))


def test_transforms(counted: list[int]) -> None:
    parts = [part.detach() for part in leaves(general(11, 3), False)]

    def point(*parts: Tensor) -> Tensor:
        return value(*parts, solver=DENSE)[0]

    each = torch.func.vmap(torch.func.jacrev(point, argnums=(0, 1, 4, 6)))(*parts)
    assert set(counted) == {0}
    torched = torch.func.vmap(torch.func.jacrev(lambda *p: value(*p, solver=TORCH)[0], argnums=(0, 1, 4, 6)))(*parts)
    for one, other in zip(each, torched, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("curved", [True, False])
def test_failed_rows_pass_no_gradient_on(curved: bool) -> None:
    arguments = general(12, 6)
    arguments["Q"] = arguments["Q"] * curved
    arguments["G"][4, 0, 0] = torch.nan
    arguments["lb"][2, 0] = arguments["ub"][2, 0] + 1.0
    parts = leaves(arguments, False)
    solution = solve_qp(*parts, solver=DENSE, throw=False)
    for gradient in torch.autograd.grad(solution.value.nansum(), parts):
        assert torch.isfinite(gradient).all()
        assert not gradient[[2, 4]].any()
        assert gradient[[0, 1, 3, 5]].any() or not curved  # p has no influence on a vertex


def test_scales_are_powers_of_two() -> None:
    """So that scaling rounds nothing."""
    quick = dispatch._run_dense(problem_of(general(13, 4)), DENSE, None)
    assert quick is not None
    system = quick[1]
    assert isinstance(system, dispatch.DenseFactor)
    for scale in (system.columns, system.a_rows, system.c_rows, system.units):
        assert (np.frexp(scale.numpy())[0] == 0.5).all()


def test_proofs_of_the_kernel_are_asked_for_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that has no solution costs one projection more, in the kernel, not the second line."""
    arguments = general(14, 6)
    arguments["lb"][2, 0] = arguments["ub"][2, 0] + 1.0
    expected = solve_qp(**arguments, solver=TORCH, throw=False)
    attempts: list[int] = []
    attempt = driver._attempt
    monkeypatch.setattr(driver, "_attempt", lambda *a, **k: attempts.append(1) or attempt(*a, **k))
    solution = solve_qp(**arguments, solver=DENSE, throw=False)
    assert len(attempts) == 0  # the projection is for the kernel too
    assert torch.equal(solution.status, expected.status)
    torch.testing.assert_close(solution.value, expected.value, rtol=1e-8, atol=1e-8)


def test_a_wrong_claim_of_the_kernel_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = general(15, 3)
    solve = dispatch.run_kernels

    def wrong(*a: Any) -> Any:
        quick = solve(*a)
        assert quick is not None
        status = torch.tensor([int(Status.PRIMAL_INFEASIBLE), 0, int(Status.DUAL_INFEASIBLE)])
        return dataclasses.replace(quick[0], status=status), quick[1], torch.tensor([0, 2])

    monkeypatch.setattr(dispatch, "run_kernels", wrong)
    assert_optimal(arguments, solve_qp(**arguments, solver=DENSE))
