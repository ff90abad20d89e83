"""Every family of the table: the reference's answer, certificates, statuses, batches, units, dtypes."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from icnn_rl import SolveError, Status
from icnn_rl.qp import Diagonal, NonConvexError, PrimalDual, QPSolution, active_set, solve_qp
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.minimisation import draw
from icnn_rl.testing.qp_families import (
    BY_NAME,
    INF,
    INFEASIBLE,
    SOLVABLE,
    UNBOUNDED,
    Arguments,
    Family,
    answers,
    dense_rows,
    instance,
    rows,
)
from icnn_rl.testing.qp_references import Array, Data, Point

DOUBLE = torch.float64
# their answer moves without bound, or ceases to exist, when the data are rounded to float32
NEEDS_DOUBLE = ("dependent_equations", "too_many_at_a_vertex", "nearly_flat", "no_strict_complementarity")
SINGLE = [family for family in SOLVABLE if family.name not in NEEDS_DOUBLE]
SMALL = [family for family in SOLVABLE if family.name not in ("n_300", "sudoku_large", "sudoku_rules", "dense_100")]
#: bounds of hypothesis's factors: products of them stay within what float64 can square
FACTOR = st.floats(-6.0, 6.0).map(lambda power: 10.0**power)


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    def convert(value: Any) -> Any:
        if isinstance(value, Diagonal):
            return Diagonal(value.d.to(dtype))
        return value.to(dtype) if isinstance(value, Tensor) else value

    return {name: convert(value) for name, value in arguments.items()}


def distance(x: Array, reference: Array, data: Data) -> Array:
    """Largest difference in x relative to the larger of |x|_inf and the shortest length in the data."""
    scale = np.maximum(references.largest(reference), references.length_scale(data))
    relative: Array = references.largest(x - reference) / scale
    return relative


def close(a: QPSolution, b: QPSolution, tol: float) -> None:
    """The same values, multipliers and statuses."""
    assert torch.equal(a.status, b.status)
    for x, y in zip(references.point_of(a), references.point_of(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol * float(np.abs(y).max(initial=0.0)))


@functools.cache
def solved(family: Family) -> QPSolution:
    """The answer to the table's own draw, with the settings that are the default."""
    return solve_qp(**instance(family)[0])


# answers


@pytest.mark.parametrize("family", SOLVABLE, ids=str)
def test_meets_the_conditions_of_optimality(family: Family) -> None:
    _, data = instance(family)
    solution = solved(family)
    assert solution.success.all()
    point = references.point_of(solution)
    residuals = references.kkt_residuals(data, point)
    assert residuals.worst.max() <= 1e-9, residuals
    best = np.stack([answer.point.x for answer in answers(family)])
    scale = np.maximum(references.objective_scale(data, best), np.finfo(float).tiny)
    assert (np.abs(references.objective(data, point.x) - references.objective(data, best)) / scale).max() <= 1e-8


@pytest.mark.parametrize("family", SOLVABLE, ids=str)
def test_agrees_with_the_reference_where_it_is_regular(family: Family) -> None:
    _, data = instance(family)
    solution = solved(family)
    point = references.point_of(solution)
    for row, answer in enumerate(answers(family)):
        if not answer.regular:
            continue
        assert distance(point.x[row], answer.point.x, data[row]) <= 1e-10
        fixed = data.lb[row] == data.ub[row]
        duals, expected_duals = (without_choice(x, fixed) for x in (point.at(row), answer.point))
        sizes = [float(np.abs(part).max(initial=0.0)) for part in expected_duals]
        size = max(sizes) or float(references.force_scale(data[row]))
        for name, found, expected in zip(Point._fields[1:], duals, expected_duals, strict=True):
            assert np.abs(found - expected).max(initial=0.0) <= 1e-8 * size, name
        for part, expected_part in zip(solution.active[:3], answer.active, strict=True):
            same = part[row].numpy() == expected_part
            assert (same if part is solution.active.ineq else same | fixed).all()


def without_choice(point: Point, fixed: NDArray[np.bool_]) -> list[Array]:
    """The multipliers; of those of a fixed variable only the difference is determined, it takes the place of both."""
    difference = point.upper - point.lower
    lower, upper = (np.where(fixed, difference, part) for part in (point.lower, point.upper))
    return [point.ineq, point.eq, lower, upper]


@pytest.mark.parametrize("family", SOLVABLE, ids=str)
def test_the_fields_are_what_they_are_called(family: Family) -> None:
    _, data = instance(family)
    solution = solved(family)
    batch, n, m, q = data.batch, data.n, data.h.shape[-1], data.b.shape[-1]
    shapes = {"value": n, "dual_ineq": m, "dual_eq": q, "dual_lb": n, "dual_ub": n, "slack": m, "ray": n}
    for name, size in shapes.items():
        assert getattr(solution, name).shape == (*batch, size), name
        assert getattr(solution, name).dtype == DOUBLE, name
        assert not getattr(solution, name).requires_grad, name
    for name in ("fun", "gap", "status", "num_steps", "residual", "primal_residual", "dual_residual"):
        assert getattr(solution, name).shape == batch, name
    assert [part.shape for part in solution.active[:3]] == [(*batch, m), (*batch, n), (*batch, n)]
    assert all(part.dtype == torch.bool for part in solution.active[:3])
    assert not solution.ray.any()
    for name in ("dual_ineq", "dual_lb", "dual_ub"):
        assert (getattr(solution, name) >= 0).all(), name
    x = references.point_of(solution).x
    size = float(np.abs(data.h[np.isfinite(data.h)]).max(initial=0.0))
    size += float(references.times(np.abs(data.G), np.abs(x)).max(initial=0.0))
    np.testing.assert_allclose(solution.slack.numpy(), data.h - references.times(data.G, x), rtol=0, atol=1e-12 * size)
    scale = np.maximum(references.objective_scale(data, x), 1e-300)
    assert (np.abs(solution.fun.numpy() - references.objective(data, x)) <= 1e-12 * scale).all()
    assert (solution.residual <= 1e-9).all()
    assert (solution.num_steps <= PrimalDual().max_steps).all()


