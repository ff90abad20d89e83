"""Every registered environment: its interface, what its constraint reads, and that nothing gets past it.

Violations are measured here with formulas written out over NumPy float64, not with the code under test.
"""

from __future__ import annotations

import itertools
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common import env_checker

from icnn_rl.constraints import ActionConstraint
from icnn_rl.envs import ENVIRONMENTS, ProjectAction, WithConstraint

MUJOCO = [name for name in ENVIRONMENTS if "Pendulum" not in name and "Point" not in name]
OURS = [name for name in ENVIRONMENTS if name not in MUJOCO]
TOL = 1e-6


def _total(w, a, limit):
    """sum |w a| <= limit."""
    norm = np.linalg.norm(w)
    return (np.abs(w * a).sum() - limit) / norm if norm else -np.inf


def _motoring(w, a, limit):
    """sum max(w a, 0) <= limit: the worst of the rows of all sets of motors."""
    worst = -np.inf
    for size in range(1, len(w) + 1):
        for motors in itertools.combinations(range(len(w)), size):
            some = list(motors)
            norm = np.linalg.norm(w[some])
            worst = max(worst, ((w * a)[some].sum() - limit) / norm if norm else -np.inf)
    return worst


def _lifting(env, a):
    q, v = env.unwrapped.data.qpos, env.unwrapped.data.qvel
    row = np.zeros(6)
    row[0] = v[3] * np.sin(q[3] + q[4] + q[5])
    row[3] = v[6] * np.sin(q[6] + q[7] + q[8])
    return (row @ a - 5.0) / np.linalg.norm(row)


def _pendulum(env, a):
    t, w = env.unwrapped.angle, env.unwrapped.rate
    after = w + 0.05 * (10.0 * np.sin(t) + 15.0 * a[0])
    return max(after - (0.6 - t) / 0.45, -after - (0.6 + t) / 0.45) / (0.05 * 15.0)


def _point(env, a):
    p, v = env.unwrapped.position, env.unwrapped.velocity
    after, worst = v + 0.05 * 8.0 * a, -np.inf
    for x, y, radius in ((-0.5, 0.55, 0.5), (-0.3, -0.6, 0.45), (0.6, 0.05, 0.4)):
        reach = np.hypot(p[0] - x, p[1] - y)
        worst = max(worst, -((p - (x, y)) / reach) @ after - (reach - radius) / 0.3)
    for sign in (1.0, -1.0):
        worst = max(worst, (sign * after - np.minimum((2.0 - sign * p) / 0.3, 2.0)).max())
    return worst / (0.05 * 8.0)


VIOLATION = {
    "Reacher-O03": lambda env, a: _total(env.unwrapped.data.qvel[:2], a, 0.3),
    "Reacher-O10": lambda env, a: _total(env.unwrapped.data.qvel[:2], a, 1.0),
    "Reacher-O30": lambda env, a: _total(env.unwrapped.data.qvel[:2], a, 3.0),
    "Reacher-L2": lambda env, a: np.linalg.norm(a) - np.sqrt(0.05),
    "HalfCheetah-O": lambda env, a: _total(env.unwrapped.data.qvel[3:9], a, 20.0),
    "HalfCheetah-MA": _lifting,
    "HalfCheetah-Box": lambda env, a: np.abs(a).max() - 0.5,
    "Hopper-M": lambda env, a: _motoring(np.clip(env.unwrapped.data.qvel[3:6], -10, 10), a, 10.0),
    "Hopper-Box": lambda env, a: max((a - 0.6).max(), (-0.4 - a).max()),
    "Walker2d-M": lambda env, a: _motoring(np.clip(env.unwrapped.data.qvel[3:9], -10, 10), a, 10.0),
    "Pendulum-Angle": _pendulum,
    "Point-Discs": _point,
}


def _pushing(env, obs, rng):
    """The action that violates most."""
    name = env.spec.id
    if "Reacher-O" in name or name.endswith(("HalfCheetah-O-v0", "-M-v0")):
        v = env.unwrapped.data.qvel
        return np.where((v[:2] if "Reacher" in name else v[3:]) >= 0, 1.0, -1.0)
    if "MA" in name:
        q, v = env.unwrapped.data.qpos, env.unwrapped.data.qvel
        action = rng.uniform(-1, 1, 6)
        action[[0, 3]] = np.sign(v[3] * np.sin(q[3:6].sum())), np.sign(v[6] * np.sin(q[6:9].sum()))
        return action
    if "Pendulum" in name:
        return np.sign(obs[2:3])
    if "Point" in name:
        return (5.0 * (obs[4:6] - obs[0:2]) - obs[2:4]).clip(-1, 1)
    return rng.choice([-1.0, 1.0], env.action_space.shape)


