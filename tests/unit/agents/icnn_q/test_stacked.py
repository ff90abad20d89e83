"""Stacked learners: each goes the way it would have gone alone, and is an ordinary agent."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from icnn_rl.agents import ICNNQ, NAF
from icnn_rl.agents.icnn_q.batch import Batch
from icnn_rl.agents.icnn_q.compiled import CompiledCritics
from icnn_rl.agents.icnn_q.learner import NUMBERS, Learner
from icnn_rl.agents.icnn_q.losses import bellman_loss
from icnn_rl.agents.icnn_q.stacked import StackedICNNQ, _CapturedUpdate
from icnn_rl.constraints import box
from icnn_rl.solvers import ProjectedGradient
from icnn_rl.solvers.box_qp import _identity

SMALL: dict[str, Any] = {"context": (16,), "hidden": (8,)}
WARM_UP = 20
ROWS = (
    {"seed": 0},
    {"seed": 1, "learning_rate": 3e-4, "tau": 0.02, "target_policy_noise": 0.0, "action_smoothing": 0.1},
    {
        "seed": 2,
        "learning_rate": lambda left: 1e-3 * left,
        "gamma": 0.9,
        "reward_scale": 0.3,
        "target_noise_clip": 0.1,
        "target_gap": 1.0,
    },
    {"seed": 2, "exploration_noise": 0.0, "target_policy_noise": 0.3, "action_smoothing": 0.0},
)


def make(row: dict[str, Any], env: Any = "Pendulum-v1") -> ICNNQ:
    settings = {"learning_starts": WARM_UP, "batch_size": 16, "buffer_size": 300, "policy_kwargs": SMALL, **row}
    return ICNNQ("MlpPolicy", env, device="cpu", **settings)


def make_seed(seed: int) -> ICNNQ:
    return make({"seed": seed})


def largest_difference(one: ICNNQ, other: ICNNQ) -> float:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Weights(BaseCallback):
    """Keeps a copy of the weights as they are after so many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.kept: list[torch.Tensor] = []

    def _on_step(self) -> bool:
        if self.num_timesteps == self.after + 1:  # between the update after the wanted step and the next one
            self.kept = [p.detach().clone() for p in self.model.policy.parameters()]
        return True


@pytest.fixture(scope="module")
def lone_runs() -> list[tuple[ICNNQ, Weights]]:
    """Three learners after 100 updates, and their weights after 20."""
    early = [Weights(WARM_UP + 20) for _ in range(3)]
    return [(make_seed(seed).learn(WARM_UP + 100, callback), callback) for seed, callback in enumerate(early)]


