"""Constrained policies under SB3's algorithms: feasible actions, the right densities and gradients, honest units."""

from __future__ import annotations

import inspect
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecExtractDictObs, VecFrameStack, VecNormalize
from stable_baselines3.sac.policies import Actor as SACActor
from torch import Tensor

from icnn_rl.agents import (
    ConstrainedPPOPolicy,
    ConstrainedSACPolicy,
    ConstrainedTD3Policy,
    ConstraintCallback,
    ExecutedActionDictReplayBuffer,
    ExecutedActionReplayBuffer,
    check_agent,
)
from icnn_rl.agents.constrained.observations import check_observations
from icnn_rl.constraints import ActionProjection, ConstraintWarning, box, l1_ball, linear, power_limit, rate_limit
from icnn_rl.envs import VecProjectAction
from tests.unit.agents.constrained_env import BUDGET, HIGH, LOW, DriftEnv, Projecting

AGENTS: dict[str, tuple[type[BaseAlgorithm], type]] = {
    "td3": (TD3, ConstrainedTD3Policy),
    "ddpg": (DDPG, ConstrainedTD3Policy),
    "sac": (SAC, ConstrainedSACPolicy),
    "ppo": (PPO, ConstrainedPPOPolicy),
    "a2c": (A2C, ConstrainedPPOPolicy),
}
OFF_POLICY = ("td3", "ddpg", "sac")


def _options(name: str) -> dict[str, Any]:
    if name in OFF_POLICY:
        return {
            "learning_starts": 40,
            "buffer_size": 500,
            "batch_size": 16,
            "replay_buffer_class": ExecutedActionReplayBuffer,
        }
    return {"n_steps": 50, "batch_size": 25, "n_epochs": 2} if name == "ppo" else {}


def _agent(name: str, env: Any = None, **policy_kwargs: Any) -> Any:
    algorithm, policy = AGENTS[name]
    options = _options(name)
    if env is not None and isinstance(env.observation_space, spaces.Dict):
        options.pop("replay_buffer_class", None)
    kwargs = {"constraint": BUDGET, "net_arch": [16], **policy_kwargs}
    env = Projecting(DriftEnv(), BUDGET) if env is None else env
    agent = algorithm(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **options)  # type: ignore[call-arg]
    check_agent(agent)
    return agent


def _observations(count: int = 60) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 4)).astype(np.float32)


def _violation(obs: np.ndarray, action: np.ndarray) -> float:
    return float(BUDGET.violation(torch.as_tensor(obs).double(), torch.as_tensor(action).double()).max())


@pytest.mark.parametrize("head", ["projection", "optnet"])
@pytest.mark.parametrize("name", AGENTS)
def test_learns_and_every_action_is_feasible(name: str, head: str) -> None:
    agent = _agent(name, head=head, projection_penalty=0.1)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(100)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
    obs = _observations()
    for deterministic in (True, False):
        action, _ = agent.predict(obs, deterministic=deterministic)
        assert _violation(obs, action) <= 1e-6
        assert np.all(action >= LOW)
        assert np.all(action <= HIGH)
    single, _ = agent.predict(obs[0], deterministic=True)
    assert single.shape == (2,)
    numbers = agent.policy.constraint_numbers
    assert agent.policy.constraint_failed == numbers["failed"] == 0
    assert 0 < numbers["moved"] <= numbers["rows"]
    assert agent.env.envs[0].env.worst <= 1e-6  # Monitor, then Projecting


@pytest.mark.parametrize("name", AGENTS)
def test_learned_rows(name: str) -> None:
    agent = _agent(name, head="optnet", optnet_kwargs={"n_ineq": 2, "quadratic": "diagonal"}).learn(60)
    obs = _observations(10)
    assert _violation(obs, agent.predict(obs)[0]) <= 1e-6
    assert agent.policy.constraint_failed == 0


