"""ICNNQ: Q-learning in continuous action spaces with an input-convex critic and no actor."""

from __future__ import annotations

import copy
import io
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    ReplayBufferSamples,
    Schedule,
    TensorDict,
)
from stable_baselines3.common.vec_env import VecEnv

from icnn_rl.agents.arguments import arguments, check_names, checks_names
from icnn_rl.agents.buffers import executed_actions
from icnn_rl.agents.constrained.both_halves import check_halves
from icnn_rl.agents.constrained.observations import check_observations
from icnn_rl.agents.icnn_q.batch import Batch
from icnn_rl.agents.icnn_q.critic import ConcaveCritic, Greedy
from icnn_rl.agents.icnn_q.critics import LoneCritics
from icnn_rl.agents.icnn_q.exploration import Exploration, GaussianNoise, read_exploration
from icnn_rl.agents.icnn_q.learner import CHECK_EVERY, FRESH, NUMBERS, Learner, is_fused_adam, process_generator
from icnn_rl.agents.icnn_q.noise import check_noise, noise_for
from icnn_rl.agents.icnn_q.policy import ICNNQCnnPolicy, ICNNQMultiInputPolicy, ICNNQPolicy, finite_obs
from icnn_rl.agents.normalization import DiscountedReturns, update_moments
from icnn_rl.checks import check_positive_int, check_range

__all__ = ["ICNNQ", "warm_up"]

SelfICNNQ = TypeVar("SelfICNNQ", bound="ICNNQ")


