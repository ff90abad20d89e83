"""ProjectAction and VecProjectAction: the guarantee for one environment and for many, and what happens at its edges."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from icnn_rl import Status
from icnn_rl.agents import ICNNQ
from icnn_rl.constraints import (
    ActionConstraint,
    Barrier,
    ConstraintWarning,
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
from icnn_rl.envs import ProjectAction, VecProjectAction, action_sets


class Walk(gym.Env):
    """Observations are random; actions are remembered. ``reuse``: observations are one buffer that is written over."""

    def __init__(self, n=3, d=4, low=-1.0, high=1.0, dtype=np.float32, steps=5, obs_dtype=np.float32, reuse=False):
        self.action_space = spaces.Box(low, high, (n,), dtype)
        self.observation_space = spaces.Box(-10.0, 10.0, (d,), obs_dtype)
        self.buffer, self.received, self.steps, self.reuse = np.zeros(d, obs_dtype), [], steps, reuse

    def _observe(self):
        self.buffer[:] = self.np_random.uniform(-2, 2, self.buffer.shape)
        self.left -= 1
        return self.buffer if self.reuse else self.buffer.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.steps + 1
        return self._observe(), {}

    def step(self, action):
        self.received.append(action)
        return self._observe(), 0.0, self.left == 0, False, {}


@dataclass(frozen=True)
class Reads:
    """h of linear rows that depend on the observation."""

    columns: int | slice

    def __call__(self, obs):
        columns = self.columns
        return obs[..., columns if isinstance(columns, slice) else slice(columns, columns + 1)]


SUMS = power_limit(slice(0, 3), 0.5)


def _steps(env, actions, seed=0):
    obs, _ = env.reset(seed=seed)
    seen, infos = [obs.copy()], []
    for action in actions:
        obs, *_, info = env.step(action)
        seen.append(obs.copy())
        infos.append(info)
    return np.array(seen), infos


def _actions(count, n=3, scale=1.5, dtype=np.float32, seed=0):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (count, n))).astype(dtype)


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_array_that_is_sent_satisfies_every_row(tol, scale):
    """Also where float32 is coarser than the tolerance: the action is pulled inside."""
    inner = Walk(low=-scale, high=scale, steps=10**6)
    env = ProjectAction(inner, power_limit(slice(0, 3), scale), tol=tol)
    seen, infos = _steps(env, _actions(200, scale=1.5 * scale))
    for obs, sent, info in zip(np.float64(seen), inner.received, infos, strict=False):
        power = np.abs(obs[:3] * np.float64(sent)).sum()
        assert (power - scale) / np.linalg.norm(obs[:3]) <= tol
        assert sent.dtype == np.float32
        assert inner.action_space.contains(sent)
        assert info["action/executed"] is not sent
        np.testing.assert_array_equal(info["action/executed"], sent)
        assert info["constraint/violation"] <= tol


class Scribbler(Walk):
    """Writes on the actions it gets."""

    def step(self, action):
        result = super().step(action.copy())
        action[:] = 99.0
        return result


def test_what_the_environment_does_to_the_array_is_not_what_was_executed():
    env = ProjectAction(Scribbler(), SUMS)
    env.reset(seed=0)
    info = env.step(np.ones(3, np.float32))[-1]
    np.testing.assert_array_equal(info["action/executed"], env.unwrapped.received[0])
    np.testing.assert_array_equal(env.executed_action, env.unwrapped.received[0])
    venv = VecProjectAction(DummyVecEnv([Scribbler]), SUMS)
    venv.reset()
    infos = venv.step(np.ones((1, 3), np.float32))[-1]
    np.testing.assert_array_equal(infos[0]["action/executed"], venv.venv.envs[0].received[0])
    np.testing.assert_array_equal(venv.executed_action, venv.venv.envs[0].received)


def test_info_says_what_happened():
    env = ProjectAction(Walk(n=2), linear([[3.0, 4.0]], [2.0]))
    env.reset(seed=0)
    info = env.step(np.array([0.9, 0.9], np.float32))[-1]
    assert info["constraint/violation_before"] == pytest.approx((6.3 - 2.0) / 5.0, abs=1e-6)
    assert info["constraint/moved"] == pytest.approx((6.3 - 2.0) / 5.0, abs=1e-6)
    assert abs(info["constraint/violation"]) <= 1e-6
    assert info["constraint/status"] == Status.SUCCESS
    assert info["constraint/active"] is True
    np.testing.assert_allclose(info["action/executed"], [0.9 - 0.516, 0.9 - 0.688], atol=1e-6)
    info = env.step(np.array([0.1, 0.1], np.float32))[-1]
    assert info["constraint/violation_before"] == info["constraint/violation"] == pytest.approx(-0.26, abs=1e-6)
    assert info["constraint/moved"] == 0.0
    assert info["constraint/active"] is False
    info = env.step(np.array([-3.0, 0.0], np.float32))[-1]  # beyond the bounds alone
    assert info["constraint/violation_before"] == 2.0
    assert info["constraint/active"] is False


def test_the_observation_is_copied():
    """The environment writes over its buffer; the constraint reads what it was when the action was chosen."""
    env = ProjectAction(Walk(n=1, d=1, steps=100, reuse=True), linear([[1.0]], Reads(0)) & linear([[-1.0]], [5.0]))
    obs, _ = env.reset(seed=3)
    limit = float(obs[0])
    env.unwrapped.buffer[:] = 9.0
    assert env.step(np.array([1.0], np.float32))[-1]["action/executed"][0] == pytest.approx(max(-1.0, min(limit, 1.0)))


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (np.array([0.0, np.nan, 0.0]), r"expected finite numbers, got array\(\[ 0., nan,  0.\]\)"),
        (np.array([np.inf, 0.0, 0.0]), "expected finite numbers, got .*inf"),
        (np.zeros(2), r"expected shape \(3,\), got \(2,\)"),
        (np.zeros((1, 3)), r"expected shape \(3,\), got \(1, 3\)"),
        (None, r"expected \(3,\) numbers, got None"),
        ("left", r"expected \(3,\) numbers, got 'left'"),
        ([[0.0], [0.0, 1.0]], r"expected \(3,\) numbers, got \[\["),
    ],
)
def test_other_actions_are_refused(action, text):
    env = ProjectAction(Walk(), SUMS)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"action: {text}"):
        env.step(action)
    assert env.unwrapped.received == []


def test_huge_float64_actions_are_projected():
    env = ProjectAction(Walk(), SUMS & ball(0.7))
    obs = np.float64(env.reset(seed=0)[0])
    info = env.step(np.array([1e300, -1e300, 1e30]))[-1]
    sent = np.float64(info["action/executed"])
    assert (np.abs(obs[:3] * sent).sum() - 0.5) / np.linalg.norm(obs[:3]) <= 1e-6
    assert np.linalg.norm(sent) <= 0.7 + 1e-6
    assert info["constraint/status"] == Status.SUCCESS
    assert 1e30 <= info["constraint/moved"] < np.inf


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"constraint: expected an ActionConstraint of icnn_rl.constraints, got list"):
        ProjectAction(Walk(), [1.0])
    with pytest.raises(ValueError, match=r"tol: expected a number > 0, got 0"):
        ProjectAction(Walk(), SUMS, tol=0)
    with pytest.raises(ValueError, match=r"fallback: expected 'least_violation', 'error'.*got 'best'"):
        ProjectAction(Walk(), SUMS, fallback="best")
    with pytest.raises(ValueError, match=r"fallback: expected 3 finite numbers"):
        ProjectAction(Walk(), SUMS, fallback=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"env: expected actions in a Box"):
        ProjectAction(gym.make("CartPole-v1"), SUMS)


@pytest.mark.parametrize(
    "wrapper", [gym.wrappers.NormalizeObservation, lambda e: gym.wrappers.FrameStackObservation(e, 2)]
)
def test_other_units_of_observations_are_refused(wrapper):
    with pytest.raises(ValueError, match=r"env: the constraint reads raw observations.*Put the projection inside"):
        ProjectAction(wrapper(Walk()), SUMS)
    wrapper(ProjectAction(Walk(), SUMS)).reset(seed=0)


def test_other_units_of_observations_are_refused_of_vec_envs():
    for wrapper in (VecNormalize, lambda v: VecFrameStack(v, 2)):
        with pytest.raises(ValueError, match=r"env: the constraint reads raw observations"):
            VecProjectAction(wrapper(DummyVecEnv([Walk])), SUMS)
        wrapper(VecProjectAction(DummyVecEnv([Walk]), SUMS)).reset()
    VecProjectAction(VecNormalize(DummyVecEnv([Walk]), norm_obs=False), SUMS)


def test_a_step_before_reset_is_the_usual_error():
    with pytest.raises(gym.error.ResetNeeded):
        ProjectAction(Walk(), SUMS).step(np.zeros(3, np.float32))
    with pytest.raises(gym.error.ResetNeeded):
        VecProjectAction(DummyVecEnv([Walk]), SUMS).step(np.zeros((1, 3), np.float32))


def test_an_observation_that_is_not_a_number_is_refused():
    env = ProjectAction(Walk(), SUMS)
    env.reset(seed=0)
    env._obs[:] = torch.nan
    with pytest.raises(ValueError, match=r"constraint: what it gives in the state .*nan.* is not a number"):
        env.step(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("constraint", "states"),
    [
        (SUMS, [[0.0, 0.0, 0.0, 1.0], [np.nan, 1.0, 1.0, 1.0]]),
        (linear([[0.0, 0.0, 0.0]], Reads(0)), [[1.0, 0.0, 0.0, 0.0], [np.nan, 0.0, 0.0, 0.0]]),
        (linear([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], Reads(slice(0, 2))), [[1.0] * 4, [1.0, np.nan, 1.0, 1.0]]),
    ],
)
def test_nan_is_refused_next_to_rows_of_zeros(constraint, states):
    """A row whose norm or right-hand side is NaN does not hold, and is no row of zeros that fails."""
    venv = VecProjectAction(DummyVecEnv([Walk] * 2), constraint)
    venv.reset()
    venv._obs = torch.tensor(states, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"constraint: what it gives in the state .*nan.* is not a number"):
        venv.step(np.full((2, 3), 0.9, np.float32))
    assert [env.received for env in venv.venv.envs] == [[], []]


def test_a_projection_that_is_not_a_number_is_not_sent(monkeypatch):
    env = ProjectAction(Walk(), SUMS)
    env.reset(seed=0)
    env._obs[:] = 1.0
    lost = np.full((1, 3), np.nan), np.zeros(1, np.int64)
    monkeypatch.setattr(action_sets._Polytopes, "nearest", lambda self, a: lost)
    with pytest.raises(ValueError, match="is not a number"):
        env.step(np.ones(3, np.float32))
    assert env.unwrapped.received == []


@dataclass(frozen=True)
class InSomeStates(ActionConstraint):
    """As far as anybody can tell."""

    inner: ActionConstraint

    def at(self, obs, n):
        return self.inner.at(obs, n)

    def violation(self, obs, action):
        return self.inner.violation(obs, action)


# a1 + a2 + a3 <= -2 and >= 1: nothing satisfies both
EMPTY = InSomeStates(linear([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], [-2.0, -1.0]))
BEYOND = InSomeStates(box(2.0, 3.0)), InSomeStates(ball(0.5, 5.0))


def _backup(obs):
    assert obs.shape == (1, 4)
    return obs[:, :3]


@pytest.mark.parametrize(
    ("fallback", "check"),
    [
        ("least_violation", lambda sent, obs: sent.sum() == pytest.approx(-0.5, abs=1e-6)),
        ([0.5, -3.0, 0.25], lambda sent, obs: (sent == [0.5, -1.0, 0.25]).all()),
        (_backup, lambda sent, obs: (sent == obs[:3].clip(-1, 1)).all()),
    ],
)
def test_where_no_action_satisfies_the_constraint_the_fallback_is_sent(fallback, check):
    env = ProjectAction(Walk(), EMPTY, fallback=fallback)
    obs, _ = env.reset(seed=0)
    obs = obs.copy()
    info = env.step(np.zeros(3, np.float32))[-1]
    sent = info["action/executed"]
    assert info["constraint/status"] == Status.PRIMAL_INFEASIBLE
    assert info["constraint/violation"] > 0
    assert env.action_space.contains(sent)
    assert check(sent, obs)


@pytest.mark.parametrize("constraint", [EMPTY, *BEYOND])
def test_what_is_empty_in_every_state_is_refused_and_else_said_once(constraint):
    with pytest.raises(ValueError, match=r"no action between \[-1.0, -1.0, -1.0\] and .* in any state: .* by \d"):
        ProjectAction(Walk(), constraint.inner)
    env = ProjectAction(Walk(), constraint)
    env.reset(seed=0)
    with pytest.warns(ConstraintWarning, match=r"no action satisfies it in the state \["):
        env.step(np.zeros(3, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(np.zeros(3, np.float32))


def _rows_of(obs):
    return obs[:, :3]  # (B, n) where (B, m, n) is asked for


def _side_of(obs):
    return obs[:, 0]  # (B,) where (B, m) is asked for


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: linear(_rows_of, [0.5]),
            r"linear.G: the function _rows_of .*\(2, 3\) for 2 states, .*unsqueeze\(-2\)",
        ),
        (lambda: linear(_rows_of, _side_of), r"_rows_of .* expected \(2, m, 3\)"),
        (lambda: linear([[1.0, 1.0, 1.0]], _side_of), r"linear.h: .*_side_of .*\(2, m\); .*unsqueeze\(-1\)"),
        (lambda: box(_side_of, 1.0), r"box.lower: .*_side_of .* expected \(2, 3\)"),
        (lambda: power_limit(max_power=1.0, weights=_side_of), r"power_limit.weights: .*_side_of"),
        (lambda: ellipsoid(_rows_of), r"ellipsoid.M: .*_rows_of"),
    ],
)
def test_functions_of_the_wrong_shape_are_named_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        ProjectAction(Walk(), build())
    with pytest.raises(ValueError, match=message):
        ICNNQ("MlpPolicy", Walk(), policy_kwargs={"constraint": build()})


@pytest.mark.parametrize("constraint", [EMPTY, *BEYOND])
def test_the_error_for_an_empty_set_names_the_state(constraint):
    env = ProjectAction(Walk(), constraint, fallback="error")
    obs, _ = env.reset(seed=0)
    with pytest.raises(EmptySetError, match=rf"in the state .{float(obs[0]):.4f}"):
        env.step(np.zeros(3, np.float32))
    assert env.unwrapped.received == []


@pytest.mark.parametrize("constraint", [*BEYOND, InSomeStates(box(0.5, 1.0) & box(-1.0, -0.5))])
def test_the_least_violation_lies_in_the_action_space(constraint):
    env = ProjectAction(Walk(), constraint)
    env.reset(seed=0)
    info = env.step(np.zeros(3, np.float32))[-1]
    assert info["constraint/status"] == Status.PRIMAL_INFEASIBLE
    assert env.action_space.contains(info["action/executed"])
    if constraint in BEYOND:
        np.testing.assert_allclose(info["action/executed"], np.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    "constraint",
    [
        ball(0.5, [0.2, 0.0, 0.0]),
        ball(0.9, 0.8) & linear([[1.0, 1.0, 1.0]], [2.0]),
        ellipsoid([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]], 0.4),
        l1_ball(1.0) & box(-0.3, 0.6),
        box([-0.5, -torch.inf, 0.0], [torch.inf, 0.2, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sets_of_other_kinds(constraint, dtype):
    inner = Walk(dtype=dtype, steps=100)
    env = ProjectAction(inner, constraint)
    _, infos = _steps(env, _actions(25, dtype=np.float64))
    obs = torch.zeros(1, 4, dtype=torch.float64)
    for given, sent, info in zip(_actions(25, dtype=np.float64), inner.received, infos, strict=True):
        assert sent.dtype == dtype
        assert info["constraint/status"] == Status.SUCCESS
        as_sent = torch.from_numpy(np.float64(sent)).unsqueeze(0)
        assert float(constraint.violation(obs, as_sent)) <= 1e-6
        nearest = (constraint & box(-1.0, 1.0)).project(obs, torch.from_numpy(given).unsqueeze(0)).action
        np.testing.assert_allclose(sent, nearest[0].numpy(), atol=2e-6)


def _nearest_in_l1(w, a, limit):
    """Nearest point to ``a`` in { x in [-1, 1]^n : sum_i |w_i x_i| <= limit }, by bisection on its multiplier."""
    a = np.float64(a)
    low, high = 0.0, 1e6
    for _ in range(200):
        multiplier = (low + high) / 2
        x = np.sign(a) * np.clip(np.abs(a) - multiplier * np.abs(w), 0.0, 1.0)
        low, high = (multiplier, high) if np.abs(w * x).sum() > limit else (low, multiplier)
    return x


@pytest.mark.parametrize("bound", [1.0, 1e30, float(np.finfo(np.float32).max)])
def test_the_largest_numbers_of_a_type_are_no_bounds(bound):
    env = ProjectAction(Walk(n=2, low=-bound, high=bound), l1_ball(1.0))
    env.reset(seed=0)
    info = env.step(np.array([3.0, 4.0], np.float32))[-1]
    nearest = [0.5, 0.5] if bound == 1.0 else [0.0, 1.0]
    if bound > 1.0:
        np.testing.assert_allclose(info["action/executed"], nearest, atol=1e-6)
    assert np.abs(info["action/executed"]).sum() <= 1.0 + 1e-6
    assert info["constraint/status"] == Status.SUCCESS
    assert not env.step(np.zeros(2, np.float32))[-1]["constraint/active"]


@pytest.mark.parametrize("k", [1e-170, 1e160])
def test_rows_whose_squares_are_no_numbers(k):
    env = ProjectAction(Walk(n=2, low=-1.0, high=1.0), linear([[k, k]], [-k]))
    env.reset(seed=0)
    info = env.step(np.ones(2, np.float32))[-1]
    np.testing.assert_allclose(info["action/executed"], [-0.5, -0.5], atol=1e-6)
    assert info["constraint/violation_before"] == pytest.approx(1.5 * 2**0.5)


def _saddle(obs):
    return torch.diag(torch.tensor([1.0, -1.0], dtype=obs.dtype)).expand(len(obs), 2, 2)


def test_an_ellipsoid_that_is_none_is_named():
    env = ProjectAction(Walk(n=2), ellipsoid(_saddle, 0.2))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"constraint: the ellipsoid's M has a negative eigenvalue.*-1.0"):
        env.step(np.array([0.9, 0.1], np.float32))


@pytest.mark.parametrize("constraint", [power_limit("-3:", 1.0), power_limit([-3, -2, -1], 1.0)])
def test_indices_from_the_end_mean_the_same_beside_a_rate_limit(constraint):
    inner = Walk(steps=100)
    seen, _ = _steps(ProjectAction(inner, constraint & rate_limit(1.5)), _actions(30))
    for obs, sent in zip(np.float64(seen), inner.received, strict=False):
        velocity = obs[1:4]  # of four numbers, before the last action
        assert (np.abs(velocity * sent).sum() - 1.0) / np.linalg.norm(velocity) <= 1e-6


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (3,)))),
        spaces.Dict({"name": spaces.Text(4), "state": spaces.Box(-1.0, 1.0, (3,))}),
    ],
)
def test_what_reads_nothing_takes_observations_of_any_kind(space):
    class Telling(Walk):
        def _observe(self):
            super()._observe()
            return self.observation_space.sample()

    inner = Telling()
    inner.observation_space = space
    env = ProjectAction(inner, box(-0.5, 0.5))
    env.reset(seed=0)
    assert (np.abs(env.step(np.ones(3, np.float32))[-1]["action/executed"]) <= 0.5).all()
    with pytest.raises(ValueError, match=r"reads the observation, which is no array|say which part"):
        ProjectAction(inner, power_limit(slice(0, 3), 1.0))


def test_more_motors_than_rows_can_be_written_for():
    inner = Walk(n=9, d=9, steps=100)
    env = ProjectAction(inner, power_limit(slice(0, 9), 2.0))
    seen, infos = _steps(env, _actions(30, 9))
    for obs, given, sent, info in zip(np.float64(seen), _actions(30, 9), inner.received, infos, strict=False):
        assert (np.abs(obs * sent).sum() - 2.0) / np.linalg.norm(obs) <= 1e-6
        assert info["constraint/moved"] <= np.linalg.norm(_nearest_in_l1(obs, given, 2.0) - given) + 1e-5
    assert np.mean([info["constraint/status"] == Status.SUCCESS for info in infos]) > 0.9
    assert sum(info["constraint/active"] for info in infos) > 10


def test_an_action_space_without_bounds():
    inner = Walk(low=-np.inf, high=np.inf, steps=100)
    _, infos = _steps(ProjectAction(inner, l1_ball(2.0)), [*_actions(20, scale=5.0), np.full(3, 1e30, np.float32)])
    assert all(np.abs(np.float64(sent)).sum() <= 2.0 + 2e-6 for sent in inner.received)
    assert infos[-1]["constraint/moved"] > 1e29


def test_the_last_action_is_appended_for_a_limit_on_its_rate():
    inner = Walk(steps=100)
    env = ProjectAction(inner, rate_limit(0.25) & power_limit(slice(0, 3), 1.0))
    assert env.observation_space.shape == (7,)
    np.testing.assert_array_equal(env.observation_space.low, [-10.0] * 4 + [-1.0] * 3)
    seen, _ = _steps(env, _actions(60))
    assert seen.dtype == np.float32
    assert all(env.observation_space.contains(obs) for obs in seen)
    np.testing.assert_array_equal(seen[0, 4:], 0.0)
    np.testing.assert_array_equal(seen[1:, 4:], inner.received)
    changes = np.diff(np.float64(seen[:, 4:]), axis=0)
    assert np.abs(changes).max() <= 0.25 + 1e-6
    assert np.abs(changes).max() > 0.2499
    assert env.executed_action.tolist() == seen[-1, 4:].tolist()
    np.testing.assert_array_equal(env.reset()[0][4:], 0.0)
    assert env.executed_action.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_last_action_is_not_rounded_to_integers(dtype):
    """Observations of integers are refused; the wrapper that the error names helps."""
    space = spaces.Box(0, 100, (4,), dtype)
    constraint = rate_limit(0.25)

    def make():
        return gym.wrappers.TransformObservation(Walk(), lambda obs: np.abs(obs).astype(dtype), space)

    message = f"expected floats, got {np.dtype(dtype)}. Put gymnasium.wrappers.DtypeObservation"
    with pytest.raises(ValueError, match=message):
        ProjectAction(make(), constraint)
    with pytest.raises(ValueError, match=message):
        VecProjectAction(DummyVecEnv([make]), constraint)
    ProjectAction(make(), box(-0.5, 0.5))  # appends nothing
    env = ProjectAction(gym.wrappers.DtypeObservation(make(), np.float32), constraint)
    seen, infos = _steps(env, np.ones((4, 3), np.float32))
    np.testing.assert_array_equal(seen[1:, 4:], [info["action/executed"] for info in infos])
    np.testing.assert_allclose(seen[:, 4], [0.0, 0.25, 0.5, 0.75, 1.0], atol=1e-6)


class Parted(Walk):
    """Dict observations."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict(
            {"speed": self.observation_space, "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8)}
        )

    def _observe(self):
        return {"speed": super()._observe(), "camera": np.zeros((4, 4, 3), np.uint8)}