@pytest.mark.parametrize("head", ["projection", "optnet"])
@pytest.mark.parametrize("name", ["td3", "sac", "ppo"])
def test_save_and_load(name: str, head: str, tmp_path: Path) -> None:
    agent = _agent(name, head=head, fallback=[0.0, 1.0]).learn(60)
    obs = _observations()
    expected = agent.predict(obs, deterministic=True)[0]
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=Projecting(DriftEnv(), BUDGET))
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    assert loaded.policy_kwargs["constraint"] == BUDGET
    loaded.learn(20, reset_num_timesteps=False)
    agent.policy.save(tmp_path / "policy")
    policy = type(agent.policy).load(tmp_path / "policy")
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], expected)
    assert policy.settings == agent.policy.settings


@pytest.mark.parametrize("name", ["td3", "sac", "ppo"])
def test_same_seed_same_run(name: str) -> None:
    runs = [_agent(name).learn(80) for _ in range(2)]
    for one, other in zip(runs[0].policy.parameters(), runs[1].policy.parameters(), strict=True):
        assert torch.equal(one, other)


# gradients


def test_td3_without_a_binding_constraint_is_sb3s_td3() -> None:
    loose = linear([[1.0, 1.0]], [100.0])
    mine = _agent("td3", env=DriftEnv(), constraint=loose).learn(60)
    theirs = TD3("MlpPolicy", DriftEnv(), seed=0, policy_kwargs={"net_arch": [16]}, **_options("td3")).learn(60)
    for (name, one), (other_name, other) in zip(
        mine.policy.state_dict().items(), theirs.policy.state_dict().items(), strict=True
    ):
        assert name == other_name
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_penalty_has_the_gradient_of_the_explicit_loss(name: str) -> None:
    weight = 0.7
    silent, plain = (_agent(name, projection_penalty=w).policy.actor for w in (weight, 0.0))
    plain.load_state_dict(silent.state_dict())
    obs = torch.as_tensor(_observations())
    raws: list[Tensor] = []
    plain.head.register_forward_hook(lambda module, args, output: raws.append(args[1]))
    torch.manual_seed(0)
    silent(obs).square().sum(-1).mean().backward()
    torch.manual_seed(0)
    action = plain(obs)
    penalty = weight * (raws[0] - action).square().sum(-1).mean()
    assert penalty.item() > 1e-3
    (action.square().sum(-1).mean() + penalty).backward()
    for one, other in zip(silent.parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_the_penalty_keeps_gradients_alive_where_the_projection_collapses_them() -> None:
    corner = box([0.5, 1.5], [0.6, 1.6])  # far from where an untrained network starts
    grads = []
    for weight in (0.0, 1.0):
        actor = _agent("td3", constraint=corner, projection_penalty=weight).policy.actor
        with torch.no_grad():
            actor.mu[-2].bias.fill_(2.0)
        actor(torch.zeros(5, 4)).sum().backward()
        grads.append(sum(float(p.grad.abs().sum()) for p in actor.parameters() if p.grad is not None))
    assert grads[0] < 1e-12
    assert grads[1] > 1e-3


# densities


def test_sac_reports_the_density_before_the_projection() -> None:
    actor = _agent("sac").policy.actor
    obs = torch.as_tensor(_observations())
    torch.manual_seed(1)
    action, log_prob = actor.action_log_prob(obs)
    torch.manual_seed(1)
    raw, expected = SACActor.action_log_prob(actor, obs)
    assert torch.equal(log_prob, expected)
    assert not torch.equal(action, raw)
    torch.testing.assert_close(action, actor.head(obs, raw))
    # by hand: a Gaussian's density over the slope of tanh
    mean, log_std, _ = actor.get_action_dist_params(obs)
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.atanh(raw))
    torch.testing.assert_close(log_prob, (normal - torch.log(1 - raw**2 + 1e-6)).sum(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("head", ["projection", "optnet"])
@pytest.mark.parametrize("use_sde", [False, True])
def test_ppos_ratio_is_one_before_the_first_update(head: str, use_sde: bool) -> None:
    ratios: list[Tensor] = []

    class Watching(PPO):
        def train(self) -> None:
            data = next(iter(self.rollout_buffer.get()))
            _, log_prob, _ = self.policy.evaluate_actions(data.observations, data.actions)
            ratios.append((log_prob - data.old_log_prob).exp())
            self.stored = data.actions
            super().train()

    kwargs = {"constraint": BUDGET, "head": head, "net_arch": [16]}
    env = Projecting(DriftEnv(), BUDGET)
    agent = Watching(
        ConstrainedPPOPolicy, env, n_steps=50, batch_size=25, n_epochs=2, seed=0, use_sde=use_sde, policy_kwargs=kwargs
    ).learn(50)
    torch.testing.assert_close(ratios[0], torch.ones(50), atol=2e-5, rtol=0)
    executed = torch.as_tensor(np.array(env.executed), dtype=torch.float32)
    moved = (agent.stored[:, None] - executed).norm(dim=-1).amin(-1)
    assert (moved > 1e-3).any()  # the rollout holds the samples, not what was executed


def test_ppo_predicts_what_would_be_executed() -> None:
    agent = _agent("ppo", log_std_init=1.0)
    obs = _observations()
    torch.manual_seed(0)
    raw = agent.policy(torch.as_tensor(obs))[0].detach()
    torch.manual_seed(0)
    action, _ = agent.predict(obs, deterministic=False)
    bounded = ActionProjection(BUDGET, LOW, HIGH)
    expected = bounded(torch.as_tensor(obs), raw.clamp(torch.as_tensor(LOW), torch.as_tensor(HIGH)))
    np.testing.assert_allclose(action, expected.numpy(), atol=1e-6)
    mean = agent.policy.get_distribution(torch.as_tensor(obs)).mode()
    np.testing.assert_allclose(agent.predict(obs, deterministic=True)[0], mean.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("project_target", [True, False])
def test_td3s_target_critic_judges_feasible_actions(project_target: bool) -> None:
    policy = _agent("td3", project_target=project_target).policy
    obs, noisy = torch.as_tensor(_observations()), torch.ones(60, 2)
    feasible = policy.actor.head(obs, noisy)
    assert not torch.equal(feasible, noisy)
    asked = policy.critic_target(obs, noisy)[0]
    expected = policy.critic_target(obs, feasible)[0] if project_target else policy.critic(obs, noisy)[0]
    torch.testing.assert_close(asked, expected)


# observations


def test_the_constraint_reads_the_named_part_of_a_dict_in_its_own_units() -> None:
    constraint = BUDGET.reading("raw") & box(-1.5, 3.0)
    env = DummyVecEnv([lambda: Projecting(DriftEnv(as_dict=True), BUDGET.reading("raw"))])
    normalised = VecNormalize(env, norm_obs_keys=["net"])
    kwargs = {"constraint": constraint, "net_arch": [16]}
    options = {**_options("sac"), "replay_buffer_class": ExecutedActionDictReplayBuffer}
    agent = SAC(ConstrainedSACPolicy, normalised, policy_kwargs=kwargs, seed=0, **options).learn(60)
    raw = _observations()
    action, _ = agent.predict({"raw": raw, "net": np.clip(raw, -1, 1)})
    assert _violation(raw, action) <= 1e-6
    assert (action <= 3.0 + 1e-6).all()


@pytest.mark.parametrize("name", ["td3", "sac", "ppo"])
def test_refuses_normalised_observations(name: str) -> None:
    def make() -> Any:
        return DummyVecEnv([lambda: DriftEnv()])

    with pytest.raises(ValueError, match=r"VecNormalize has normalised.*norm_obs=False.*norm_obs_keys"):
        _agent(name, VecNormalize(make()))
    with pytest.raises(ValueError, match=r"VecFrameStack, oldest first"):
        _agent(name, VecFrameStack(make(), 3))
    with pytest.raises(ValueError, match=r"NormalizeObservation has changed"):
        _agent(name, gym.wrappers.NormalizeObservation(DriftEnv()))
    in_dict = DummyVecEnv([lambda: DriftEnv(as_dict=True)])
    with pytest.raises(ValueError, match=r"VecNormalize has normalised"):
        _agent(name, VecNormalize(in_dict, norm_obs_keys=["raw"]), constraint=BUDGET.reading("raw"))
    in_part = VecNormalize(in_dict, norm_obs_keys=["net"])
    with pytest.raises(ValueError, match=r"VecNormalize has normalised"):
        _agent(name, VecExtractDictObs(in_part, "net"))
    _agent(name, VecExtractDictObs(in_part, "raw"))
    _agent(name, VecNormalize(make(), norm_obs=False))
    _agent(name, VecNormalize(make()), trust_obs=True)
    _agent(name, VecNormalize(make()), constraint=l1_ball(2.5))  # reads nothing
    _agent(name, VecFrameStack(make(), 3), constraint=l1_ball(2.5))


def test_the_last_action_is_looked_for_in_other_processes_too() -> None:
    limit = rate_limit(0.1)
    for wrap, refused in ((lambda env: env, True), (partial(VecProjectAction, constraint=limit), False)):
        env = wrap(SubprocVecEnv([DriftEnv]))
        try:
            with pytest.raises(ValueError, match=r"last action.*ProjectAction") if refused else nullcontext():
                _agent("sac", env, constraint=limit)
        finally:
            env.close()


def test_refuses_a_saved_agent_under_normalisation(tmp_path: Path) -> None:
    _agent("sac").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"VecNormalize has normalised"):
        check_agent(SAC.load(tmp_path / "agent", env=VecNormalize(DummyVecEnv([lambda: DriftEnv()]))))


@pytest.mark.parametrize("name", ["td3", "ppo"])
def test_refuses_normalised_observations_before_the_first_step(name: str) -> None:
    algorithm, policy = AGENTS[name]
    env = VecNormalize(DummyVecEnv([lambda: DriftEnv()]))
    agent = algorithm(policy, env, policy_kwargs={"constraint": BUDGET}, **_options(name))
    with pytest.raises(ValueError, match=r"VecNormalize has normalised"):
        agent.learn(60, callback=ConstraintCallback())
    assert agent.num_timesteps == 0


@pytest.mark.parametrize("name", ["td3", "ppo"])
def test_warns_where_nobody_has_looked_at_the_environment(name: str) -> None:
    algorithm, policy = AGENTS[name]
    for options, callback, told in (
        ({}, None, 1),
        ({}, ConstraintCallback(), 0),
        ({"trust_actions": True, "trust_obs": True}, None, 0),
    ):
        kwargs = {"constraint": BUDGET, "net_arch": [8], **options}
        agent = algorithm(policy, Projecting(DriftEnv(), BUDGET), policy_kwargs=kwargs, **_options(name))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConstraintWarning)
            agent.learn(60, callback=callback)
        assert sum("nobody has looked at the environment" in str(w.message) for w in caught) == told


def test_without_an_environment_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    _agent("sac").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"agent: it has no environment"):
        check_agent(SAC.load(tmp_path / "agent"))
    check_agent(TD3("MlpPolicy", DriftEnv(), buffer_size=10))


