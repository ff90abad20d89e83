"""SB3's PPO and A2C under constraints: the mean and the executed action go through a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from icnn_rl.agents.constrained.base import ConstrainedPolicy, apply_head
from icnn_rl.constraints.spaces import as_box

__all__ = ["ConstrainedPPOPolicy"]


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
        space = as_box(self.action_space)
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
        space = as_box(self.action_space)
        low, high = (
            torch.as_tensor(b.reshape(-1), device=raw.device, dtype=raw.dtype) for b in (space.low, space.high)
        )
        executed: Tensor = self.projection(observation, raw.clamp(low, high))
        return executed


def _given(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without those of ``names`` that are None: SB3 writes None for what it did not use when it saves a policy."""
    return {key: value for key, value in kwargs.items() if not (key in names and value is None)}
