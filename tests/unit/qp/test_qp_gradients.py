"""Derivatives of the answer and its multipliers: finite differences, the reference, function transforms, bad rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import Diagonal, PrimalDual, QPSolution, solve_qp
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_families import BY_NAME, SOLVABLE, Arguments, Build, Family, answers, dense_rows, instance
from icnn_rl.testing.qp_references import Array, Gradients, Point
from tests.unit.qp.test_solve_qp import cast, with_bad_rows

DOUBLE = torch.float64
OUTPUTS = ("value", "dual_ineq", "dual_eq", "dual_lb", "dual_ub")
NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")


def outputs(solution: QPSolution) -> tuple[Tensor, ...]:
    """What can be differentiated and is not empty."""
    return tuple(part for part in (getattr(solution, name) for name in OUTPUTS) if part.numel() > 0)


def leaves(arguments: Arguments) -> tuple[Arguments, dict[str, Tensor]]:
    """The arguments as fresh leaves that require gradients, and the leaves by name. Bounds that are numbers stay so, a
    number Q becomes a tensor."""
    found: dict[str, Tensor] = {}
    fresh = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, float) and name == "Q":
            value = torch.tensor(value, dtype=arguments["p"].dtype)
        if isinstance(value, Diagonal):
            found[name] = value.d.detach().clone().requires_grad_()
            fresh[name] = Diagonal(found[name])
        elif isinstance(value, Tensor):
            found[name] = value.detach().clone().requires_grad_()
            fresh[name] = found[name]
    return fresh, found


# small programmes far from every kink


def _bounded(n: int, m: int, q: int) -> Build:
    def build(seed: int, batch: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        arguments = dense_rows(n, m, q, 3.0)(seed, batch)
        inside = torch.as_tensor(np.random.default_rng(seed).standard_normal((batch, n)))
        low, high = (torch.rand(batch, n, generator=generator, dtype=DOUBLE) for _ in range(2))
        return {**arguments, "lb": inside - low, "ub": inside + high}

    return build


def _shared(seed: int, batch: int) -> Arguments:
    """Everything but p belongs to both rows."""
    arguments = _bounded(4, 5, 1)(seed, batch)
    return {name: value if name == "p" else value[0] for name, value in arguments.items()}


def _diagonal(seed: int, batch: int) -> Arguments:
    d = torch.rand(batch, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) + 0.5
    return {**_bounded(4, 5, 1)(seed, batch), "Q": Diagonal(d)}


def _number(seed: int, batch: int) -> Arguments:
    return {**_bounded(4, 5, 1)(seed, batch), "Q": torch.tensor(0.8, dtype=DOUBLE)}


def _semidefinite(seed: int, batch: int) -> Arguments:
    """Q of rank 2 in four dimensions; the constraints make up for the rest."""
    root = torch.randn(batch, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return {**_bounded(4, 5, 1)(seed, batch), "Q": root @ root.mT}


BUILDS: dict[str, Build] = {
    "everything": _bounded(4, 5, 1),
    "rows_only": dense_rows(4, 5, 0, 3.0),
    "equations_only": dense_rows(4, 0, 2, 1.0),
    "unconstrained": dense_rows(4, 0, 0, 1.0),
    "shared": _shared,
    "diagonal": _diagonal,
    "number": _number,
    "semidefinite": _semidefinite,
}


@functools.cache
def smooth(name: str) -> Arguments:
    """The first draw whose two rows are far from any change of the active set and use every block there is."""
    for seed in range(2000):
        arguments = BUILDS[name](seed, 2)
        data = references.dense(arguments)
        found = [references.solve(data[row]) for row in range(2)]
        far = all(answer.regular and answer.margin > 0.05 and answer.curvature > 0.02 for answer in found)
        blocks = [block for block, key in enumerate(("h", "lb", "ub")) if key in arguments]
        if far and all(any(answer.active[block].any() for answer in found) for block in blocks):
            return arguments
    raise AssertionError(f"{name}: no such draw")


def function_of(
    arguments: Arguments, names: Sequence[str], solver: PrimalDual
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The outputs as a function of some arguments, Q symmetric whatever comes, and where to evaluate it."""

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        changed: dict[str, Any] = dict(zip(names, values, strict=True))
        if "Q" in changed:
            Q = changed["Q"]
            diagonal = isinstance(arguments["Q"], Diagonal)
            changed["Q"] = Diagonal(Q) if diagonal else 0.5 * (Q + Q.mT) if Q.ndim > 1 else Q
        return outputs(solve_qp(**{**arguments, **changed}, solver=solver))

    _, found = leaves({name: arguments[name] for name in (*names, "p")})
    return function, [found[name] for name in names]


