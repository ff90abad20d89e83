"""ICNNQ as a Stable-Baselines3 algorithm: short runs, saving and loading, observations and actions of all kinds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from icnn_rl import Status
from icnn_rl.agents import ICNNQ, NAF, ICNNQPolicy
from icnn_rl.agents.icnn_q.batch import Batch
from icnn_rl.agents.icnn_q.compiled import CompiledCritics
from icnn_rl.agents.icnn_q.exploration import HeldNoise
from icnn_rl.agents.icnn_q.losses import bellman_loss, bellman_target, loss_numbers, on_bound
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, ProjectedNewton, ProximalBundle
from tests.unit.agents.concave import CONCAVE, small

SMALL: dict[str, Any] = {"context": (16,), "hidden": (8,)}
QUICK: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "buffer_size": 1000,
    "seed": 0,
    "policy_kwargs": SMALL,
}


def quick(algorithm: type[ICNNQ], **given: Any) -> dict[str, Any]:
    """Settings of a small agent."""
    return {**QUICK, **given, "policy_kwargs": small(algorithm, **given.get("policy_kwargs", {}))}


class ReachEnv(gym.Env[np.ndarray, np.ndarray]):
    """One step: reward -|a - target(s)|^2 in the environment's own, lopsided units. The best action is known."""

    def __init__(self, low: Any = (-2.0, 1.0), high: Any = (4.0, 3.0), reward: float | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        self.forced_reward = reward

    def target(self, obs: np.ndarray) -> np.ndarray:
        middle, half = (
            (self.action_space.high + self.action_space.low) / 2,
            (self.action_space.high - self.action_space.low) / 2,
        )
        return np.asarray(middle + 0.7 * half * obs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        half = (self.action_space.high - self.action_space.low) / 2
        reward = -float((((action - self.target(self.obs)) / half) ** 2).sum())
        return self.obs, reward if self.forced_reward is None else self.forced_reward, True, False, {}


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_finds_the_known_best_action_in_the_environments_units(algorithm: type[ICNNQ]) -> None:
    env = ReachEnv()
    agent = algorithm("MlpPolicy", env, learning_starts=200, batch_size=64, seed=0, policy_kwargs={"context": (32, 32)})
    agent.learn(900)
    obs = np.random.default_rng(0).uniform(-0.9, 0.9, (50, 2)).astype(np.float32)
    action, _ = agent.predict(obs, deterministic=True)
    scaled_error = (action - env.target(obs)) / (env.action_space.high - env.action_space.low)
    assert np.abs(scaled_error).mean() < 0.05


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_same_seed_same_run(algorithm: type[ICNNQ]) -> None:
    runs = [algorithm("MlpPolicy", "Pendulum-v1", **quick(algorithm)).learn(60) for _ in range(2)]
    for one, other in zip(runs[0].policy.parameters(), runs[1].policy.parameters(), strict=True):
        assert torch.equal(one, other)
    different = algorithm("MlpPolicy", "Pendulum-v1", **quick(algorithm, seed=1)).learn(60)
    assert any(
        not torch.equal(a, b) for a, b in zip(runs[0].policy.parameters(), different.policy.parameters(), strict=True)
    )


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_save_and_load_go_on_alike(algorithm: type[ICNNQ], tmp_path: Path) -> None:
    agent = algorithm("MlpPolicy", "Pendulum-v1", **quick(algorithm)).learn(60)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    copy = algorithm.load(tmp_path / "agent", env=gym.make("Pendulum-v1"))
    copy.load_replay_buffer(tmp_path / "buffer")
    obs = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(agent.predict(obs)[0], copy.predict(obs)[0])
    state, copied = agent.critic.optimizer.state_dict(), copy.critic.optimizer.state_dict()
    assert state["param_groups"] == copied["param_groups"]
    for key, entry in state["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, copied["state"][key][name])
    for model in (agent, copy):  # the next updates are the same, too
        model.set_logger(Logger(None, []))
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        model.train(5, 16)
    for one, other in zip(agent.policy.parameters(), copy.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_policy_alone_can_be_saved(tmp_path: Path) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK)
    agent.policy.save(str(tmp_path / "policy"))
    policy = ICNNQPolicy.load(str(tmp_path / "policy"))
    obs = np.zeros(3, np.float32)
    np.testing.assert_array_equal(agent.policy.predict(obs)[0], policy.predict(obs)[0])


def _goal_env() -> gym.Env[Any, Any]:
    return BitFlippingEnv(n_bits=3, continuous=True)


OBSERVATIONS: dict[str, tuple[str, Callable[[], gym.Env[Any, Any]], dict[str, Any]]] = {
    "vector": ("MlpPolicy", lambda: gym.make("Pendulum-v1"), {}),
    "image": (
        "CnnPolicy",
        lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False),
        {"policy_kwargs": {**SMALL, "features_extractor_kwargs": {"features_dim": 16}}, "buffer_size": 100},
    ),
    "dict": (
        "MultiInputPolicy",
        lambda: SimpleMultiObsEnv(discrete_actions=False),
        {"policy_kwargs": {**SMALL, "features_extractor_kwargs": {"cnn_output_dim": 16}}},
    ),
    "her": (
        "MultiInputPolicy",
        _goal_env,
        {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}},
    ),
    "n_step": ("MlpPolicy", lambda: gym.make("Pendulum-v1"), {"n_steps": 3}),
}


@pytest.mark.parametrize("algorithm", CONCAVE)
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_learns_from_every_kind_of_observation(algorithm: type[ICNNQ], kind: str, tmp_path: Path) -> None:
    policy, make, kwargs = OBSERVATIONS[kind]
    agent = algorithm(policy, make(), **quick(algorithm, **kwargs))
    before = [p.clone() for p in agent.critic.parameters()]
    agent.learn(40)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.critic.parameters(), strict=True))
    obs = make_vec_env(make, n_envs=2).reset()
    action, _ = agent.predict(obs)
    assert action.shape == (2, *agent.action_space.shape)
    agent.save(tmp_path / "agent")
    copy = algorithm.load(tmp_path / "agent", env=make())
    np.testing.assert_array_equal(action, copy.predict(obs)[0])


