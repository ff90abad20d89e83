"""Policies for Stable-Baselines3's own TD3, DDPG, SAC, PPO and A2C whose actions satisfy a constraint.

    raw action of SB3's network  ->  head: projection, or an OptNet layer  ->  action in C(s) and in the action space

The algorithms are untouched. The layer makes the constraint differentiable; a wrapper around the environment makes the
guarantee, since the algorithms add noise and warm-up samples after the policy. docs/constrained_policies.md says which
density and which action each loss sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from icnn_rl.agents.arguments import checks_names
from icnn_rl.agents.halves import check_halves
from icnn_rl.agents.observations import algorithm_under_construction, check_observations
from icnn_rl.checks import check_choice, check_positive_int, check_range
from icnn_rl.constraints import ActionConstraint, ActionProjection, OptNetHead
from icnn_rl.constraints.base import Fallback

__all__ = ["ConstrainedPPOPolicy", "ConstrainedSACPolicy", "ConstrainedTD3Policy"]


@dataclass(frozen=True)
class Settings:
    """What is ours among ``policy_kwargs``; see :class:`ConstrainedPolicy`."""

    constraint: ActionConstraint
    head: str = "projection"
    projection_penalty: float = 0.0
    fallback: Fallback = "least_violation"
    optnet_kwargs: Mapping[str, Any] | None = None
    obs_size: int | None = None
    trust_obs: bool = False
    trust_actions: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.constraint, ActionConstraint):
            raise ValueError(
                f"constraint: expected an ActionConstraint of icnn_rl.constraints, got "
                f"{type(self.constraint).__name__}."
            )
        check_choice("head", self.head, ("projection", "optnet"))
        check_range("projection_penalty", self.projection_penalty, 0.0, float("inf"))
        if self.optnet_kwargs and self.head != "optnet":
            raise ValueError(f"optnet_kwargs: only for head='optnet', got head={self.head!r}.")
        if self.obs_size is not None:
            check_positive_int("obs_size", self.obs_size)

    def as_kwargs(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def make(self, latent_dim: int, space: spaces.Box, *, scaled: bool) -> Head:
        """The head for a raw action and the features that it came from."""
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        if self.head == "optnet":
            options = {"fallback": self.fallback, "penalty": self.projection_penalty, **(self.optnet_kwargs or {})}
            n = get_action_dim(space)
            return OptNetHead(latent_dim, n, self.constraint, low, high, scaled=scaled, linear=False, **options)
        return self.projection(space, scaled=scaled, penalty=self.projection_penalty)

    def projection(self, space: spaces.Box, *, scaled: bool, penalty: float = 0.0) -> ActionProjection:
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        return ActionProjection(self.constraint, low, high, scaled=scaled, penalty=penalty, fallback=self.fallback)


Head = ActionProjection | OptNetHead


def apply_head(head: Head, obs: PyTorchObs, latent: Tensor, raw: Tensor) -> Tensor:
    """The feasible action (B, n) for a raw one (B, n), given the observations as they came to the policy."""
    action: Tensor = head(obs, raw) if isinstance(head, ActionProjection) else head(latent, obs, raw)
    return action


class ConstrainedPolicy(BasePolicy):
    """What the constrained policies share. All other arguments are those of SB3's policy.

    Args:
        constraint: :class:`icnn_rl.constraints.ActionConstraint`, in the environment's units of action and
            observation. It reads the observation as it comes to the policy, before the features extractor, in float64.
        head: "projection": the nearest action; "optnet": the nearest in a metric Q(s) that is learned, under learned
            rows besides where ``optnet_kwargs`` asks for them.
        projection_penalty: lambda >= 0: adds lambda mean_b ||raw_b - a_b||^2 to the loss whose gradient passes through
            the action, by adding its gradient in the backward pass: the number that is logged as the loss is without
            it. In scaled units for SAC and TD3, in the environment's for PPO.
        fallback: for states whose set is empty, see :class:`icnn_rl.qp.ActionProjection`.
        optnet_kwargs: of :class:`icnn_rl.qp.OptNetHead`: ``quadratic``, ``n_ineq``, ``n_eq``, ``eps``.
        obs_size: length of the observation vector that the constraint was written for; another one is refused.
        trust_obs: take the observations for the constraint's, whatever wrappers there are.
        trust_actions: take the actions for the constraint's, whatever wrappers there are, and ask for no second half.
        features_extractor_class: by default the one for the observations: CombinedExtractor for a Dict, NatureCNN for
            images, FlattenExtractor else.

    Raises:
        ValueError: a wrong argument; the action space is no Box; or the constraint depends on the state and would read
            observations that are normalised (VecNormalize, NormalizeObservation) or stacked (VecFrameStack).
    """

    settings: Settings

    @checks_names()
    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        constraint: ActionConstraint,
        head: str = "projection",
        projection_penalty: float = 0.0,
        fallback: Fallback = "least_violation",
        optnet_kwargs: Mapping[str, Any] | None = None,
        obs_size: int | None = None,
        trust_obs: bool = False,
        trust_actions: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Box):
            raise ValueError(f"action_space: a constraint needs continuous actions, a Box; got {action_space}.")
        # before super().__init__, which builds the networks
        self.settings = Settings(
            constraint, head, projection_penalty, fallback, optnet_kwargs, obs_size, trust_obs, trust_actions
        )
        algorithm = algorithm_under_construction()
        env = None if algorithm is None else algorithm.get_env()
        check_halves(constraint, env, trust_actions=trust_actions, algorithm=algorithm)
        check_observations(
            constraint,
            observation_space,
            action_space,
            obs_size=obs_size,
            trust_obs=trust_obs,
            env=env,
        )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=features_extractor_class or _extractor_for(observation_space),
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.settings.as_kwargs()}

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, without walking through all modules where nothing changes: predict asks at every step."""
        if self.training != mode:
            super().set_training_mode(mode)

    def heads(self) -> list[Head]:
        """Every head of the policy."""
        return [module for module in self.modules() if isinstance(module, ActionProjection | OptNetHead)]

    @property
    def constraint_failed(self) -> int:
        """Rows whose solve failed since the policy was built: their actions are fallbacks."""
        return sum(head.failed for head in self.heads())

    @property
    def constraint_numbers(self) -> dict[str, int]:
        """Rows that went through the heads, how many were outside of their set, and how many solves failed."""
        heads = self.heads()
        return {name: sum(getattr(head, name) for head in heads) for name in ("rows", "moved", "failed")}