PAIRS = [(case, name) for case, build in BUILDS.items() for name in NAMES if name in build(0, 2)]
PAIRS.remove(("semidefinite", "Q"))  # a step of finite differences makes Q indefinite


# finite differences


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=str)
def test_first_derivatives(case: str, name: str) -> None:
    function, values = function_of(smooth(case), [name], PrimalDual())
    assert torch.autograd.gradcheck(function, values)


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=str)
def test_second_derivatives(case: str, name: str) -> None:
    function, values = function_of(smooth(case), [name], PrimalDual())
    assert torch.autograd.gradgradcheck(function, values)


@pytest.mark.parametrize("case", ["everything", "shared", "diagonal"])
def test_mixed_second_derivatives(case: str) -> None:
    """All arguments at once, along random directions."""
    arguments = smooth(case)
    function, values = function_of(arguments, [name for name in NAMES if name in arguments], PrimalDual())
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


# the reference


def weights_of(family: Family, seed: int = 0) -> list[Point]:
    """Random weights of every output, row by row; zero for rows that are not regular."""
    rng = np.random.default_rng(seed)
    return [
        Point(*(rng.standard_normal(part.shape) * answer.regular for part in answer.point))
        for answer in answers(family)
    ]


def backward(solution: QPSolution, weights: list[Point], found: dict[str, Tensor]) -> dict[str, Array]:
    """Gradients of sum weights * outputs with respect to the leaves."""
    stacked = [torch.as_tensor(np.stack(parts)) for parts in zip(*weights, strict=True)]
    pairs = [(getattr(solution, name), weight) for name, weight in zip(OUTPUTS, stacked, strict=True)]
    pairs = [(part, weight.to(part.dtype)) for part, weight in pairs if part.requires_grad]
    gradients = torch.autograd.grad(
        [part for part, _ in pairs], list(found.values()), [weight for _, weight in pairs], retain_graph=True
    )
    return {name: gradient.double().numpy() for name, gradient in zip(found, gradients, strict=True)}


def expected_gradients(family: Family, data: references.Data, weights: list[Point]) -> Gradients:
    """Of the reference, a row each."""
    found = []
    for row, weight in enumerate(weights):
        answer = answer_of(data, family, row)
        if answer.regular:
            found.append(references.gradients(data[row], answer, weight))
        else:
            found.append(Gradients(*(np.zeros_like(getattr(data[row], field.name)) for field in fields(Gradients))))
    return Gradients(*(np.stack([getattr(g, field.name) for g in found]) for field in fields(Gradients)))


def answer_of(data: references.Data, family: Family, row: int) -> references.Reference:
    """That of the table if the data are the table's, not rounded."""
    if data.p is instance(family)[1].p:
        return answers(family)[row]
    return references.solve(data[row])


def reduce_to(gradient: Array, name: str, leaf: Tensor, original: object) -> Array:
    """The gradient of every row's full matrix or vector as that of the argument: its diagonal, its trace, its sum over
    the rows that share it."""
    if isinstance(original, Diagonal) and name == "Q":
        gradient = np.diagonal(gradient, axis1=-2, axis2=-1)
    elif name == "Q" and leaf.ndim == 0:
        return np.asarray(np.trace(gradient, axis1=-2, axis2=-1).sum())
    return gradient if gradient.ndim == leaf.ndim else np.asarray(gradient.sum(0))