@pytest.mark.parametrize("fixed_steps", [False, True])
def test_every_learner_goes_the_way_of_a_lone_one(fixed_steps: bool, lone_runs: list[tuple[ICNNQ, Weights]]) -> None:
    lone, early = zip(*lone_runs, strict=True)
    also_early = [Weights(WARM_UP + 20) for _ in range(3)]
    stack = StackedICNNQ(make_seed, range(3), fixed_steps=fixed_steps).learn(WARM_UP + 100, also_early)
    for one, other in zip(early, also_early, strict=True):
        assert one.kept
        for p, q in zip(one.kept, other.kept, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
    for one, agent in zip(lone, stack.unstack(), strict=True):
        assert agent._n_updates == one._n_updates == 100
        assert largest_difference(one, agent) < 1e-4
        assert agent.replay_buffer is not None
        assert one.replay_buffer is not None
        for part in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            mine, theirs = getattr(agent.replay_buffer, part), getattr(one.replay_buffer, part)
            np.testing.assert_allclose(mine[: WARM_UP + 20], theirs[: WARM_UP + 20], rtol=2e-5, atol=1e-4)
            np.testing.assert_allclose(mine, theirs, atol=1e-3)  # a pendulum amplifies rounding
        assert agent.td_square == pytest.approx(one.td_square, rel=1e-3)


def test_drawn_members_are_those_of_a_lone_learner() -> None:
    rows = [{"seed": s, "target_members": 2, "policy_kwargs": {**SMALL, "n_critics": 3}} for s in range(2)]
    lone = [make(row).learn(WARM_UP + 50) for row in rows]
    for one, agent in zip(lone, StackedICNNQ(make, rows).learn(WARM_UP + 50).unstack(), strict=True):
        assert largest_difference(one, agent) < 1e-4


def test_rows_may_differ_in_what_the_update_keeps_apart() -> None:
    lone = [make(row).learn(WARM_UP + 50) for row in ROWS]
    for one, agent in zip(lone, StackedICNNQ(make, ROWS).learn(WARM_UP + 50).unstack(), strict=True):
        assert largest_difference(one, agent) < 1e-4
    assert all(largest_difference(lone[0], other) > 1e-3 for other in lone[1:])


def test_several_steps_and_updates_at_a_time_delayed_targets_and_a_buffer_that_is_full() -> None:
    settings = {"train_freq": 4, "gradient_steps": 2, "policy_delay": 2, "buffer_size": 30}
    lone = make({"seed": 0, **settings}).learn(60)
    stack = StackedICNNQ(make, [{"seed": 0, **settings}, {"seed": 1, **settings}]).learn(60)
    assert largest_difference(lone, stack.agents[0]) < 1e-4
    assert stack.agents[0]._n_updates == lone._n_updates
    (agent, _) = stack.unstack()
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.full


def test_learning_in_two_parts_and_with_environments_in_processes() -> None:
    def in_process(seed: int) -> ICNNQ:
        return make({"seed": seed}, SubprocVecEnv([functools.partial(gym.make, "Pendulum-v1")]))

    lone = make_seed(1).learn(WARM_UP + 10).learn(10, reset_num_timesteps=False)
    stack = StackedICNNQ(in_process, [0, 1]).learn(WARM_UP + 10).learn(10, reset_num_timesteps=False)
    assert largest_difference(lone, stack.agents[1]) < 1e-4
    for agent in stack.unstack():
        assert agent.env is not None
        agent.env.close()


def test_learners_that_have_learned_alone_go_on_together() -> None:
    lone = make_seed(1).learn(WARM_UP + 10).learn(10, reset_num_timesteps=False)
    stack = StackedICNNQ(lambda seed: make_seed(seed).learn(WARM_UP + 10), [0, 1])
    stack.learn(10, reset_num_timesteps=False)
    assert stack.agents[1]._n_updates == lone._n_updates == 20
    assert largest_difference(lone, stack.agents[1]) < 1e-4


def test_a_learner_goes_on_alone_as_if_it_always_had() -> None:
    stack = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 10)
    stack.unstack()
    for _ in range(2):
        with stack.lone(1) as agent:
            agent.learn(5, reset_num_timesteps=False)
    lone = make_seed(1).learn(WARM_UP + 10)
    for _ in range(2):
        lone.learn(5, reset_num_timesteps=False)
    assert agent._n_updates == lone._n_updates == 20
    assert largest_difference(lone, agent) < 1e-4


def test_learning_alone_while_in_the_stack_is_an_error() -> None:
    stack = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 5)
    with pytest.raises(RuntimeError, match=r"lone: agent 0 has learned while in the stack.*Call unstack\(\) first"):  # noqa: SIM117
        with stack.lone(0) as agent:
            agent.learn(5, reset_num_timesteps=False)
    stack = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 5)
    stack.unstack()
    with stack.lone(0) as agent:
        assert agent.learn(5, reset_num_timesteps=False).num_timesteps == WARM_UP + 10


def test_activations_of_ones_own_go_the_same_way() -> None:
    row = {"policy_kwargs": {**SMALL, "activation": torch.nn.Softplus(beta=2)}}
    lone = make({**row, "seed": 1}).learn(WARM_UP + 10)
    stack = StackedICNNQ(lambda seed: make({**row, "seed": seed}), range(2)).learn(WARM_UP + 10)
    assert largest_difference(lone, stack.unstack()[1]) < 1e-4


