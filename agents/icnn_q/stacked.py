"""Many ICNNQ learners in one process: their networks side by side in one ensemble, one batched update for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from icnn_rl.agents.icnn_q.algorithm import ICNNQ
from icnn_rl.agents.icnn_q.critic import ICNNCritic
from icnn_rl.agents.icnn_q.critics import StackedCritics
from icnn_rl.agents.icnn_q.learner import CHECK_EVERY, NUMBERS, Learner
from icnn_rl.agents.icnn_q.policy import finite_obs
from icnn_rl.agents.icnn_q.stack_checks import check_stackable
from icnn_rl.agents.icnn_q.stacked_data import StackedReplay, Streams, to_device
from icnn_rl.agents.normalization import NormalizedExtractor
from icnn_rl.nn import PICNN
from icnn_rl.solution import Status

__all__ = ["StackedICNNQ"]

Row = TypeVar("Row")


class StackedICNNQ(Generic[Row]):
    """S learners :class:`ICNNQ`, one for each seed or row of settings, updated together.

    Networks of E members each become one network of S E members; batches, solves and losses carry S in front. The sum
    of the S losses has for gradient with respect to one learner's weights the gradient of its own loss, and Adam works
    number by number: every learner goes the way it would have gone alone. Alone means: its own environment, replay
    buffer and random streams, for the initial weights, warm-up actions, exploration, replay and target noise. Rounding
    differs, and grows with time as in any two runs of a chaotic system.

    The learners are ordinary agents. While they are stacked their weights are rows of the stack's tensors, so that they
    may be evaluated and saved at any time; their replay buffers, the size of their TD errors (``target_gap``) and the
    process's random generators are brought up to date by :meth:`lone` and :meth:`unstack`.

    Learners may differ in learning_rate, gamma, tau, exploration noise, target_policy_noise, target_noise_clip,
    action_smoothing, reward_scale, target_gap, Adam's arguments, and seed; they must share network, solver, batch size
    and all other settings.

    Args:
        make: row -> a new agent with an environment of its own; its seed belongs into its constructor.
        rows: what ``make`` is called with: seeds, or anything else.
        fixed_steps: take all steps of the solver for every batch, with finished rows frozen, instead of asking after
            each step whether there is anything left to do. The update then never waits for the device. None: on CUDA.
        cuda_graph: capture the update in a CUDA graph and replay it. Needs a CUDA device.

    Attributes:
        agents: the learners, in the order of ``rows``.

    Raises:
        ValueError: agents that cannot be stacked: see :func:`icnn_rl.agents.icnn_q.stack_checks.check_stackable`.

    Example:
        >>> stack = StackedICNNQ(lambda seed: ICNNQ("MlpPolicy", "Pendulum-v1", seed=seed), range(3))
        >>> agents = stack.learn(10_000).unstack()  # doctest: +SKIP
    """

    def __init__(
        self,
        make: Callable[[Row], ICNNQ],
        rows: Sequence[Row],
        *,
        fixed_steps: bool | None = None,
        cuda_graph: bool = False,
    ) -> None:
        self.agents: list[ICNNQ] = []
        self._streams: list[Streams] = []
        for row in rows:
            agent = make(row)
            self.agents.append(agent)
            # before the next one seeds the generators anew
            self._streams.append(Streams(agent.device, own=agent.seed is None))
        check_stackable(self.agents)
        first = self.agents[0]
        self.device = first.device
        if cuda_graph and self.device.type != "cuda":
            raise ValueError(f"cuda_graph: needs agents on a CUDA device, got {self.device}. Leave it out.")
        self._fixed = self.device.type == "cuda" if fixed_steps is None else fixed_steps or cuda_graph
        self._act_solver = first.policy.act_solver
        buffers = [agent.replay_buffer for agent in self.agents]
        self.replay = StackedReplay(buffers, self.device)  # type: ignore[arg-type]  # checked above
        self._left = False
        self._index = torch.zeros(len(self), first.batch_size, dtype=torch.int64, device=self.device)
        self._actions = torch.zeros(len(self), first.batch_size, first.critic.action_dim, device=self.device)
        self.learner: Learner[StackedCritics] = self._make_learner(self._fixed)
        self._logged = [self.learner.updates] * len(self)
        self._capture = _CapturedUpdate(self._update) if cuda_graph else None

    def __len__(self) -> int:
        return len(self.agents)

    @property
    def num_timesteps(self) -> int:
        """Environment steps of each learner so far."""
        return self.agents[0].num_timesteps

    # setting up

    def _make_learner(self, fixed_steps: bool) -> Learner[StackedCritics]:
        """One network of S E members each for critics and targets; the agents' weights become rows of its tensors."""
        net = _stacked([agent.critic for agent in self.agents])  # type: ignore[misc]  # checked
        target = _stacked([agent.critic_target for agent in self.agents]).requires_grad_(False)  # type: ignore[misc]
        extractors = [agent.critic.features_extractor for agent in self.agents]
        known: tuple[Tensor, ...] = ()
        if isinstance(extractors[0], NormalizedExtractor):
            known = tuple(_joined(extractors, name) for name in ("mean", "variance"))  # type: ignore[arg-type]
        first = self.agents[0]
        return Learner(
            StackedCritics(net, len(self), *known),
            StackedCritics(target, len(self), *known),
            [agent.critic.optimizer for agent in self.agents],
            first.policy.solver,
            [streams.torch for streams in self._streams],
            target_members=first.target_members,
            policy_delay=first.policy_delay,
            updates=first._n_updates,
            target_window=first.target_window,
            kept=[agent.kept() for agent in self.agents],
            check_every=CHECK_EVERY,
            fixed_steps=fixed_steps,
        )

    # learning

    def learn(
        self,
        total_timesteps: int,
        callbacks: Sequence[MaybeCallback] | None = None,
        log_interval: int = 4,
        tb_log_name: str = "ICNNQ",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> StackedICNNQ[Row]:
        """``total_timesteps`` steps of every learner, each with its callback; the first one shows the progress bar.

        Each learner logs to its own logger. A callback that stops its learner stops them all.

        Raises:
            ValueError: an observation or reward is not finite; the number of callbacks is wrong.
            FloatingPointError: a learner's loss or its gradient is not finite. Its weights are those of its last sound
                update.
            RuntimeError: the learners have left the stack.
        """
        if self._left:
            raise RuntimeError("learn: the learners have left this stack, see unstack(). Stack them anew.")
        wanted = [None] * len(self) if callbacks is None else list(callbacks)
        if len(wanted) != len(self):
            raise ValueError(f"callbacks: expected {len(self)}, one for each agent, got {len(wanted)}.")
        own: list[BaseCallback] = []
        for i, (agent, callback) in enumerate(zip(self.agents, wanted, strict=True)):
            total, prepared = agent._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar and i == 0
            )
            prepared.on_training_start(locals(), globals())
            own.append(prepared)
        first, going = self.agents[0], True
        while self.num_timesteps < total:
            for callback in own:
                callback.on_rollout_start()
            for _ in range(first.train_freq.frequency):  # type: ignore[union-attr]  # made so by SB3
                going = going and self._step(own, log_interval)
            if not going:
                break
            for callback in own:
                callback.on_rollout_end()
            if self.num_timesteps > first.learning_starts:
                self.train(first.gradient_steps if first.gradient_steps >= 0 else first.train_freq.frequency)  # type: ignore[union-attr]
        for i, callback in enumerate(own):
            self._log(i)
            callback.on_training_end()
        return self

    def _step(self, callbacks: list[BaseCallback], log_interval: int | None) -> bool:
        """One step of every environment, as SB3's collect_rollouts does it; False where a callback stops."""
        actions, scaled = self._explore()
        for agent, action in zip(self.agents, actions, strict=True):
            agent.env.step_async(action[None])  # type: ignore[union-attr]  # checked: there is one
        results = [agent.env.step_wait() for agent in self.agents]  # type: ignore[union-attr]
        going = True
        for agent, callback, (new_obs, rewards, dones, infos) in zip(self.agents, callbacks, results, strict=True):
            agent.num_timesteps += 1
            callback.update_locals({"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos})
            going = callback.on_step() and going
        if not going:
            return False
        for i, (agent, (new_obs, rewards, dones, infos)) in enumerate(zip(self.agents, results, strict=True)):
            agent._update_info_buffer(infos, dones)
            slot: Any = self.replay.slot(i)
            agent._store_transition(slot, scaled[i : i + 1], new_obs, rewards, dones, infos)
            agent._update_current_progress_remaining(agent.num_timesteps, agent._total_timesteps)
        self.replay.commit()
        for i, (agent, (_, _, dones, _)) in enumerate(zip(self.agents, results, strict=True)):
            if dones[0]:
                agent._episode_num += 1
                if log_interval is not None and agent._episode_num % log_interval == 0:
                    self._log(i)
                    agent.dump_logs()
        return True

    def _explore(self) -> tuple[np.ndarray, np.ndarray]:
        """Actions in the environment's units and scaled to [-1, 1], noise included: (S, ...), (S, ...)."""
        policy, shape = self.agents[0].policy, self.agents[0]._action_shape
        if self.num_timesteps < self.agents[0].learning_starts:
            wanted = np.stack([agent.action_space.sample() for agent in self.agents])
        else:
            wanted = policy.unscale_action(self._greedy().reshape(-1, *shape))
        scaled = policy.scale_action(wanted)
        for own, agent, streams in zip(scaled, self.agents, self._streams, strict=True):
            own[...] = agent.explore(own[None], agent._last_obs, streams.numpy)[0]
        return policy.unscale_action(scaled), scaled

    def _greedy(self) -> np.ndarray:
        """Every learner's greedy action for its own last observation, scaled: (S, n)."""
        obs = np.stack([np.ravel(finite_obs(agent._last_obs)) for agent in self.agents])
        obs_there = to_device(torch.from_numpy(obs), self.device)
        actions, status = self.learner.critics.act(obs_there, self._act_solver)
        both = torch.cat((actions, (status > int(Status.MAX_STEPS)).unsqueeze(-1)), -1).cpu().numpy()
        for agent, failed in zip(self.agents, both[:, -1], strict=True):
            agent.critic.act_failed += int(failed)
        return both[:, :-1]

    def train(self, gradient_steps: int) -> None:
        """``gradient_steps`` updates of every learner."""
        for i, agent in enumerate(self.agents):
            agent._update_learning_rate(agent.critic.optimizer)
            if self._capture is not None:
                self._capture.fix_learning_rate(i, agent.critic.optimizer)
        settings = self.learner.settings
        settings.read(self.agents)
        if self._capture is not None:
            self._capture.fit([settings.somewhere(name) for name in ("target_policy_noise", "action_smoothing")])
        for _ in range(gradient_steps):
            self._draw()
            if self._capture is None:
                self._update()
            else:
                self._capture()
            for agent in self.agents:
                agent._n_updates += 1
            self.learner.count()

    def _draw(self) -> None:
        """The update's random numbers, each from its learner's own streams, in the order of a lone learner."""
        batch = self._index.shape[1]
        index = np.stack([streams.numpy.randint(0, len(self.replay), size=batch) for streams in self._streams])
        self._index.copy_(to_device(torch.from_numpy(index), self.device))
        self.learner.draw(self._actions)

    def _update(self) -> None:
        """One update of every learner. Nothing here waits for the device where the solver's steps are fixed."""
        self.learner.step(self.replay.gather(self._index))

    # reading off

    def _log(self, i: int) -> None:
        """Means over the updates since the last time, into the learner's logger."""
        self.learner.check()
        agent = self.agents[i]
        updates, self._logged[i] = agent._n_updates - self._logged[i], agent._n_updates
        if updates == 0:
            return
        means = (self.learner.sums[i] / updates).tolist()
        self.learner.sums[i].zero_()
        for name, mean in zip(NUMBERS, means, strict=True):
            agent.logger.record(name, mean)
        agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
        agent.logger.record("solver/act_failed", agent.policy.act_failed)

    @contextlib.contextmanager
    def lone(self, i: int) -> Iterator[ICNNQ]:
        """Learner ``i`` as if it were alone: its replay buffer filled, the process's random generators those of its
        streams, which go on from where they are left. For checkpoints and evaluations; and, after :meth:`unstack`, for
        going on without the others.

        Raises:
            RuntimeError: the learner has learned although it is still in the stack, which does not know of it.
        """
        agent = self.agents[i]
        if not self._left:
            self._bring_up_to_date(i)
        before = agent.num_timesteps, agent._n_updates
        with self._streams[i].installed():
            yield agent
        if not self._left and (agent.num_timesteps, agent._n_updates) != before:
            raise RuntimeError(
                f"lone: agent {i} has learned while in the stack, which does not know of it and is of no use any more. "
                "Call unstack() first."
            )

    def _bring_up_to_date(self, i: int) -> None:
        """What the learner keeps beside its weights, and the stack has kept for it."""
        agent = self.agents[i]
        self.replay.write_to(agent.replay_buffer, i)  # type: ignore[arg-type]  # checked: there is one
        agent._kept, agent._learner = self.learner.keep(i), None

    def unstack(self) -> list[ICNNQ]:
        """The learners as ordinary agents with weights of their own and filled replay buffers. They have left the stack
        then, which cannot learn any further; their random streams stay with :meth:`lone`."""
        if self._left:
            return self.agents
        self._left = True
        for i, agent in enumerate(self.agents):
            self._bring_up_to_date(i)
            for parameter in (*agent.critic.net.parameters(), *agent.critic_target.net.parameters()):
                parameter.data = parameter.data.clone()
                parameter.grad = None
            extractor = agent.critic.features_extractor
            if isinstance(extractor, NormalizedExtractor):
                extractor.mean, extractor.variance = extractor.mean.clone(), extractor.variance.clone()
            optimizer = agent.critic.optimizer
            optimizer.__dict__.pop("found_inf", None)
            for group in optimizer.param_groups:
                group["lr"], group["capturable"] = float(group["lr"]), False
        return self.agents


def _stacked(critics: list[ICNNCritic]) -> PICNN:
    """One network with the members of all critics, whose weights become rows of its tensors."""
    first = critics[0]
    members = first.net.ensemble or 1
    settings = {**first.picnn_kwargs, "ensemble": len(critics) * members}
    whole = PICNN(first.features_dim, first.action_dim, **settings).to(first.device)
    for parameter, *parts in zip(whole.parameters(), *(one.net.parameters() for one in critics), strict=True):
        parameter.data = torch.cat([part.data for part in parts])
        for i, part in enumerate(parts):
            part.data = parameter.data[i * members : (i + 1) * members]
    return whole


def _joined(extractors: list[NormalizedExtractor], name: str) -> Tensor:
    """A buffer of all extractors, (S, 1, o), whose rows become theirs."""
    whole = torch.stack([getattr(one, name) for one in extractors]).unsqueeze(1)
    for one, row in zip(extractors, whole, strict=True):
        setattr(one, name, row[0])
    return whole


class _CapturedUpdate:
    """An update as a CUDA graph. The first calls run it as it is, on a stream of their own, which allocates what it
    keeps; the next one captures it, and from then on it is replayed."""

    _WARM_UP = 3

    def __init__(self, update: Callable[[], None]) -> None:
        self._update, self._calls = update, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kind: object = None
        self._rates: dict[int, Tensor] = {}

    def fit(self, kind: object) -> None:
        """What is captured leaves out noise that nobody has: of an update of another kind it is forgotten."""
        if kind != self._kind:
            self._graph, self._kind = None, kind

    def fix_learning_rate(self, i: int, optimizer: torch.optim.Optimizer) -> None:
        """Put the learning rate, a new number, where the graph reads it."""
        for group in optimizer.param_groups:
            device = group["params"][0].device
            rate = self._rates.setdefault(i, torch.zeros((), device=device))
            rate.fill_(group["lr"])
            group["lr"], group["capturable"] = rate, True

    def __call__(self) -> None:
        if self._graph is None and self._calls < self._WARM_UP:
            self._calls += 1
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self._update()
            here.wait_stream(aside)
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._update()
        self._graph.replay()
