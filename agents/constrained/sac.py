"""SB3's SAC under constraints: the squashed Gaussian's sample goes through a head."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from icnn_rl.agents.constrained.base import ConstrainedPolicy, Settings, apply_head, feature_width
from icnn_rl.constraints import OptNetHead
from icnn_rl.constraints.spaces import as_box

__all__ = ["ConstrainedSACPolicy"]


class ConstrainedSACActor(SACActor):
    """a = head(s, u), u = tanh(mu(s) + sigma(s) eps) or its mode; the density reported is that of u."""

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head = settings.make(feature_width(self), as_box(self.action_space), scaled=True)

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
