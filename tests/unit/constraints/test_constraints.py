"""Constraints on actions against their definitions and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.constraints import (
    ActionConstraint,
    Barrier,
    EmptySetError,
    ball,
    box,
    control_barrier,
    ellipsoid,
    l1_ball,
    linear,
    power_limit,
    rate_limit,
)
from icnn_rl.constraints.fallback import backup
from icnn_rl.sets import ConvexSet
from icnn_rl.testing import cone_references as cones

DOUBLE = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def first_rows(obs: Tensor) -> Tensor:
    return obs[..., :4].unflatten(-1, (2, 2))


def ones(obs: Tensor) -> Tensor:
    return obs.new_ones(*obs.shape[:-1], 2)


def first_order(obs: Tensor) -> Barrier:
    """x' = a: B = 1 - x."""
    return Barrier(1.0 - obs, torch.zeros_like(obs), -torch.diag_embed(torch.ones_like(obs)))


def second_order(obs: Tensor) -> Barrier:
    """x'' = 2 a: B = 1 - x with obs = (x, v)."""
    x, v = obs[..., :1], obs[..., 1:2]
    return Barrier(1.0 - x, torch.zeros_like(x), torch.full_like(x, -2.0).unsqueeze(-1), -v)


EACH: list[ActionConstraint] = [
    box([-1.0, -2.0], 1.0), box(upper=ones), linear([[1.0, 1.0]], [1.0]), linear(first_rows, ones),
    l1_ball(1.0, [1.0, 2.0]), power_limit("0:2", 1.0), power_limit([3, 1], 1.0, motoring_only=True),
    power_limit(weights=ones, max_power=1.0), rate_limit(0.1), ball(1.0, [0.1, 0.2]),
    ellipsoid([[2.0, 0.0], [0.0, 1.0]]), box(-1.0, 1.0) & power_limit("0:2", 1.0) & ball(2.0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("index", range(len(EACH)))
def test_each_kind(index: int, dtype: torch.dtype) -> None:
    """Pickles, projects into itself, row by row and unbatched alike, and mixes dtypes of observation and action."""
    c, tol = EACH[index], 1e-9 if dtype == DOUBLE else 1e-5
    assert pickle.loads(pickle.dumps(c)) == c
    obs, action = 0.1 * normal(0, 5, 6), 3.0 * normal(1, 5, 2).to(dtype)
    found = c.project(obs, action)
    assert found.action.dtype == found.violation.dtype == dtype
    assert found.status.tolist() == [0] * 5
    assert bool(c.feasible(obs, found.action, tol).all())
    torch.testing.assert_close(found.violation, c.violation(obs, action))
    for i in range(5):
        torch.testing.assert_close(c.project(obs[i], action[i]).action, found.action[i], rtol=0.0, atol=tol)
    inner = c.interior(obs, action)
    assert bool((inner.depth > 0).all() & (c.violation(obs, inner.point) < 0).all())
    broken = obs.clone()
    broken[2] = torch.nan
    if c.depends_on_state and index not in (1, 7):  # functions that do not look at what is NaN here
        assert c.project(broken, action).action[2].isnan().all()
        assert c.project(broken, action).status[2] == Status.NONFINITE_INPUT
        assert c.violation(broken, action)[2].isnan()


@pytest.mark.parametrize("motoring_only", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4, 6, 7, 12])
def test_power_limit_is_its_definition(n: int, motoring_only: bool) -> None:
    w, a = normal(n, 8, n), 2.0 * normal(n + 1, 8, n)
    w[1, 0], w[2] = 0.0, 0.0

    def drawn(a: Tensor) -> Tensor:
        return ((w * a).clamp(min=0.0) if motoring_only else (w * a).abs()).sum(-1)

    for most in (0.0, 1.0):
        c = power_limit(slice(0, n), most, motoring_only=motoring_only) & box(-1.0, 1.0)
        found = c.project(w, a)
        assert found.status.tolist() == [0] * 8
        assert float(drawn(found.action).amax()) <= most + 1e-9
        power = power_limit(slice(0, n), most, motoring_only=motoring_only)
        assert torch.equal(power.violation(w, a) > 0, drawn(a) > most)
        # nearest: no feasible point lies ahead of the plane through it
        others = normal(7, 500, 8, n).clamp(-1.0, 1.0)
        inside = torch.stack([drawn(o) <= most for o in others])
        ahead = ((a - found.action) * (others - found.action)).sum(-1)
        assert float(torch.where(inside, ahead, 0.0).amax()) <= 1e-8


@pytest.mark.parametrize("motoring_only", [False, True])
@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_velocity_that_is_nan_is_neither_a_limit_nor_none(limit: float, n: int, motoring_only: bool) -> None:
    c = power_limit(slice(0, n), limit, motoring_only=motoring_only)
    obs = normal(0, 3, n)
    obs[1, 0] = torch.nan
    found = c.project(obs, normal(1, 3, n))
    assert found.status.tolist() == [0, int(Status.NONFINITE_INPUT), 0]
    assert found.action[1].isnan().all()
    assert found.violation.isnan().tolist() == [False, True, False]
    assert found.action[[0, 2]].isfinite().all()
    if limit == 0:
        assert bool((c.at(obs, n).violation(normal(1, 3, n)).isnan() == torch.tensor([False, True, False])).all())
        still = obs[[0, 2]] != 0
        drawn = (obs * found.action)[[0, 2]][still]
        assert bool((drawn <= 1e-12).all() if motoring_only else (drawn.abs() <= 1e-12).all())


@pytest.mark.parametrize("wrong", ["value", "drift", "rate"])
def test_a_barrier_must_give_each_state_its_own_numbers(wrong: str) -> None:
    """(B,) instead of (B, 1) would broadcast to (B, B): every state judged by the worst one."""

    def barrier(obs: Tensor) -> Barrier:
        parts = {"value": 1.0 - obs[:, :1], "drift": -obs[:, 1:], "rate": -obs[:, 1:]}
        parts[wrong] = parts[wrong].squeeze(-1)
        return Barrier(parts["value"], parts["drift"], torch.ones(len(obs), 1, 1, dtype=obs.dtype), parts["rate"])

    for batch in (1, 3):
        with pytest.raises(ValueError, match=rf"expected Barrier.{wrong} of shape \({batch}, 1\).*got \({batch},\)"):
            control_barrier(barrier, (1.0, 2.0)).at(torch.zeros(batch, 2), 1)


def test_barrier_rows_by_hand() -> None:
    one = control_barrier(first_order, 2.0).at(torch.tensor([[0.5, -1.0]]), 2)  # a <= 2 (1 - x)
    assert one.G is not None
    assert one.G.tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
    assert one.h is not None
    assert one.h.tolist() == [[1.0, 4.0]]
    two = control_barrier(second_order, (1.0, 2.0)).at(torch.tensor([0.5, 0.25]), 1)  # 2 a <= -3 v + 2 (1 - x)
    assert two.G is not None
    assert two.G.tolist() == [[2.0]]
    assert two.h is not None
    assert two.h.tolist() == [0.25]


def test_combination_and_reading() -> None:
    a, b, c = box(-1.0), l1_ball(1.0), rate_limit(0.1)
    assert (a & b) & c == a & (b & c)
    assert (a & b & c).needs_last_action
    read = (a & c).reading("x")
    obs = {"x": normal(0, 3, 4), "y": normal(1, 3, 1)}
    torch.testing.assert_close(read.violation(obs, normal(2, 3, 2)), (a & c).violation(obs["x"], normal(2, 3, 2)))
    for wrong, message in ((obs, "reading"), (obs["x"], "Dict")):
        with pytest.raises(ValueError, match=message):
            (c if wrong is obs else read).at(wrong, 2)
    with pytest.raises(ValueError, match="2 balls"):
        (ball(1.0) & ball(2.0)).at(obs["x"], 2)


def test_fallbacks() -> None:
    c, obs, action = linear([[1.0, 0.0], [-1.0, 0.0]], [-1.0, -1.0]), torch.zeros(1, 1), torch.tensor([[3.0, 4.0]])
    assert abs(float(c.project(obs, action).action[0, 0])) < 1e-6
    assert c.project(obs, action, fallback=[1.0, 2.0]).action.tolist() == [[1.0, 2.0]]
    assert c.project(obs, action, fallback=ones).action.tolist() == [[1.0, 1.0]]
    with pytest.raises(EmptySetError, match="1 of 1 states, first in row 0"):
        c.project(obs, action, fallback="error")
    for wrong in ("stop", [1.0], [1.0, float("nan")], [[1.0], [2.0]], [None]):
        with pytest.raises(ValueError, match="fallback: expected"):
            c.project(obs, action, fallback=wrong)
    with pytest.raises(ValueError, match=r"expected shape \(2,\) or \(1, 2\), got \(3,\)"):
        c.project(obs, action, fallback=[1.0, 2.0, 3.0])


def test_the_shared_fallback() -> None:
    """Observations come in float64, actions are clipped to the space's bounds and converted to the proposal's units."""
    seen = []

    def rule(obs: Tensor) -> Tensor:
        seen.append(obs.dtype)
        return torch.tensor([5.0, -0.5])

    empty, proposal = torch.tensor([True]), torch.tensor([[0.3, 0.4]])
    units = (torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
    found = linear([[0.0, 0.0]], [-1.0]).at(torch.zeros(1), 2)
    action = backup(rule, torch.zeros(1, 3), found, proposal, empty, low=-1.0, high=[3.0, 3.0], units=units)
    assert action.tolist() == [[1.0, -0.25]]
    assert seen == [DOUBLE]
    torch.testing.assert_close(backup("least_violation", None, found, proposal, empty), proposal)


def test_a_gain_that_vanishes_leaves_the_proposal_to_the_other_rows() -> None:
    c = linear([[0.0, 0.0], [1.0, 0.0]], [-1.0, -0.5]) & box(-1.0, 1.0)
    found = c.project(torch.zeros(1, 1), torch.tensor([[0.9, 0.8]], dtype=DOUBLE))
    assert found.status.tolist() == [int(Status.PRIMAL_INFEASIBLE)]
    torch.testing.assert_close(found.action, torch.tensor([[-0.5, 0.8]], dtype=DOUBLE), rtol=0.0, atol=1e-8)
    inner = (linear([[0.0]], [-1.0]) & ball(1.0)).interior(torch.zeros(1, 1), torch.zeros(1, 1))
    assert inner.depth.tolist() == [-float("inf")]


def indefinite(obs: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack((torch.ones_like(obs[..., 0]), obs[..., 0]), -1))


def test_where_the_ellipsoid_is_none_the_action_is_a_number() -> None:
    obs = torch.tensor([[1.0], [-1.0], [float("nan")]], dtype=DOUBLE)
    c = ellipsoid(indefinite) & box(-0.5, 0.5)
    found = c.project(obs, torch.full((3, 2), 3.0, dtype=DOUBLE))
    assert found.status.tolist() == [0, int(Status.NUMERICAL), int(Status.NONFINITE_INPUT)]
    torch.testing.assert_close(found.action[1], torch.full((2,), 0.5, dtype=DOUBLE), rtol=0.0, atol=1e-8)
    alone = ellipsoid(indefinite)  # without rows to meet it is met all the same
    found = alone.project(obs[1:2], torch.tensor([[3.0, 0.5]], dtype=DOUBLE))
    assert float(alone.violation(obs[1:2], found.action)) <= 1e-9


def arm_speed(obs: Tensor) -> Tensor:
    """J^T J of a planar arm of three links, for a limit on the speed of its hand."""
    angle = obs.cumsum(-1)
    J = torch.stack([part.flip(-1).cumsum(-1).flip(-1) for part in (-angle.sin(), angle.cos())], -2)
    return J.mT @ J


def arm_row(obs: Tensor) -> Tensor:
    return torch.stack((torch.ones_like(obs[:, 0]), obs[:, 1], obs[:, 2]), -1).unsqueeze(-2)


def test_the_hand_of_a_redundant_arm() -> None:
    """Joint speeds with |J a| <= 1/2: where the arm is stretched J has rank one."""
    c, random = ellipsoid(arm_speed, 0.25) & linear(arm_row, [0.3]) & box(-1.0, 1.0), torch.Generator().manual_seed(0)
    obs, action = (torch.randn(60, 3, generator=random, dtype=DOUBLE) for _ in range(2))
    obs[:10] *= 0.0
    found = c.project(obs, 2.0 * action)
    assert not found.status.any()
    assert float(c.violation(obs, found.action).amax()) <= 1e-9
    for i in range(0, 60, 7):
        s = c.at(obs[i : i + 1], 3)
        best = cones.minimiser(s, np.eye(3), -2.0 * action[i].numpy())
        np.testing.assert_allclose(found.action[i], best, atol=1e-5)


@pytest.mark.parametrize("k", [1e-320, 1e-170, 1e160, 1e300])
def test_rows_whose_squares_are_no_numbers(k: float) -> None:
    obs, action = torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    cases = [
        (linear([[k, k]], [-k]), [-0.5, -0.5], 1.5 * 2**0.5),
        (l1_ball(k, [k, k]), [0.5, 0.5], 0.5 * 2**0.5),
        (power_limit(max_power=k, weights=lambda o: k * torch.ones(1, 2).to(o)), [0.5, 0.5], 0.5 * 2**0.5),
    ]  # fmt: skip
    if k > 1e-300:
        cases.append((ellipsoid([[k, 0.0], [0.0, k]], k), [0.5**0.5] * 2, 2**0.5 - 1.0))
    for c, nearest, violation in cases:
        found = c.project(obs, action)
        assert found.status.tolist() == [0]
        torch.testing.assert_close(found.action, torch.tensor([nearest], dtype=DOUBLE), rtol=0.0, atol=1e-9)
        assert float(found.violation) == pytest.approx(violation)
    many = l1_ball(k, [k] * 8).project(obs, torch.ones(1, 8, dtype=DOUBLE)).action
    torch.testing.assert_close(many, torch.full((1, 8), 0.125, dtype=DOUBLE), rtol=0.0, atol=1e-9)


def test_a_flat_ellipsoid_and_a_row() -> None:
    for flat in (1e-16, 0.0, 1e-300):
        c = ellipsoid([[1.0, 0.0], [0.0, flat]], 0.25) & linear([[1.0, 1.0]], [1.2])
        found = c.project(torch.zeros(1, 1, dtype=DOUBLE), torch.tensor([[0.6, 0.8]], dtype=DOUBLE))
        assert found.status.tolist() == [0]
        torch.testing.assert_close(found.action, torch.tensor([[0.5, 0.7]], dtype=DOUBLE), rtol=0.0, atol=1e-9)


def test_a_solve_that_stops_short_outside_of_the_set_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    c, whole = linear([[1.0, 1.0]], [1.0]), ConvexSet.project

    def short(self: ConvexSet, point: Tensor, **options: Any) -> Any:
        found = whole(self, point, **options)
        stopped = dataclasses.replace(found.solution, status=torch.full_like(found.status, int(Status.MAX_STEPS)))
        return found._replace(value=found.value + torch.tensor([0.1, 0.0]), solution=stopped)

    with monkeypatch.context() as patch:
        # the fallback projects by the set itself, unhurt: only the first call stops short
        calls = iter((short,))
        patch.setattr(ConvexSet, "project", lambda *a, **k: next(calls, whole)(*a, **k))
        found = c.project(torch.zeros(1, 1), torch.tensor([[2.0, 1.0]]))
    assert found.status.tolist() == [int(Status.MAX_STEPS)]
    torch.testing.assert_close(found.action, torch.tensor([[1.0, 0.0]]))


def test_constants_beside_an_image() -> None:
    obs = {"image": torch.zeros(2, 4, dtype=torch.uint8), "x": torch.zeros(2, 3)}
    for c in (box(-0.5, 0.5), linear([[1.0, 0.0]], [0.5]), l1_ball(0.5), ellipsoid([[4.0, 0.0], [0.0, 4.0]])):
        assert c.project(obs, torch.tensor([[1.0, 0.0]] * 2)).action.tolist() == [[0.5, 0.0]] * 2


def test_constants_made_in_inference_mode_serve_training() -> None:
    c = l1_ball(1.0, [3.0, 5.0])
    with torch.inference_mode():
        c.at(torch.zeros(1, 1), 2)
    action = torch.ones(1, 2, requires_grad=True)
    c.project(torch.zeros(1, 1), action).action.sum().backward()  # type: ignore[no-untyped-call]
    assert action.grad is not None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: box(2.0, 1.0), "lower bound exceeds"), (lambda: box([1.0, 2.0], [3.0, 4.0, 5.0]), "one length"),
        (lambda: box("x"), "box.lower: expected numbers"), (lambda: linear([1.0], [1.0]), r"shape \(m, n\)"),
        (lambda: linear([[1.0]], [1.0, 2.0]), "expected 1 numbers"), (lambda: power_limit("0:2"), "missing"),
        (lambda: power_limit(max_power=1.0), "one of velocity_index and weights"),
        (lambda: power_limit([], 1.0), "expected a slice"), (lambda: rate_limit(-1.0), "numbers >= 0"),
        (lambda: ball(0.0), "ball.radius"), (lambda: ellipsoid([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite"),
        (lambda: ellipsoid([[0.0, 0.0], [0.0, 0.0]]), "constrains nothing"), (lambda: ball(1e-200), "ball.radius"),
        (lambda: power_limit([9], 1.0).at(torch.zeros(3), 1), "indices below 3"),
        (lambda: power_limit("2:5", 1.0).at(torch.zeros(4), 3), "velocity_index: expected 3.*got 2.*2:5 runs"),
        (lambda: power_limit([0, 1], 1.0).at(torch.zeros(4), 3), r"velocity_index: expected 3.*got 2 from \(0, 1\)"),
        (lambda: power_limit("0:2", 1.0).at(torch.zeros(4), 3), "expected 3.*got 2 from the slice 0:2"),
        (lambda: l1_ball(1.0, [1.0, 2.0]).at(torch.zeros(4), 3), "l1_ball.weights: expected 3 numbers.*got 2"),
        (lambda: l1_ball(1.0, [1.0, -2.0]), "weights: expected finite numbers >= 0"),
        (lambda: l1_ball(1.0, [float("inf")]), "weights: expected finite numbers >= 0"),
        (lambda: box(float("inf")), "beyond infinity"), (lambda: box(upper=-float("inf")), "beyond infinity"),
        (lambda: rate_limit(1.0).at(torch.zeros(1), 2), "end with the 2 numbers"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