def test_refuses_observations_of_another_shape() -> None:
    action = spaces.Box(-1.0, 1.0, (2,))

    def check(constraint: Any, shape: tuple[int, ...], **options: Any) -> None:
        check_observations(constraint, spaces.Box(-1.0, 1.0, shape), action, **options)

    with pytest.raises(ValueError, match=r"the observation is Box.*expected a vector"):
        check(linear([[1.0, 1.0]], budget_of_frames), (3, 4))
    with pytest.raises(ValueError, match=r"has 8 numbers, the constraint is for obs_size=4"):
        check(BUDGET, (8,), obs_size=4)
    with pytest.raises(ValueError, match=r"expected 2 velocities, one for each action, got 1"):
        check(power_limit(slice(3, 5), 1.0), (4,))
    with pytest.raises(ValueError, match=r"say which part the constraint reads"):
        check_observations(BUDGET, spaces.Dict({"a": spaces.Box(-1, 1, (4,))}), action)
    check(BUDGET, (4,), obs_size=4)
    check(rate_limit(0.1), (6,))


def budget_of_frames(obs: Tensor) -> Tensor:
    return obs[..., 0, :1]


def test_images_beside_the_vector_that_the_constraint_reads() -> None:
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (3, 36, 36), np.uint8), "raw": spaces.Box(-np.inf, np.inf, (4,), np.float32)}
    )
    kwargs: dict[str, Any] = {"net_arch": [8], "constraint": BUDGET.reading("raw"), "n_critics": 1}
    policy = ConstrainedTD3Policy(space, spaces.Box(LOW, HIGH), lambda _: 1e-3, **kwargs)
    raw = _observations(3)
    action, _ = policy.predict({"image": np.zeros((3, 3, 36, 36), np.uint8), "raw": raw})
    assert _violation(raw, action) <= 1e-6


