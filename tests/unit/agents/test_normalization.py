"""Observations at zero mean and unit variance, over all that the agent has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv

from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.stacked import StackedICNNQ
from icnn_rl.agents.normalization import DiscountedReturns, NormalizedCombinedExtractor, NormalizedExtractor
from tests.unit.agents.concave import CONCAVE

SMALL: dict[str, Any] = {"context": (16,), "hidden": (8,)}
SETTINGS: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "buffer_size": 300, "device": "cpu"}


def make(env: Any = "Pendulum-v1", seed: int = 0, **policy_kwargs: Any) -> ICNNQ:
    return ICNNQ("MlpPolicy", env, seed=seed, policy_kwargs={**SMALL, **policy_kwargs}, **SETTINGS)


def vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,))


def extractor_of(agent: ICNNQ) -> NormalizedExtractor:
    found = agent.critic.features_extractor
    assert isinstance(found, NormalizedExtractor)
    return found


def test_moments_are_those_of_all_observations_in_whatever_batches_they_come() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal([0.0, 100.0, -3.0], [1e-2, 10.0, 1.0], size=(1000, 3))
    extractor = NormalizedExtractor(vector(3))
    for batch in np.split(seen, [1, 2, 10, 300, 301]):
        extractor.update(batch)
    assert extractor.count == 1000
    np.testing.assert_allclose(extractor.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(extractor.variance, seen.var(0), rtol=1e-4)
    x = extractor(torch.as_tensor(seen, dtype=torch.float32))
    np.testing.assert_allclose(x, (seen - seen.mean(0)) / seen.std(0), atol=1e-3)


def test_a_late_drift_of_a_large_coordinate_is_followed() -> None:
    seen = np.random.default_rng(0).normal(1000.0, 0.1, size=(20_000, 1))
    seen[15_000:] += 0.5
    extractor = NormalizedExtractor(vector(1))
    for row in seen:
        extractor.update(row[None])
    np.testing.assert_allclose(extractor.mean, seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(extractor.variance, seen.var(0), rtol=1e-6)


def test_what_is_ignored_is_0_before_and_after_updates() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal([0.0, 100.0, -3.0, 5.0], [1e-2, 10.0, 1.0, 2.0], size=(500, 4))
    plain, extractor = NormalizedExtractor(vector(4)), NormalizedExtractor(vector(4), ignored=(1, 3))
    x = torch.as_tensor(seen, dtype=torch.float32)
    for _ in range(2):
        expected = plain(x)
        expected[:, 1:3] = 0.0
        torch.testing.assert_close(extractor(x), expected)
        for one in (plain, extractor):
            one.update(seen)


def test_an_agent_does_not_see_what_it_ignores(tmp_path: Path) -> None:
    agent = make(features_extractor_kwargs={"ignored": (1, 3)}).learn(60)
    assert torch.isfinite(extractor_of(agent).mean).all()
    obs = np.array([0.5, -0.8, 3.0], np.float32)
    other = obs + np.array([0.0, 0.3, -2.0], np.float32)
    agent.save(tmp_path / "agent")
    for one in (agent, ICNNQ.load(tmp_path / "agent")):
        assert one.predict(obs, deterministic=True)[0] == one.predict(other, deterministic=True)[0]
        assert one.predict(obs, deterministic=True)[0] != one.predict(other[::-1].copy(), deterministic=True)[0]


@pytest.mark.parametrize("ignored", [(0, 4), (2, 2), (-1, 2), (1, 2, 3), (0.0, 1.0), 2, "12"])
def test_a_range_that_is_none_is_refused(ignored: Any) -> None:
    with pytest.raises(ValueError, match=r"ignored: expected \(start, stop\) with 0 <= start < stop <= 3"):
        make(features_extractor_kwargs={"ignored": ignored})


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_coordinate_that_never_moves_is_0_whatever_its_size(rows: int) -> None:
    obs = np.tile(np.array([1000.1, -0.3], np.float32), (rows, 1))
    extractor = NormalizedExtractor(vector(2))
    for _ in range(50):
        extractor.update(obs)
    assert torch.equal(extractor(torch.as_tensor(obs)), torch.zeros(rows, 2))


def test_one_observation_at_a_time_does_not_drift() -> None:
    rng = np.random.default_rng(1)
    seen = rng.normal([1000.0, 0.0], [1.0, 1e-3], size=(5000, 2))
    extractor = NormalizedExtractor(vector(2))
    for obs in seen:
        extractor.update(obs[None])
    np.testing.assert_allclose(extractor.mean, seen.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(extractor.variance, seen.var(0), rtol=1e-2)


def test_what_is_special_about_a_coordinate() -> None:
    extractor = NormalizedExtractor(vector(3))
    untouched = torch.tensor([[1.0, -2.0, 9.0]])
    torch.testing.assert_close(extractor(untouched), untouched)
    extractor.update(np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0]]))
    x = extractor(torch.tensor([[4.0, 5.0, 0.1], [float("nan"), 6.0, -0.1]]))
    torch.testing.assert_close(x[:, 1], torch.tensor([0.0, 10.0]))  # never moved: 0, and then cut off
    torch.testing.assert_close(x[:, 2], torch.tensor([10.0, -10.0]))
    assert x[0, 0] == pytest.approx(2.0)
    assert x[1, 0].isnan()


@pytest.mark.parametrize("agent_class", CONCAVE)
def test_an_agent_takes_in_every_observation_of_all_its_environments(agent_class: type[ICNNQ]) -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    agent = agent_class("MlpPolicy", env, seed=0, policy_kwargs={"context": (16,)}, **SETTINGS).learn(100)
    assert agent.replay_buffer is not None
    seen = agent.replay_buffer.next_observations[:50].reshape(100, 3)
    extractor = extractor_of(agent)
    assert extractor.count == 100
    np.testing.assert_allclose(extractor.mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(extractor.variance, seen.var(0), rtol=1e-4)
    assert agent.critic_target.features_extractor is extractor


def test_the_units_of_the_observations_do_not_matter() -> None:
    class OtherUnits(gym.ObservationWrapper):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__(gym.make("Pendulum-v1"))
            self.observation_space = vector(3)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return (observation * np.array([1000.0, 0.01, 8.0]) + np.array([500.0, 0.0, -1.0])).astype(np.float32)

    plain, other = make().learn(60), make(OtherUnits()).learn(60)
    for p, q in zip(plain.critic.parameters(), other.critic.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)
    raw = make(normalize_observations=False).learn(60)
    raw_other = make(OtherUnits(), normalize_observations=False).learn(60)
    pairs = zip(raw.critic.parameters(), raw_other.critic.parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) > 1e-2


def test_moments_are_saved_loaded_and_go_on(tmp_path: Path) -> None:
    agent = make().learn(50)
    agent.save(tmp_path / "agent")
    loaded = ICNNQ.load(tmp_path / "agent", env=gym.make("Pendulum-v1"), device="cpu")
    for name in ("mean", "variance", "count"):
        torch.testing.assert_close(getattr(extractor_of(loaded), name), getattr(extractor_of(agent), name))
    assert loaded.critic_target.features_extractor is extractor_of(loaded)
    obs = np.array([[0.1, 0.9, -3.0]], dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], agent.predict(obs)[0])
    loaded.learn(10, reset_num_timesteps=False)
    assert extractor_of(loaded).count == 60


def test_looking_does_not_move_the_moments() -> None:
    agent = make().learn(30)
    before = extractor_of(agent).mean.clone()
    obs = np.full((4, 3), 50.0, dtype=np.float32)
    agent.predict(obs)
    agent.q_values(obs, np.zeros((4, 1), dtype=np.float32))
    agent.train(2)
    torch.testing.assert_close(extractor_of(agent).mean, before)


def test_only_vectors_are_normalised_and_only_where_wanted() -> None:
    assert type(make(normalize_observations=False).critic.features_extractor) is FlattenExtractor
    images = ICNNQ("CnnPolicy", FakeImageEnv(discrete=False), buffer_size=10, device="cpu")
    assert type(images.critic.features_extractor) is NatureCNN
    raw = make_parts(SimpleMultiObsEnv(discrete_actions=False), normalize_observations=False)
    assert type(raw.critic.features_extractor) is CombinedExtractor


class FarAway(gym.ObservationWrapper):  # type: ignore[type-arg]
    """Pendulum's observations moved by an offset, in the given kind of numbers."""

    def __init__(self, offset: float, dtype: type = np.float64, scale: float = 1.0) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)  # type: ignore[arg-type]
        self.offset, self.scale = offset, scale

    def observation(self, observation: np.ndarray) -> np.ndarray:
        moved = self.scale * observation.astype(np.float64) + self.offset
        return moved.astype(self.observation_space.dtype)