def test_several_envs_normalisation_and_noise() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=3))
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.2 * np.ones(1))
    agent = ICNNQ("MlpPolicy", env, action_noise=noise, train_freq=1, gradient_steps=-1, **QUICK)
    agent.learn(
        90,
        callback=EvalCallback(
            VecNormalize(make_vec_env("Pendulum-v1"), training=False), eval_freq=20, n_eval_episodes=1
        ),
    )
    assert agent.num_timesteps == 90


def test_gaussian_noise_is_the_default_and_can_be_replaced() -> None:
    rows, obs = np.zeros((1000, 1), np.float32), np.zeros((1000, 3), np.float32)
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK)
    assert agent.explore(rows, obs).std() == pytest.approx(0.2, rel=0.1)
    assert not ICNNQ("MlpPolicy", "Pendulum-v1", exploration_noise=0.0, **QUICK).explore(rows, obs).any()
    own = NormalActionNoise(np.zeros(1), np.ones(1))
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", action_noise=own, **QUICK)
    assert agent.action_noise is own
    assert not agent.explore(rows, obs).any()  # SB3 adds it


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_an_agent_goes_on_with_another_number_of_environments(before: int, after: int, tmp_path: Path) -> None:
    settings = {**QUICK, "exploration": {"kind": "held", "steps": 3}}
    ICNNQ("MlpPolicy", make_vec_env(ReachEnv, before), **settings).learn(40).save(tmp_path / "agent")
    agent = ICNNQ.load(tmp_path / "agent", env=make_vec_env(ReachEnv, after))
    assert isinstance(agent.exploration, HeldNoise)
    assert agent.exploration._noise is not None  # it goes on from where it was
    agent.learn(60)
    assert agent.exploration._noise.shape == (after, 2)


def test_noise_of_ones_own_is_saved_and_may_be_changed(tmp_path: Path) -> None:
    own = NormalActionNoise(np.zeros(2), np.full(2, 0.7))
    ICNNQ("MlpPolicy", ReachEnv(), action_noise=own, **QUICK).save(tmp_path / "agent")
    assert "sigma=[0.7 0.7]" in repr(ICNNQ.load(tmp_path / "agent").action_noise)
    ICNNQ("MlpPolicy", ReachEnv(), **QUICK).save(tmp_path / "agent")
    assert ICNNQ.load(tmp_path / "agent", action_noise=own).action_noise is own
    agent = ICNNQ.load(tmp_path / "agent")
    agent.action_noise = own
    agent.save(tmp_path / "agent")
    assert "sigma=[0.7 0.7]" in repr(ICNNQ.load(tmp_path / "agent").action_noise)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 5), (1, 3), (3, 3)])