def warm_up(timesteps: int) -> int:
    """Steps of random actions that a run of ``timesteps`` begins with: a tenth, at most 10 000."""
    return min(timesteps // 10, 10_000)


def _of_the_policy(agent_class: type) -> dict[str, str]:
    """The policy's arguments, and where they belong."""
    policy: type = agent_class.policy_aliases["MlpPolicy"]  # type: ignore[attr-defined]
    places = {name: f"It belongs to the policy: policy_kwargs={{{name!r}: ...}}." for name in arguments(policy.__mro__)}
    places["constraint"] += " With the wrapper: env, kwargs = icnn_rl.constrain(env, constraint)."
    return places


class ICNNQ(OffPolicyAlgorithm):
    """Q-learning with an input-convex critic (Amos, Xu and Kolter, section 4.2), stabilised the way TD3 is.

    With Q_e = -f_e, e = 1 .. E, every f_e convex in the action, and target networks marked by ':

        a*(s)  = argmax_a  mean_e Q_e(s, a)              a convex programme, solved for the whole batch
        a'     = clip( a*'(s') + clip( N(0, target_policy_noise), +-target_noise_clip ), -1, 1 )
        target = reward_scale r + gamma (1 - terminated) min_e Q'_e(s', a')
        loss   = sum_e mean_batch ( Q_e(s, a + N(0, action_smoothing)) - target )^2

    min_e of concave functions is concave, so nothing is lost by the twin minimum. A time limit is not a termination.
    Departures from the paper: target noise and twin minimum (TD3), LayerNorm on the context path, Newton's method for
    the argmax, no entropy term in the action.

    Rows whose argmax failed are left out of the loss and counted in ``solver/failed_fraction``; the solver's own
    numbers are logged under ``solver/``.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class.
        env: environment with a finite Box of actions, or its id.
        learning_rate: per update, or a schedule of the remaining progress.
        learning_starts: environment steps of uniformly random actions before the first update; None: a tenth of the
            first ``learn``, at most 10 000.
        policy_delay: updates of the critics for each move of the target networks (there is no actor to delay).
        exploration: what is tried in place of the greedy action while learning: an
            :class:`icnn_rl.agents.icnn_q.exploration.Exploration`, or plain data, {"kind": "held", "std": 0.2, "steps":
            4}. None: Gaussian noise. SB3's ``action_noise`` takes its place where it is given.
        exploration_noise: standard deviation of that Gaussian noise, on scaled actions.
        target_policy_noise, target_noise_clip: smoothing of the target action, in scaled units.
        target_members: the target takes the least of that many members, drawn anew for each update; None: of all. The
            least of more members lies further below their mean, and an update hands this on to the next.
        action_smoothing: standard deviation of the Gaussian noise on the stored actions in the loss, in scaled units.
            Up to second order it adds action_smoothing^2 |dQ_e/da|^2 to the loss (Bishop, Training with Noise is
            Equivalent to Tikhonov Regularization, Neural Computation 7, 1995): a slope in the action must be worth its
            size, or the maximum over many actions adds up what is only noise in each.
        target_window: the value of the next state in a target is moved between the least and the largest target of the
            last so many updates: what no target has reached is extrapolation. 0: it is taken as it is. (Fujimoto et
            al., For SALE: State-Action Representation Learning for Deep Reinforcement Learning, NeurIPS 2023, do so
            with all targets so far.)
        reward_scale: rewards are multiplied by it before they are learned from, so that the network's numbers, what is
            logged and ``picnn_kwargs.strong_convexity`` are in that unit; :meth:`q_values` and :meth:`best_action` give
            the environment's. Adam's steps have a fixed size: values of thousands take long to reach.
        normalize_rewards: divide rewards by the standard deviation of the discounted returns so far, as VecNormalize
            does, but when they are learned from: one curvature floor, one rate and one noise then serve tasks whose
            returns differ by thousands.
        target_gap: the target's argmax is good enough once its certified gap is below this share of the TD error, a
            root mean square over the last hundred updates or so, or meets the solver's own tolerance, whichever is
            first. 0: the solver's tolerance alone.
        (others): as in SB3's TD3.

    Raises:
        ValueError: the action space is unbounded or has a fixed coordinate, an observation, action or reward is not
            finite.
        FloatingPointError: the critic's loss is no longer finite, and the weights are those of the last sound update;
            or its values are not.

    Example:
        >>> agent = ICNNQ("MlpPolicy", "Pendulum-v1").learn(10_000)  # doctest: +SKIP

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017; Fujimoto, van Hoof, Meger, Addressing Function
        Approximation Error in Actor-Critic Methods, ICML 2018 (twin minimum, target noise); Chen, Wang, Zhou, Ross,
        Randomized Ensembled Double Q-Learning: Learning Fast Without a Model, ICLR 2021 (the least of some members).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ICNNQPolicy,
        "CnnPolicy": ICNNQCnnPolicy,
        "MultiInputPolicy": ICNNQMultiInputPolicy,
    }
    policy: ICNNQPolicy
    critic: ConcaveCritic
    critic_target: ConcaveCritic

    @checks_names(_of_the_policy)
    def __init__(
        self,
        policy: str | type[ICNNQPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int | None = None,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_delay: int = 1,
        exploration: Exploration | Mapping[str, Any] | None = None,
        exploration_noise: float = 0.2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        target_members: int | None = None,
        action_smoothing: float = 0.0,
        target_window: int = 0,
        reward_scale: float = 1.0,
        normalize_rewards: bool = False,
        target_gap: float = 0.01,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            0 if learning_starts is None else learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=check_positive_int("n_steps", n_steps),
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        if learning_starts is None:
            self.learning_starts = None  # type: ignore[assignment]  # known once learn() is told the length of the run
        check_positive_int("batch_size", batch_size)
        check_range("gamma", gamma, 0.0, 1.0)
        check_range("tau", tau, 0.0, 1.0)
        self.policy_delay = check_positive_int("policy_delay", policy_delay)
        self.exploration = read_exploration(exploration)
        self.exploration_noise = check_range("exploration_noise", exploration_noise, 0.0, float("inf"))
        self.target_policy_noise = check_range("target_policy_noise", target_policy_noise, 0.0, float("inf"))
        self.target_noise_clip = check_range("target_noise_clip", target_noise_clip, 0.0, float("inf"))
        self.target_members = target_members
        self.action_smoothing = check_range("action_smoothing", action_smoothing, 0.0, float("inf"))
        self.target_window = check_window(target_window)
        self.normalize_rewards = bool(normalize_rewards)
        self.reward_scale = check_range("reward_scale", reward_scale, 0.0, float("inf"), open_low=True)
        self.target_gap = check_range("target_gap", target_gap, 0.0, float("inf"))
        self._kept = dict(FRESH)  # as it was saved
        self._returns = DiscountedReturns() if normalize_rewards else None
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        _check_action_space(env.action_space)  # before SB3's own, shorter complaint
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        given = self.replay_buffer_class, self.replay_buffer_kwargs
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)
        super()._setup_model()
        # not what SB3 has made of them: it chooses anew when the agent is loaded, perhaps with other n_steps or gamma
        self.replay_buffer_class, self.replay_buffer_kwargs = given
        self._check_policy()
        self._check_observations(self.env)
        self._check_members()
        self._check_noise()
        self._create_aliases()

    def _check_policy(self) -> None:
        wanted = self.policy_aliases["MlpPolicy"]
        if not isinstance(self.policy, wanted):
            raise ValueError(
                f"policy: {type(self).__name__} takes {wanted.__name__} and what derives from it, got "
                f"{type(self.policy).__name__}. Is it another agent's, or its file?"
            )

    def _check_noise(self) -> None:
        if self.action_noise is not None:
            check_noise(self.action_noise, self._action_shape, self.device)

    def _check_observations(self, env: VecEnv | None) -> None:
        """A constraint reads raw observations and is on raw actions: refuse environments that change or stack them, and
        warn where the environment's half is missing, or ours."""
        check_halves(self.policy.constraint, env, trust_actions=self.policy.trust_actions)
        if self.policy.constraint is not None:
            assert isinstance(self.action_space, spaces.Box)
            check_observations(
                self.policy.constraint,
                self.observation_space,
                self.action_space,
                trust_obs=self.policy.trust_obs,
                env=env,
            )

    def _check_members(self) -> None:
        wanted, there = self.target_members, self.policy.n_critics
        if wanted is not None and check_positive_int("target_members", wanted) > there:
            raise ValueError(f"target_members: expected at most n_critics = {there}, got {wanted}.")

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's.

        Raises:
            ValueError: the constraint cannot read this environment's observations.
        """
        wrapped = self._wrap_env(env, self.verbose)
        self._check_observations(wrapped)  # first: an environment that is refused leaves the agent as it was
        super().set_env(wrapped, force_reset)

    @property
    def _action_shape(self) -> tuple[int, ...]:
        assert isinstance(self.action_space, spaces.Box)
        return self.action_space.shape

    def _create_aliases(self) -> None:
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        self.actor, self.actor_target = self.critic, self.critic_target  # SB3 and its callbacks read these names
        self._learner: Learner[LoneCritics] | None = None

    # learning

    @property
    def learner(self) -> Learner[LoneCritics]:
        """What updates the critics: see :class:`icnn_rl.agents.icnn_q.learner.Learner`."""
        if self._learner is None:
            optimizer = self.critic.optimizer
            # the host may ask about every loss where asking costs nothing, and has to where Adam would not stand still
            every = 1 if self.device.type == "cpu" or not is_fused_adam(optimizer) else CHECK_EVERY
            self._learner = Learner(
                LoneCritics(self.critic),
                LoneCritics(self.critic_target),
                [optimizer],
                self.policy.solver,
                [process_generator(self.device)],
                target_window=self.target_window,
                kept=[self._kept],
                check_every=every,
            )
        learner = self._learner
        learner.settings.read([self])
        learner.policy_delay, learner.target_members = self.policy_delay, self.target_members
        learner.solver, learner.updates = self.policy.solver, self._n_updates
        return learner

    @property
    def td_square(self) -> float:
        """Running mean of the squared TD error, of one member, in units of 1 / reward_scale."""
        return float(self._kept["td_square"] if self._learner is None else self._learner.td_square[0])

    def kept(self) -> dict[str, Any]:
        """What the learner keeps beside weights, optimiser and random stream."""
        return self._kept if self._learner is None else self._learner.keep(0)

    @property
    def reward_factor(self) -> float:
        """What a reward is multiplied by before it is learned from: ``reward_scale``, and with ``normalize_rewards``
        1 / the deviation of discounted returns so far."""
        return self.reward_scale / (1.0 if self._returns is None else self._returns.deviation)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """``gradient_steps`` updates of the critics, each on a fresh batch from the replay buffer."""
        self._update_learning_rate(self.critic.optimizer)
        learner = self.learner
        for _ in range(gradient_steps):
            data = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            learner.update(_batch(data))
            self._n_updates = learner.updates
        if gradient_steps > 0:
            for name, mean in zip(NUMBERS, learner.take_means(gradient_steps)[0].tolist(), strict=True):
                self.logger.record_mean(name, mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("solver/act_failed", self.policy.act_failed)

    @classmethod
    def load(
        cls: type[SelfICNNQ],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfICNNQ:
        """As SB3's, which takes settings of any name and forgets those that it does not know.

        Raises:
            TypeError: a setting is not the agent's.
        """
        known = arguments([ICNNQ]) | arguments(cls.__mro__)
        check_names(f"{cls.__name__}.load", kwargs, known, _of_the_policy(cls))
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    # looking inside

    def q_values(self, obs: np.ndarray | dict[str, np.ndarray], action: np.ndarray) -> np.ndarray:
        """Mean over the members of Q(s, a): (B,), for one or a batch of observations and actions in the environment's
        units.

        Raises:
            ValueError: the shapes do not fit, or something is not finite.
        """
        tensor, _ = self.policy.obs_to_tensor(finite_obs(obs))
        shape = self._action_shape
        actions = np.asarray(action, dtype=np.float32)
        if actions.shape[-len(shape) :] != shape or not np.isfinite(actions).all():
            raise ValueError(
                f"action: expected finite numbers of shape (B, {', '.join(map(str, shape))}), got {actions.shape}."
            )
        scaled = self.policy.scale_action(actions.reshape(-1, *shape)).reshape(-1, self.critic.action_dim)
        batch = next(iter(tensor.values())).shape[0] if isinstance(tensor, dict) else tensor.shape[0]
        if scaled.shape[0] != batch:
            raise ValueError(f"action: expected {batch} rows, one for each observation, got {scaled.shape[0]}.")
        self.policy.set_training_mode(False)
        with torch.no_grad():
            energy = self.policy.settled_critic.bind(tensor)
            value = -energy(torch.as_tensor(scaled, dtype=torch.float32, device=self.device)) / self.reward_factor
            return value.cpu().numpy()

    def best_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> Greedy:
        """The greedy action with its certificate: what ``predict(obs, deterministic=True)`` gives, and how far
        from optimal it can be.

        Returns:
            :class:`Greedy` of CPU tensors: action (B, ...) in the environment's units, value (B,), gap (B,), status
            (B,).
        """
        tensor, _ = self.policy.obs_to_tensor(finite_obs(obs))
        self.policy.set_training_mode(False)
        found = self.policy.settled_critic.greedy(tensor)
        action = self.policy.unscale_action(found.action.cpu().numpy().reshape(-1, *self._action_shape))
        value, gap = found.value.cpu() / self.reward_factor, found.gap.cpu() / self.reward_factor
        return Greedy(torch.as_tensor(action), value, gap, found.status.cpu())

    def explore(self, scaled: np.ndarray, obs: Any, random: Any = np.random) -> np.ndarray:
        """Scaled actions (B, ...) to try in place of these, for observations (B, ...)."""
        exploration = self.exploration
        if self.action_noise is not None or (exploration is None and self.exploration_noise == 0):
            return scaled
        if exploration is None:
            exploration = GaussianNoise(self.exploration_noise)
        rows = scaled.reshape(len(scaled), -1)

        def curvature() -> np.ndarray:
            tensor, _ = self.policy.obs_to_tensor(obs)
            with torch.inference_mode():
                bound: Any = self.critic.bind(tensor)
                _, _, hessian = bound.value_grad_hessian(torch.as_tensor(rows, device=self.device))
            matrices: np.ndarray = hessian.cpu().numpy()
            return matrices

        tried = exploration(rows, curvature, random).reshape(scaled.shape)
        return np.clip(tried, -1.0, 1.0).astype(scaled.dtype)

    # SB3's seams

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """The action with noise, or a random one, moved to the nearest that the constraint allows."""
        action, scaled = super()._sample_action(*args, **kwargs)
        if np.isfinite(action).all():
            scaled = self.explore(scaled, self._last_obs)
            action = self.policy.unscale_action(scaled)
        if not np.isfinite(action).all():  # of finite observations
            raise FloatingPointError(
                f"the critic's value of an action is not finite after update {self._n_updates}: its weights have "
                "diverged. Lower learning_rate or reward_scale."
            )
        if self.critic.limits is None:
            return action, scaled
        polytopes = self.critic.polytopes_at(self._last_obs)
        if polytopes is not None:
            moved = polytopes.moved(scaled.reshape(len(scaled), -1).astype(np.float64))
            if moved is not None:
                scaled = moved.reshape(scaled.shape).astype(scaled.dtype)
                return self.policy.unscale_action(scaled), scaled
        obs, _ = self.policy.obs_to_tensor(self._last_obs)  # type: ignore[arg-type]  # set before the first step
        wanted = torch.as_tensor(scaled.reshape(len(scaled), -1), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            allowed = self.critic.limits(obs, wanted)
        scaled = allowed.cpu().numpy().reshape(scaled.shape)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self, replay_buffer: ReplayBuffer, buffer_action: np.ndarray, new_obs: Any, reward: np.ndarray, *rest: Any
    ) -> None:
        if not np.isfinite(reward).all():
            raise ValueError(
                f"reward: the environment returned {reward}; expected finite numbers. Nothing was stored; check the "
                "environment."
            )
        finite_obs(new_obs)
        for info in rest[-1]:  # where an episode has ended, new_obs is the first of the next
            if "terminal_observation" in info:
                finite_obs(info["terminal_observation"])
        if self._returns is not None:
            self._returns.update(reward, rest[0], self.gamma)
        update_moments(self.critic.features_extractor, new_obs)
        assert isinstance(self.action_space, spaces.Box)
        rows = buffer_action.reshape(len(buffer_action), -1)
        executed = executed_actions(rows, rest[-1], self.action_space).reshape(buffer_action.shape)
        super()._store_transition(replay_buffer, executed.astype(buffer_action.dtype), new_obs, reward, *rest)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.learning_starts is None:
            self.learning_starts = warm_up(total_timesteps)  # type: ignore[unreachable]
        self._check_noise()  # it may have been set since
        self.action_noise = noise_for(self.n_envs, self.action_noise)
        prepared = super()._setup_learn(total_timesteps, *args, **kwargs)
        finite_obs(self._last_obs)
        return prepared

    def learn(
        self: SelfICNNQ,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfICNNQ:
        """As SB3's; ``tb_log_name`` is the algorithm's own name unless given."""
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As SB3's, but copies that stay as they are. Those of stacked agents would be rows of larger tensors, all of
        which would be saved."""
        parameters = super().get_parameters()
        policy = {name: part.clone() for name, part in parameters["policy"].items()}
        return {**parameters, "policy": policy, "critic.optimizer": copy.deepcopy(parameters["critic.optimizer"])}

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As SB3's, but what is given stays as it is: an optimiser goes on changing the state that it is given."""
        given = copy.deepcopy(load_path_or_dict) if isinstance(load_path_or_dict, dict) else load_path_or_dict
        super().set_parameters(given, exact_match, device)

    def save(self, path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> None:
        """As SB3's."""
        self._kept = self.kept()
        super().save(path, *args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "critic",
            "critic_target",
            "actor",
            "actor_target",
            "_learner",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "critic.optimizer"], []


def _check_action_space(space: spaces.Space[Any]) -> None:
    if not isinstance(space, spaces.Box):
        return  # SB3 refuses it, by name
    if space.shape == ():
        raise ValueError(f"action space: expected a vector, got the scalar {space}. Give it the shape (1,).")
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)  # as the networks see them
        bounded = np.isfinite(high - low).all()  # the largest float32, say, stands for no bound
    if not bounded:
        raise ValueError(
            f"action space: expected a Box with finite bounds, and high - low finite in float32, got {space}. The "
            "greedy action is sought inside the box; give the environment the bounds that its actions really have, for "
            "instance with gymnasium.wrappers.TransformAction."
        )
    if not (low < high).all():
        raise ValueError(
            f"action space: expected low < high in every coordinate, in float32, got {space}. Remove fixed coordinates "
            "from the action."
        )


def check_window(value: int) -> int:
    """``target_window``: 0, or a number of updates."""
    return value if value == 0 else check_positive_int("target_window", value)


def _batch(data: ReplayBufferSamples) -> Batch:
    """SB3's sample as the learner takes it; n-step buffers give a discount a row."""
    discounts = getattr(data, "discounts", None)
    rows = (data.actions, data.rewards.squeeze(-1), data.dones.squeeze(-1))
    rest = (*rows, None if discounts is None else discounts.squeeze(-1))
    return Batch(data.observations, data.next_observations, *(None if r is None else r.unsqueeze(0) for r in rest))  # type: ignore[arg-type]
