"""The yardstick itself: optimal to the last digits, and its derivatives those of finite differences."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from icnn_rl import Status
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_families import BY_NAME, FAMILIES, Family, answers, instance

EXPECTED = {
    Status.SUCCESS: "solved",
    Status.PRIMAL_INFEASIBLE: "primal_infeasible",
    Status.DUAL_INFEASIBLE: "dual_infeasible",
}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_row_is_what_its_family_says(family: Family) -> None:
    _, data = instance(family)
    assert data.batch == (family.batch,)
    for row, answer in enumerate(answers(family)):
        assert answer.status == EXPECTED[family.status]
        if answer.status == "solved":
            residuals = references.kkt_residuals(data[row], answer.point)
            assert residuals.worst < 2e-15, residuals


@pytest.mark.parametrize("name", ["n_1", "many_active", "everything", "number_q", "linear", "projection", "infinite"])
def test_regular_families_are_regular(name: str) -> None:
    assert all(answer.regular for answer in answers(BY_NAME[name]))


@pytest.mark.parametrize("name", ["duplicate_rows", "dependent_equations", "too_many_at_a_vertex", "one_point", "flat"])
def test_degenerate_families_are_degenerate(name: str) -> None:
    assert not any(answer.regular for answer in answers(BY_NAME[name]))


@pytest.mark.parametrize("name", ["everything", "shared", "semidefinite"])
def test_the_derivatives_are_those_of_finite_differences(name: str) -> None:
    _, data = instance(BY_NAME[name])
    answer, one = answers(BY_NAME[name])[0], data[0]
    one = references.Data(*(getattr(one, field.name).copy() for field in fields(one)))
    rng = np.random.default_rng(0)
    weights = references.Point(*(rng.standard_normal(part.shape) for part in answer.point))
    exact = references.gradients(one, answer, weights)
    numerical = references.numerical_gradients(one, weights)
    for field in fields(exact):
        expected = getattr(numerical, field.name)
        np.testing.assert_allclose(getattr(exact, field.name), expected, rtol=1e-5, atol=1e-6, err_msg=field.name)


def test_an_error_shows_in_the_residuals() -> None:
    """Each condition by itself: a wrong point, a wrong multiplier, one of the wrong sign, one of a slack row."""
    _, data = instance(BY_NAME["everything"])
    one, answer = data[0], answers(BY_NAME["everything"])[0]
    x, ineq, eq, lower, upper = answer.point
    idle = np.where(answer.active[0], 0.0, 1.0)
    assert references.kkt_residuals(one, answer.point._replace(x=x + 1e-6)).primal > 1e-8
    assert references.kkt_residuals(one, answer.point._replace(eq=eq + 1e-6)).stationarity > 1e-8
    assert references.kkt_residuals(one, answer.point._replace(lower=lower - 1e-6)).sign > 1e-8
    assert references.kkt_residuals(one, answer.point._replace(ineq=ineq + 1e-6 * idle)).complementarity > 1e-8
    assert references.kkt_residuals(one, answer.point._replace(upper=upper + 1e-6)).worst > 1e-8