def compare(family: Family, dtype: torch.dtype, solver: PrimalDual, tol: float) -> None:
    """Every output against every argument; an error is relative to the gradient, or to |output| / |argument| where that
    is larger (an answer that the constraints alone determine does not depend on Q at all)."""
    arguments, data = instance(family)
    if dtype != DOUBLE:
        arguments = cast(arguments, dtype)
        data = references.dense(arguments)
    fresh, found = leaves(arguments)
    solution = solve_qp(**fresh, solver=solver)
    for output in Point._fields:
        weights = [only(weight, output) for weight in weights_of(family)]
        expected = expected_gradients(family, data, weights)
        for name, gradient in backward(solution, weights, found).items():
            reference = reduce_to(getattr(expected, name), name, found[name], arguments[name])
            error = np.abs(gradient - reference).max(initial=0.0)
            natural = natural_size(solution, output, data) / (size_of(found[name]) or 1.0)
            assert error <= tol * max(np.abs(reference).max(initial=0.0), natural), (output, name)


def size_of(x: Tensor) -> float:
    """The largest finite entry."""
    return float(x.detach()[x.isfinite()].abs().max()) if x.isfinite().any() else 0.0


def natural_size(solution: QPSolution, output: str, data: references.Data) -> float:
    """The largest entry of an output; where they are rounding, what they would be relative to."""
    scale = references.length_scale(data) if output == "x" else references.force_scale(data)
    return size_of(getattr(solution, OUTPUTS[Point._fields.index(output)])) + 1e-3 * float(scale.max())


def only(weight: Point, output: str) -> Point:
    """The weights of one output; zero for the others."""
    return Point(*(part * (name == output) for name, part in zip(Point._fields, weight, strict=True)))


LARGE = ("n_300", "sudoku_large", "sudoku_rules")
WITH_REGULAR_ROWS = [
    family
    for family in SOLVABLE
    if family.name not in ("fixed", "fixed_at_the_origin", "nearly_flat", "flat", "one_point", *LARGE)
]
SINGLE = ("everything", "shared", "many_active", "projection", "number_q", "diagonal_q", "infinite", "bounds_only")


@pytest.mark.parametrize("family", WITH_REGULAR_ROWS, ids=str)
def test_agrees_with_the_reference(family: Family) -> None:
    compare(family, DOUBLE, PrimalDual(), 1e-8)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("mode", ["float64", "input"])
def test_float32_keeps_four_digits(name: str, mode: str) -> None:
    compare(BY_NAME[name], torch.float32, PrimalDual(dtype=mode), 1e-4)


@pytest.mark.parametrize("case", ["everything", "rows_only", "equations_only"])
def test_the_gradient_of_a_shared_argument_is_the_sum_over_the_batch(case: str) -> None:
    arguments = smooth(case)
    names = [name for name in NAMES if name in arguments]
    one = {name: arguments[name][0] for name in names}
    spread, shared = leaves({**one, "p": arguments["p"]}), {}
    copied, copies = leaves(
        {**{name: value.expand(2, *value.shape) for name, value in one.items()}, "p": arguments["p"]}
    )
    weight = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    shared = dict(
        zip(names, torch.autograd.grad(solve_qp(**spread[0]).value, list(spread[1].values()), weight), strict=True)
    )
    single = dict(zip(names, torch.autograd.grad(solve_qp(**copied).value, list(copies.values()), weight), strict=True))
    for name in names:
        expected = single[name] if name == "p" else single[name].sum(0)
        torch.testing.assert_close(shared[name], expected, rtol=1e-9, atol=1e-10)


def test_a_warm_start_does_not_change_the_gradient() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    start = solve_qp(**arguments).warm_start
    gradients = []
    for warm in (None, start):
        fresh, found = leaves(arguments)
        value = solve_qp(**fresh, warm_start=warm).value
        gradients.append(torch.autograd.grad(value.square().sum(), list(found.values())))
    for cold, warm in zip(*gradients, strict=True):
        torch.testing.assert_close(warm, cold, rtol=1e-9, atol=1e-9)


# function transforms


def test_vmap_is_the_batch() -> None:
    arguments, _ = instance(BY_NAME["shared"])
    rest = {name: value for name, value in arguments.items() if name not in ("p", "h")}
    mapped = torch.func.vmap(
        lambda p, h: solve_qp(p=p, h=h, **{k: v for k, v in rest.items() if k != "b"}, b=rest["b"][0]).value
    )
    expected = solve_qp(**{**arguments, "b": rest["b"][0]}).value
    torch.testing.assert_close(mapped(arguments["p"], arguments["h"]), expected, rtol=1e-10, atol=1e-11)


