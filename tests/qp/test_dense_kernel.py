"""The dense kernel, where it is asked for: hard problems solved or told, and on tame ones what torch finds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from icnn_rl import Status
from icnn_rl.qp import PrimalDual, solve_qp
from tests.qp import judge
from tests.qp.hard import FAMILIES as HARD
from tests.qp.hard import problems
from tests.qp.judge import Kind
from tests.qp.problems import BY_NAME, instance

pytest.importorskip("numba", reason="the compiled kernels need numba: pip install 'icnn-rl[fast]'")

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
