"""The violation that a power limit reports is that of the worst of its rows, whatever the signs of the velocities."""

from __future__ import annotations

import itertools

import pytest
import torch

from icnn_rl.constraints import power_limit


def _rows(w, motoring_only):
    patterns = itertools.product((0.0, 1.0) if motoring_only else (-1.0, 1.0), repeat=len(w))
    return [torch.tensor(pattern, dtype=w.dtype) * w for pattern in patterns if any(pattern)]


@pytest.mark.parametrize("motoring_only", [False, True])
def test_the_violation_is_the_worst_rows(motoring_only):
    torch.manual_seed(0)
    limit = power_limit(slice(0, 4), 1.0, motoring_only=motoring_only)
    obs, action = 2 * torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    action[::5, 1] = 0.0
    found = limit.violation(obs, action)
    for w, a, reported in zip(obs, action, found, strict=True):
        expected = max(float((row @ a - 1.0) / row.norm()) for row in _rows(w, motoring_only))
        assert float(reported) == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(found, limit.at(obs, 4).violation(action), rtol=0, atol=1e-12)


def test_a_negative_velocity_draws_power_too():
    obs, action = torch.tensor([[-10.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert float(power_limit(slice(0, 2), 4.0).violation(obs, action)) == pytest.approx(0.6)  # (10 - 4) / 10