@pytest.mark.parametrize("family", SOLVABLE, ids=str)
def test_the_gap_bounds_the_error_of_the_objective(family: Family) -> None:
    _, data = instance(family)
    solution = solved(family)
    best = np.stack([answer.point.x for answer in answers(family)])
    error = solution.fun.numpy() - references.objective(data, best)
    assert (error <= solution.gap.numpy() + 1e-9 * references.objective_scale(data, best)).all()


@pytest.mark.parametrize("family", SMALL, ids=str)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_draws_are_solved_too(family: Family, seed: int) -> None:
    arguments = family.build(seed, 32)
    solution = solve_qp(**arguments)
    assert solution.success.all()
    residuals = references.kkt_residuals(references.dense(arguments), references.point_of(solution))
    assert residuals.worst.max() <= 1e-9, residuals


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"Q": 2.0, "p": vector(-2.0, 4.0)}, (1.0, -2.0)),
        ({"Q": 1.0, "p": vector(1.0), "lb": 0.0}, (0.0,)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "lb": 0.0}, (0.0, 2.0)),
        ({"Q": 1.0, "p": vector(1.0, 2.0), "lb": 0.0, "ub": 1e10}, (0.0, 0.0)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "lb": 0.0, "ub": 0.0}, (0.0, 0.0)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "lb": -INF}, (-1.0, 2.0)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "G": vector(1.0, 1.0)[None], "h": vector(INF)}, (-1.0, 2.0)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "G": vector(1.0, 1.0)[None], "h": vector(0.0)}, (-1.5, 1.5)),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "A": vector(1.0, 1.0)[None], "b": vector(0.0)}, (-1.5, 1.5)),
        (
            {"Q": torch.eye(2).double(), "p": vector(1.0, 2.0), "A": vector(1.0, 1.0)[None], "b": vector(1.0)},
            (1.0, 0.0),
        ),
        ({"Q": 1.0, "p": vector(1.0, -2.0), "A": vector(1.0, 1.0)[None], "b": vector(0.0), "lb": 0.0}, (0.0, 0.0)),
        ({"Q": 0.0, "p": vector(1.0, -1.0), "lb": 0.0, "ub": 1.0}, (0.0, 1.0)),
        ({"Q": 0.16, "p": vector(1.5), "G": vector(-0.25, 0.0)[:, None], "h": vector(0.0, 0.5), "lb": -4e11}, (0.0,)),
    ],
    ids=[
        "free",
        "bound_at_0",
        "one_of_two_at_0",
        "far_bound",
        "fixed_at_0",
        "infinite_bound",
        "infinite_row",
        "row_through_0",
        "equation_through_0",
        "equation",
        "one_point",
        "linear",
        "far_bound_and_zero_row",
    ],
)
def test_answers_known_by_heart(arguments: Arguments, expected: tuple[float, ...]) -> None:
    solution = solve_qp(**arguments)
    torch.testing.assert_close(solution.value, vector(*expected), rtol=1e-10, atol=1e-10)
    residuals = references.kkt_residuals(references.dense(arguments), references.point_of(solution))
    assert residuals.worst <= 1e-9, residuals


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"Q": 0.0, "p": vector(1.0)}, Status.DUAL_INFEASIBLE),
        ({"Q": Diagonal(vector(1.0, 0.0)), "p": vector(1.0, 1.0)}, Status.DUAL_INFEASIBLE),
        ({"Q": 0.0, "p": vector(1.0), "ub": 3.0}, Status.DUAL_INFEASIBLE),
        ({"Q": 1.0, "p": vector(1.0), "lb": 1.0, "ub": 0.0}, Status.PRIMAL_INFEASIBLE),
        ({"Q": 1.0, "p": vector(1.0), "A": vector(0.0)[None], "b": vector(1.0)}, Status.PRIMAL_INFEASIBLE),
        ({"Q": 1.0, "p": vector(1.0), "G": vector(0.0)[None], "h": vector(-1.0)}, Status.PRIMAL_INFEASIBLE),
        ({"Q": 1.0, "p": vector(1.0), "G": vector(1.0)[None], "h": vector(-INF)}, Status.PRIMAL_INFEASIBLE),
    ],
    ids=["linear", "half_line", "below_a_bound", "crossed", "0x=1", "0x<=-1", "x<=-inf"],
)
def test_failures_known_by_heart(arguments: Arguments, status: Status) -> None:
    solution = solve_qp(**arguments, throw=False)
    assert int(solution.status) == status
    assert all(np.isfinite(part).all() for part in references.point_of(solution))