@pytest.mark.parametrize("own", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_noise_of_ones_own_goes_on_with_another_number_of_environments(
    own: type[NormalActionNoise], before: int, after: int, tmp_path: Path
) -> None:
    noise = own(np.zeros(2), np.full(2, 0.7))
    ICNNQ("MlpPolicy", make_vec_env(ReachEnv, before), action_noise=noise, **QUICK).learn(40).save(tmp_path / "agent")
    agent = ICNNQ.load(tmp_path / "agent", env=make_vec_env(ReachEnv, after)).learn(60)
    assert agent.action_noise is not None
    assert agent.action_noise().shape == ((after, 2) if after > 1 else (2,))
    assert "sigma=[0.7 0.7]" in repr(agent.action_noise)


@pytest.mark.parametrize(
    "noise",
    [
        0.1,
        np.full(2, 0.1),
        NormalActionNoise(0.0, 0.1),  # type: ignore[arg-type]  # SB3 says so only when it draws
        NormalActionNoise(np.zeros(1), np.ones(1)),
        NormalActionNoise(np.zeros(3), np.ones(3)),
        NormalActionNoise(np.zeros((1, 2)), np.ones((1, 2))),
        NormalActionNoise(np.zeros(2), np.full(2, np.nan)),
        OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)),
        VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.ones(1)), 2),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_noise_that_does_not_fit_the_action_is_refused(noise: Any, n_envs: int) -> None:
    with pytest.raises(ValueError, match=r"action_noise: expected .*exploration_noise=0.1"):
        ICNNQ("MlpPolicy", make_vec_env(ReachEnv, n_envs), action_noise=noise, **QUICK)
    agent = ICNNQ("MlpPolicy", make_vec_env(ReachEnv, n_envs), **QUICK)
    agent.action_noise = noise
    with pytest.raises(ValueError, match=r"action_noise: expected .*exploration_noise=0.1"):
        agent.learn(30)


def test_looking_at_the_noise_draws_nothing() -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))
    agent = ICNNQ("MlpPolicy", ReachEnv(), action_noise=noise, **QUICK)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    agent._check_noise()
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not noise.noise_prev.any()


@pytest.mark.parametrize("steps", [0, 7])
def test_a_warm_up_set_before_learning_counts(steps: int, tmp_path: Path) -> None:
    ICNNQ("MlpPolicy", ReachEnv(), **{**QUICK, "learning_starts": None}).save(tmp_path / "agent")
    agent = ICNNQ.load(tmp_path / "agent", env=ReachEnv(), learning_starts=steps).learn(50)
    assert (agent.learning_starts, agent._n_updates) == (steps, 50 - steps)
    agent = ICNNQ.load(tmp_path / "agent", env=ReachEnv()).learn(50)
    assert (agent.learning_starts, agent._n_updates) == (5, 45)


def test_parameters_that_were_read_off_stay() -> None:
    """Whoever goes on learning: the agent that they are from, or one that they were given to."""
    agent = ICNNQ("MlpPolicy", ReachEnv(), **QUICK).learn(40)
    kept = agent.get_parameters()
    moments = [state["exp_avg"].clone() for state in kept["critic.optimizer"]["state"].values()]
    other = ICNNQ("MlpPolicy", ReachEnv(), **QUICK)
    other.set_parameters(kept)
    other.learn(40)
    agent.learn(40, reset_num_timesteps=False)
    for one, state in zip(moments, kept["critic.optimizer"]["state"].values(), strict=True):
        assert torch.equal(one, state["exp_avg"])


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_the_tensorboard_run_has_the_algorithms_name(algorithm: type[ICNNQ], tmp_path: Path) -> None:
    algorithm("MlpPolicy", ReachEnv(), tensorboard_log=str(tmp_path), **quick(algorithm)).learn(5)
    assert [path.name for path in tmp_path.iterdir()] == [f"{algorithm.__name__}_1"]


def test_an_activation_of_ones_own_acts_and_learns() -> None:
    obs = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2)).astype(np.float32)
    actions = []
    for activation in (torch.nn.Softplus(beta=2), "softplus"):  # the same function, by autograd and in closed form
        settings = {**QUICK, "policy_kwargs": {**SMALL, "activation": activation}}
        agent = ICNNQ("MlpPolicy", ReachEnv(), **settings).learn(60)
        actions.append(agent.predict(obs, deterministic=True)[0])
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-3)


@pytest.mark.parametrize("activation", ["relu", torch.nn.functional.leaky_relu])
def test_newtons_method_among_kinks_is_warned_of(activation: Any) -> None:
    kinked = {**SMALL, "activation": activation}
    with pytest.warns(UserWarning, match=r"activation: '(leaky_)?relu' is piecewise linear.*ProximalBundle"):
        ICNNQ("MlpPolicy", ReachEnv(), **{**QUICK, "policy_kwargs": kinked})
    agent = ICNNQ(
        "MlpPolicy", ReachEnv(), **{**QUICK, "policy_kwargs": {**kinked, "solver": ProximalBundle(tol=3e-4)}}
    ).learn(40)
    states = np.random.default_rng(0).uniform(-1.0, 1.0, (32, 2)).astype(np.float32)
    assert (agent.best_action(states).status == Status.SUCCESS).all()


def test_warm_up_is_a_tenth_of_the_first_run() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **{**QUICK, "learning_starts": None})
    agent.learn(200)
    assert agent.learning_starts == 20
    agent.learn(50, reset_num_timesteps=False)
    assert agent.learning_starts == 20