def make_parts(env: gym.Env[Any, Any], agent_class: type[ICNNQ] = ICNNQ, **policy_kwargs: Any) -> ICNNQ:
    kwargs = {"context": (16,), **policy_kwargs}
    return agent_class("MultiInputPolicy", env, seed=0, policy_kwargs=kwargs, **SETTINGS)


class InParts(gym.ObservationWrapper):  # type: ignore[type-arg]
    """A vector in two parts, in the order in which SB3 joins them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        low, high = env.observation_space.low, env.observation_space.high  # type: ignore[attr-defined]
        first, second = (spaces.Box(low[i], high[i], dtype=low.dtype) for i in (slice(0, 2), slice(2, 3)))
        self.observation_space = spaces.Dict({"first": first, "second": second})

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"first": observation[..., :2], "second": observation[..., 2:]}


@pytest.mark.parametrize("agent_class", CONCAVE)
@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_the_parts_of_a_dict_are_learned_from_as_one_vector_is(agent_class: type[ICNNQ], offset: float) -> None:
    whole = agent_class("MlpPolicy", FarAway(offset), seed=0, policy_kwargs={"context": (16,)}, **SETTINGS).learn(60)
    parts = make_parts(InParts(FarAway(offset)), agent_class).learn(60)
    for p, q in zip(whole.critic.parameters(), parts.critic.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    obs = np.random.default_rng(0).normal(size=(20, 3)) + offset
    split = {"first": obs[:, :2], "second": obs[:, 2:]}
    np.testing.assert_allclose(parts.predict(split)[0], whole.predict(obs)[0], atol=1e-5)


@pytest.mark.parametrize("agent_class", CONCAVE)
def test_of_a_dict_vectors_alone_are_normalised(agent_class: type[ICNNQ], tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    agent = make_parts(SimpleMultiObsEnv(discrete_actions=False), agent_class)
    agent.learn(23, callback=lambda here, _: seen.append(here["new_obs"]["vec"].copy()) is None)
    extractor, target = agent.critic.features_extractor, agent.critic_target.features_extractor
    assert isinstance(extractor, NormalizedCombinedExtractor)
    assert isinstance(target, NormalizedCombinedExtractor)
    assert extractor.vectors == ("vec",)
    assert isinstance(extractor.extractors["img"], NatureCNN)
    assert target.extractors["vec"] is extractor.extractors["vec"]
    assert target.extractors["img"] is not extractor.extractors["img"]
    np.testing.assert_allclose(extractor.extractors["vec"].mean, np.mean(seen, (0, 1)), rtol=1e-9)  # type: ignore[arg-type]
    agent.save(tmp_path / "agent")
    loaded = agent_class.load(tmp_path / "agent", device="cpu")
    other = loaded.critic_target.features_extractor
    assert isinstance(other, NormalizedCombinedExtractor)
    assert other.extractors["vec"] is loaded.critic.features_extractor.extractors["vec"]  # type: ignore[index,union-attr]
    obs = {key: part.sample()[None] for key, part in agent.observation_space.spaces.items()}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(loaded.predict(obs)[0], agent.predict(obs)[0])


def test_parts_of_a_dict_cannot_be_ignored() -> None:
    with pytest.raises(ValueError, match="ignored is for vector observations, not for parts of a Dict"):
        make_parts(InParts(FarAway(0.0)), features_extractor_kwargs={"ignored": (0, 1)})


@pytest.mark.parametrize("agent_class", CONCAVE)
def test_everything_in_a_saved_policy_is_a_float(agent_class: type[ICNNQ]) -> None:
    """SB3's own tests draw random numbers like each of them."""
    agent = agent_class("MlpPolicy", "Pendulum-v1", policy_kwargs={"context": (16,)}, **SETTINGS).learn(30)
    drawn = {name: torch.rand_like(part) for name, part in agent.policy.state_dict().items()}
    agent.policy.load_state_dict(drawn)
    for name, part in agent.policy.state_dict().items():
        if "critic.features_extractor" not in name:  # the target's own, which come later
            torch.testing.assert_close(part, drawn[name])


