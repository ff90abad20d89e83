"""The projection that goes straight to the compiled kernel is solve_qp's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icnn_rl.qp import solve_qp
from icnn_rl.qp.kernel import dispatch

pytestmark = pytest.mark.skipif(not dispatch.available(), reason="needs numba")


def test_nearest_points_are_those_of_solve_qp():
    rng = np.random.default_rng(0)
    point, G, h = 2 * rng.normal(size=(20, 4)), rng.normal(size=(20, 6, 4)), rng.uniform(0.1, 1.0, (20, 6))
    lower, upper = -np.ones((20, 4)), np.ones((20, 4))
    found = dispatch.nearest(point, G, h, lower, upper)
    expected = solve_qp(1.0, *map(torch.from_numpy, (-point, G, h)), lb=-1.0, ub=1.0).value
    assert found is not None
    assert found[1].all()
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-9)


def test_rows_without_a_solution_and_problems_too_large_are_left():
    empty = dispatch.nearest(
        np.zeros((1, 2)), np.ones((1, 1, 2)), np.full((1, 1), -3.0), -np.ones((1, 2)), np.ones((1, 2))
    )
    assert empty is not None
    assert not empty[1].any()
    large = np.zeros((1, 17))
    assert dispatch.nearest(large, np.zeros((1, 1, 17)), np.ones((1, 1)), large - 1.0, large + 1.0) is None