@pytest.mark.parametrize(
    "solver",
    [
        ProjectedNewton(max_steps=3),
        ProjectedGradient(max_steps=20),
        ProjectedGradient("adam", lr=0.05, max_steps=20),
        BundleEntropy(entropy=0.01, max_steps=6),
    ],
    ids=lambda solver: type(solver).__name__ + getattr(solver, "method", ""),
)
def test_any_solver_can_be_chosen(solver: Any) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **{**QUICK, "policy_kwargs": {**SMALL, "solver": solver}}).learn(30)
    assert agent.policy.solver == solver
    assert type(agent.critic.solver) is type(solver)
    action, _ = agent.predict(np.zeros(3, np.float32))
    assert agent.action_space.contains(action)


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_best_action_beats_a_grid_and_its_gap_is_a_bound(algorithm: type[ICNNQ]) -> None:
    env = ReachEnv()
    agent = algorithm("MlpPolicy", env, **{**QUICK, "policy_kwargs": {"context": (16,)}}).learn(100)
    obs = np.random.default_rng(1).uniform(-1, 1, (20, 2)).astype(np.float32)
    found = agent.best_action(obs)
    assert (found.status == Status.SUCCESS).all()
    np.testing.assert_allclose(agent.q_values(obs, found.action.numpy()), found.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.predict(obs)[0], found.action, rtol=1e-5, atol=1e-5)
    axes = [np.linspace(lo, hi, 41) for lo, hi in zip(env.action_space.low, env.action_space.high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    for i, one in enumerate(obs):
        best = agent.q_values(np.repeat(one[None], len(grid), 0), grid).max()
        assert best <= float(found.value[i] + found.gap[i]) + 1e-5


def test_critic_stays_concave_while_learning() -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv(), **{**QUICK, "policy_kwargs": {"context": (16,), "hidden": (8, 8)}}).learn(
        120
    )
    assert agent.critic.net.is_convex()
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    low, high = agent.action_space.low, agent.action_space.high
    a, b = rng.uniform(low, high, (2, 200, 2))
    middle = agent.q_values(obs, (a + b) / 2)
    assert (middle >= 0.5 * (agent.q_values(obs, a) + agent.q_values(obs, b)) - 1e-5).all()


def test_logs_the_solver(tmp_path: Path) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK).learn(40)
    logged = agent.logger.name_to_value
    for key in (
        "solver/num_steps",
        "solver/gap",
        "solver/converged_fraction",
        "solver/failed_fraction",
        "train/critic_loss",
        "train/td_error",
        "train/q_mean",
        "train/target_mean",
        "train/grad_norm",
        "train/on_bound_fraction",
    ):
        assert np.isfinite(logged[key]), key


def test_what_is_logged_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv(), reward_scale=10.0, **QUICK).learn(60)
    data = agent.replay_buffer.sample(16)  # type: ignore[union-attr]
    assert bool(data.dones.all())  # the target is the reward, and nothing of it is drawn
    monkeypatch.setattr(agent.replay_buffer, "sample", lambda *_, **__: data)
    agent.critic.optimizer.zero_grad()
    q = torch.cat(agent.critic(data.observations, data.actions), -1)
    error = q - 10.0 * data.rewards
    (error**2).mean(0).sum().backward()  # type: ignore[no-untyped-call]
    length = torch.cat([p.grad.flatten() for p in agent.critic.parameters() if p.grad is not None]).norm()
    best = torch.stack([agent.critic_target._predict(o[None])[0] for o in data.next_observations])  # type: ignore[union-attr]
    agent.logger.name_to_value.clear()
    agent.logger.name_to_count.clear()
    agent.train(1, 16)
    logged = agent.logger.name_to_value
    for key, expected in (
        ("critic_loss", (error**2).mean(0).sum()),
        ("td_error", (error**2).mean().sqrt()),
        ("q_mean", q.mean()),
        ("target_mean", 10.0 * data.rewards.mean()),
        ("grad_norm", length),
        ("on_bound_fraction", (best.abs() == 1.0).float().mean()),
    ):
        assert logged[f"train/{key}"] == pytest.approx(expected.item(), rel=1e-4), key


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_the_device_is_that_of_the_weights(algorithm: type[ICNNQ]) -> None:
    policy = algorithm("MlpPolicy", ReachEnv(), **quick(algorithm)).policy
    assert policy.device == policy.critic.device == next(policy.parameters()).device
    assert policy.to("meta").device == policy.critic_target.device == torch.device("meta")


def test_every_status_without_a_usable_value_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledCritics, "fits", lambda net: False)
    agent = ICNNQ("MlpPolicy", ReachEnv(), **QUICK)
    maximise = type(agent.critic).maximise

    def spoiled(self: Any, *given: Any) -> Any:
        solution = maximise(self, *given)
        solution.status.copy_(torch.tensor([int(status) for status in Status]))
        return solution

    monkeypatch.setattr(type(agent.critic), "maximise", spoiled)
    action, _ = agent.predict(np.zeros((len(Status), 2), np.float32), deterministic=True)
    assert agent.policy.act_failed == len(Status) - 2  # all but SUCCESS and MAX_STEPS
    assert np.isnan(action).all(1).tolist() == [status == Status.NONFINITE_INPUT for status in Status]


