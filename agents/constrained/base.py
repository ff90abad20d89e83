"""What the constrained policies share: their settings, and the head that makes an action feasible."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import Tensor

from icnn_rl.agents.arguments import checks_names
from icnn_rl.agents.constrained.both_halves import check_halves
from icnn_rl.agents.constrained.observations import check_observations
from icnn_rl.checks import check_choice, check_positive_int, check_range
from icnn_rl.constraints import ActionConstraint, ActionProjection, ConstraintWarning, Fallback, OptNetHead
from icnn_rl.constraints.base import check_constraint
from icnn_rl.constraints.spaces import as_box

__all__ = ["ConstrainedPolicy", "Head", "Settings", "apply_head", "check_agent", "feature_width"]


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
        check_constraint(self.constraint)
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
        fallback: for states whose set is empty, see :class:`icnn_rl.constraints.ActionProjection`.
        optnet_kwargs: of :class:`icnn_rl.constraints.OptNetHead`: ``quadratic``, ``n_ineq``, ``n_eq``, ``eps``.
        obs_size: length of the observation vector that the constraint was written for; another one is refused.
        trust_obs: take the observations for the constraint's, whatever wrappers there are.
        trust_actions: take the actions for the constraint's, whatever wrappers there are, and ask for no second half.
        features_extractor_class: by default the one for the observations: CombinedExtractor for a Dict, NatureCNN for
            images, FlattenExtractor else.

    SB3 tells a policy nothing of its environment. Whether observations are normalised, or a wrapper is missing, is
    checked by :class:`icnn_rl.agents.ConstraintCallback` when training starts, or by
    :func:`icnn_rl.agents.check_agent` at any time; a policy that is trained without either warns.

    Raises:
        ValueError: a wrong argument; the action space is no Box; or the constraint does not fit the observation space.
    """

    settings: Settings

    #: Whether somebody has looked at the environment, see :meth:`check_environment`.
    _environment_seen = False

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
        check_observations(constraint, observation_space, action_space, obs_size=obs_size, trust_obs=trust_obs)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=features_extractor_class or _extractor_for(observation_space),
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.settings.as_kwargs()}

    def check_environment(self, env: VecEnv, algorithm: BaseAlgorithm | None = None) -> None:
        """Refuse an environment whose observations or actions are not the constraint's, and warn of a half that is
        missing.

        Args:
            env: that the policy is trained on.
            algorithm: that trains it, whose replay buffer is looked at.

        Raises:
            ValueError: the constraint depends on the state and would read observations that are normalised
                (VecNormalize, NormalizeObservation) or stacked (VecFrameStack), or a wrapper changes the actions.
        """
        s = self.settings
        check_halves(s.constraint, env, trust_actions=s.trust_actions, algorithm=algorithm)
        check_observations(
            s.constraint,
            self.observation_space,
            as_box(self.action_space),
            obs_size=s.obs_size,
            trust_obs=s.trust_obs,
            env=env,
        )
        self._environment_seen = True

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, without walking through all modules where nothing changes: predict asks at every step."""
        if self.training == mode:
            return
        super().set_training_mode(mode)
        s = self.settings
        trusted = s.trust_actions and (s.trust_obs or not s.constraint.depends_on_state)
        if mode and not trusted and not self._environment_seen:
            self._environment_seen = True  # to say it once
            warnings.warn(
                "constraint: nobody has looked at the environment: are observations normalised or stacked, does a "
                "wrapper enforce it? learn(..., callback=ConstraintCallback()) looks, and counts, or "
                "icnn_rl.agents.check_agent(agent) before. trust_obs=True, trust_actions=True: it is meant.",
                ConstraintWarning,
                stacklevel=3,
            )

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


def check_agent(agent: BaseAlgorithm) -> None:
    """Whether the agent's constraint and its environment fit together, see
    :meth:`ConstrainedPolicy.check_environment`. Without a constrained policy there is nothing to check: ICNNQ and NAF
    ask by themselves, whenever they get an environment.

    Raises:
        ValueError: they do not; or the agent has no environment.

    Example:
        >>> agent = SAC(ConstrainedSACPolicy, env, policy_kwargs={"constraint": l1_ball(1.0)})  # doctest: +SKIP
        >>> check_agent(agent)  # doctest: +SKIP
    """
    policy, env = agent.policy, agent.get_env()
    if not isinstance(policy, ConstrainedPolicy):
        return
    if env is None:
        raise ValueError("agent: it has no environment to look at; set_env gives it one.")
    policy.check_environment(env, agent)


def _extractor_for(observation_space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor


def feature_width(actor: TD3Actor | SACActor) -> int:
    """Size of what the actor's last layer reads."""
    width: int = actor.net_arch[-1] if actor.net_arch else actor.features_dim
    return width