def test_files_with_whole_counts_still_load() -> None:
    agent = make().learn(30)
    state = agent.policy.state_dict()
    before = {name: part.long() if name.endswith("count") else part.clone() for name, part in state.items()}
    loaded = make(seed=1)
    loaded.policy.load_state_dict(before)
    assert extractor_of(loaded).count == 30
    assert torch.equal(extractor_of(loaded).mean, extractor_of(agent).mean)


def test_stacked_learners_have_moments_of_their_own() -> None:
    lone = make(seed=1).learn(60)
    stack = StackedICNNQ(lambda seed: make(seed=seed), [0, 1]).learn(60)
    torch.testing.assert_close(extractor_of(stack.agents[1]).mean, extractor_of(lone).mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        extractor_of(stack.agents[1]).variance, extractor_of(lone).variance, rtol=1e-3, atol=1e-5
    )
    one, other = (extractor_of(agent) for agent in stack.unstack())
    kept = other.mean.clone()
    one.update(np.full((1000, 3), 7.0))
    torch.testing.assert_close(other.mean, kept)
    with pytest.raises(ValueError, match="features_extractor_class"):
        StackedICNNQ(lambda plain: make(normalize_observations=not plain), [False, True])


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_a_large_offset_is_taken_off_before_digits_are_lost(dtype: torch.dtype) -> None:
    seen = torch.tensor([[-2.0], [0.0], [2.0]], dtype=torch.float64) + 1.7e9
    extractor = NormalizedExtractor(vector(1))
    extractor.update(seen.to(dtype).numpy())
    x = extractor(seen.to(dtype))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 0.0, 1.0]) * 1.5**0.5)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("offset", [1e7, 1.7e9])