def test_dict_observations():
    env = ProjectAction(Parted(), SUMS.reading("speed"))
    obs, _ = env.reset(seed=0)
    speed = np.float64(obs["speed"])
    sent = env.step(np.ones(3, np.float32))[-1]["action/executed"]
    assert (np.abs(speed[:3] * sent).sum() - 0.5) / np.linalg.norm(speed[:3]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"the observation is a Dict with .*; say which part"):
        ProjectAction(Parted(), SUMS)
    with pytest.raises(ValueError, match=r"env: the constraint reads the last action, .*rate_limit\(...\).reading"):
        ProjectAction(Parted(), rate_limit(0.1))
    with pytest.raises(ValueError, match=r"reads the part 'sped'; the observation has '"):
        ProjectAction(Parted(), rate_limit(0.1).reading("sped"))
    empty = ProjectAction(Parted(), EMPTY.reading("speed"), fallback="error")
    empty.reset(seed=0)
    with pytest.raises(EmptySetError, match=r"in the state \{'speed'"):
        empty.step(np.ones(3, np.float32))


@pytest.mark.parametrize("many", [False, True])
def test_the_last_action_in_a_part_of_a_dict(many):
    """Beside another constraint that reads the same part, without it."""
    constraint = rate_limit(0.1).reading("speed") & SUMS.reading("speed")
    if many:
        venv = VecProjectAction(DummyVecEnv([Parted, Parted]), constraint)
        venv.seed(0)  # with other speeds no action may satisfy both
        obs, space = venv.reset(), venv.observation_space
        assert venv.get_attr("size_with_last_action") == [obs["speed"].shape[-1]] * 2
    else:
        env = ProjectAction(Parted(), constraint)
        (obs, _), space = env.reset(seed=0), env.observation_space
    assert space["speed"].shape[-1] == obs["speed"].shape[-1]
    last = np.zeros(3)
    for _ in range(4):
        speed = np.float64(obs["speed"] if not many else obs["speed"][0])
        np.testing.assert_array_equal(speed[-3:], last)
        if many:
            obs, _, _, infos = venv.step(np.ones((2, 3), np.float32))
            info = infos[0]
        else:
            obs, _, _, _, info = env.step(np.ones(3, np.float32))
        sent = np.float64(info["action/executed"])
        assert np.abs(sent - last).max() <= 0.1 + 1e-6
        assert (np.abs(speed[:3] * sent).sum() - 0.5) / np.linalg.norm(speed[:3]) <= 1e-6
        last = sent
        if many and infos[0].get("terminal_observation") is not None:
            np.testing.assert_array_equal(infos[0]["terminal_observation"]["speed"][-3:], np.float32(sent))
            last = np.zeros(3)