def impossible(obs: Tensor) -> Tensor:
    return torch.full_like(obs[:, :1], -5.0)


def test_states_without_a_feasible_action_are_counted() -> None:
    with pytest.raises(ValueError, match=r"no action between .* in any state"):
        _agent("sac", constraint=linear([[1.0, 1.0]], [-5.0]))
    policy = _agent("sac", constraint=linear([[1.0, 1.0]], impossible)).policy
    action, _ = policy.predict(_observations(7))
    np.testing.assert_allclose(action, np.tile(LOW, (7, 1)), atol=1e-6)  # as little as the bounds allow
    assert policy.constraint_failed == 7


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"constraint: expected an ActionConstraint.*got str"):
        _agent("td3", constraint="l1")
    with pytest.raises(ValueError, match=r"head: expected one of 'projection', 'optnet', got 'radial'"):
        _agent("td3", head="radial")
    with pytest.raises(ValueError, match=r"optnet_kwargs: only for head='optnet'"):
        _agent("td3", optnet_kwargs={"n_ineq": 1})
    with pytest.raises(ValueError, match=r"squash_output: expected False"):
        _agent("ppo", squash_output=True)
    with pytest.raises(ValueError, match=r"action_space: a constraint needs continuous actions"):
        PPO(ConstrainedPPOPolicy, "CartPole-v1", policy_kwargs={"constraint": BUDGET})


