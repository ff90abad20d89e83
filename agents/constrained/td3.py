"""SB3's TD3 and DDPG under constraints: the actor ends in a head, the critic sees feasible actions."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from icnn_rl.agents.constrained.base import ConstrainedPolicy, Settings, apply_head, feature_width
from icnn_rl.constraints import ActionProjection
from icnn_rl.constraints.spaces import as_box

__all__ = ["ConstrainedTD3Policy"]


class ConstrainedTD3Actor(TD3Actor):
    """a(s) = head(s, tanh(net(s)))."""

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head = settings.make(feature_width(self), as_box(self.action_space), scaled=True)

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
            self.critic_target.projection = self.settings.projection(as_box(self.action_space), scaled=True)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> ConstrainedTD3Actor:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return ConstrainedTD3Actor(**kwargs, settings=self.settings).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> FeasibleCritic:
        return FeasibleCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "project_target": self.project_target}