def test_lone_leaves_the_processs_generators_alone() -> None:
    stack = StackedICNNQ(make_seed, [0, 1])
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = np.random.RandomState(3).rand(2)
    with stack.lone(0):
        own = np.random.rand()  # noqa: NPY002
        np.testing.assert_equal(own, np.random.RandomState(0).rand())
    assert np.random.rand() == expected[0]  # noqa: NPY002
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3))


def test_saving_while_stacked_saves_one_learner_and_no_more(tmp_path: Any) -> None:
    stack = StackedICNNQ(make_seed, range(8)).learn(WARM_UP + 5)
    stack.agents[3].save(tmp_path / "stacked.zip")
    make_seed(3).learn(WARM_UP + 5).save(tmp_path / "lone.zip")
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("stacked", "lone")]
    assert sizes[0] < 1.1 * sizes[1]
    loaded = ICNNQ.load(tmp_path / "stacked.zip", env=gym.make("Pendulum-v1"), device="cpu")
    obs = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], stack.agents[3].predict(obs)[0])
    loaded.learn(WARM_UP + 5)
    assert largest_difference(loaded, stack.agents[3]) > 0


def test_unstacked_agents_have_weights_of_their_own() -> None:
    stack = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 2)
    one, other = stack.unstack()
    assert stack.unstack() == [one, other]
    with pytest.raises(RuntimeError, match="the learners have left this stack"):
        stack.learn(1)
    before = [p.detach().clone() for p in other.policy.parameters()]
    one.learn(5, reset_num_timesteps=False)
    assert all(torch.equal(p, q) for p, q in zip(before, other.policy.parameters(), strict=True))
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in one.policy.parameters())


def test_the_loss_is_every_learners_own() -> None:
    generator = torch.Generator().manual_seed(0)
    energies, target = torch.randn(3, 2, 7, generator=generator), torch.randn(3, 7, generator=generator)
    usable = torch.rand(3, 7, generator=generator) < 0.6
    usable[1] = False
    losses = bellman_loss(energies, target, usable)
    for own, *parts in zip(losses, energies, target, usable, strict=True):
        torch.testing.assert_close(own, bellman_loss(*parts), equal_nan=True)


def test_the_log_tells_what_a_lone_learners_tells() -> None:
    lone, stack = make_seed(1).learn(WARM_UP + 10), StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 10)
    expected, got = lone.logger.name_to_value, stack.agents[1].logger.name_to_value
    assert expected.keys() == got.keys()
    assert all(got[name] == pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in expected.items())


def test_a_time_limit_may_count_as_an_end_for_one_learner() -> None:
    rows = [{"seed": 0}, {"seed": 0, "replay_buffer_kwargs": {"handle_timeout_termination": False}}]
    stack = StackedICNNQ(make, rows).learn(210)  # an episode of Pendulum has 200 steps
    for i, ended in enumerate((0, 1)):
        assert stack.replay.gather(torch.arange(210).expand(2, -1)).ended[i].sum() == ended
    for agent, row in zip(stack.unstack(), rows, strict=True):
        lone = make(row).learn(210)
        assert agent.replay_buffer is not None
        assert lone.replay_buffer is not None
        np.testing.assert_array_equal(agent.replay_buffer.timeouts, lone.replay_buffer.timeouts)