def test_vmap_over_the_second_dimension_and_twice() -> None:
    arguments = smooth("everything")
    one = {name: value[0] for name, value in arguments.items() if name != "p"}
    p = arguments["p"][0] + 0.01 * torch.randn(
        4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE
    ).mT.mT.permute(1, 2, 0)
    expected = solve_qp(p=p, **one).value

    def solve(p: Tensor) -> Tensor:
        return solve_qp(p=p, **one).value

    twice = torch.func.vmap(torch.func.vmap(solve))(p)
    torch.testing.assert_close(twice, expected, rtol=1e-10, atol=1e-11)
    across = torch.func.vmap(solve, in_dims=1, out_dims=1)(p)
    torch.testing.assert_close(across, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["Q", "p", "G", "h", "A", "b", "lb", "ub"])
def test_jacrev_and_vmap_of_it(name: str) -> None:
    """Per-row Jacobians, against autograd's own on one row at a time."""
    arguments = smooth("everything")
    rest = {key: value for key, value in arguments.items() if key != name}

    def of_row(value: Tensor, row: dict[str, Tensor]) -> Tensor:
        return solve_qp(**{name: value}, **row).value

    mapped = torch.func.vmap(torch.func.jacrev(of_row))(arguments[name], rest)
    for i in range(2):
        row = {key: value[i] for key, value in rest.items()}
        expected = torch.autograd.functional.jacobian(functools.partial(of_row, row=row), arguments[name][i])
        torch.testing.assert_close(mapped[i], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 2, 4, 3], [1, 4]], ids=str)
def test_mapped_gradients_next_to_rows_that_failed(compiled: bool, order: list[int]) -> None:
    """vmap(grad) of rows of which some are infeasible, NaN or hard, against each row's backward pass alone."""
    h = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -0.5], [1e-7, 1e-7], [float("nan"), 1.0]], dtype=DOUBLE)[order]
    p = torch.tensor([3.0, 1.0], dtype=DOUBLE)
    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=DOUBLE)

    def loss(h: Tensor, p: Tensor) -> Tensor:
        solution = solve_qp(1.0, p, G, h, lb=-2.0, throw=False, solver=PrimalDual(compiled=compiled))
        return torch.where(solution.status == 0, (solution.value.sin() * torch.tensor([1.0, 2.0])).sum(), 0.0)

    rows = [row.clone().requires_grad_() for row in h]
    expected = [torch.autograd.grad(loss(row, p), row)[0] for row in rows]
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss), (0, None))(h, p), torch.stack(expected))
    twice = torch.func.vmap(torch.func.vmap(torch.func.grad(loss), (0, None)), (None, 0))(h, torch.stack((p, p)))
    torch.testing.assert_close(twice, torch.stack(expected).expand(2, -1, -1))


@pytest.mark.parametrize("compiled", [True, False])
def test_mapped_gradients_of_rows_solved_with_more_care(compiled: bool) -> None:
    """A semidefinite Q, unbounded in one row: systems within systems."""
    p = torch.tensor([[1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [float("nan"), 0.0, 1.0], [-2.0, 0.0, 0.0]], dtype=DOUBLE)
    Q, A, b = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=DOUBLE)), torch.ones(1, 3, dtype=DOUBLE), torch.ones(1)

    def loss(p: Tensor) -> Tensor:
        return solve_qp(Q, p, lb=0.0, throw=False, solver=PrimalDual(compiled=compiled)).value.nan_to_num().sin().sum()

    def with_rows(p: Tensor) -> Tensor:
        return solve_qp(Q, p, A=A, b=b.to(p), throw=False).value.nan_to_num().sin().sum()

    for function in (loss, with_rows):
        rows = [row.clone().requires_grad_() for row in p]
        expected = torch.stack([torch.autograd.grad(function(row), row)[0] for row in rows])
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 0, 3]):
            torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(p[order]), expected[order])