def test_a_separable_programme_has_a_closed_form() -> None:
    arguments, _ = instance(BY_NAME["diagonal_box"])
    expected = (-arguments["p"] / arguments["Q"].d).clamp(-1.0, 0.5)
    torch.testing.assert_close(solve_qp(**arguments).value, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("nearest", [1.0, 1e-2, 1e-4, 1e-6])
def test_zero_may_be_the_answer_next_to_a_border(nearest: float, compiled: bool) -> None:
    """-p is in the cone of the rows that meet in 0, one row passes it at a small distance."""
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(64, 13, 6, generator=generator, dtype=DOUBLE)
    h = torch.zeros(64, 13, dtype=DOUBLE)
    h[:, 0] = nearest
    z = torch.rand(64, 12, generator=generator, dtype=DOUBLE)
    p = -(G[:, 1:].mT @ z.unsqueeze(-1)).squeeze(-1)
    solution = solve_qp(1.0, p, G, h, throw=False, solver=PrimalDual(compiled=compiled))
    assert solution.success.all()
    assert solution.value.abs().max() < 1e-12 * nearest


def test_projects_onto_the_simplex() -> None:
    """Against sorting: x = max(y - theta, 0) with sum x = 1."""
    y = torch.randn(16, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    falling = y.sort(descending=True).values
    theta = ((falling.cumsum(-1) - 1.0) / torch.arange(1, 10)).amax(-1, keepdim=True)
    ones = torch.ones(1, 9, dtype=DOUBLE)
    solution = solve_qp(1.0, -y, A=ones, b=torch.ones(1, dtype=DOUBLE), lb=0.0)
    torch.testing.assert_close(solution.value, (y - theta).clamp(min=0.0), rtol=1e-12, atol=1e-13)


# dtypes


@pytest.mark.parametrize("family", SINGLE, ids=str)
def test_float32_is_solved_in_float64_inside(family: Family) -> None:
    """The data are those numbers exactly, so the answer is good to the rounding of the result."""
    arguments = cast(instance(family)[0], torch.float32)
    data = references.dense(arguments)
    solution = solve_qp(**arguments)
    assert solution.success.all()
    assert solution.value.dtype == solution.fun.dtype == solution.dual_ineq.dtype == torch.float32
    residuals = references.kkt_residuals(data, references.point_of(solution))
    assert residuals.primal.max() <= 1e-6
    assert residuals.stationarity.max() <= 1e-6
    if family.name in ("sudoku_large", "sudoku_rules", "n_300"):
        return
    for row in range(family.batch):
        answer = references.solve(data[row])
        if answer.regular:
            assert distance(references.point_of(solution).x[row], answer.point.x, data[row]) <= 2e-7


@pytest.mark.parametrize("family", [family for family in SINGLE if family.name != "ill_conditioned"], ids=str)
def test_float32_throughout_reaches_four_digits(family: Family) -> None:
    arguments = cast(instance(family)[0], torch.float32)
    solution = solve_qp(**arguments, solver=PrimalDual(dtype="input"))
    assert solution.success.all()
    assert solution.value.dtype == torch.float32
    residuals = references.kkt_residuals(references.dense(arguments), references.point_of(solution))
    assert residuals.worst.max() <= 1e-4, residuals


def test_float32_throughout_is_honest_about_what_it_cannot_do() -> None:
    """Curvature of 1e-8 is rounding in float32: solved or not, the status must say which."""
    arguments = cast(instance(BY_NAME["ill_conditioned"])[0], torch.float32)
    solution = solve_qp(**arguments, solver=PrimalDual(dtype="input"), throw=False)
    residuals = references.kkt_residuals(references.dense(arguments), references.point_of(solution))
    assert (residuals.worst[solution.success.numpy()] <= 1e-4).all()


# statuses and certificates


#: an infinite entry is the proof, there are no multipliers to show it
IMPOSSIBLE = ("h_minus_infinite", "lb_infinite", "ub_minus_infinite")


def farkas(data: Data, point: Point) -> tuple[float, float]:
    """(error, value) of a row's certificate of infeasibility, |G'l + A'v - lo + up| and h'l + b'v - lb'lo + ub'up, both
    relative to the largest of their terms; a negative multiplier and one of an infinite bound count as errors."""
    _, ineq, eq, lower, upper = point
    slope = data.G.T @ ineq + data.A.T @ eq - lower + upper
    slopes = [np.abs(data.G).T @ np.abs(ineq), np.abs(data.A).T @ np.abs(eq), np.abs(lower), np.abs(upper)]
    error = float(references.relative(np.abs(slope).max(), max(part.max() for part in slopes)))
    pairs = [(data.h, ineq), (-data.lb, lower), (data.ub, upper)]
    for end, multiplier in pairs:
        unused = end == INF
        error = max(error, np.abs(multiplier[unused]).max(initial=0.0), -multiplier.min(initial=0.0))
    products = np.concatenate([end[m != 0] * m[m != 0] for end, m in [*pairs, (data.b, eq)]])
    return error, float(references.relative(products.sum(), np.abs(products).max(initial=0.0)))


@pytest.mark.parametrize("family", INFEASIBLE, ids=str)
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["float64", "float32"])
def test_infeasible_rows_carry_a_proof(family: Family, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and family.name == "inconsistent_equations":
        pytest.skip("rounding A to float32 makes its rows independent")
    arguments = cast(instance(family)[0], dtype)
    data = references.dense(arguments)
    solution = solve_qp(**arguments, throw=False)
    assert (solution.status == Status.PRIMAL_INFEASIBLE).all()
    point = references.point_of(solution)
    if family.name in IMPOSSIBLE:
        assert all(np.isfinite(part).all() for part in point)
        return
    for row in range(family.batch):
        error, value = farkas(data[row], point.at(row))
        assert error <= (1e-8 if dtype == DOUBLE else 1e-5)
        assert value < -1e-6
    assert not solution.ray.any()


@pytest.mark.parametrize("family", UNBOUNDED, ids=str)
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["float64", "float32"])
def test_unbounded_rows_carry_a_ray(family: Family, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and family.name in ("unbounded_free", "unbounded_with_everything"):
        pytest.skip("rounding Q to float32 makes it definite")
    arguments = cast(instance(family)[0], dtype)
    data = references.dense(arguments)
    solution = solve_qp(**arguments, throw=False)
    assert (solution.status == Status.DUAL_INFEASIBLE).all()
    for row in range(family.batch):
        ray = solution.ray[row].double().numpy()
        assert not wrong_with_ray(data[row], ray, 1e-8 if dtype == DOUBLE else 1e-5)


def wrong_with_ray(data: Data, ray: Array, tol: float) -> str:
    """What keeps a row's ray from being a proof that the objective has no minimum; "" if nothing does."""
    length = np.abs(ray).max()
    if not (np.isfinite(ray).all() and length > 0):
        return "no ray"
    finite = np.isfinite(data.h)
    conditions = {
        "p'd is not negative": data.p @ ray < -1e-6 * (np.abs(data.p) @ np.abs(ray)),
        "Qd is not zero": np.abs(data.Q @ ray).max() <= tol * np.abs(data.Q).max() * length,
        "Ad is not zero": (np.abs(data.A @ ray) <= tol * np.abs(data.A).sum(-1) * length).all(),
        "Gd is positive": (data.G @ ray <= tol * np.abs(data.G).sum(-1) * length)[finite].all(),
        "it meets lb": (ray[np.isfinite(data.lb)] >= -tol * length).all(),
        "it meets ub": (ray[np.isfinite(data.ub)] <= tol * length).all(),
    }
    return ", ".join(name for name, holds in conditions.items() if not holds)


@pytest.mark.parametrize("family", [*INFEASIBLE, *UNBOUNDED], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_draws_without_solution_are_recognised(family: Family, seed: int) -> None:
    solution = solve_qp(**family.build(seed, 32), throw=False)
    assert (solution.status == family.status).all()


def test_rows_can_be_infeasible_and_unbounded_at_once() -> None:
    """Either answer is right, "solved" is not."""
    solution = solve_qp(
        0.0, torch.tensor([1.0, -1.0]), lb=torch.tensor([1.0, 0.0]), ub=torch.tensor([0.0, INF]), throw=False
    )
    assert int(solution.status) in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)


def with_bad_rows() -> tuple[Arguments, dict[int, Status]]:
    """Eight rows of the same shapes, five of them bad in five ways."""
    arguments = {name: value.clone() for name, value in BY_NAME["everything"].build(3, 8).items()}
    arguments["ub"][1, 0] = arguments["lb"][1, 0] - 1.0
    arguments["p"][2, 1] = float("nan")
    for name in ("Q", "G", "A", "b"):
        arguments[name][4] = 0.0
    arguments["h"][4], arguments["lb"][4], arguments["ub"][4] = 1.0, -INF, INF
    arguments["G"][5, 0, 0] = INF
    arguments["A"][6] = 0.0
    statuses = {
        1: Status.PRIMAL_INFEASIBLE,
        2: Status.NONFINITE_INPUT,
        4: Status.DUAL_INFEASIBLE,
        5: Status.NONFINITE_INPUT,
        6: Status.PRIMAL_INFEASIBLE,
    }
    return arguments, statuses


@pytest.mark.parametrize(("unbounded", "tol"), [(False, 1e-14), (True, 1e-12)], ids=["infeasible", "unbounded_too"])
def test_bad_rows_leave_the_others_alone(unbounded: bool, tol: float) -> None:
    """A row with Q = 0 among them may change the way in which the equations of the batch are eliminated, and so the
    rounding."""
    arguments, statuses = with_bad_rows()
    if not unbounded:
        for name, value in BY_NAME["everything"].build(3, 8).items():
            arguments[name][4] = value[4]
        del statuses[4]
    good = [row for row in range(8) if row not in statuses]
    solution = solve_qp(**arguments, throw=False)
    assert solution.status.tolist() == [int(statuses.get(row, Status.SUCCESS)) for row in range(8)]
    untouched = solve_qp(**BY_NAME["everything"].build(3, 8))
    for name in ("value", "dual_ineq", "dual_eq", "dual_lb", "dual_ub", "fun", "slack", "residual"):
        expected = getattr(untouched, name)[good]
        size = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(getattr(solution, name)[good], expected, rtol=0, atol=tol * size)
    assert not solution.ray[good].any()


@pytest.mark.parametrize("name", ["Q", "p", "G", "h", "A", "b", "lb", "ub"])
def test_nan_anywhere_is_a_row_of_nonfinite_input(name: str) -> None:
    arguments = {key: value.clone() for key, value in BY_NAME["everything"].build(0, 3).items()}
    arguments[name].view(3, -1)[1, 0] = float("nan")
    solution = solve_qp(**arguments, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NONFINITE_INPUT, Status.SUCCESS]


@pytest.mark.parametrize("compiled", [True, False])
def test_rows_set_aside_report_nothing_of_their_neighbours(compiled: bool) -> None:
    """Rows that no point can meet, and rows with NaN, next to others and each alone."""
    nan = float("nan")
    p = torch.tensor([[-5.0, -7.0], [1.0, 2.0], [nan, 0.0], [1.0, 1.0]], dtype=DOUBLE)
    h = torch.tensor([[1.0, 1.0], [-INF, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    lb = torch.tensor([[-9.0, -9.0], [-9.0, -9.0], [-9.0, -9.0], [INF, -9.0]], dtype=DOUBLE)
    A, b = torch.tensor([[1.0, -1.0]], dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE)
    statuses = [Status.SUCCESS, Status.PRIMAL_INFEASIBLE, Status.NONFINITE_INPUT, Status.PRIMAL_INFEASIBLE]
    for equations in ({}, {"A": A, "b": b}):
        arguments = {"G": torch.eye(2, dtype=DOUBLE), **equations}
        solver = PrimalDual(compiled=compiled)
        all_rows = solve_qp(1.0, p, h=h, lb=lb, **arguments, throw=False, solver=solver)
        assert all_rows.status.tolist() == statuses
        for row in (1, 2, 3):
            here, alone = all_rows, solve_qp(1.0, p[row], h=h[row], lb=lb[row], **arguments, throw=False, solver=solver)
            number = nan if row == 2 else 0.0
            for name in ("value", "dual_ineq", "dual_eq", "dual_lb"):
                expected = torch.full_like(getattr(alone, name), number)
                torch.testing.assert_close(getattr(here, name)[row], expected, equal_nan=True)
                torch.testing.assert_close(getattr(alone, name), expected, equal_nan=True)
            for name in ("residual", "primal_residual", "dual_residual", "gap"):
                assert str(float(getattr(here, name)[row])) == str(float(getattr(alone, name))) != "0.0", name
                assert not getattr(here, name)[row].isfinite()
            assert int(here.num_steps[row]) == int(alone.num_steps) == 0


def test_a_ray_belongs_to_its_row() -> None:
    p = torch.tensor([[-1.0, 0.0], [float("nan"), 0.0], [-1.0, 0.0]], dtype=DOUBLE)
    lb = torch.tensor([[0.0, 0.0], [0.0, 0.0], [INF, 0.0]], dtype=DOUBLE)
    solution = solve_qp(0.0, p, lb=lb, throw=False)
    assert solution.status.tolist() == [Status.DUAL_INFEASIBLE, Status.NONFINITE_INPUT, Status.PRIMAL_INFEASIBLE]
    assert solution.ray[0].any()
    assert not solution.ray[1:].any()


def test_a_saddle_is_named_by_its_row_next_to_rows_set_aside() -> None:
    eye = torch.eye(2, dtype=DOUBLE)
    p = torch.zeros(3, 2, dtype=DOUBLE)
    p[0, 0] = float("nan")
    for signs, row in (([1, 1, -1], 2), ([1, -1, 1], 1), ([-1, 1, -1], 2)):
        Q = eye * torch.tensor(signs, dtype=DOUBLE).reshape(3, 1, 1)
        p[0, 0] = 0.0 if signs[0] < 0 else p[0, 0]
        row = 0 if signs[0] < 0 else row
        with pytest.raises(NonConvexError, match=f"row {row} of") as caught:
            solve_qp(Q, p, lb=0.0)
        assert caught.value.row == row
        expected = [Status.NON_CONVEX if sign < 0 else Status.SUCCESS for sign in signs]
        expected[0] = Status.NONFINITE_INPUT if p[0, 0].isnan() else expected[0]
        assert solve_qp(Q, p, lb=0.0, throw=False).status.tolist() == expected


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("diagonal", [True, False])
def test_a_saddle_is_a_status_of_its_row_alone(diagonal: bool, compiled: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(4, 5, 5, generator=generator, dtype=DOUBLE)
    Q = root @ root.mT + torch.eye(5, dtype=DOUBLE)
    d = torch.rand(4, 5, generator=generator, dtype=DOUBLE) + 0.5
    (d if diagonal else Q)[2] = d[2] - 0.6 * d[2].max() if diagonal else Q[2] - 5.0 * torch.eye(5, dtype=DOUBLE)
    p = torch.randn(4, 5, generator=generator, dtype=DOUBLE)
    G, h = torch.randn(3, 5, generator=generator, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    kept, solver = [0, 1, 3], PrimalDual(compiled=compiled)

    def solved(rows: list[int]) -> tuple[QPSolution, tuple[torch.Tensor, ...]]:
        q, live = (d if diagonal else Q)[rows].clone().requires_grad_(), G.clone().requires_grad_()
        linear = p[rows].clone().requires_grad_()
        found = solve_qp(Diagonal(q) if diagonal else q, linear, live, h, lb=-2.0, ub=2.0, solver=solver, throw=False)
        total = (found.value * torch.arange(1.0, 6.0, dtype=DOUBLE)).sum() + found.fun.sum()
        return found, torch.autograd.grad(total, (q, linear, live))

    found, (dq, dp, dg) = solved([0, 1, 2, 3])
    alone, (dq_alone, dp_alone, dg_alone) = solved(kept)
    assert found.status.tolist() == [Status.SUCCESS, Status.SUCCESS, Status.NON_CONVEX, Status.SUCCESS]
    assert not found.value[2].any()
    assert found.residual[2].isfinite()
    assert found.residual[2] > 0
    torch.testing.assert_close(found.value[kept], alone.value, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(dq[kept], dq_alone)
    torch.testing.assert_close(dp[kept], dp_alone)
    torch.testing.assert_close(dg, dg_alone)
    assert not dq[2].any()
    assert not dp[2].any()


def test_a_saddle_that_all_rows_share() -> None:
    p = torch.ones(3, 2, dtype=DOUBLE)
    Q = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE)
    found = solve_qp(Q, p, lb=-1.0, ub=1.0, throw=False)
    assert found.status.tolist() == [Status.NON_CONVEX] * 3
    assert not found.value.any()
    assert all(getattr(found, name).isfinite().all() for name in ("fun", "residual", "gap", "dual_lb", "dual_ub"))
    with pytest.raises(NonConvexError, match="-1 in row 0"):
        solve_qp(Q, p, lb=-1.0, ub=1.0)


def test_failures_are_thrown_with_everything_that_was_found() -> None:
    arguments, _ = with_bad_rows()
    with pytest.raises(SolveError, match="PRIMAL_INFEASIBLE") as caught:
        solve_qp(**arguments)
    assert isinstance(caught.value.solution, QPSolution)
    assert int(caught.value.solution.success.sum()) == 3
    for name in ("DUAL_INFEASIBLE", "NONFINITE_INPUT"):
        assert name in str(caught.value)


@pytest.mark.parametrize("family", SMALL, ids=str)
def test_a_step_limit_is_told(family: Family) -> None:
    """One step: what is called solved is, what is not is short of steps."""
    arguments, data = instance(family)
    solution = solve_qp(**arguments, solver=PrimalDual(max_steps=1), throw=False)
    allowed = {int(Status.SUCCESS), int(Status.MAX_STEPS)}
    assert set(solution.status.tolist()) <= allowed
    solved = solution.success.numpy()
    assert (references.kkt_residuals(data, references.point_of(solution)).worst[solved] <= 1e-9).all()


# batches


@pytest.mark.parametrize("family", SMALL, ids=str)
def test_a_batch_is_its_rows(family: Family) -> None:
    """Where the solution is regular: elsewhere the multipliers are a matter of choice."""
    arguments, _ = instance(family)
    solution = solved(family)
    for row, answer in enumerate(answers(family)):
        alone = solve_qp(**rows(arguments, row))
        assert alone.value.shape == solution.value.shape[1:]
        assert alone.status.shape == ()
        if answer.regular:
            for x, y in zip(references.point_of(alone), references.point_of(solution).at(row), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * max(1.0, np.abs(y).max(initial=0.0)))


def test_batch_dimensions_broadcast() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    spread = {**arguments}
    spread["p"], spread["h"], spread["b"] = (arguments[name][0] for name in ("p", "h", "b"))
    for name in ("Q", "lb", "ub"):
        spread[name] = arguments[name][0]
    spread["G"], spread["A"] = arguments["G"][0], arguments["A"][0]
    generator = torch.Generator().manual_seed(0)
    spread["p"] = spread["p"] + 0.3 * torch.randn(3, 1, 1, 12, generator=generator, dtype=DOUBLE)
    spread["h"] = spread["h"] + torch.rand(2, 1, 16, generator=generator, dtype=DOUBLE)
    spread["Q"] = spread["Q"] * (1.0 + torch.rand(2, 1, 1, generator=generator, dtype=DOUBLE))
    solution = solve_qp(**spread)
    assert solution.value.shape == (3, 2, 2, 12)
    assert solution.dual_eq.shape == (3, 2, 2, 3)
    data = references.dense(spread)
    assert references.kkt_residuals(data, references.point_of(solution)).worst.max() <= 1e-9
    for index in np.ndindex(3, 2, 2):
        expected = references.solve(data[index]).point.x
        assert distance(references.point_of(solution).x[index], expected, data[index]) <= 1e-10


def test_the_matrix_alone_may_carry_the_batch() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    only = {name: value if name == "G" else value[0] for name, value in arguments.items()}
    only["h"] = torch.full((16,), 30.0, dtype=DOUBLE)
    solution = solve_qp(**only)
    assert solution.value.shape == (4, 12)
    assert references.kkt_residuals(references.dense(only), references.point_of(solution)).worst.max() <= 1e-9


@pytest.mark.parametrize("name", ["everything", "diagonal_q", "number_q", "bounds_only", "unconstrained"])
def test_an_empty_batch_is_an_empty_answer(name: str) -> None:
    solution = solve_qp(**BY_NAME[name].build(0, 0))
    assert solution.value.shape[0] == solution.status.shape[0] == 0


def test_blocks_without_rows_are_absent_ones() -> None:
    arguments, _ = instance(BY_NAME["bounds_only"])
    nothing = {"G": torch.zeros(0, 8), "h": torch.zeros(0), "A": torch.zeros(4, 0, 8), "b": torch.zeros(4, 0)}
    solution = solve_qp(**arguments, **cast(nothing, DOUBLE))
    assert solution.dual_ineq.shape == solution.dual_eq.shape == (4, 0)
    torch.testing.assert_close(solution.value, solve_qp(**arguments).value, rtol=1e-14, atol=1e-14)


def test_memory_layout_does_not_matter() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    strided = {name: torch.stack([value, value], -1)[..., 0] for name, value in arguments.items()}
    strided["G"] = arguments["G"].mT.contiguous().mT
    assert not strided["p"].is_contiguous()
    torch.testing.assert_close(solve_qp(**strided).value, solve_qp(**arguments).value, rtol=1e-12, atol=1e-13)


def test_inputs_are_left_as_they_were_and_calls_repeat() -> None:
    arguments, _ = instance(BY_NAME["infinite"])
    before = {name: value.clone() for name, value in arguments.items()}
    first, second = solve_qp(**arguments), solve_qp(**arguments)
    assert all(torch.equal(value, before[name]) for name, value in arguments.items())
    assert torch.equal(first.value, second.value)


@pytest.mark.parametrize(
    ("diagonal", "other"), [("diagonal_q", "dense"), ("number_q", "dense"), ("number_q", "diagonal")]
)
def test_the_kinds_of_q_agree(diagonal: str, other: str) -> None:
    arguments, data = instance(BY_NAME[diagonal])
    Q = torch.as_tensor(np.array(data.Q))
    same = {**arguments, "Q": Q if other == "dense" else Diagonal(Q.diagonal(dim1=-2, dim2=-1).clone())}
    close(solve_qp(**arguments), solve_qp(**same), 1e-10)


@pytest.mark.parametrize("name", ["everything", "diagonal_box", "number_q", "denoising", "sudoku_small"])
def test_bounds_and_rows_are_the_same_thing(name: str) -> None:
    """Bounds written as rows of G: the same answer, the same multipliers."""
    arguments, data = instance(BY_NAME[name])
    eye = np.broadcast_to(np.eye(data.n), (*data.batch, data.n, data.n))
    G, h = np.concatenate([data.G, -eye, eye], -2), np.concatenate([data.h, -data.lb, data.ub], -1)
    rest = {key: value for key, value in arguments.items() if key not in ("lb", "ub")}
    a, b = solve_qp(**arguments), solve_qp(**{**rest, "G": torch.as_tensor(G), "h": torch.as_tensor(h)})
    together = torch.cat([a.dual_ineq, a.dual_lb, a.dual_ub], -1)
    torch.testing.assert_close(a.value, b.value, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(together, b.dual_ineq, rtol=1e-8, atol=1e-8 * float(together.max()))


# warm start


@pytest.mark.parametrize("family", SMALL, ids=str)
def test_a_warm_start_changes_nothing_but_the_work(family: Family) -> None:
    arguments, data = instance(family)
    cold = solved(family)
    warm = solve_qp(**arguments, warm_start=cold.warm_start)
    assert warm.success.all()
    assert references.kkt_residuals(data, references.point_of(warm)).worst.max() <= 1e-9
    for row, answer in enumerate(answers(family)):
        if answer.regular:
            assert warm.num_steps[row] <= cold.num_steps[row]
            assert distance(references.point_of(warm).x[row], answer.point.x, data[row]) <= 1e-10


@pytest.mark.parametrize("name", ["everything", "many_active", "infinite", "linear", "projection", "duplicate_rows"])
def test_a_wrong_warm_start_does_no_harm(name: str) -> None:
    """The answer to another draw, in another order."""
    family = BY_NAME[name]
    arguments, data = instance(family)
    foreign = solve_qp(**family.build(5, family.batch)).warm_start
    solution = solve_qp(**arguments, warm_start=foreign)
    assert solution.success.all()
    assert references.kkt_residuals(data, references.point_of(solution)).worst.max() <= 1e-9


def test_failed_rows_may_be_handed_on() -> None:
    arguments, statuses = with_bad_rows()
    failed = solve_qp(**arguments, throw=False)
    mended = BY_NAME["everything"].build(3, 8)
    assert solve_qp(**mended, warm_start=failed.warm_start).success.all()
    again = solve_qp(**arguments, warm_start=failed.warm_start, throw=False)
    assert again.status.tolist() == [int(statuses.get(row, Status.SUCCESS)) for row in range(8)]


# invariance


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 1000), objective=FACTOR, row_factor=FACTOR, length=FACTOR)
def test_units_do_not_matter(seed: int, objective: float, row_factor: float, length: float) -> None:
    """x in other units, objective and constraints times a factor: the same answer in those units."""
    from icnn_rl.testing.qp_families import scaled

    build = BY_NAME["everything"].build
    plain, other = solve_qp(**build(seed, 2)), solve_qp(**scaled(build, row_factor, objective, length)(seed, 2))
    assert other.success.all()
    data = references.dense(build(seed, 2))
    for row in range(2):
        if references.solve(data[row]).regular:
            scale = float(plain.value[row].abs().max())
            torch.testing.assert_close(other.value[row] / length, plain.value[row], rtol=0, atol=1e-9 * scale)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 1000), powers=st.lists(st.floats(-3.0, 3.0), min_size=16, max_size=16))
def test_rows_may_have_any_length(seed: int, powers: list[float]) -> None:
    """Each row of G times its own positive factor."""
    factors = 10.0 ** torch.tensor(powers, dtype=DOUBLE)
    arguments = BY_NAME["everything"].build(seed, 2)
    other = {**arguments, "G": arguments["G"] * factors[:, None], "h": arguments["h"] * factors}
    a, b = solve_qp(**arguments), solve_qp(**other)
    torch.testing.assert_close(b.value, a.value, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(b.dual_ineq * factors, a.dual_ineq, rtol=1e-7, atol=1e-7)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 1000), columns=st.permutations(range(12)), order=st.permutations(range(16)))
def test_order_does_not_matter(seed: int, columns: list[int], order: list[int]) -> None:
    arguments = BY_NAME["everything"].build(seed, 2)
    other = {
        "Q": arguments["Q"][:, columns][:, :, columns],
        "p": arguments["p"][:, columns],
        "G": arguments["G"][:, order][:, :, columns],
        "h": arguments["h"][:, order],
        "A": arguments["A"][:, [2, 0, 1]][:, :, columns],
        "b": arguments["b"][:, [2, 0, 1]],
        "lb": arguments["lb"][:, columns],
        "ub": arguments["ub"][:, columns],
    }
    a, b = solve_qp(**arguments), solve_qp(**other)
    torch.testing.assert_close(b.value, a.value[:, columns], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(b.dual_ineq, a.dual_ineq[:, order], rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 1000), weights=st.lists(st.floats(0.0, 2.0), min_size=10, max_size=10))
def test_an_implied_row_changes_nothing(seed: int, weights: list[float]) -> None:
    """A nonnegative combination of the rows, loosened a little."""
    arguments = dense_rows(8, 10, 0, 5.0)(seed, 2)
    w = torch.tensor(weights, dtype=DOUBLE)
    G = torch.cat([arguments["G"], (w @ arguments["G"]).unsqueeze(-2)], -2)
    h = torch.cat([arguments["h"], (arguments["h"] @ w + 0.1).unsqueeze(-1)], -1)
    a, b = solve_qp(**arguments), solve_qp(**{**arguments, "G": G, "h": h})
    torch.testing.assert_close(b.value, a.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b.dual_ineq[:, :10], a.dual_ineq, rtol=1e-8, atol=1e-8)
    assert not b.dual_ineq[:, 10].any()


# wrong use


def good() -> Arguments:
    return {**BY_NAME["everything"].build(0, 4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": [1.0, 2.0]}, r"^p: expected a torch\.Tensor, got list"),
        ({"p": torch.zeros(4, 12, dtype=torch.int64)}, r"^p: expected dtype float32 or float64"),
        ({"p": torch.tensor(1.0, dtype=DOUBLE)}, r"^p: "),
        ({"p": torch.zeros(4, 11, dtype=DOUBLE)}, r"^(Q|G|A|lb|p): "),
        ({"Q": torch.zeros(4, 12, 11, dtype=DOUBLE)}, r"^Q: "),
        ({"Q": torch.zeros(12, dtype=DOUBLE)}, r"^Q: "),
        ({"Q": torch.zeros(3, 12, 12, dtype=DOUBLE)}, r"^Q: |broadcast"),
        ({"Q": Diagonal(torch.zeros(11, dtype=DOUBLE))}, r"^Q: "),
        ({"Q": "identity"}, r"^Q: "),
        ({"Q": -1.0}, r"Q: "),
        ({"G": None}, r"^(G|h): "),
        ({"h": None}, r"^(G|h): "),
        ({"G": torch.zeros(4, 16, 11, dtype=DOUBLE)}, r"^G: "),
        ({"h": torch.zeros(4, 15, dtype=DOUBLE)}, r"^(G|h): "),
        ({"A": None}, r"^(A|b): "),
        ({"b": None}, r"^(A|b): "),
        ({"A": torch.zeros(4, 3, 11, dtype=DOUBLE)}, r"^A: "),
        ({"b": torch.zeros(4, 2, dtype=DOUBLE)}, r"^(A|b): "),
        ({"lb": torch.zeros(4, 11, dtype=DOUBLE)}, r"^lb: "),
        ({"ub": "high"}, r"^ub: "),
        ({"h": torch.zeros(4, 16)}, r"^h: dtype torch\.float32 differs"),
        ({"lb": torch.zeros(4, 12)}, r"^lb: dtype torch\.float32 differs"),
        ({"solver": "ipm"}, r"^solver: "),
        ({"warm_start": 3}, r"^warm_start: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(changes: Arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_qp(**{**good(), **changes})


def test_a_smaller_batch_takes_the_first_rows_of_a_warm_start() -> None:
    p = draw(0, 5, 3).double()
    G, h = draw(1, 2, 3).double(), torch.zeros(2, dtype=torch.float64)
    whole = solve_qp(1.0, p, G, h, lb=-0.5, ub=0.5)
    part = solve_qp(1.0, p[:3], G, h, lb=-0.5, ub=0.5, warm_start=whole.warm_start)
    torch.testing.assert_close(part.value, whole.value[:3])
    with pytest.raises(ValueError, match="warm_start"):
        solve_qp(1.0, p, G, h, lb=-0.5, ub=0.5, warm_start=part.warm_start)


def test_a_warm_start_of_another_shape_is_refused() -> None:
    other = solve_qp(**BY_NAME["number_q"].build(0, 4)).warm_start
    with pytest.raises(ValueError, match="warm_start"):
        solve_qp(**good(), warm_start=other)


@pytest.mark.parametrize("kind", ["dense", "diagonal"])
def test_a_saddle_is_refused_with_its_row_and_eigenvalue(kind: str) -> None:
    spectrum = torch.ones(4, 12, dtype=DOUBLE)
    spectrum[2, 5] = -0.25
    basis, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))
    Q = Diagonal(spectrum) if kind == "diagonal" else basis @ torch.diag_embed(spectrum) @ basis.mT
    with pytest.raises(ValueError, match=r"Q: .*-0\.25 in row 2"):
        solve_qp(**{**good(), "Q": Q})


@pytest.mark.parametrize("family", ["semidefinite", "flat", "linear"])
def test_rounding_does_not_make_a_saddle(family: str) -> None:
    """Eigenvalues of -1e-16 in float64, -1e-8 in float32, are zeros."""
    for seed in range(5):
        arguments = BY_NAME[family].build(seed, 16)
        for dtype in (DOUBLE, torch.float32):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert solve_qp(**cast(arguments, dtype)).success.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0.0}, r"PrimalDual\.tol"),
        ({"tol": 2.0}, r"PrimalDual\.tol"),
        ({"tol": True}, r"PrimalDual\.tol"),
        ({"max_steps": 0}, r"PrimalDual\.max_steps: expected an integer >= 1, got 0"),
        ({"max_steps": 2.5}, r"PrimalDual\.max_steps"),
        ({"dtype": "float16"}, r"PrimalDual\.dtype: expected one of 'float64', 'input', got 'float16'"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrimalDual(**arguments)


@pytest.mark.parametrize("family", [BY_NAME[name] for name in ("many_active", "bounds_only", "everything")], ids=str)
def test_asking_once_a_phase_changes_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, so as not to wait for the host after every step."""
    arguments, _ = instance(family)
    solver = PrimalDual(compiled=False)
    expected = solve_qp(**arguments, solver=solver)
    monkeypatch.setattr(active_set, "_on_gpu", lambda point: True)
    found = solve_qp(**arguments, solver=solver)
    assert found.success.all()
    torch.testing.assert_close(found.value, expected.value, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", [BY_NAME[name] for name in ("many_active", "everything", "semidefinite")], ids=str)
def test_a_cuda_device_gives_the_same(family: Family) -> None:
    arguments, _ = instance(family)
    there = {name: part.cuda() if isinstance(part, torch.Tensor) else part for name, part in arguments.items()}
    expected, found = solve_qp(**arguments), solve_qp(**there)
    assert found.value.device.type == "cuda"
    torch.testing.assert_close(found.value.cpu(), expected.value, rtol=1e-9, atol=1e-9)
