"""ICNNQ under constraints: the argmax over the set, exploration inside it, and what is stored."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import (
    FlattenObservation,
    FrameStackObservation,
    RescaleObservation,
    TimeAwareObservation,
    TimeLimit,
    TransformObservation,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from icnn_rl import Status
from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.algorithm import _batch
from icnn_rl.agents.icnn_q.compiled import CompiledCritics
from icnn_rl.constraints import ActionConstraint, EmptySetError, ball, box, linear, power_limit, rate_limit
from icnn_rl.constraints.spaces import CHANGED_UNITS
from icnn_rl.envs import ProjectAction, WithConstraint
from icnn_rl.solvers import ProjectedNewton
from tests.unit.agents.concave import CONCAVE, small

SMALL = {"context": (16,), "hidden": (16,)}
BORDER = 1e-6


def tilted(obs: torch.Tensor) -> torch.Tensor:
    """One row (B, 1, 2) that turns with the observation."""
    return torch.stack((1.0 + 0.0 * obs[:, 0], obs[:, 0]), -1).unsqueeze(-2)


def contradiction(obs: torch.Tensor) -> torch.Tensor:
    """h of a_0 <= h_0, -a_0 <= h_1, which has no solution where the first observation is positive."""
    return torch.where(obs[:, :1] > 0, -0.5, 0.5).expand(-1, 2)


CONSTRAINTS = {
    "rows": linear(tilted, [0.3]),
    "power": power_limit([0, 1], 0.4),
    "box": box(-0.4, [0.2, 0.6]),
    "ball": ball(0.5, [0.1, -0.1]),
    "together": power_limit([0, 1], 0.6) & ball(0.7) & linear([[1.0, 1.0]], [0.5]),
}


class Recorded(gym.Env):
    """Two actions in [-2, 1] x [-1, 3]; keeps the action of every step with the observation that it was taken in."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([1.0, 3.0], np.float32))
        self.log: list[tuple[np.ndarray, np.ndarray]] = []
        self.executed: np.ndarray | None = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.obs = 0, self.np_random.normal(size=3).astype(np.float32)
        return self.obs, {}

    def step(self, action):
        self.log.append((self.obs, action.copy()))
        self.steps, self.obs = self.steps + 1, self.np_random.normal(size=3).astype(np.float32)
        info = {} if self.executed is None else {"action/executed": self.executed}
        return self.obs, float(-np.square(action - 0.5).sum()), self.steps >= 20, False, info


def make_agent(constraint: ActionConstraint | None, env: gym.Env | None = None, agent=ICNNQ, **kwargs) -> ICNNQ:
    policy_kwargs = small(agent, **{**SMALL, "constraint": constraint, **kwargs.pop("policy_kwargs", {})})
    return agent(
        "MlpPolicy",
        env or Recorded(),
        policy_kwargs=policy_kwargs,
        learning_starts=30,
        batch_size=16,
        seed=0,
        device="cpu",
        **kwargs,
    )