def _wall(obs):
    return Barrier(obs[:, :1], torch.zeros_like(obs[:, :1]), torch.ones(len(obs), 1, 1).to(obs))


def test_a_barrier_that_is_too_fast_for_the_step_is_told():
    fast = l1_ball(1.0) & control_barrier(_wall, (400.0))
    for env in (gym.make("Pendulum-v1"), gym.make("icnn_rl/Pendulum-Angle-v0", project=False)):
        with pytest.warns(ConstraintWarning, match=r"alpha = 400 does not keep B >= 0 at steps of 0.05 s: .* is 20,"):
            ProjectAction(env, fast)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConstraintWarning)
            ProjectAction(env, control_barrier(_wall, 2.0))
            ProjectAction(Walk(n=1), fast)  # which tells no step
    with pytest.warns(ConstraintWarning, match="steps of 0.05 s"):
        VecProjectAction(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), fast)


@pytest.mark.parametrize("constraint", [SUMS, rate_limit(0.2) & SUMS, ball(0.5) & SUMS, box(-0.2, 0.3), l1_ball(0.4)])
def test_many_environments_are_as_many_single_ones(constraint):
    number, steps = 3, 12  # over two resets
    lengths = (4, 5, 7)

    def make(length):
        return lambda: Walk(steps=length)

    venv = VecProjectAction(DummyVecEnv([make(length) for length in lengths]), constraint)
    singles = [ProjectAction(Walk(steps=length), constraint) for length in lengths]
    venv.seed(5)
    together = venv.reset()
    alone = [env.reset(seed=5 + i)[0].copy() for i, env in enumerate(singles)]
    assert venv.observation_space == singles[0].observation_space
    np.testing.assert_array_equal(together, alone)
    for actions in _actions(steps * number).reshape(steps, number, 3):
        together, _, dones, infos = venv.step(actions)
        for i, env in enumerate(singles):
            obs, _, terminated, _, info = env.step(actions[i])
            assert dones[i] == terminated
            for key, value in info.items():
                np.testing.assert_allclose(infos[i][key], value, rtol=1e-6, atol=1e-12, err_msg=key)
            if terminated:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], obs)
                obs, _ = env.reset()
            np.testing.assert_array_equal(together[i], obs)
            np.testing.assert_allclose(venv.executed_action[i], env.executed_action, rtol=1e-6, atol=1e-12)
    for inner, env in zip(venv.venv.envs, singles, strict=True):
        np.testing.assert_allclose(inner.received, env.unwrapped.received, rtol=1e-6, atol=1e-12)