def test_learners_without_a_seed_go_different_ways_and_repeat_with_the_processs_own() -> None:
    drawn = []
    for _ in range(2):
        set_random_seed(7)
        stack = StackedICNNQ(make, [{"seed": None}, {"seed": None}]).learn(WARM_UP + 10)
        drawn.append(stack._index.tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


# numbers that are not finite


@pytest.mark.parametrize("learning_rate", [1e10, 1e30])
def test_divergence_is_an_error_also_where_no_row_is_left_to_show_it(learning_rate: float) -> None:
    rows = [{"seed": 0}, {"seed": 1, "learning_rate": learning_rate}]
    stack = StackedICNNQ(make, rows)
    with pytest.raises(FloatingPointError, match="critic loss or its gradient is not finite: agent 1"):
        stack.learn(WARM_UP + 150)
    assert all(torch.isfinite(p).all() for agent in stack.agents for p in agent.policy.parameters())


def test_a_loss_that_is_not_finite_stops_the_learner_and_spares_its_weights_and_the_others() -> None:
    stack = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 5)
    untouched = StackedICNNQ(make_seed, [0, 1]).learn(WARM_UP + 5)
    before = [p.detach().clone() for p in stack.agents[1].policy.parameters()]
    stack.replay.rows[1, :, -3] = 3e38  # the rewards
    for one in (stack, untouched):
        one.train(3)
    assert all(torch.equal(p, q) for p, q in zip(before, stack.agents[1].policy.parameters(), strict=True))
    assert largest_difference(stack.agents[0], untouched.agents[0]) == 0
    with pytest.raises(FloatingPointError, match="critic loss or its gradient is not finite: agent 1 at update 5"):
        stack._log(0)
    with pytest.raises(FloatingPointError, match="agent 1 at update 5"):
        stack.learn(1, reset_num_timesteps=False)


class Sick(gym.Env[np.ndarray, np.ndarray]):
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), np.nan, False, False, {}


def test_a_reward_that_is_not_finite_is_named() -> None:
    stack = StackedICNNQ(lambda seed: make({"seed": seed}, Sick()), [0, 1])
    with pytest.raises(ValueError, match="reward: the environment returned"):
        stack.learn(5)


# nothing waits for the device


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a device: a number or a shape that depends on numbers, and whatever
    takes from or to another device than the one expected."""

    WAITS = (
        "_local_scalar_dense",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "item",
        "masked_select",
        "nonzero",
        "repeat_interleave",  # by a tensor; by a number it is other operations
        "unique_consecutive",
        "unique_dim",
    )

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8) for part in tree_leaves(args[1:])
        )
        if name in self.WAITS or masked:
            raise AssertionError(f"{name} waits for the device")
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves((args, kwargs, result)):
            if isinstance(part, torch.Tensor) and part.device.type != self.device:
                raise AssertionError(f"{name} meets a tensor on {part.device}")
        return result


@pytest.fixture
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without compiled code, which is for the CPU."""
    monkeypatch.setattr(CompiledCritics, "fits", staticmethod(lambda net: False))
    _identity.cache_clear()
    yield
    _identity.cache_clear()


def about_to_update(
    learners: int, members: int | None, smoothing: float, discounts: bool, fixed_steps: bool = True
) -> tuple[StackedICNNQ[Any], Batch]:
    """A stack after some updates, its next random numbers drawn, and a batch."""
    kwargs = {**SMALL, "n_critics": 3}
    rows = [
        {"seed": s, "target_members": members, "action_smoothing": smoothing, "policy_kwargs": kwargs}
        for s in range(learners)
    ]
    stack = StackedICNNQ(make, rows, fixed_steps=fixed_steps).learn(WARM_UP + 3)
    stack._draw()
    batch = stack.replay.gather(stack._index)
    return stack, batch._replace(discounts=0.9 * torch.ones_like(batch.rewards)) if discounts else batch


def moved(learner: Learner[Any], device: str) -> Learner[Any]:
    """A copy whose tensors are all on another device, with whatever numbers."""
    known: dict[int, Any] = {id(stream): stream for stream in learner.generators}  # which cannot be copied
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.Tensor, torch.nn.Parameter):
            patch.setattr(kind, "__deepcopy__", lambda part, memo: memo.setdefault(id(part), on_device(part, device)))
        other = copy.deepcopy(learner, known)
    other.device = torch.device(device)
    for optimizer, skip in zip(other.optimizers, other._skip, strict=True):
        optimizer.found_inf = skip  # type: ignore[attr-defined]  # left behind by the copy
    return other