@pytest.mark.parametrize("solver", [PrimalDual(), PrimalDual(dense=False), PrimalDual(compiled=False)], ids=str)
@pytest.mark.parametrize("case", BUILDS)
def test_many_gradients_in_one_backward_pass(case: str, solver: PrimalDual) -> None:
    arguments = smooth(case)
    function, values = function_of(arguments, [name for name in NAMES if name in arguments], solver)
    found = function(*values)[0]
    directions = torch.randn(3, *found.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    together = torch.autograd.grad(found, values, directions, retain_graph=True, is_grads_batched=True)
    for i, direction in enumerate(directions):
        alone = torch.autograd.grad(found, values, direction, retain_graph=True)
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(many[i], one, rtol=1e-12, atol=1e-12)


def test_grad_and_its_gradient() -> None:
    """torch.func.grad and jacrev of it, against double backward."""
    arguments = smooth("everything")
    rest = {key: value[0] for key, value in arguments.items() if key != "h"}

    def loss(h: Tensor) -> Tensor:
        solution = solve_qp(h=h, **rest)
        return solution.value.pow(3).sum() + solution.dual_ineq.pow(2).sum()

    h = arguments["h"][0]
    gradient = torch.autograd.functional.jacobian(loss, h)
    torch.testing.assert_close(torch.func.grad(loss)(h), gradient, rtol=1e-9, atol=1e-10)
    hessian = torch.autograd.functional.hessian(loss, h)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(loss))(h), hessian, rtol=1e-8, atol=1e-9)


# degenerate and failed rows


