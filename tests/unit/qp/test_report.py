"""The solution as an object: fields on demand, copies, pickles, rows, its short description, errors' words."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl import SolveError, Status
from icnn_rl.qp import ActiveSet, Elastic, QPSolution, solve_qp
from icnn_rl.solution import Solution
from tests.unit.qp.test_elastic import mixed
from tests.unit.qp.test_two_sided_rows import two_sided

DOUBLE = torch.float64
NAMES = [field.name for field in dataclasses.fields(QPSolution)]


def same(one: Any, two: Any) -> bool:
    if isinstance(one, ActiveSet):
        return all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, Tensor) else one is two


def solved(**options: Any) -> QPSolution:
    return solve_qp(**mixed(1), elastic=2.0, **options)


def test_it_is_a_solution_like_any_other() -> None:
    solution = solved()
    assert isinstance(solution, Solution)
    assert solution.state is None
    assert solution.success.all()
    assert not solution.failed.any()
    assert solution.value is solution.value  # made once
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.value = solution.value  # type: ignore[misc]
    with pytest.raises(AttributeError, match="'QPSolution' object has no attribute 'dual'"):
        _ = solution.dual
    assert not hasattr(solution, "_value")


def _pickled(solution: QPSolution) -> QPSolution:
    return pickle.loads(pickle.dumps(solution))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled, dataclasses.replace])
@pytest.mark.parametrize("asked", [True, False], ids=["fields asked for", "fields not asked for"])
def test_copies(duplicate: Any, asked: bool) -> None:
    solution, reference = solved(), solved()
    if asked:
        assert same(solution.active, reference.active)
    other = duplicate(solution)
    assert type(other) is QPSolution
    for name in NAMES:
        assert same(getattr(other, name), getattr(reference, name)), name


@pytest.mark.parametrize(
    "rows", [2, -1, slice(1, 3), [0, 2], torch.tensor([3, 0]), torch.tensor([True, False, True, False]), ..., None]
)
def test_rows_of_a_batch(rows: Any) -> None:
    solution = solved()
    part = solution[rows]
    shape = torch.zeros(4)[rows].shape
    for name in NAMES:
        field, expected = getattr(part, name), getattr(solution, name)
        for one, whole in zip(field, expected, strict=True) if name == "active" else [(field, expected)]:
            if isinstance(whole, Tensor):
                assert one.shape == (*shape, *whole.shape[1:]), name
                assert torch.equal(one, whole[rows]), name
    assert part.state is None


def test_rows_of_other_batches() -> None:
    arguments = two_sided(2, batch=6)
    grid = {**arguments, "p": arguments["p"].reshape(2, 3, 5)}
    grid |= {name: arguments[name].reshape(2, 3, *arguments[name].shape[1:]) for name in ("Q", "h", "h_low")}
    solution, flat = solve_qp(**grid), solve_qp(**arguments)
    assert torch.equal(solution[1, 2].value, flat[5].value)
    assert torch.equal(solution[..., 0].dual_ineq, flat[0::3].dual_ineq)
    assert torch.equal(solution[1].active.ineq_low, flat[3:].active.ineq_low)
    rows = list(flat)
    assert len(rows) == 6
    assert torch.equal(rows[4].value, flat.value[4])
    with pytest.raises(IndexError):
        _ = rows[0][0]
    with pytest.raises(IndexError):
        _ = flat[6]


def test_a_row_carries_its_gradient() -> None:
    arguments = two_sided(3)
    p = arguments["p"].clone().requires_grad_()
    solution = solve_qp(**{**arguments, "p": p})
    solution[1].value.sum().backward()
    assert p.grad is not None
    assert p.grad[1].any()
    assert not p.grad[[0, 2]].any()
    starting = solution[1:].warm_start
    assert same(solve_qp(**{**arguments, "p": p})[1:].active, starting)


def test_whoever_asks_gets_the_graph_that_was_there() -> None:
    arguments = two_sided(4)
    p = arguments["p"].clone().requires_grad_()
    solution = solve_qp(**{**arguments, "p": p})
    with torch.no_grad():
        part = solution[0]
        graphs = [solution.value, solution.fun, solution.dual_ineq, solution.violation_ineq]
        row = part.value
    assert [t.requires_grad for t in graphs] == [True, True, True, False]
    (slope,) = torch.autograd.grad(row.sum(), p)
    assert slope[0].any()
    assert not slope[1:].any()
    with torch.no_grad():
        without = solve_qp(**{**arguments, "p": p})
    assert not any(t.requires_grad for t in (without.value, without.fun, without.dual_ineq))


def test_what_becomes_of_the_arguments_does_not_matter() -> None:
    arguments, reference = mixed(1), solved()
    solution = solve_qp(**arguments, elastic=2.0)
    for part in arguments.values():
        part.fill_(torch.nan)
    for name in NAMES:
        assert same(getattr(solution, name), getattr(reference, name)), name


def test_its_description_is_short() -> None:
    arguments = two_sided(5)
    arguments["h"][1] = -torch.inf
    solution = solve_qp(**arguments, throw=False)
    steps = int(solution.num_steps.max())
    expected = "QPSolution(value (3, 5) float64; rows: SUCCESS 2, PRIMAL_INFEASIBLE 1; residual <= "
    assert repr(solution).startswith(expected)
    assert repr(solution).endswith(f"steps <= {steps})")
    one = repr(solve_qp(1.0, torch.zeros(2), lb=0.0))
    assert one.startswith("QPSolution(value (2,) float32; rows: SUCCESS 1; residual <= ")
    empty = solve_qp(1.0, torch.zeros(0, 2, dtype=DOUBLE), lb=0.0)
    assert repr(empty) == "QPSolution(value (0, 2) float64)"
    texts = []
    torch.func.vmap(lambda p: texts.append(repr(solve_qp(1.0, p, lb=0.0))) or p)(torch.zeros(3, 2))
    assert texts == ["QPSolution(value (2,) float32)"]


@pytest.mark.parametrize("name", ["Q", "p", "G", "h", "h_low", "A", "b", "lb", "ub"])
def test_an_error_names_the_argument_that_is_not_finite(name: str) -> None:
    arguments = mixed(1)
    part = arguments[name]
    batched = name in ("Q", "p", "h", "h_low", "b")
    (part[3] if batched else part).view(-1)[0] = torch.nan
    with pytest.raises(SolveError) as caught:
        solve_qp(**arguments, elastic=2.0)
    # bounds without a batch dimension are those of every row
    row = 3 if batched else 0 if name in ("lb", "ub") else None
    where = "" if row is None else f" in row {row}"
    assert caught.value.cause == f"{name}: not finite{where}."
    assert caught.value.cause in str(caught.value)
    assert "NONFINITE_INPUT" in str(caught.value)


def test_an_error_names_all_of_them() -> None:
    arguments = two_sided(1)
    arguments["h"][2, 0], arguments["p"][1] = torch.nan, torch.inf
    with pytest.raises(SolveError, match=r"p: not finite in row 1; h: not finite in row 2\."):
        solve_qp(**arguments)
    rho = torch.tensor([1.0, torch.nan, 1.0], dtype=DOUBLE)
    with pytest.raises(SolveError, match=r" elastic: not finite in row 1\."):
        solve_qp(**two_sided(1), elastic=rho)
    with pytest.raises(SolveError, match=r" G: not finite\."):
        solve_qp(1.0, torch.zeros(3, 2), torch.tensor([[1.0, torch.nan]]).to_sparse_coo(), torch.ones(1))


def test_an_error_for_another_reason_names_none() -> None:
    arguments = two_sided(5)
    arguments["h"][1] = -torch.inf
    with pytest.raises(SolveError, match="PRIMAL_INFEASIBLE") as caught:
        solve_qp(**arguments)
    assert caught.value.cause == ""


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), 0.5])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_numbers_of_numpy(number: Any, dtype: torch.dtype) -> None:
    p = torch.tensor([-3.0, 3.0], dtype=dtype)
    solution = solve_qp(number, p, lb=-number, ub=number, elastic=number)
    assert torch.equal(solution.value, torch.tensor([0.5, -0.5], dtype=dtype))


def test_integers_of_numpy() -> None:
    p = torch.tensor([-3.0, 3.0])
    solution = solve_qp(np.int64(1), p, lb=np.int32(-2), ub=np.int64(2), elastic=np.int64(3))
    assert torch.equal(solution.value, torch.tensor([2.0, -2.0]))


@pytest.mark.parametrize("name", ["Q", "lb", "ub", "elastic"])
@pytest.mark.parametrize("value", [True, np.bool_(True), 1j, "1"], ids=repr)
def test_what_is_no_number(name: str, value: Any) -> None:
    arguments = {"Q": 1.0, "p": torch.ones(2), name: value}
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        solve_qp(**arguments)
    if name == "elastic":
        with pytest.raises(ValueError, match=r"^elastic\.ineq: expected "):
            solve_qp(1.0, torch.ones(2), torch.ones(1, 2), torch.ones(1), elastic=Elastic(ineq=value))


def test_statuses_are_those_of_the_rows() -> None:
    arguments = two_sided(5)
    arguments["h"][1] = -torch.inf
    part = solve_qp(**arguments, throw=False)[1:]
    assert part.status.tolist() == [Status.PRIMAL_INFEASIBLE, Status.SUCCESS]