def test_after_an_episode_the_constraint_reads_the_next_one():
    venv = VecProjectAction(DummyVecEnv([lambda: Walk(n=1, d=1, steps=1)]), linear([[1.0]], Reads(0)) & box(-5.0))
    venv.seed(0)
    obs = venv.reset()
    for _ in range(10):
        limit = float(obs[0, 0])
        obs, _, dones, infos = venv.step(np.ones((1, 1), np.float32))
        assert dones[0]
        assert infos[0]["terminal_observation"][0] != obs[0, 0]
        if limit > -1:
            assert infos[0]["action/executed"][0] == pytest.approx(min(limit, 1.0))


def test_one_bad_row_names_its_state_and_a_fallback_leaves_the_others():
    constraint = linear([[1.0]], Reads(0))
    states = np.array([[0.5], [-3.0], [-0.5]])
    for fallback, expected in (("least_violation", [0.5, -1.0, -0.5]), ([0.75], [0.5, 0.75, -0.5])):
        venv = VecProjectAction(DummyVecEnv([lambda: Walk(n=1, d=1)] * 3), constraint, fallback)
        venv.reset()
        venv._obs = torch.from_numpy(states)
        *_, infos = venv.step(np.ones((3, 1), np.float32))
        np.testing.assert_allclose([info["action/executed"][0] for info in infos], expected, atol=1e-6)
        assert [info["constraint/status"] for info in infos] == [0, Status.PRIMAL_INFEASIBLE, 0]
    venv = VecProjectAction(DummyVecEnv([lambda: Walk(n=1, d=1)] * 3), constraint, "error")
    venv.reset()
    venv._obs = torch.from_numpy(states)
    with pytest.raises(EmptySetError, match=r"in the state \[-3.0\]"):
        venv.step(np.ones((3, 1), np.float32))