def _short(name):
    return name.removeprefix("icnn_rl/").removesuffix("-v0")


def _run(env, steps, seed, kinds):
    """Violations measured on the arrays that reached the innermost environment."""
    sent, inner, rng = [], env.unwrapped.step, np.random.default_rng(seed)
    violation, measured = VIOLATION[_short(env.spec.id)], []

    def spy(action):
        sent.append(action)
        measured.append(violation(env, np.asarray(action, np.float64)))
        return inner(action)

    env.unwrapped.step = spy
    space = env.action_space
    obs, _ = env.reset(seed=seed)
    for i in range(steps):
        kind = kinds[i % len(kinds)]
        if kind == "random":
            action = rng.uniform(space.low, space.high)
        elif kind == "pushing":
            action = _pushing(env, obs, rng)
        else:
            action = rng.choice([-1.0, 1.0], space.shape) * kind
        obs, _, terminated, truncated, info = env.step(action.astype(np.float32))
        if terminated or truncated:
            obs, _ = env.reset()
    del env.unwrapped.step
    return np.array(measured), np.array(sent), info


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_action_gets_past_the_wrapper(name):
    env = gym.make(name)
    measured, sent, _ = _run(env, 300, 1, ["random", "pushing", "pushing", 1e3, "pushing", 1e30])
    assert measured.max() <= TOL
    assert sent.dtype == np.float32
    assert all(env.action_space.contains(action) for action in sent)
    assert measured.max() > -1e-3  # the constraint was met on its border: the test can tell


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_without_the_wrapper_actions_violate(name):
    env = gym.make(name, project=False)
    assert isinstance(env.get_wrapper_attr("constraint"), ActionConstraint)
    measured, *_ = _run(env, 300, 1, ["random", "pushing", "pushing"])
    assert (measured > 1e-3).sum() >= 5


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_came_feasible_is_sent_unchanged_and_what_was_not_is_moved_least(name):
    env = gym.make(name)
    obs, _ = env.reset(seed=0)
    space, constraint = env.action_space, env.get_wrapper_attr("constraint")
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(space.low, space.high).astype(np.float32)
        state = torch.from_numpy(np.float64(obs)).unsqueeze(0)
        came_inside = bool(constraint.feasible(state, torch.from_numpy(np.float64(action)).unsqueeze(0), TOL))
        others = torch.from_numpy(rng.uniform(space.low, space.high, (200, *space.shape)))
        others = others[constraint.feasible(state, others)].numpy()
        obs, _, terminated, truncated, info = env.step(action)
        sent = info["action/executed"]
        assert (sent.tobytes() == action.tobytes()) == came_inside
        assert info["constraint/moved"] == pytest.approx(np.linalg.norm(np.float64(sent) - action), abs=1e-12)
        if len(others):  # no other feasible action is nearer
            assert info["constraint/moved"] <= np.linalg.norm(others - action, axis=1).min() + 1e-6
        if terminated or truncated:
            obs, _ = env.reset()


@pytest.mark.parametrize("name", MUJOCO)
def test_the_constraint_reads_the_velocities_and_angles_of_the_simulation(name):
    """Its violation on the observation is the formula's on the simulation's own numbers."""
    env = gym.make(name, project=False)
    constraint, violation = env.get_wrapper_attr("constraint"), VIOLATION[_short(name)]
    obs, _ = env.reset(seed=2)
    rng = np.random.default_rng(2)
    for _ in range(50):
        action = _pushing(env, obs, rng) * rng.uniform(0.1, 1.0, env.action_space.shape)
        reported = constraint.violation(torch.from_numpy(obs).unsqueeze(0), torch.from_numpy(action).unsqueeze(0))
        assert float(reported) == pytest.approx(violation(env, action), rel=1e-9, abs=1e-12)
        obs, *_, truncated, _ = env.step(action.astype(np.float32))
        if truncated:
            obs, _ = env.reset()


@pytest.mark.parametrize("name", OURS)
def test_the_rows_of_the_safety_tasks_are_those_of_the_next_state(name):
    env = gym.make(name, project=False)
    constraint, violation = env.get_wrapper_attr("constraint"), VIOLATION[_short(name)]
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        action = env.action_space.sample()
        with np.errstate(divide="ignore"):
            expected = violation(env, np.float64(action))
        state = torch.from_numpy(np.float64(obs)).unsqueeze(0)
        reported = float(constraint.violation(state, torch.from_numpy(np.float64(action)).unsqueeze(0)))
        assert reported == pytest.approx(expected, abs=1e-3)  # the rows aim 1e-4 inside the limits
        assert reported >= expected - 1e-6  # float32 observations