def on_device(part: torch.Tensor, device: str) -> torch.Tensor:
    there = part.detach().to(device)
    return torch.nn.Parameter(there, part.requires_grad) if isinstance(part, torch.nn.Parameter) else there


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.parametrize("discounts", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("learners", [1, 3])
def test_the_update_with_fixed_steps_never_waits_for_the_device(
    learners: int, members: int | None, smoothing: float, discounts: bool
) -> None:
    stack, batch = about_to_update(learners, members, smoothing, discounts)
    with NoWaiting():
        stack.replay.gather(stack._index)
        stack.learner.step(batch)


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.parametrize("discounts", [False, True])
@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("learners", [1, 3])
def test_the_update_with_fixed_steps_stays_on_its_device(learners: int, members: int | None, discounts: bool) -> None:
    stack, batch = about_to_update(learners, members, 0.1, discounts)
    learner = moved(stack.learner, "meta")  # no numbers there: asking for one is an error
    there = batch._make(None if part is None else on_device(part, "meta") for part in batch)
    with NoWaiting("meta"):
        assert learner.step(there).shape == (learners, len(NUMBERS))


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.parametrize("wrong", [lambda t: t[t > 0], lambda t: t + torch.tensor(1.0), lambda t: t.sum().item()])
def test_what_waits_is_found(wrong: Any) -> None:
    with pytest.raises((AssertionError, RuntimeError)), NoWaiting("meta"):
        wrong(torch.zeros(3, device="meta"))
    stack, batch = about_to_update(2, None, 0.0, False, fixed_steps=False)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        stack.learner.step(batch)


class Recorded:
    """Stands for a CUDA graph, which counts how often it is played."""

    def __init__(self) -> None:
        self.played = 0

    def replay(self) -> None:
        self.played += 1


def test_an_update_is_captured_once_and_anew_where_it_reads_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Recorded] = []

    @contextlib.contextmanager
    def graph(recorded: Recorded) -> Iterator[None]:
        graphs.append(recorded)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, mock.Mock())
    updates = mock.Mock()
    capture = _CapturedUpdate(updates)
    for _ in range(2):
        capture.fit([True, False])
        for _ in range(4):
            capture()
    assert updates.call_count == 4  # three as they are, one that is captured
    assert [one.played for one in graphs] == [5]
    capture.fit([True, True])
    capture()
    assert updates.call_count == 5
    assert [one.played for one in graphs] == [5, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_a_cuda_device_the_learners_go_the_same_way(cuda_graph: bool) -> None:
    def on_device(seed: int) -> ICNNQ:
        settings: dict[str, Any] = {"learning_starts": WARM_UP, "batch_size": 16, "buffer_size": 300}
        return ICNNQ("MlpPolicy", "Pendulum-v1", seed=seed, device="cuda", policy_kwargs=SMALL, **settings)

    lone = [on_device(seed).learn(WARM_UP + 20) for seed in range(2)]
    stack = StackedICNNQ(on_device, range(2), cuda_graph=cuda_graph).learn(WARM_UP + 20)
    for one, agent in zip(lone, stack.unstack(), strict=True):
        assert largest_difference(one, agent) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_a_graph_is_captured_anew_for_other_noise() -> None:
    settings: dict[str, Any] = {"learning_starts": WARM_UP, "batch_size": 16, "buffer_size": 300}

    def with_smoothing_later(cuda_graph: bool) -> ICNNQ:
        stack = StackedICNNQ(
            lambda seed: ICNNQ("MlpPolicy", "Pendulum-v1", seed=seed, device="cuda", policy_kwargs=SMALL, **settings),
            range(1),
            cuda_graph=cuda_graph,
        )
        stack.learn(WARM_UP + 10)
        stack.agents[0].action_smoothing = 0.5
        stack.train(5)
        return stack.unstack()[0]

    assert largest_difference(*(with_smoothing_later(graph) for graph in (False, True))) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_the_update_does_not_synchronise() -> None:
    stack = StackedICNNQ(lambda seed: ICNNQ("MlpPolicy", "Pendulum-v1", seed=seed, device="cuda"), range(2))
    stack.learn(100)
    stack._draw()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stack._update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# what cannot be stacked


def _normalised(seed: int) -> ICNNQ:
    return make({"seed": seed}, VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])))