def test_the_constraint_is_found_through_other_wrappers():
    env = Monitor(gym.wrappers.TimeLimit(ProjectAction(Walk(), SUMS), 3))
    assert env.get_wrapper_attr("constraint") == SUMS
    venv = DummyVecEnv([lambda: env])
    assert venv.get_attr("constraint") == [SUMS]
    many = VecMonitor(VecProjectAction(DummyVecEnv([Walk, Walk]), SUMS))
    assert many.get_attr("constraint") == [SUMS, SUMS]
    assert many.has_attr("constraint")
    assert many.get_attr("steps") == [5, 5]


@pytest.mark.parametrize("constraint", [SUMS, ball(0.5), rate_limit(0.2), box(-0.1, 0.1)])
def test_a_pickle_in_the_middle_of_an_episode_goes_on_as_the_original(constraint):
    env = ProjectAction(Walk(steps=100), constraint)
    _steps(env, _actions(5))
    again = pickle.loads(pickle.dumps(env))
    for action in _actions(5, seed=1):
        one, two = env.step(action), again.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[-1]["action/executed"], two[-1]["action/executed"])


def _with_backup(kind):
    return ProjectAction(Walk(), InSomeStates(box(2.5, 3.0)), fallback=kind([0.5, 0.25, 0.0]))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_the_environment_can_be_made_again_from_its_spec(kind):
    """Specs are compared and written as JSON, which arrays are not made for."""
    inside = gym.envs.registration.EnvSpec("Walk-v0", entry_point=_with_backup, kwargs={"kind": kind})
    env = gym.make(inside)
    for again in (env, gym.make(env.spec)):
        again.reset(seed=0)
        assert again.step(np.zeros(3, np.float32))[-1]["action/executed"].tolist() == [0.5, 0.25, 0.0]
    pendulum = ProjectAction(gym.make("Pendulum-v1"), InSomeStates(box(2.5, 3.0)), fallback=kind([0.5]))
    assert json.loads(pendulum.spec.to_json())["additional_wrappers"][0]["kwargs"]["fallback"] == [0.5]