def test_the_share_on_a_bound_and_the_numbers_of_a_loss() -> None:
    actions = torch.tensor([[1.0, -1.0], [0.999, 1.0], [0.0, 0.5], [float("nan"), 0.0]])
    assert on_bound(actions).tolist() == [1.0, 0.5, 0.0, 0.0]
    energies, target = torch.tensor([[-1.0, -2.0], [-3.0, -6.0]]), torch.tensor([2.0, 9.0])
    usable = torch.tensor([True, False])
    loss = bellman_loss(energies, target, usable)
    assert loss_numbers(loss, energies, target, usable).tolist() == [2.0, 1.0, 3.0, 2.0]


def test_one_failed_argmax_is_counted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledCritics, "fits", lambda net: False)
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK).learn(30)
    maximise = type(agent.critic_target).maximise

    def spoiled(self: Any, energy: Any, solver: Any, *rest: Any) -> Any:
        solution = maximise(self, energy, solver, *rest)
        solution.status[0] = Status.NONFINITE_INPUT
        solution.value[0] = float("nan")
        return solution

    monkeypatch.setattr(type(agent.critic_target), "maximise", spoiled)
    agent.logger.name_to_value.clear()
    agent.logger.name_to_count.clear()
    agent.train(1, 16)
    assert agent.logger.name_to_value["solver/failed_fraction"] == pytest.approx(1 / 16)
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())


def test_the_targets_search_stops_where_its_gap_is_small_beside_the_td_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(CompiledCritics, "fits", lambda net: False)
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", learning_starts=20, target_gap=0.5, policy_kwargs=SMALL, seed=0)
    losses, given = [], []
    maximise = agent.critic_target.maximise

    def spy(*args: Any) -> Any:
        given.append(float(args[-1]))
        return maximise(*args)

    def listen(name: str, value: float, *_: Any) -> None:
        if name == "train/critic_loss":
            losses.append(value)

    monkeypatch.setattr(agent.critic_target, "maximise", spy)
    agent.set_logger(Logger(None, []))
    monkeypatch.setattr(agent.logger, "record_mean", listen)
    agent.learn(60)
    # a running mean from 0 on, that takes a hundredth of the mean square of every update, over two members
    mean_square, expected = 0.0, []
    for loss in losses:
        expected.append(0.5 * mean_square**0.5)
        mean_square = 0.99 * mean_square + 0.01 * loss / 2
    assert len(given) == 40
    assert given == pytest.approx(expected, rel=1e-4)
    agent.save(tmp_path / "agent.zip")
    assert ICNNQ.load(tmp_path / "agent.zip").td_square == agent.td_square > 0


def test_averaged_weights_act_where_there_is_nothing_to_explore(tmp_path: Path) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", seed=0, policy_kwargs={"average_weights": True}, learning_starts=20)
    agent.learn(60).save(tmp_path / "agent")
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    by_own = agent.policy.unscale_action(agent.critic.greedy(torch.as_tensor(obs)).action.numpy())
    by_average = agent.policy.unscale_action(agent.critic_target.greedy(torch.as_tensor(obs)).action.numpy())
    assert np.abs(by_own - by_average).max() > 1e-3
    np.testing.assert_allclose(agent.predict(obs)[0], by_own, atol=1e-6)
    for one in (agent, ICNNQ.load(tmp_path / "agent")):
        found = one.best_action(obs)
        np.testing.assert_allclose(one.predict(obs, deterministic=True)[0], by_average, atol=1e-6)
        np.testing.assert_allclose(found.action.numpy(), by_average, atol=1e-6)
        np.testing.assert_allclose(one.q_values(obs, by_average), found.value.numpy(), rtol=1e-4, atol=1e-5)


def test_bellman_loss_by_hand() -> None:
    energies = torch.tensor([[-1.0, 2.0, float("nan")], [0.0, 1.0, 5.0]])  # Q = -energies
    target = torch.tensor([2.0, -1.0, 3.0])
    usable = torch.tensor([True, True, False])
    # member 1: errors 1 - 2 = -1, -2 + 1 = -1; member 2: 0 - 2 = -2, -1 + 1 = 0; mean over two rows, sum over members
    assert bellman_loss(energies, target, usable).item() == pytest.approx((1 + 1 + 4 + 0) / 2)
    assert bellman_loss(energies, target, torch.zeros(3, dtype=torch.bool)).isnan()


def test_a_terminal_state_needs_no_search() -> None:
    nan = float("nan")
    next_value, terminal = torch.tensor([2.0, nan, nan]), torch.tensor([False, True, False])
    target, usable = bellman_target(torch.ones(3), terminal, 0.5, next_value, torch.tensor([True, False, False]))
    assert usable.tolist() == [True, True, False]
    assert target[:2].tolist() == [2.0, 1.0]