@pytest.mark.parametrize("family", [family for family in SOLVABLE if family.name not in LARGE], ids=str)
def test_gradients_are_finite_everywhere(family: Family) -> None:
    fresh, found = leaves(instance(family)[0])
    parts = [part for part in outputs(solve_qp(**fresh)) if part.requires_grad]
    gradients = torch.autograd.grad([part.sum() for part in parts], list(found.values()), create_graph=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    second = torch.autograd.grad(
        [g.square().sum() for g in gradients if g.requires_grad], list(found.values()), allow_unused=True
    )
    assert all(torch.isfinite(gradient).all() for gradient in second if gradient is not None)


@pytest.mark.parametrize("name", ["duplicate_rows", "dependent_equations", "redundant"])
def test_superfluous_rows_do_not_change_the_gradient_of_the_answer(name: str) -> None:
    """x stays a smooth function of p and Q; and of h, if all copies of a row move together."""
    family = BY_NAME[name]
    arguments, _ = instance(family)
    plain = dict(arguments)
    for key, last in {"duplicate_rows": {"G": 10}, "dependent_equations": {"A": 3}, "redundant": {"G": 10}}[
        name
    ].items():
        other = {"G": "h", "A": "b"}[key]
        plain[key], plain[other] = arguments[key][:, :last], arguments[other][:, :last]
    weight = torch.randn(family.batch, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    gradients = []
    for version in (plain, arguments):
        fresh, found = leaves(version)
        values = torch.autograd.grad(solve_qp(**fresh).value, list(found.values()), weight)
        gradients.append(dict(zip(found, values, strict=True)))
    for key in ("Q", "p"):
        torch.testing.assert_close(gradients[1][key], gradients[0][key], rtol=1e-8, atol=1e-8)
    if name == "duplicate_rows":
        together = gradients[1]["h"].unflatten(-1, (2, 10)).sum(-2)
        torch.testing.assert_close(together, gradients[0]["h"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["fixed", "fixed_at_the_origin"])
def test_a_fixed_variable_moves_with_its_bounds(name: str) -> None:
    """Only the sum of the gradients of lb and ub is determined where lb = ub."""
    family = BY_NAME[name]
    arguments, data = instance(family)
    fresh, found = leaves(arguments)
    weights = [only(weight, "x") for weight in weights_of(family)]
    gradients = backward(solve_qp(**fresh), weights, found)
    expected = expected_gradients(family, data, weights)
    for key in set(gradients) - {"lb", "ub"}:
        np.testing.assert_allclose(gradients[key], getattr(expected, key), rtol=1e-7, atol=1e-8, err_msg=key)
    np.testing.assert_allclose(gradients["lb"] + gradients["ub"], expected.lb + expected.ub, rtol=1e-7, atol=1e-8)


def test_infinite_entries_have_the_gradient_zero() -> None:
    arguments, data = instance(BY_NAME["infinite"])
    fresh, found = leaves(arguments)
    solve_qp(**fresh).value.sum().backward()
    for name in ("h", "lb", "ub"):
        gradient = found[name].grad
        assert gradient is not None
        assert (gradient.numpy()[~np.isfinite(getattr(data, name))] == 0).all()


@pytest.mark.parametrize("part", OUTPUTS)
def test_failed_rows_pass_on_nothing(part: str) -> None:
    """Their gradients are zero, those of their neighbours what they were."""
    arguments, statuses = with_bad_rows()
    good = [row for row in range(8) if row not in statuses]
    gradients = []
    for version in (arguments, BY_NAME["everything"].build(3, 8)):
        fresh, found = leaves(version)
        output = getattr(solve_qp(**fresh, throw=False), part)
        values = torch.autograd.grad(output, list(found.values()), torch.ones_like(output))
        gradients.append(dict(zip(found, values, strict=True)))
    for name, gradient in gradients[0].items():
        assert (gradient[list(statuses)] == 0).all(), name
        torch.testing.assert_close(gradient[good], gradients[1][name][good], rtol=1e-12, atol=1e-13)


def test_failed_rows_do_not_reach_shared_arguments() -> None:
    """The gradient of a shared Q is the sum over the rows that were solved."""
    arguments = {**BY_NAME["everything"].build(3, 8)}
    arguments["Q"] = arguments["Q"][0]
    broken = {**arguments, "p": arguments["p"].clone(), "ub": arguments["ub"].clone()}
    broken["p"][2, 0] = float("nan")
    broken["ub"][5] = broken["lb"][5] - 1.0
    kept = [0, 1, 3, 4, 6, 7]
    gradients = []
    for version in (broken, {k: v if k == "Q" else v[kept] for k, v in arguments.items()}):
        Q = version["Q"].clone().requires_grad_()
        solution = solve_qp(**{**version, "Q": Q}, throw=False)
        gradients.append(torch.autograd.grad(solution.value, Q, torch.ones_like(solution.value))[0])
    assert solution.success.all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["contradictory_rows", "crossed_bounds", "unbounded_linear", "h_minus_infinite"])
def test_a_batch_of_failures_has_the_gradient_zero(name: str) -> None:
    family = BY_NAME[name]
    fresh, found = leaves(instance(family)[0])
    solution = solve_qp(**fresh, throw=False)
    assert (solution.status == family.status).all()
    parts = [part for part in outputs(solution) if part.requires_grad]
    if not parts:
        return
    gradients = torch.autograd.grad(parts, list(found.values()), [torch.ones_like(part) for part in parts])
    assert all((gradient == 0).all() for gradient in gradients)


def test_nothing_is_recorded_without_need() -> None:
    arguments, _ = instance(BY_NAME["everything"])
    fresh, _ = leaves(arguments)
    with torch.no_grad():
        assert not solve_qp(**fresh).value.requires_grad
    solution = solve_qp(**fresh)
    assert solution.value.requires_grad
    assert not solution.status.is_floating_point()
    assert solution.status.tolist() == [int(Status.SUCCESS)] * 4


@pytest.mark.parametrize("compiled", [True, False])
def test_the_objective_of_failed_rows_passes_no_gradient_on(compiled: bool) -> None:
    """A NaN row, an infeasible and a good one, with a shared and with a separate Q."""
    for batched in (False, True):
        p = torch.tensor([[1.0, -2.0], [float("nan"), 1.0], [-3.0, 0.5]], dtype=DOUBLE, requires_grad=True)
        eye = torch.eye(2, dtype=DOUBLE)
        Q = (eye.expand(3, 2, 2).clone() if batched else eye).requires_grad_()
        h = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], dtype=DOUBLE)
        G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=DOUBLE)
        solution = solve_qp(Q, p, G, h, solver=PrimalDual(compiled=compiled), throw=False)
        assert solution.success.tolist() == [True, False, False]
        to_p, to_q = torch.autograd.grad(solution.fun.sum(), (p, Q))
        torch.testing.assert_close(to_p[0], solution.value[0])  # the envelope theorem
        assert (to_p[1:] == 0).all()
        x = solution.value[0].detach()
        torch.testing.assert_close(to_q[0] if batched else to_q, 0.5 * torch.outer(x, x))