def test_an_agent_with_noise_and_warm_up_stays_inside():
    """SB3 adds both after its policy; the innermost environment sees none of it."""
    inner = Walk(steps=20)
    env = ProjectAction(inner, SUMS)
    model = TD3("MlpPolicy", env, learning_starts=30, seed=0, policy_kwargs={"net_arch": [8]}, batch_size=8)
    seen = []
    step = inner.step
    inner.step = lambda action: (seen.append((inner.buffer.copy(), action)), step(action))[1]
    model.learn(60)
    assert len(seen) == 60
    for obs, action in seen:
        assert (np.abs(obs[:3] * np.float64(action)).sum() - 0.5) / np.linalg.norm(obs[:3]) <= 1e-6


def test_two_projections_in_turn_are_refused():
    once = ProjectAction(gym.make("Pendulum-v1"), box(-0.5, 0.5))
    with pytest.raises(ValueError, match=r"projected already.*first & second"):
        ProjectAction(once, box(-0.2, 0.2))
    with pytest.raises(ValueError, match="projected already"):
        VecProjectAction(DummyVecEnv([lambda: once]), box(-0.2, 0.2))
    many = VecProjectAction(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), box(-0.5, 0.5))
    with pytest.raises(ValueError, match="projected already"):
        VecProjectAction(VecMonitor(many), box(-0.2, 0.2))