def test_clipped_velocities_are_what_hopper_is_held_to():
    """The observation cuts velocities at 10 rad/s; the power of the true ones may exceed the limit."""
    env = gym.make("icnn_rl/Hopper-M-v0")
    env.reset(seed=0)
    data = env.unwrapped.data
    env.unwrapped.set_state(data.qpos, np.array([0.0, 0.0, 0.0, 25.0, 0.0, 0.0]))
    wrapper = env.env.env
    while not isinstance(wrapper, ProjectAction):
        wrapper = wrapper.env
    wrapper._noted(env.unwrapped._get_obs())
    sent = env.step(np.array([1.0, 0.0, 0.0], np.float32))[-1]["action/executed"]
    np.testing.assert_array_equal(sent, [1.0, 0.0, 0.0])  # 10 * 1 <= 10, though 25 * 1 > 10


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_checkers_find_nothing(name):
    env = gym.make(name)
    with warnings.catch_warnings():
        # of gymnasium's own spaces: MuJoCo observations have no bounds
        warnings.filterwarnings("ignore", message=".*Box observation space m.*infinity.*")
        # and on purpose the environment is a wrapped one
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(env, skip_render_check=True)
    env_checker.check_env(gym.make(name))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_same_seed_gives_the_same_episode(name):
    def episode():
        env = gym.make(name)
        rng = np.random.default_rng(0)
        rows = [env.reset(seed=7)[0]]
        for _ in range(30):
            obs, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
            rows += [np.append(obs, reward)]
        return np.concatenate(rows)

    np.testing.assert_array_equal(episode(), episode())


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("project", [True, False])
def test_the_spec_and_a_pickle_make_the_environment_again(name, project):
    env = gym.make(name, project=project)
    assert str(gym.make(env.spec)) == str(env)
    again = pickle.loads(pickle.dumps(env))
    assert [type(layer) for layer in _layers(again)] == [type(layer) for layer in _layers(env)]
    again.reset(seed=0)
    again.step(again.action_space.sample())
    assert again.get_wrapper_attr("constraint") == env.get_wrapper_attr("constraint")


def test_settings_reach_the_wrapper_and_the_simulation():
    env = gym.make("icnn_rl/HalfCheetah-O-v0", max_power=1.0, tol=1e-4, ctrl_cost_weight=0.7)
    assert env.unwrapped._ctrl_cost_weight == 0.7
    assert env.get_wrapper_attr("_projector").tol == 1e-4
    assert env.get_wrapper_attr("constraint").limit == 1.0
    bare = gym.make("icnn_rl/HalfCheetah-O-v0", project=False)
    assert any(isinstance(layer, WithConstraint) for layer in _layers(bare))
    assert not any(isinstance(layer, ProjectAction) for layer in _layers(bare))


def _layers(env):
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


@pytest.mark.parametrize("name", ["HalfCheetah-O", "HalfCheetah-MA", "Hopper-M", "Walker2d-M"])
def test_observations_whose_entries_stand_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="exclude_current_positions_from_observation: expected True, got False"):
        gym.make(f"icnn_rl/{name}-v0", exclude_current_positions_from_observation=False)
    gym.make(f"icnn_rl/{name}-v0", exclude_current_positions_from_observation=True).close()


def test_a_limit_that_reads_nothing_takes_the_position_too():
    env = gym.make("icnn_rl/Hopper-Box-v0", exclude_current_positions_from_observation=False)
    assert env.observation_space.shape == (12,)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_gymnasium_knows_how_they_draw(name):
    env = gym.make(name, render_mode="rgb_array_list")
    assert "RenderCollection" in {type(layer).__name__ for layer in _layers(env)}
    if name in OURS:
        env.reset(seed=0)
        env.step(env.action_space.sample())
        assert len(env.render()) == 2
    env.close()


@pytest.mark.parametrize("name", OURS)
def test_pictures(name):
    env = gym.make(name, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (400, 400, 3)
    assert before.dtype == np.uint8
    for _ in range(20):
        env.step(env.action_space.sample())
    assert (env.render() != before).any()
    silent = gym.make(name)
    silent.reset()
    assert silent.unwrapped.render() is None
    with pytest.raises(ValueError, match="render_mode: expected None or 'rgb_array', got 'text'"):
        type(env.unwrapped)("text")
