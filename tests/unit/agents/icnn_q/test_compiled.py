"""Compiled critics: the numbers of the graph, for gradient, target and greedy action."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.batch import Batch, Draws, Settings
from icnn_rl.agents.icnn_q.compiled import CompiledCritics
from icnn_rl.agents.icnn_q.critic import ICNNCritic
from icnn_rl.agents.icnn_q.critics import Critics, StackedCritics
from icnn_rl.nn import PICNN
from icnn_rl.numba_support import available
from icnn_rl.solution import Status
from icnn_rl.solvers import ProjectedNewton

pytestmark = pytest.mark.skipif(not available(), reason="needs numba")

EPS = {torch.float32: 2e-5, torch.float64: 1e-12}
FORM: dict[str, Any] = {"activation": "squareplus", "context_activation": torch.nn.ReLU(), "context_norm": True}
ROWS = 9


def make_net(learners: int, dtype: torch.dtype, context: tuple[int, ...] = (12, 7), **form: Any) -> PICNN:
    torch.manual_seed(0)
    net = PICNN(5, 3, context, (6,), ensemble=2 * learners, strong_convexity=0.1, **{**FORM, **form}).to(dtype)
    with torch.no_grad():
        net.nonneg[0].weight.sub_(0.3)  # some of them below 0, as momentum may carry them
    return net


def make_pair(learners: int, dtype: torch.dtype, context: tuple[int, ...] = (12, 7)) -> tuple[Critics, Critics]:
    """The same critics, compiled and not."""
    net = make_net(learners, dtype, context)
    compiled, plain = StackedCritics(net, learners), StackedCritics(net, learners)
    assert compiled.compiled is not None
    plain.compiled = None
    return compiled, plain


def draw(learners: int, dtype: torch.dtype) -> tuple[Batch, Tensor, Tensor]:
    torch.manual_seed(1)
    obs, actions = torch.randn(2, learners, ROWS, 5), 2 * torch.rand(learners, ROWS, 3, dtype=dtype) - 1
    rewards, ended = torch.randn(learners, ROWS, dtype=dtype), (torch.rand(learners, ROWS) < 0.3).to(dtype)
    batch = Batch(obs[0], obs[1], actions, rewards, ended)
    return batch, torch.randn(learners, ROWS, dtype=dtype), torch.rand(learners, ROWS) < 0.8


@pytest.fixture(autouse=True)
def _features_in_the_critics_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are float32; here they are as the network is."""
    features = StackedCritics._features
    monkeypatch.setattr(
        StackedCritics, "_features", lambda self, obs: features(self, obs).to(self.net.heads.weight.dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learners", [1, 3])
@pytest.mark.parametrize("context", [(8,), (12, 7), (6, 9, 5)])
def test_the_gradient_is_autograds(dtype: torch.dtype, learners: int, context: tuple[int, ...]) -> None:
    compiled, plain = make_pair(learners, dtype, context)
    batch, target, usable = draw(learners, dtype)
    told, gradients = compiled.gradient(batch.obs, batch.actions, target, usable)
    expected_told, expected = plain.gradient(batch.obs, batch.actions, target, usable)
    torch.testing.assert_close(told, expected_told, rtol=EPS[dtype], atol=EPS[dtype])
    for own, theirs in zip(gradients, expected, strict=True):
        assert own is not None
        assert theirs is not None
        torch.testing.assert_close(own, theirs, rtol=EPS[dtype], atol=EPS[dtype] * float(theirs.abs().max()))


def test_a_second_batch_of_another_size_is_not_mixed_up_with_the_first() -> None:
    compiled, plain = make_pair(1, torch.float64)
    for rows in (9, 4, 9):
        batch, target, usable = draw(1, torch.float64)
        few = (batch.obs[:, :rows], batch.actions[:, :rows], target[:, :rows], usable[:, :rows])  # type: ignore[call-overload]
        for own, theirs in zip(compiled.gradient(*few)[1], plain.gradient(*few)[1], strict=True):
            torch.testing.assert_close(own, theirs)


def test_a_batch_without_a_usable_row_is_not_a_loss() -> None:
    compiled, plain = make_pair(1, torch.float32)
    batch, target, _ = draw(1, torch.float32)
    nobody = torch.zeros(1, ROWS, dtype=torch.bool)
    for critics in (compiled, plain):
        assert critics.gradient(batch.obs, batch.actions, target, nobody)[0][0, 0].isnan()


def make_settings(learners: int) -> Settings:
    class Agent:
        gamma, tau, target_policy_noise, target_noise_clip = 0.9, 0.01, 0.2, 0.5
        action_smoothing, reward_factor, target_gap = 0.0, 0.5, 0.0

    own = Settings(learners, torch.device("cpu"))
    own.read([Agent() for _ in range(learners)])
    return own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learners", [1, 3])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("drawn", [None, 1])
@pytest.mark.parametrize("discounts", [False, True])
def test_the_target_is_the_uncompiled_one(
    dtype: torch.dtype, learners: int, noisy: bool, drawn: int | None, discounts: bool
) -> None:
    compiled, plain = make_pair(learners, dtype)
    batch, other, _ = draw(learners, dtype)
    if discounts:
        batch = batch._replace(discounts=other.sigmoid())
    noise = 0.2 * torch.randn(learners, ROWS, 3, dtype=dtype) if noisy else None
    members = None if drawn is None else torch.ones(learners, drawn, dtype=torch.int64)
    solver = ProjectedNewton(tol=1e-6 if dtype == torch.float32 else 1e-12)
    given = batch, make_settings(learners), Draws(noise, None, members), solver, torch.zeros(learners)
    with torch.no_grad():
        target, usable, told = compiled.target(*given)
        expected, expected_usable, expected_told = plain.target(*given)
    assert torch.equal(usable, expected_usable)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(target, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(told[:, 2:5], expected_told[:, 2:5].to(dtype))


def test_the_value_of_the_next_state_is_moved_into_its_range() -> None:
    compiled, plain = make_pair(2, torch.float64)
    batch, _, _ = draw(2, torch.float64)
    own = make_settings(2)
    given = batch, own, Draws(None, None, None), ProjectedNewton(tol=1e-10), torch.zeros(2)
    free, _, _ = compiled.target(*given)
    middle = float(free.median())
    own.value_range = torch.tensor([[-1.0, 0.0], [middle, middle]])
    for critics in (compiled, plain):
        with torch.no_grad():
            target, _, _ = critics.target(*given)
        value = (target - 0.5 * batch.rewards) / 0.9
        going = batch.ended == 0
        assert float(value[0][going[0]].min()) >= -1.0 - 1e-6
        assert float(value[0][going[0]].max()) <= 1e-6
        np.testing.assert_allclose(value[1][going[1]], middle, rtol=1e-5)
        torch.testing.assert_close(target[~going], 0.5 * batch.rewards[~going])


@pytest.mark.parametrize("rows", [1, 4])
def test_the_greedy_action_is_the_uncompiled_one(rows: int) -> None:
    net = make_net(1, torch.float64)
    x = torch.randn(rows, 5, dtype=torch.float64)
    found = CompiledCritics(net, 1).act(x, ProjectedNewton(tol=1e-12))
    _, plain = make_pair(1, torch.float64)
    expected, _ = plain.act(x[:1], ProjectedNewton(tol=1e-12))
    assert bool(found.success.all())
    energy = net.bind(x, reduction="mean")
    torch.testing.assert_close(found.fun, energy(found.value))
    torch.testing.assert_close(found.value[:1], expected, rtol=1e-6, atol=1e-6)


def test_nan_is_never_made_a_number() -> None:
    net = make_net(1, torch.float32)
    x = torch.randn(3, 5)
    x[1, 2] = torch.nan
    compiled = CompiledCritics(net, 1)
    for rows in (x, x[1:2]):
        found = compiled.act(rows, ProjectedNewton())
        broken = rows.isnan().any(-1)
        assert torch.equal(found.status == Status.NONFINITE_INPUT, broken)
    batch, _, _ = draw(1, torch.float32)
    batch.next_obs[0, 2, 0] = torch.nan  # type: ignore[index]
    batch.ended.zero_()
    critics = StackedCritics(net, 1)
    target, usable, _ = critics.target(
        batch, make_settings(1), Draws(None, None, None), ProjectedNewton(), torch.zeros(1)
    )
    assert usable[0].tolist() == [row != 2 for row in range(ROWS)]
    assert target[0, 2].isnan()


@pytest.mark.parametrize(
    "form",
    [
        {"activation": "softplus"},
        {"context_activation": torch.nn.functional.elu},
        {"context_norm": False},
        {"gate": "relu"},
        {"quadratic": False},
        {"quadratic_rank": 2},
        {"positivity": "softplus"},
    ],
)
def test_other_networks_go_through_the_graph(form: dict[str, Any]) -> None:
    assert not CompiledCritics.fits(make_net(1, torch.float32, **form))
    assert CompiledCritics.fits(make_net(1, torch.float32))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("average", [True, False])
def test_one_observation_takes_a_shorter_way_to_the_same_action(
    normalize: bool, deterministic: bool, dtype: Any, average: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = {"context": (16, 8), "hidden": (8,), "normalize_observations": normalize, "average_weights": average}
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", learning_starts=20, batch_size=16, seed=0, policy_kwargs=kwargs).learn(80)
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(dtype)
    short = [agent.predict(obs, deterministic=deterministic)[0] for obs in observations]
    assert agent.critic.act_on(observations[0]) is not None
    assert agent.predict(observations[:1])[0].shape == (1, 1)
    monkeypatch.setattr(type(agent.critic), "act_on", lambda self, obs: None)
    long = [agent.predict(obs, deterministic=deterministic)[0] for obs in observations]
    assert [action.dtype for action in short] == [action.dtype for action in long]
    np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("obs", [np.array([1.0, np.nan, 0.0]), np.array([1e39, 0.0, 0.0]), np.zeros(4), "text"])
def test_what_is_no_observation_is_told_the_long_way(obs: Any) -> None:
    agent = ICNNQ("MlpPolicy", "Pendulum-v1", policy_kwargs={"context": (16, 8), "hidden": (8,)})
    assert agent.critic.act_on(obs) is None
    with pytest.raises((ValueError, TypeError)):
        agent.predict(obs)


def test_a_critic_of_ones_own_is_not_taken_for_the_compiled_one() -> None:
    class Own(ICNNCritic):
        def bind_features(self, features: Tensor) -> Any:
            return super().bind_features(2.0 * features)

    agent = ICNNQ("MlpPolicy", "Pendulum-v1", policy_kwargs={"context": (16, 8), "hidden": (8,)})
    critic = agent.critic
    assert critic.compiled is not None
    own = Own(**critic._get_constructor_parameters())
    assert own.compiled is None
    assert own.act_on(np.zeros(3, np.float32)) is None