def spread_out(agent: ICNNQ) -> None:
    """Weights of a critic that has an opinion."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        agent.critic.clamp_weights_()


def as_double(obs: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(obs, dtype=torch.float64)


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("agent", CONCAVE)
def test_the_greedy_action_is_the_best_of_a_fine_grid(name, agent):
    constraint = CONSTRAINTS[name]
    agent = make_agent(constraint, agent=agent)
    spread_out(agent)
    obs = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    found = agent.best_action(obs)
    assert (found.status == Status.SUCCESS).all()
    assert (constraint.violation(as_double(obs), found.action.double()) <= BORDER).all()
    axes = [np.linspace(low, high, 151) for low, high in zip(*bounds(agent), strict=True)]
    grid = np.array(list(itertools.product(*axes)), np.float32)
    for i in range(len(obs)):
        here = np.repeat(obs[i : i + 1], len(grid), 0)
        allowed = constraint.feasible(as_double(here), as_double(grid)).numpy()
        best = agent.q_values(here[allowed], grid[allowed]).max()
        value = float(found.value[i])
        slack = 1e-4 * (1 + abs(value))
        assert value >= best - slack  # nothing allowed is better
        assert value + float(found.gap[i]) >= best - 1e-6 * (1 + abs(value))  # the certificate holds
        assert abs(agent.q_values(obs[i : i + 1], found.action[i : i + 1].numpy())[0] - value) <= slack


def bounds(agent: ICNNQ) -> tuple[np.ndarray, np.ndarray]:
    return agent.action_space.low, agent.action_space.high


def test_a_constraint_that_never_binds_changes_nothing():
    obs = np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)
    free, loose = make_agent(None), make_agent(linear([[1.0, 1.0]], [100.0]))
    for agent in (free, loose):
        spread_out(agent)
    np.testing.assert_allclose(free.predict(obs)[0], loose.predict(obs)[0], atol=2e-3)


@pytest.mark.parametrize("name", ["rows", "power", "ball"])
def test_every_step_of_the_training_is_inside(name):
    env = Recorded()
    agent = make_agent(CONSTRAINTS[name], env, exploration_noise=0.5)
    agent.learn(80)
    obs, action = (torch.as_tensor(np.array(part), dtype=torch.float64) for part in zip(*env.log, strict=True))
    assert len(obs) == 80
    violation = CONSTRAINTS[name].violation(obs, action)
    assert (violation <= BORDER).all()
    assert (violation > -BORDER).sum() > 10  # noise and random actions were moved to the border
    stored = torch.as_tensor(agent.replay_buffer.actions[:80, 0], dtype=torch.float64)
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in bounds(agent))
    torch.testing.assert_close(low + 0.5 * (high - low) * (stored + 1), action, atol=1e-6, rtol=0)


def test_without_the_constraint_steps_do_leave_the_set():
    env = Recorded()
    make_agent(None, env, exploration_noise=0.5).learn(60)
    obs, action = (torch.as_tensor(np.array(part), dtype=torch.float64) for part in zip(*env.log, strict=True))
    assert (CONSTRAINTS["power"].violation(obs, action) > BORDER).sum() > 10


def test_the_target_stays_inside_too(monkeypatch):
    monkeypatch.setattr(CompiledCritics, "fits", lambda net: False)
    agent = make_agent(CONSTRAINTS["rows"], target_policy_noise=1.0, target_noise_clip=1.0)
    agent.learn(40)
    seen = []
    energy_class = type(agent.critic_target.bind(torch.zeros(1, 3)))
    original = energy_class.member_values
    monkeypatch.setattr(energy_class, "member_values", lambda self, y: seen.append(y) or original(self, y))
    data = agent.replay_buffer.sample(64)
    agent.learner.draw(data.actions.unsqueeze(0))
    agent.learner._target(_batch(data), agent.learner._draws())
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in bounds(agent))
    action = low + 0.5 * (high - low) * (seen[-1].double() + 1)
    violation = CONSTRAINTS["rows"].violation(data.next_observations.double(), action)
    assert (violation <= BORDER).all()
    assert (violation > -BORDER).any()


@pytest.mark.parametrize("name", ["rows", "power", "box"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_compiled_target_is_the_uncompiled_one(name, noise):
    agent = make_agent(CONSTRAINTS[name], target_policy_noise=noise)
    agent.learn(60)
    learner, data = agent.learner, _batch(agent.replay_buffer.sample(64))
    if learner.targets.compiled is None:
        pytest.skip("needs numba")
    learner.solver = ProjectedNewton(tol=1e-6, max_steps=40)
    learner.td_square.zero_()
    learner.draw(data.actions)
    draws = learner._draws()
    target, usable, told = learner._target(data, draws)
    learner.targets.compiled = None
    expected, expected_usable, expected_told = learner._target(data, draws)
    assert torch.equal(usable, expected_usable)
    torch.testing.assert_close(target, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(told[:, 2:5], expected_told[:, 2:5])


def test_what_was_executed_is_stored():
    env = Recorded()
    env.executed = np.array([0.25, 1.0], np.float32)
    agent = make_agent(None, env)
    agent.learn(40)
    np.testing.assert_allclose(agent.replay_buffer.actions[:40, 0], [[0.5, 0.0]] * 40, atol=1e-6)


def test_states_without_an_allowed_action():
    agent = make_agent(linear([[1.0, 0.0], [-1.0, 0.0]], contradiction))
    agent.learn(60)
    obs = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], np.float32)
    found = agent.best_action(obs)
    assert found.status.tolist() == [Status.PRIMAL_INFEASIBLE, Status.SUCCESS]
    assert found.value.isfinite().all()
    np.testing.assert_allclose(found.value, agent.q_values(obs, found.action), rtol=1e-5)
    np.testing.assert_allclose(found.action[0, 0], 0.0, atol=1e-5)  # the least violation
    data = agent.replay_buffer.sample(64)
    agent.learner.draw(data.actions.unsqueeze(0))
    value, usable, _ = agent.learner._target(_batch(data), agent.learner._draws())
    assert usable.all()
    assert torch.isfinite(value).all()
    assert 0.2 < agent.logger.name_to_value["solver/empty_fraction"] < 0.8
    assert np.isfinite(agent.logger.name_to_value["solver/gap"])


def test_states_without_an_allowed_action_take_the_fallback(monkeypatch):
    limit = linear([[1.0, 0.0], [-1.0, 0.0]], contradiction)
    agent = make_agent(limit, policy_kwargs={"fallback": [-1.25, 2.5]})
    obs = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], np.float32)
    action, _ = agent.predict(obs, deterministic=True)
    np.testing.assert_allclose(action[0], [-1.25, 2.5], atol=1e-5)
    assert abs(action[1, 0]) <= 0.5 + 1e-6
    with pytest.raises(EmptySetError, match="no action satisfies it in 1 of"):
        make_agent(limit, policy_kwargs={"fallback": "error"}).predict(obs)


def test_saved_and_loaded_with_its_constraint(tmp_path):
    agent = make_agent(CONSTRAINTS["rows"], policy_kwargs={"act_solver": ProjectedNewton(tol=1e-6)})
    agent.learn(40)
    agent.save(tmp_path / "agent")
    loaded = ICNNQ.load(tmp_path / "agent", env=Recorded(), device="cpu")
    obs = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])
    assert loaded.policy.constraint == CONSTRAINTS["rows"]
    loaded.learn(10)


def test_same_seed_same_run():
    first, second = (make_agent(CONSTRAINTS["power"]).learn(50) for _ in range(2))
    obs = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_array_equal(first.predict(obs)[0], second.predict(obs)[0])


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (VecNormalize, "VecNormalize"),
        (lambda env: VecFrameStack(env, 2), "stack"),
    ],
)
def test_changed_observations_are_refused(wrap, message):
    with pytest.raises(ValueError, match=message):
        make_agent(CONSTRAINTS["rows"], wrap(DummyVecEnv([Recorded])))
    agent = make_agent(CONSTRAINTS["rows"])
    if wrap is VecNormalize:
        before = agent.env
        with pytest.raises(ValueError, match=message):
            agent.set_env(wrap(DummyVecEnv([Recorded])))
        assert agent.env is before
        assert agent.get_vec_normalize_env() is None
    assert make_agent(CONSTRAINTS["box"], wrap(DummyVecEnv([Recorded])))  # reads nothing


@pytest.mark.parametrize("wrapper", CHANGED_UNITS)
def test_wrappers_that_change_units_are_refused(wrapper):
    arguments = {RescaleObservation: (np.float32(-1), np.float32(1)), FrameStackObservation: (2,)}.get(wrapper, ())
    env = TransformObservation(Recorded(), np.tanh, gym.spaces.Box(-1, 1, (3,), np.float32))
    env = wrapper(env, *arguments)
    env = FlattenObservation(env) if wrapper is FrameStackObservation else env
    with pytest.raises(ValueError, match=wrapper.__name__):
        make_agent(CONSTRAINTS["rows"], env)
    assert make_agent(CONSTRAINTS["rows"], env, policy_kwargs={"trust_obs": True})


def test_a_rate_limit_needs_the_wrapper_that_appends_the_last_action():
    limit = rate_limit(0.1)
    with pytest.raises(ValueError, match=r"last action.*ProjectAction"):
        make_agent(limit)
    make_agent(limit, ProjectAction(Recorded(), limit)).learn(35)
    with pytest.raises(ValueError, match=r"last action.*ProjectAction"):
        make_agent(limit, WithConstraint(Recorded(), limit))  # appends nothing
    with pytest.raises(ValueError, match=r"numbers do not end with it: they did with .*TimeAwareObservation"):
        make_agent(limit, TimeAwareObservation(TimeLimit(ProjectAction(Recorded(), limit), 9)))
    make_agent(limit, ProjectAction(TimeAwareObservation(TimeLimit(Recorded(), 9)), limit)).learn(15)


def test_a_constraint_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"linear\.G: expected rows of 2 numbers"):
        make_agent(linear([[1.0, 1.0, 1.0]], [1.0]))
    with pytest.raises(ValueError, match=r"constraint: expected an ActionConstraint.*got dict"):
        make_agent({"power_limit": 20})