def _constrained(seed: int) -> ICNNQ:
    return make({"seed": seed, "policy_kwargs": {**SMALL, "constraint": box(-0.5, 0.5)}})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda seed: TD3("MlpPolicy", "Pendulum-v1"), "agent: .* needs ICNNQ, agent 0 has TD3"),
        (lambda seed: NAF("MlpPolicy", "Pendulum-v1"), "agent: .* needs ICNNQ, agent 0 has NAF"),
        (_normalised, "env: .* without VecNormalize"),
        (_constrained, "constraint: .* needs none"),
        (lambda seed: make({"n_steps": 3}), "n_steps: .* needs 1-step returns, agent 0 has 3"),
        (
            lambda seed: make({}, DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)),
            "n_envs: .* one environment for each agent, agent 0 has 2",
        ),
        (
            lambda seed: make({"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))}),
            "action_noise: .* needs an exploration",
        ),
        (
            lambda seed: make({"policy_kwargs": {**SMALL, "optimizer_class": torch.optim.SGD}}),
            "optimizer_class: .* needs Adam, fused, agent 0 has SGD",
        ),
        (
            lambda seed: make({"policy_kwargs": {**SMALL, "activation_fn": torch.nn.PReLU}}),
            "activation_fn: .* needs a function without weights, agent 0 has PReLU",
        ),
        (
            lambda seed: make({"policy_kwargs": {**SMALL, "solver": ProjectedGradient()}}),
            "solver: .* needs ProjectedNewton",
        ),
        (lambda seed: make({"train_freq": (1, "episode")}), "train_freq: .* needs a number of steps"),
        (lambda seed: make({"target_members": 1 + seed}), "target_members: must be the same"),
        (lambda seed: make({"batch_size": 16 + seed}), "batch_size: must be the same.* agent 0 has 16, agent 1 has 17"),
        (
            lambda seed: make({"policy_kwargs": {**SMALL, "hidden": (8 + seed,)}}),
            r"policy_kwargs \(the network\): must be the same",
        ),
        (
            lambda seed: make({"policy_kwargs": {**SMALL, "activation": torch.nn.Softplus(beta=1 + seed)}}),
            r"policy_kwargs \(the activation\): must be the same.*beta=1.*beta=2",
        ),
        (lambda seed: make({"learning_starts": 5 if seed else None}), "learning_starts: must be the same"),
    ],
)
def test_what_cannot_be_stacked_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StackedICNNQ(build, [0, 1])


def test_one_environment_for_two_is_refused_however_it_is_wrapped() -> None:
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match="env: two stacked agents share one"):
        StackedICNNQ(lambda seed: make({"seed": seed}, env), [0, 1])


def test_wrong_arguments_are_named() -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    with pytest.raises(ValueError, match="env: two stacked agents share one"):
        StackedICNNQ(lambda seed: make({"seed": seed}, env), [0, 1])
    with pytest.raises(ValueError, match="rows: expected at least one"):
        StackedICNNQ(make_seed, [])
    with pytest.raises(ValueError, match="callbacks: expected 2, one for each agent, got 1"):
        StackedICNNQ(make_seed, [0, 1]).learn(5, [None])
    with pytest.raises(ValueError, match="cuda_graph: needs agents on a CUDA device, got cpu"):
        StackedICNNQ(make_seed, [0, 1], cuda_graph=True)