class ConstrainedTD3Actor(TD3Actor):
    """a(s) = head(s, tanh(net(s)))."""

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head = settings.make(_width(self), _box(self.action_space), scaled=True)

    def forward(self, obs: PyTorchObs) -> Tensor:
        *layers, last, squash = self.mu
        latent = self.extract_features(obs, self.features_extractor)
        for layer in layers:
            latent = layer(latent)
        return apply_head(self.head, obs, latent, squash(last(latent)))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "settings": self.settings}


class FeasibleCritic(ContinuousCritic):
    """SB3's critic; as a target it projects the actions that it is asked about, see ConstrainedTD3Policy."""

    projection: ActionProjection | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projection = None  # on the instance: a default in the class would hide the module set later

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        if self.projection is not None:
            actions = self.projection(obs, actions)
        return super().forward(obs, actions)  # type: ignore[arg-type]


class ConstrainedTD3Policy(ConstrainedPolicy, TD3Policy):
    """For TD3 and DDPG: a(s) = head(s, tanh(net(s))), in C(s) and in the action space.

    TD3 adds noise to the target action and clips it to the action space, after the target actor: it may leave C(s),
    where no action was ever executed and the critic was not trained. With ``project_target`` the target critic projects
    what it is asked about, so that the target is min_i Q'_i(s', P(a'(s') + noise)): as the wrapper around the
    environment treats exploration noise.

    Args:
        project_target: see above; costs one more projection of the batch an update.
        (others): see :class:`ConstrainedPolicy` and SB3's TD3Policy.

    Example:
        >>> TD3(ConstrainedTD3Policy, env, policy_kwargs={"constraint": l1_ball(1.0)})  # doctest: +SKIP
    """

    actor: ConstrainedTD3Actor
    actor_target: ConstrainedTD3Actor
    critic: FeasibleCritic
    critic_target: FeasibleCritic

    def __init__(self, *args: Any, project_target: bool = True, **kwargs: Any) -> None:
        self.project_target = project_target
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.project_target:
            self.critic_target.projection = self.settings.projection(_box(self.action_space), scaled=True)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> ConstrainedTD3Actor:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return ConstrainedTD3Actor(**kwargs, settings=self.settings).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> FeasibleCritic:
        return FeasibleCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "project_target": self.project_target}


class ConstrainedSACActor(SACActor):
    """a = head(s, u), u = tanh(mu(s) + sigma(s) eps) or its mode; the density reported is that of u."""

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head = settings.make(_width(self), _box(self.action_space), scaled=True)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._feasible(obs, super().forward(obs, deterministic))

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        raw, log_prob = super().action_log_prob(obs)
        return self._feasible(obs, raw), log_prob

    def _feasible(self, obs: PyTorchObs, raw: Tensor) -> Tensor:
        latent = raw
        if isinstance(self.head, OptNetHead):
            latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        return apply_head(self.head, obs, latent, raw)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "settings": self.settings}