def test_takes_sb3s_arguments_and_several_environments() -> None:
    env = make_vec_env(lambda: Projecting(DriftEnv(), BUDGET), n_envs=2, seed=0)
    agent = SAC(
        ConstrainedSACPolicy,
        env,
        use_sde=True,
        seed=0,
        policy_kwargs={
            "constraint": BUDGET,
            "net_arch": {"pi": [8], "qf": [16]},
            "activation_fn": torch.nn.Tanh,
            "optimizer_kwargs": {"weight_decay": 1e-5},
            "share_features_extractor": True,
        },
        **_options("sac"),
    ).learn(80)
    assert _violation(_observations(), agent.predict(_observations())[0]) <= 1e-6
    assert obs_as_tensor(_observations(), agent.device).shape == (60, 4)
    names = inspect.signature(ConstrainedTD3Policy.__mro__[1].__init__).parameters  # type: ignore[misc]
    assert {"constraint", "head", "projection_penalty", "trust_obs"} <= set(names)


@pytest.mark.parametrize("head", ["projection", "optnet"])
def test_action_spaces_of_other_kinds(head: str) -> None:
    observations = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    matrix, unbounded = spaces.Box(-1.0, 1.0, (2, 3)), spaces.Box(-np.inf, np.inf, (6,))
    kwargs: dict[str, Any] = {"constraint": l1_ball(0.05), "head": head, "net_arch": [8]}
    cases = [(policy, matrix) for _, policy in AGENTS.values()] + [(ConstrainedPPOPolicy, unbounded)]
    for policy, space in cases:
        action, _ = policy(observations, space, lambda _: 1e-3, **kwargs).predict(_observations(5))
        assert action.shape == (5, *space.shape)
        assert np.abs(action).reshape(5, -1).sum(1).max() <= 0.05 + 1e-6