def next_value(agent: ICNNQ, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """V'(s') and which rows have it, with the solver's own tolerance."""
    learner = agent.learner
    learner.td_square.zero_()
    learner.draw(torch.zeros(1, len(obs), agent.critic.action_dim))
    never = torch.zeros(1, len(obs))
    batch = Batch(obs, obs, torch.zeros(1, len(obs), agent.critic.action_dim), never, never)
    value, usable, _ = learner._target(batch, learner._draws())
    return value[0] / agent.gamma, usable[0]


def test_target_is_the_twin_minimum_with_truncation_not_termination() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", target_policy_noise=0.0, **QUICK).learn(30)
    obs = torch.randn(7, 3)
    agent.policy.solver = ProjectedNewton(tol=1e-7, max_steps=60)
    value, usable = next_value(agent, obs)
    with torch.no_grad():
        energy = agent.critic_target.bind(obs)
        best = agent.critic_target.maximise(energy, ProjectedGradient(tol=1e-7), obs).value
        by_hand = torch.min(*agent.critic_target(obs, best)).squeeze(-1)
    assert usable.all()
    torch.testing.assert_close(value, by_hand, rtol=1e-3, atol=1e-4)
    buffer = agent.replay_buffer
    assert buffer is not None
    buffer.dones[:] = 1.0
    buffer.timeouts[:] = 1.0  # every transition ended by the time limit
    assert buffer.sample(8).dones.sum() == 0


@pytest.mark.parametrize("members", [1, 2, 4, None])
def test_the_target_is_the_least_of_the_members_drawn(members: int | None) -> None:
    settings = {**QUICK, "policy_kwargs": {**SMALL, "n_critics": 4}}
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", target_policy_noise=0.0, target_members=members, **settings).learn(30)
    obs = torch.randn(7, 3)
    with torch.no_grad():
        energy = agent.critic_target.bind(obs)
        best = agent.critic_target.maximise(energy, agent.policy.solver, obs).value
        q = torch.cat(agent.critic_target(obs, best), -1)  # (7, 4)
    possible = [q[:, list(some)].amin(-1) for some in itertools.combinations(range(4), members or 4)]
    seen = set()
    for _ in range(60):
        value, _ = next_value(agent, obs)
        distance = [float((value - one).abs().max()) for one in possible]
        assert min(distance) < 1e-3
        seen.add(int(np.argmin(distance)))
    assert seen == set(range(len(possible)))


class NoiseEnv(gym.Env[np.ndarray, np.ndarray]):
    """A reward that no action has a say in."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1.0, 1.0, (8,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.np_random.normal(size=3).astype(np.float32), float(self.np_random.normal()), True, False, {}


def test_smoothed_actions_find_less_of_an_advantage_in_noise() -> None:
    obs = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)

    def advantage(smoothing: float) -> float:
        settings = {"action_smoothing": smoothing, "seed": 0, "device": "cpu", "learning_starts": 200}
        agent = ICNNQ("MlpPolicy", NoiseEnv(), batch_size=64, policy_kwargs={"context": (32, 32)}, **settings)
        agent.learn(600)
        return float(np.mean(agent.best_action(obs).value.numpy() - agent.q_values(obs, np.zeros((100, 8)))))

    assert 0 < advantage(1.0) < 0.75 * advantage(0.0)


def test_reward_scale_changes_the_unit_and_nothing_else() -> None:
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def trained(env: gym.Env[Any, Any], scale: float) -> ICNNQ:
        settings = {"reward_scale": scale, "seed": 0, "device": "cpu", "learning_starts": 20}
        return ICNNQ("MlpPolicy", env, batch_size=16, policy_kwargs={"context": (16,)}, **settings).learn(60)

    plain = trained(NoiseEnv(), 1.0)
    large = trained(gym.wrappers.TransformReward(NoiseEnv(), lambda reward: 1024.0 * float(reward)), 1.0 / 1024.0)
    for one, other in zip(plain.policy.parameters(), large.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    mine, theirs = plain.best_action(obs), large.best_action(obs)
    assert torch.equal(mine.action, theirs.action)
    assert torch.equal(1024.0 * mine.value, theirs.value)
    assert torch.equal(1024.0 * mine.gap, theirs.gap)
    action = mine.action.numpy()
    assert np.array_equal(1024.0 * plain.q_values(obs, action), large.q_values(obs, action))


def test_multidimensional_actions() -> None:
    class MatrixEnv(ReachEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-1.0, 2.0, (2, 3), np.float32)

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            assert action.shape == (2, 3)
            return self.obs, -float((action**2).sum()), True, False, {}

    agent = ICNNQ("MlpPolicy", MatrixEnv(), **QUICK).learn(40)
    assert agent.predict(np.zeros(2, np.float32))[0].shape == (2, 3)
    assert agent.best_action(np.zeros((4, 2), np.float32)).action.shape == (4, 2, 3)
    assert agent.q_values(np.zeros((4, 2), np.float32), np.zeros((4, 2, 3))).shape == (4,)


# what must be refused, and how


_LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("algorithm", CONCAVE)
@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-np.inf, 1.0, np.float32),
        (0.0, 0.0, np.float32),
        (-_LARGEST, _LARGEST, np.float32),
        (-0.6 * _LARGEST, 0.6 * _LARGEST, np.float32),
        (-1e300, 1e300, np.float64),
        (1e9, 1e9 + 1.0, np.float64),
    ],
)
def test_action_space_must_be_a_finite_box(algorithm: type[ICNNQ], low: float, high: float, dtype: type) -> None:
    env = ReachEnv()
    env.action_space = spaces.Box(np.array([low, -1.0], dtype), np.array([high, 1.0], dtype), dtype=dtype)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="action space: expected"):
        algorithm("MlpPolicy", env)


def test_a_very_wide_box_is_no_trouble() -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv((-1e38, -1.0), (1e38, 1.0)), **QUICK).learn(40)
    assert np.isfinite(agent.predict(np.zeros(2, np.float32))[0]).all()


def test_a_scalar_action_is_refused() -> None:
    with pytest.raises(ValueError, match=r"action space: expected a vector, got the scalar Box.*shape \(1,\)"):
        ICNNQ("MlpPolicy", ReachEnv(-1.0, 1.0))


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="Discrete"):
        ICNNQ("MlpPolicy", "CartPole-v1")


def test_nan_observation_is_named() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK)
    with pytest.raises(ValueError, match="observation: contains NaN"):
        agent.predict(np.full(3, np.nan, np.float32))
    with pytest.raises(ValueError, match="observation: contains NaN"):
        agent.best_action(np.full((1, 3), np.inf, np.float32))
    with pytest.raises(ValueError, match="observation: contains NaN or numbers that are infinite in float32"):
        agent.predict(np.array([0.0, 1e39, 0.0]))


@pytest.mark.parametrize("algorithm", CONCAVE)
def test_nan_never_becomes_an_action_of_a_policy_alone(algorithm: type[ICNNQ], tmp_path: Path) -> None:
    algorithm("MlpPolicy", "Pendulum-v1", **quick(algorithm)).policy.save(tmp_path / "policy")
    policy = algorithm.policy_aliases["MlpPolicy"].load(tmp_path / "policy")
    obs = np.array([[0.0, np.nan, 0.0], [0.5, 0.5, 0.0]], np.float32)
    with pytest.raises(ValueError, match="observation: contains NaN"):
        policy.predict(obs)
    actions = policy._predict(torch.as_tensor(obs))
    assert actions.isnan().tolist() == [[True], [False]]


def test_nan_in_the_very_first_observation_is_named() -> None:
    class Starts(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            obs, info = self.env.reset(**kwargs)
            return np.full_like(obs, np.nan), info

    with pytest.raises(ValueError, match="observation: contains NaN"):
        ICNNQ("MlpPolicy", Starts(gym.make("Pendulum-v1")), **QUICK).learn(10)


def test_nan_reward_is_named_and_not_stored() -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv(reward=float("nan")), **QUICK)
    with pytest.raises(ValueError, match="reward: the environment returned"):
        agent.learn(10)
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.size() == 0


def test_nan_in_the_last_observation_of_an_episode_is_named_and_not_stored() -> None:
    class Breaks(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            obs, reward, *_, info = self.env.step(action)
            return np.full_like(obs, np.nan), reward, True, False, info

    agent = ICNNQ("MlpPolicy", Breaks(gym.make("Pendulum-v1")), **QUICK)
    with pytest.raises(ValueError, match="observation: contains NaN"):
        agent.learn(10)
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.size() == 0


@pytest.mark.parametrize("learning_rate", [1e3, 1e10, 1e30])
def test_divergence_is_an_error_also_where_no_row_is_left_to_show_it(learning_rate: float) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **{**QUICK, "learning_rate": learning_rate})
    with pytest.raises(
        FloatingPointError, match=r"critic loss is|no transition .* has a target|critic's value .* is not finite"
    ):
        agent.learn(300)
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())


def test_diverged_loss_stops_before_it_spoils_the_weights() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK).learn(40)
    assert agent.replay_buffer is not None
    agent.replay_buffer.rewards[:] = 1e30
    with pytest.raises(FloatingPointError, match="critic loss is"):
        agent.train(50, 16)
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())


def test_a_batch_without_a_target_is_named() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **QUICK).learn(40)
    with torch.no_grad():
        next(agent.critic_target.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"no transition of the batch has a target, .* at update 20:"):
        agent.train(1, 16)


def test_actions_never_leave_the_box_by_rounding() -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv((-0.4, -1.0), (0.7, 1 / 3)), **QUICK)
    space = agent.action_space
    assert isinstance(space, spaces.Box)
    scaled = np.linspace(-1.0, 1.0, 1001, dtype=np.float32)[:, None].repeat(2, 1)
    actions = agent.policy.unscale_action(scaled)
    assert ((actions >= space.low) & (actions <= space.high)).all()
    np.testing.assert_allclose(actions, space.low + (scaled + 1) / 2 * (space.high - space.low), atol=1e-6)


@pytest.mark.parametrize(("keyword", "value"), [("n_steps", 1), ("n_steps", 2), ("gamma", 0.5)])
def test_a_loaded_agent_may_have_other_returns(keyword: str, value: float, tmp_path: Path) -> None:
    given: dict[str, Any] = {"handle_timeout_termination": True}
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", n_steps=3, replay_buffer_kwargs=given, **QUICK)
    assert given.keys() == {"handle_timeout_termination"}
    agent.save(tmp_path / "agent")
    loaded = ICNNQ.load(tmp_path / "agent", gym.make("Pendulum-v1"), **{keyword: value})
    expected = {"n_steps": 3, "gamma": 0.99, keyword: value}
    assert isinstance(loaded.replay_buffer, NStepReplayBuffer) == (expected["n_steps"] > 1)
    if isinstance(loaded.replay_buffer, NStepReplayBuffer):
        assert {name: getattr(loaded.replay_buffer, name) for name in expected} == expected


@pytest.mark.parametrize("kwargs", [{"foreach": True}, {"differentiable": False}, {"fused": False}])
def test_adams_own_arguments_are_left_as_given(kwargs: dict[str, Any]) -> None:
    settings = {**QUICK, "policy_kwargs": {**SMALL, "optimizer_kwargs": kwargs}}
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", **settings).learn(30)
    ((name, value),) = kwargs.items()
    assert agent.critic.optimizer.defaults[name] == value


def test_wrong_shapes_of_actions_are_named() -> None:
    agent = ICNNQ("MlpPolicy", ReachEnv(), **QUICK)
    obs = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"action: expected finite numbers of shape \(B, 2\)"):
        agent.q_values(obs, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="action: expected 4 rows"):
        agent.q_values(obs, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"exploration_noise": -0.1}, "exploration_noise"),
        ({"action_smoothing": -0.1}, "action_smoothing"),
        ({"reward_scale": 0.0}, "reward_scale"),
        ({"policy_delay": 0}, "policy_delay"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1, got 0"),
        ({"gamma": 2.0}, r"gamma: expected a number in \[0.0, 1.0\], got 2.0"),
        ({"tau": -1.0}, "tau: expected a number in"),
        ({"target_members": 0}, "target_members: expected an integer >= 1"),
        ({"target_members": 3}, "target_members: expected at most n_critics = 2, got 3"),
        ({"policy_kwargs": {"hidden": (0,)}}, "hidden"),
        ({"policy_kwargs": {"hidden": 64}}, r"hidden: expected a sequence of layer widths such as \(64, 64\), got 64"),
        ({"policy_kwargs": {"activation": "silu"}}, "activation"),
        ({"policy_kwargs": {"activation": torch.tanh}}, "not convex"),
        ({"policy_kwargs": {"context": (8,), "net_arch": [8]}}, "net_arch and context"),
        ({"policy_kwargs": {"picnn_kwargs": {"hidden": (4,)}}}, "picnn_kwargs: expected gate, .* got hidden"),
        (
            {"policy_kwargs": {"normalize_observations": False, "features_extractor_kwargs": {"ignored": (0, 1)}}},
            "features_extractor_kwargs: ignored is for vector observations",
        ),
    ],
)
def test_wrong_settings_name_the_argument(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ICNNQ("MlpPolicy", "Pendulum-v1", **kwargs)


@pytest.mark.parametrize("kwargs", [{"hidden": [4]}, {"activation": "softplus"}, {"picnn_kwargs": {}}])
def test_naf_refuses_what_it_has_no_use_for(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))}: NAF's critic is a quadratic"):
        NAF("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)


def test_naf_does_not_load_what_another_agent_saved(tmp_path: Path) -> None:
    ICNNQ("MlpPolicy", "Pendulum-v1").save(tmp_path / "icnn")
    with pytest.raises(ValueError, match=r"policy: NAF takes NAFPolicy .* got ICNNQPolicy"):
        NAF.load(tmp_path / "icnn")


def test_net_arch_is_the_context() -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": {"pi": [4], "qf": [8, 9]}})
    assert agent.policy.context == (8, 9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_learns_on_cuda() -> None:
    agent = ICNNQ("MlpPolicy", DummyVecEnv([lambda: gym.make("Pendulum-v1")]), device="cuda", **QUICK).learn(60)
    assert agent.predict(np.zeros((3, 3), np.float32))[0].shape == (3, 1)
