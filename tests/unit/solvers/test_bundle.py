"""The bundle entropy method and the dual it solves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from icnn_rl import Box, Solution, Status, minimize
from icnn_rl.solvers import Bundle, BundleEntropy
from icnn_rl.solvers.bundle import dual_value, entropy, simplex_dual, to_unit
from icnn_rl.solvers.problem import Problem
from icnn_rl.testing import minimisation_references as references
from icnn_rl.testing.minimisation import CASES, MaxAffine, Quadratic, answer, draw

DOUBLE = torch.float64
FINITE = [case for case in CASES if case.finite]


def _dual_by_slsqp(slopes: np.ndarray, offsets: np.ndarray, tau: float) -> float:
    """max over the simplex of h . lambda - tau sum softplus(-c / tau), densely."""
    count = len(offsets)

    def negative(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        c = slopes.T @ multipliers
        value = offsets @ multipliers - tau * np.logaddexp(0.0, -c / tau).sum()
        w = 1.0 / (1.0 + np.exp(np.clip(c / tau, -700, 700)))
        return -value, -(offsets + slopes @ w)

    best = -math.inf
    for start in [np.full(count, 1.0 / count), *np.eye(count)]:
        result = optimize.minimize(
            negative,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * count,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": lambda x: np.ones_like(x)},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        feasible = np.clip(result.x, 0.0, None)
        best = max(best, -negative(feasible / feasible.sum())[0])
    return best


def _check_dual(slopes: torch.Tensor, offsets: torch.Tensor, present: torch.Tensor, tau: float) -> None:
    multipliers = simplex_dual(slopes, offsets, present, tau)
    assert torch.isfinite(multipliers).all()
    assert (multipliers >= 0).all()
    assert (multipliers[~present] == 0).all()
    torch.testing.assert_close(multipliers.sum(-1), torch.ones(len(slopes), dtype=DOUBLE), rtol=0, atol=1e-12)
    found = dual_value(multipliers, slopes, offsets, tau, torch.ones(slopes.shape[-1], dtype=torch.bool))
    for row in range(len(slopes)):
        on = present[row].numpy()
        expected = _dual_by_slsqp(slopes[row].numpy()[on], offsets[row].numpy()[on], tau)
        size = float(slopes[row].abs().sum(-1).max()) + abs(expected) + tau
        assert float(found[row]) >= expected - 1e-7 * size


@pytest.mark.parametrize("tau", [1e-2, 1.0, 30.0])
def test_dual_matches_slsqp(tau: float) -> None:
    slopes, offsets = draw(0, 4, 5, 3).double(), draw(1, 4, 5).double()
    present = torch.ones(4, 5, dtype=torch.bool)
    present[1, 3:], present[2, 1:], present[3, 0] = False, False, False
    _check_dual(slopes, offsets, present, tau)


def test_dual_with_repeated_vanishing_and_dominated_cuts() -> None:
    slopes, offsets = draw(2, 4, 4, 3).double(), draw(3, 4, 4).double()
    slopes[0, 1], offsets[0, 1] = slopes[0, 0], offsets[0, 0]  # twice the same
    slopes[1], offsets[1] = slopes[1, :1], offsets[1, :1]  # all the same
    slopes[2] = 0.0  # flat
    offsets[3, 2] = -1e6  # never active
    _check_dual(slopes, offsets, torch.ones(4, 4, dtype=torch.bool), 0.3)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.05, 1.0, 10.0]))
def test_dual_on_random_instances(seed: int, cuts: int, n: int, tau: float) -> None:
    slopes, offsets = 3 * draw(seed, 1, cuts, n).double(), draw(seed + 1, 1, cuts).double()
    _check_dual(slopes, offsets, torch.ones(1, cuts, dtype=torch.bool), tau)


def test_dual_rows_do_not_see_each_other() -> None:
    """A row that needs many steps, or is NaN, must not change the others."""
    slopes, offsets = draw(4, 3, 4, 3).double(), draw(5, 3, 4).double()
    present = torch.ones(3, 4, dtype=torch.bool)
    alone = simplex_dual(slopes[:1], offsets[:1], present[:1], 0.5)
    slopes[1] *= 1e4
    slopes[2, 0, 0] = float("nan")
    together = simplex_dual(slopes, offsets, present, 0.5)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", FINITE, ids=str)
def test_every_model_is_below_and_every_value_above(case) -> None:
    """Multipliers in the simplex; dual value <= minimum <= best value, after any number of cuts."""
    problem, reference = case.build(DOUBLE), answer(case, 1.0)
    lower, upper = problem.bounds()
    for max_steps in (1, 3, 6):
        solution = minimize(
            problem.energy,
            BundleEntropy(max_steps=max_steps, tol=1e-12),
            problem.y0,
            domain=problem.domain,
            adjoint=None,
            throw=False,
        )
        bundle = solution.state
        assert isinstance(bundle, Bundle)
        assert (bundle.multipliers >= 0).all()
        assert (bundle.multipliers[~bundle.present] == 0).all()
        torch.testing.assert_close(bundle.multipliers.sum(-1), torch.ones_like(solution.fun))
        dual = dual_value(bundle.multipliers, bundle.slopes, bundle.offsets, 1.0, (upper > lower))
        slack = 1e-8 * (1 + reference.fun.abs())
        assert (dual <= reference.fun + slack).all()
        assert (solution.fun >= reference.fun - slack).all()
        assert (solution.fun - solution.gap >= dual - slack).all()  # the best bound of all steps is kept
        # the cuts are tangents of f: below it at its minimiser
        w = to_unit(Problem(problem.energy, problem.domain, problem.y0), reference.value)
        cuts = (bundle.slopes * w.unsqueeze(-2)).sum(-1) + bundle.offsets
        f = problem.energy(reference.value).unsqueeze(-1)
        assert (~bundle.present | (cuts <= f + 1e-8 * (1 + f.abs()))).all()


def test_entropy_counts_what_can_move() -> None:
    box = Box(torch.tensor([0.0, -1.0, 2.0]), torch.tensor([1.0, 1.0, 2.0]))
    y = torch.tensor([[0.5, 0.0, 2.0], [0.0, 1.0, 2.0], [0.25, 1.0, 2.0]])
    problem = Problem(lambda y: y.sum(-1), box, y)
    expected = [2 * math.log(2), 0.0, references.entropy(np.array([0.25]))]
    torch.testing.assert_close(entropy(problem, y), torch.tensor(expected))
    assert (to_unit(problem, y)[:, 2] == 0.5).all()


def _check_bound(solution: Solution) -> None:
    for item in (solution.value, solution.fun, solution.gap, solution.residual, *solution.state):
        assert not item.isnan().any()
    assert not solution.failed.any() or (solution.status != Status.NONFINITE_INPUT).all()


@pytest.mark.parametrize(
    ("tau", "dtype"),
    [(1e-8, DOUBLE), (1e-5, torch.float32), (1e-3, DOUBLE), (1e4, torch.float32), (1e8, DOUBLE)],
    ids=str,
)
def test_tiny_and_large_tau(tau: float, dtype: torch.dtype) -> None:
    slopes, offsets = draw(6, 3, 6, 3).to(dtype), draw(7, 3, 6).to(dtype)
    energy = MaxAffine(slopes, offsets)
    solution = minimize(
        energy,
        BundleEntropy(entropy=tau, max_steps=10, tol=1e-5),
        torch.zeros(3, 3, dtype=dtype),
        domain=Box(-1.0, 1.0),
        adjoint=None,
        throw=False,
    )
    _check_bound(solution)
    if tau > 1:  # the entropy is all there is
        torch.testing.assert_close(solution.value, torch.zeros(3, 3, dtype=dtype), rtol=0, atol=1e-3)
        return
    # f alone: the linear programme, to within the entropy's own n log 2
    for row in range(3):
        lift = references.lift_max_affine(slopes[row].double().numpy(), offsets[row].double().numpy())
        minimum, _ = lift.minimize(-np.ones(3), np.ones(3))
        found = float(energy(solution.value)[row])
        assert found >= minimum - 1e-5
        assert float(solution.fun[row] - solution.gap[row]) <= minimum + 1e-5
        assert found <= minimum + float(solution.gap[row]) + 3 * tau * math.log(2) + 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_an_optimum_at_the_border(dtype: torch.dtype) -> None:
    """A steep slope pushes w to within rounding of 0 or 1: no log of zero, no NaN."""
    slope = torch.tensor([[1e3, -1e3, 0.0], [1e6, 1e6, -1e6]], dtype=dtype)
    solution = minimize(
        lambda y: (slope * y).sum(-1),
        BundleEntropy(),
        torch.zeros(2, 3, dtype=dtype),
        domain=Box(-1.0, 2.0),
        adjoint=None,
    )
    _check_bound(solution)
    corner = torch.where(slope > 0, -1.0, 2.0).to(dtype)
    corner[0, 2] = 0.5
    torch.testing.assert_close(solution.value, corner, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_start_in_a_corner(dtype: torch.dtype) -> None:
    energy = Quadratic(torch.eye(2, dtype=dtype), torch.full((2, 2), 0.3, dtype=dtype))
    y0 = torch.tensor([[-1.0, 1.0], [1.0, 1.0]], dtype=dtype)
    solution = minimize(energy, BundleEntropy(tol=1e-5), y0, domain=Box(-1.0, 1.0), adjoint=None)
    _check_bound(solution)


def test_repeated_cuts() -> None:
    """On one affine piece every cut is the same cut."""
    slope = draw(8, 3, 4).double()
    solution = minimize(
        lambda y: (slope * y).sum(-1),
        BundleEntropy(tol=1e-12, max_steps=8),
        torch.zeros(3, 4, dtype=DOUBLE),
        domain=Box(0.0, 1.0),
        adjoint=None,
        throw=False,
    )
    _check_bound(solution)
    torch.testing.assert_close(solution.value, torch.sigmoid(-slope), rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.fun, -torch.nn.functional.softplus(-slope).sum(-1))


def test_few_places_for_cuts_cost_steps_not_correctness() -> None:
    case = next(case for case in CASES if case.name == "relu_picnn")
    problem, reference = case.build(DOUBLE), answer(case, 0.2)
    solution = minimize(
        problem.energy,
        BundleEntropy(entropy=0.2, max_cuts=4, max_steps=60),
        problem.y0,
        domain=problem.domain,
        adjoint=None,
        throw=False,
    )
    assert solution.state.points.shape[-2] == 4
    assert (solution.fun - solution.gap <= reference.fun + 1e-9).all()
    assert (solution.fun >= reference.fun - 1e-9).all()
    assert (solution.fun - reference.fun <= 1e-3).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entropy": 0.0}, r"BundleEntropy\.entropy: expected a number in \(0"),
        ({"entropy": -1.0}, r"BundleEntropy\.entropy"),
        ({"entropy": "1"}, r"BundleEntropy\.entropy: expected a number, got '1'"),
        ({"tol": 0.0}, r"BundleEntropy\.tol"),
        ({"max_steps": 0}, r"BundleEntropy\.max_steps: expected an integer >= 1, got 0"),
        ({"max_cuts": 1}, r"BundleEntropy\.max_cuts: expected at least 2, got 1"),
        ({"max_cuts": 2.5}, r"BundleEntropy\.max_cuts: expected an integer"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BundleEntropy(**arguments)  # type: ignore[arg-type]