def test_an_agent_learns_the_same_wherever_its_observations_lie(offset: float, stacked: bool) -> None:
    def learned(here: float) -> ICNNQ:
        def made(seed: int) -> ICNNQ:
            return make(FarAway(here), seed=seed)

        return StackedICNNQ(made, [1]).learn(60).agents[0] if stacked else made(1).learn(60)

    near, far = learned(0.0), learned(offset)
    for p, q in zip(near.critic.parameters(), far.critic.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)
    obs = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(far.predict(obs + offset)[0], near.predict(obs)[0], atol=2e-2)
    np.testing.assert_allclose(far.best_action(obs + offset).value, near.best_action(obs).value, atol=1e-2)


def test_time_stamps_in_whole_numbers_keep_their_digits() -> None:
    near, far = (make(FarAway(offset, np.int64, scale=100.0)).learn(60) for offset in (0.0, 1.7e9))
    for p, q in zip(near.critic.parameters(), far.critic.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)


def test_the_deviation_of_discounted_returns_is_that_of_all_of_them() -> None:
    random, returns = np.random.default_rng(0), DiscountedReturns()
    assert returns.deviation == 1.0
    running, seen = np.zeros(3), []
    for _ in range(200):
        rewards, dones = random.normal(5.0, 100.0, 3), random.random(3) < 0.1
        returns.update(rewards, dones, 0.9)
        running = 0.9 * running + rewards
        seen += running.tolist()
        running[dones] = 0.0
    assert returns.deviation == pytest.approx(np.std(seen))
    returns.update(np.ones(1), np.zeros(1, bool), 0.9)  # another number of environments
    assert returns.deviation > 0


def test_rewards_in_units_of_the_returns_make_agents_of_large_and_small_rewards_alike(tmp_path: Path) -> None:
    class Scaled(gym.RewardWrapper[Any, Any]):
        def __init__(self, env: gym.Env[Any, Any], factor: float) -> None:
            super().__init__(env)
            self.factor = factor

        def reward(self, reward: Any) -> float:
            return float(reward) * self.factor

    settings: dict[str, Any] = {
        "learning_starts": 50,
        "batch_size": 16,
        "policy_kwargs": {"context": (16,), "hidden": (8,)},
    }
    agents = [
        ICNNQ("MlpPolicy", Scaled(gym.make("Pendulum-v1"), factor), seed=0, normalize_rewards=True, **settings).learn(
            120
        )
        for factor in (1.0, 1024.0)
    ]
    obs = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(agents[0].predict(obs)[0], agents[1].predict(obs)[0], atol=1e-3)
    actions = np.zeros((4, 1), np.float32)
    np.testing.assert_allclose(1024.0 * agents[0].q_values(obs, actions), agents[1].q_values(obs, actions), rtol=1e-2)
    agents[1].save(tmp_path / "agent")
    loaded = ICNNQ.load(tmp_path / "agent")
    assert loaded.reward_factor == agents[1].reward_factor
    np.testing.assert_allclose(loaded.q_values(obs, actions), agents[1].q_values(obs, actions))
