"""Hard problems: solved or proven to have no solution, never a wrong claim, never a NaN; ``benchmarks/qp/hard.py``
prints the same by family."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from icnn_rl import Status
from icnn_rl.testing import qp_judge as judge
from icnn_rl.testing.qp_hard import FAMILIES, HardProblem, problems, stored
from icnn_rl.testing.qp_judge import Answer, Kind, Reference, Verdict

#: Of each family.
QUICK = 5
#: Of the problems that have a solution.
SHARE = 0.995
STORED = ("walking_1", "walking_2", "dual_7", "dual_8", "refinery_97", "recipe_180", "capital_203")


@dataclass(frozen=True)
class Case:
    problem: HardProblem
    optimum: Reference | None
    verdict: Verdict


def judged(problem: HardProblem) -> Case:
    optimum = judge.optimum(problem)
    return Case(problem, optimum, judge.judge(problem, judge.answer(problem), optimum))


@pytest.fixture(scope="module")
def quick() -> list[Case]:
    return [judged(problem) for problem in problems(QUICK * len(FAMILIES))]


def listed(cases: list[Case]) -> str:
    """What failed, by name: ``problems(..., names=(family,))[number]`` is the problem "family/number"."""
    return "\n".join(f"{case.problem.name} (n = {case.problem.n}): {case.verdict}" for case in cases)


def check_claims(cases: list[Case]) -> None:
    """No wrong claim, and only finite numbers."""
    bad = [case for case in cases if case.verdict.kind in (Kind.WRONG, Kind.NAN)]
    assert not bad, listed(bad)


def check_solved(cases: list[Case]) -> None:
    feasible = [case for case in cases if case.problem.expected == Status.SUCCESS]
    missed = [case for case in feasible if case.verdict.kind is not Kind.SOLVED]
    assert len(missed) <= (1.0 - SHARE) * len(feasible), listed(missed)


def check_proven(cases: list[Case]) -> None:
    without = [case for case in cases if case.problem.expected != Status.SUCCESS]
    missed = [case for case in without if case.verdict.kind is not Kind.PROVEN]
    assert without
    assert not missed, listed(missed)


def test_no_claim_is_wrong_and_no_number_is_nan(quick: list[Case]) -> None:
    check_claims(quick)


def test_problems_with_a_solution_are_solved(quick: list[Case]) -> None:
    check_solved(quick)


def test_problems_without_one_are_proven_to_have_none(quick: list[Case]) -> None:
    check_proven(quick)


def test_every_optimum_is_certain(quick: list[Case]) -> None:
    unsure = [case.problem.name for case in quick if case.optimum is not None and not case.optimum.certain]
    assert not unsure


@pytest.mark.slow
def test_two_thousand_problems() -> None:
    cases = [judged(problem) for problem in problems(2000, seed=1)]
    unsure = [case.problem.name for case in cases if case.optimum is not None and not case.optimum.certain]
    assert not unsure
    check_claims(cases)
    check_solved(cases)
    check_proven(cases)


@pytest.mark.parametrize("name", STORED)
def test_stored_problems(name: str) -> None:
    folder = os.environ.get("ICNN_RL_DATA")
    if not folder or not (path := Path(folder) / "qp" / "hard_small.npz").is_file():
        pytest.skip("qp/hard_small.npz is not there: name its folder in the environment variable ICNN_RL_DATA")
    problem, optimum = stored(path)[name]
    certain = judge.reference(problem)
    assert certain.certain
    assert abs(certain.fun - optimum) <= 1e-9 * max(1.0, abs(optimum))
    verdict = judge.judge(problem, judge.answer(problem), replace(certain, fun=optimum))
    assert verdict.kind is Kind.SOLVED, str(verdict)


# The generator


def test_problems_are_dealt_from_all_families_and_the_same_each_time() -> None:
    first, again = problems(2 * len(FAMILIES), seed=3), problems(2 * len(FAMILIES), seed=3)
    assert set(Counter(problem.family for problem in first).values()) == {2}
    for one, other in zip(first, again, strict=True):
        for part, same in zip(vars(one).values(), vars(other).values(), strict=True):
            np.testing.assert_array_equal(part, same)
    family = first[0].family
    alone = problems(2, seed=3, names=(family,))[1]
    np.testing.assert_array_equal(alone.p, first[len(FAMILIES)].p)
    assert alone.name == f"{family}/1"
    assert problems(1, seed=4)[0].p.shape != first[0].p.shape or (problems(1, seed=4)[0].p != first[0].p).any()


def test_sizes() -> None:
    sizes = np.array([problem.n for problem in problems(20 * len(FAMILIES))])
    assert 200 <= sizes.max() <= 300
    assert np.median(sizes) <= 30


def test_most_have_a_solution() -> None:
    shares = Counter(problem.expected for problem in problems(len(FAMILIES)))
    assert shares[Status.SUCCESS] >= 0.8 * len(FAMILIES)
    assert min(shares[Status.PRIMAL_INFEASIBLE], shares[Status.DUAL_INFEASIBLE]) >= 3


def test_powers_of_two_leave_the_reference_as_it_is() -> None:
    """The problem in balanced units has the same objective, digit for digit."""
    for problem in problems(5, names=("mixed_scales",)):
        whole = judge.stacked(problem)
        balanced, undo = judge.balance(whole, long=True)
        y = np.random.default_rng(0).random(problem.n)
        x = undo(y, np.zeros(len(whole.d)), np.zeros(len(whole.b)))[0]
        assert whole.objective(x) == pytest.approx(undo.value * balanced.objective(y), rel=1e-12)
        limit = np.abs(balanced.C).max(1)
        assert limit.max() <= 2.0
        assert limit.min() >= 0.25


# The judge


def _small() -> HardProblem:
    """min x^2 / 2 + y^2 / 2 s.t. x + y = 2, x <= 3 and x, y >= 0: (1, 1), with the multiplier -1."""
    two = np.zeros(2)
    rows = {"G": np.array([[1.0, 0.0]]), "h": np.array([3.0]), "A": np.ones((1, 2)), "b": np.array([2.0])}
    return HardProblem("small", np.eye(2), two, **rows, lb=two)


def _with(given: Answer, **fields: object) -> Answer:
    return replace(given, fields=given.fields | {name: np.asarray(part, float) for name, part in fields.items()})


def test_the_judge_knows_the_answer() -> None:
    case = judged(_small())
    assert case.optimum is not None
    assert case.optimum.certain
    assert case.optimum.fun == pytest.approx(1.0, rel=1e-10)
    assert case.verdict.kind is Kind.SOLVED
    assert case.verdict.error < 1e-12


@pytest.mark.parametrize(
    ("fields", "kind", "word"),
    [
        ({"value": [1.001, 0.999], "fun": 1.000001}, Kind.WRONG, "objective"),
        ({"value": [1.00001, 1.00001], "fun": 1.0 + 2e-5}, Kind.WRONG, "violation"),
        ({"fun": 1.0 + 1e-8}, Kind.WRONG, "objective of value"),
        ({"dual_eq": [-1.00001]}, Kind.WRONG, "gradient"),
        ({"dual_ineq": [0.01], "dual_ub": [0.0, 0.01], "dual_eq": [-1.01]}, Kind.WRONG, "without a bound"),
        ({"dual_lb": [0.01, 0.01], "dual_eq": [-0.99]}, Kind.WRONG, "slacks"),
        ({"dual_lb": [-0.01, -0.01], "dual_eq": [-1.01]}, Kind.WRONG, "negative"),
        ({"gap": np.nan}, Kind.NAN, "gap"),
        ({"dual_eq": [np.inf]}, Kind.NAN, "dual_eq"),
    ],
)
def test_the_judge_rejects(fields: dict[str, object], kind: Kind, word: str) -> None:
    problem = _small()
    given = _with(judge.answer(problem), **fields)
    verdict = judge.judge(problem, given, judge.reference(problem))
    assert verdict.kind is kind
    assert word in verdict.why


def test_the_judge_weighs_tiny_problems_in_their_own_size() -> None:
    """1e-9 instead of 2e-9 is within every absolute tolerance."""
    small = _small()
    assert small.b is not None
    tiny = replace(small, b=1e-9 * small.b, own_size=True)
    given = _with(judge.answer(small), value=[2e-9, 0.0], fun=2e-18, dual_eq=[-1e-9])
    optimum = judge.reference(tiny)
    assert optimum.certain
    assert optimum.fun == pytest.approx(1e-18, rel=1e-7)
    assert "its own size" in judge.judge(tiny, given, optimum).why
    assert "its own size" not in judge.judge(replace(tiny, own_size=False), given, optimum).why


@pytest.mark.parametrize(
    ("family", "field"),
    [("contradictory_rows", "dual_ineq"), ("unbounded_lp", "ray"), ("rows_out_of_reach", "dual_ub")],
)
def test_the_judge_rejects_false_proofs(family: str, field: str) -> None:
    problem = next(p for p in problems(20, names=(family,)) if judged(p).verdict.kind is Kind.PROVEN)
    given = judge.answer(problem)
    right = given.fields[field]
    for wrong in (0.0 * right, right + 1e-3 * np.abs(right).max() * (np.arange(len(right)) == 0), -right):
        verdict = judge.judge(problem, _with(given, **{field: wrong}), None)
        assert verdict.kind is Kind.WRONG
    assert judge.judge(replace(problem, expected=Status.SUCCESS), given, None).kind is Kind.WRONG
    assert judge.judge(problem, replace(given, status=Status.SUCCESS), None).kind is Kind.WRONG
    assert judge.judge(problem, replace(given, status=Status.MAX_STEPS), None).kind is Kind.HONEST
    assert judge.judge(problem, replace(given, status=Status.NON_CONVEX), None).kind is Kind.HONEST