def test_changed_units_are_refused_inside_a_vec_env_too():
    def normalised():
        return gym.wrappers.NormalizeObservation(gym.make("Pendulum-v1"))

    with pytest.raises(ValueError, match="NormalizeObservation changes them"):
        VecProjectAction(DummyVecEnv([normalised]), power_limit([2], 1.0))


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (power_limit([9], 1.0), "indices below 3"),
        (linear([[1.0, 1.0]], [1.0]), r"linear\.G: expected rows of 1"),
        (ball(1.0) & ball(0.5), "2 balls"),
        (power_limit([2], 1.0).reading("state"), "reads the part 'state'"),
    ],
)
def test_a_constraint_that_does_not_fit_is_found_at_once(constraint, text):
    with pytest.raises(ValueError, match=text):
        ProjectAction(gym.make("Pendulum-v1"), constraint)


def test_the_first_rate_is_measured_from_the_nearest_to_zero_that_the_action_space_has():
    shifted = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(1.0), np.float32(2.0))
    env = ProjectAction(shifted, rate_limit(0.2), trust_actions=True)
    obs, _ = env.reset(seed=0)
    assert obs[-1] == 1.0
    _, _, _, _, info = env.step(np.array([2.0], np.float32))
    assert info["constraint/status"] == Status.SUCCESS
    np.testing.assert_allclose(info["action/executed"], [1.2], atol=1e-6)
    info["action/executed"][:] = 7.0
    assert env.executed_action < 2.0


def test_nothing_is_active_where_nothing_is_allowed():
    env = ProjectAction(gym.make("Pendulum-v1"), InSomeStates(linear([[1.0], [-1.0]], [-0.5, -0.5])))
    env.reset(seed=0)
    info = env.step(np.zeros(1, np.float32))[-1]
    assert info["constraint/status"] == Status.PRIMAL_INFEASIBLE
    assert not info["constraint/active"]