class ConstrainedSACPolicy(ConstrainedPolicy, SACPolicy):
    """For SAC: the action is head(s, u) of SAC's own squashed Gaussian sample u.

    The projected action has no density: what lies outside is mapped onto the border, which has no volume. SAC's loss
    therefore sees log pi(u|s), the density before the projection, and the critic Q(s, head(s, u)). This is SAC, without
    an approximation, on the environment whose first act is to project, where u is the action; Q depends on u through
    P_s(u) alone and is told that. The entropy is that of u. A projection contracts, so the executed actions are never
    more spread out than it says; near a border some of it is spent in directions that the projection collapses.

    Args: see :class:`ConstrainedPolicy` and SB3's SACPolicy.

    Example:
        >>> SAC(ConstrainedSACPolicy, env, policy_kwargs={"constraint": l1_ball(1.0)})  # doctest: +SKIP
    """

    actor: ConstrainedSACActor

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> ConstrainedSACActor:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return ConstrainedSACActor(**kwargs, settings=self.settings).to(self.device)


class ConstrainedPPOPolicy(ConstrainedPolicy, ActorCriticPolicy):
    """For PPO and A2C: u ~ N(head(s, net(s)), sigma), of which the environment executes the projection P_s(u).

    The wrapper around the environment projects, as a part of the environment; the rollout keeps u, so that the
    probability ratio is one of densities of what was sampled, and exact. ``forward`` and ``evaluate_actions`` speak of
    u. ``predict`` returns P_s(u), what would be executed, and the mean where ``deterministic``, which is in the set.
    The mean goes through the head: the deterministic policy is feasible by itself and the gradient knows of the border.
    Without the wrapper the environment receives u.

    Actions are in the environment's units, as ever in PPO.

    Args: see :class:`ConstrainedPolicy` and SB3's ActorCriticPolicy.

    Raises:
        ValueError: also, ``squash_output`` is set.

    Example:
        >>> PPO(ConstrainedPPOPolicy, env, policy_kwargs={"constraint": l1_ball(1.0)})  # doctest: +SKIP
    """

    _seen: PyTorchObs | None = None

    def __init__(self, *args: Any, squash_output: bool | None = False, **kwargs: Any) -> None:
        if squash_output:
            raise ValueError("squash_output: expected False; the head keeps the mean within the action space.")
        super().__init__(*args, squash_output=False, **_given(kwargs, "full_std", "use_expln"))

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        space = _box(self.action_space)
        self.head = self.settings.make(self.mlp_extractor.latent_dim_pi, space, scaled=False)
        self.projection = self.settings.projection(space, scaled=False)
        # once more, with the parameters of the head
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @contextmanager
    def _seeing(self, obs: PyTorchObs) -> Iterator[None]:
        """SB3 makes the distribution from the latent features alone; the head needs the observation that they are
        of."""
        before, self._seen = self._seen, obs
        try:
            yield
        finally:
            self._seen = before

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """SB3's: the raw sample u (B, ...), the value, and log pi(u|s)."""
        with self._seeing(obs):
            return super().forward(obs, deterministic)  # type: ignore[arg-type]

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """SB3's, of raw samples."""
        with self._seeing(obs):
            return super().evaluate_actions(obs, actions)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Of the raw sample u."""
        with self._seeing(obs):
            return super().get_distribution(obs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        if self._seen is None:
            raise RuntimeError("The distribution needs the observation: call get_distribution(obs).")
        mean = apply_head(self.head, self._seen, latent_pi, self.action_net(latent_pi))
        more = (latent_pi,) if isinstance(self.action_dist, StateDependentNoiseDistribution) else ()
        return self.action_dist.proba_distribution(mean, self.log_std, *more)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        raw = self.get_distribution(observation).get_actions(deterministic=deterministic)
        if deterministic:
            return raw
        # SB3 clips a sample before it steps the environment, and the wrapper projects what it gets
        space = _box(self.action_space)
        low, high = (
            torch.as_tensor(b.reshape(-1), device=raw.device, dtype=raw.dtype) for b in (space.low, space.high)
        )
        executed: Tensor = self.projection(observation, raw.clamp(low, high))
        return executed


def _extractor_for(observation_space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor


def _width(actor: TD3Actor | SACActor) -> int:
    """Size of what the actor's last layer reads."""
    width: int = actor.net_arch[-1] if actor.net_arch else actor.features_dim
    return width


def _box(space: spaces.Space[Any]) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    return space


def _given(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without those of ``names`` that are None: SB3 writes None for what it did not use when it saves a policy."""
    return {key: value for key, value in kwargs.items() if not (key in names and value is None)}
