"""NAF: normalised advantage functions, the quadratic special case of a concave critic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn

from icnn_rl.agents.icnn_q.algorithm import ICNNQ
from icnn_rl.agents.icnn_q.critic import ConcaveCritic
from icnn_rl.agents.icnn_q.policy import ICNNQPolicy
from icnn_rl.nn.linear import EnsembleLinear, EnsembleNorm, Layers

__all__ = ["NAF", "NAFPolicy"]


@dataclass
class QuadraticEnergy:
    """f_e(a) = 1/2 (a - mu_e)^T L_e L_e^T (a - mu_e) - V_e, and the mean over the members e: the energy of a bound NAF
    critic.

    mean: mu (E, B, n). factor: L (E, B, n, n), lower triangular. value: V (E, B).
    """

    mean: Tensor
    factor: Tensor
    value: Tensor
    smooth: bool = True

    def start(self) -> Tensor:
        """(B, n): the mean of the members' maximisers, exact for one member."""
        return self.mean.mean(0)

    def member_values(self, y: Tensor) -> Tensor:
        """(E, B): f_e at the actions y."""
        projected = torch.matmul((y - self.mean).unsqueeze(-2), self.factor).squeeze(-2)
        return 0.5 * (projected * projected).sum(-1) - self.value

    def __call__(self, y: Tensor) -> Tensor:
        return self.member_values(y).mean(0)

    def value_and_grad(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of f_e and its gradient: (B,), (B, n)."""
        projected = torch.matmul((a - self.mean).unsqueeze(-2), self.factor)
        f = 0.5 * (projected * projected).sum((-2, -1)) - self.value
        return f.mean(0), torch.matmul(projected, self.factor.mT).squeeze(-2).mean(0)

    def value_grad_hessian(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of f_e, its gradient and its Hessian mean_e L_e L_e^T."""
        f, g = self.value_and_grad(a)
        return f, g, torch.matmul(self.factor, self.factor.mT).mean(0)


class NAFNetwork(nn.Module):
    """V(s), mu(s) = tanh(.) and the Cholesky factor L(s) of the curvature, from one trunk: (B, x) -> QuadraticEnergy.

    Args:
        x_features: size of the features.
        y_features: n, size of the action.
        context: widths of the trunk.
        context_activation: its activation.
        context_norm: LayerNorm on every trunk layer.
        ensemble: members E.
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        context: Sequence[int],
        context_activation: Callable[[Tensor], Tensor],
        context_norm: bool,
        ensemble: int,
    ) -> None:
        super().__init__()
        widths = (x_features, *context)
        self.trunk = Layers[EnsembleLinear](EnsembleLinear(a, b, ensemble) for a, b in itertools.pairwise(widths))
        self.norms = Layers[EnsembleNorm](EnsembleNorm(width, ensemble) for width in context) if context_norm else None
        self.context_activation, self.ensemble = context_activation, ensemble
        n = y_features
        self.sizes = [1, n, n, n * (n - 1) // 2]  # V, mu, log-diagonal and lower part of L
        self.heads = EnsembleLinear(widths[-1], sum(self.sizes), ensemble)

    def bind(self, x: Tensor) -> QuadraticEnergy:
        """The quadratic of every member at a batch of features."""
        u = x
        for i, layer in enumerate(self.trunk):
            u = layer(u)
            u = self.context_activation(u if self.norms is None else self.norms[i](u))
        value, mean, diagonal, lower = self.heads(u).split(self.sizes, dim=-1)
        factor = torch.diag_embed(F.softplus(diagonal))
        rows, columns = torch.tril_indices(mean.shape[-1], mean.shape[-1], offset=-1, device=mean.device)
        factor[..., rows, columns] = lower
        return QuadraticEnergy(torch.tanh(mean), factor, value.squeeze(-1))


class NAFCritic(ConcaveCritic):
    """E quadratic critics. Arguments beyond ConcaveCritic's: see :class:`NAFNetwork`."""

    net: NAFNetwork

    def __init__(self, *args: Any, naf_kwargs: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.naf_kwargs = naf_kwargs
        self.net = NAFNetwork(self.features_dim, self.action_dim, **naf_kwargs)

    def bind_features(self, features: Tensor) -> QuadraticEnergy:
        return self.net.bind(features)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "naf_kwargs": self.naf_kwargs}


_CONVEX_PATH = ("hidden", "activation", "picnn_kwargs")


class NAFPolicy(ICNNQPolicy):
    """Quadratic critic. Takes ICNNQPolicy's arguments but for those of the convex path, which it does not have.

    Raises:
        ValueError: ``hidden``, ``activation`` or ``picnn_kwargs`` is given.
    """

    def __init__(self, *args: Any, n_critics: int = 1, **kwargs: Any) -> None:
        for name in _CONVEX_PATH:
            if name in kwargs:
                raise ValueError(
                    f"{name}: NAF's critic is a quadratic and has no convex path to set it for. Leave it out."
                )
        super().__init__(*args, n_critics=n_critics, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {key: part for key, part in super()._get_constructor_parameters().items() if key not in _CONVEX_PATH}

    def make_critic(self) -> ConcaveCritic:
        naf_kwargs = {
            "context": self.context,
            "context_activation": self.activation_fn(),
            "context_norm": self.layer_norm,
            "ensemble": self.n_critics,
        }
        return NAFCritic(**self._critic_kwargs(), naf_kwargs=naf_kwargs).to(self.device)


class NAFCnnPolicy(NAFPolicy):
    """For images: NatureCNN features."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class NAFMultiInputPolicy(NAFPolicy):
    """For Dict observations."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class NAF(ICNNQ):
    """Q-learning with Q(s, a) = V(s) - 1/2 (a - mu(s))^T P(s) (a - mu(s)), P = L L^T (Gu et al., equation 6).

    The greedy action is mu(s) = tanh(.), inside the action box by construction; the target is r + gamma V'(s').
    Constructor, saving and all verbs are ICNNQ's; the defaults are the paper's: one critic, no target noise. With
    ``policy_kwargs={"n_critics": 2}`` the twin minimum is taken and the argmax of the mean is found by Newton's method,
    exact in one step inside the box.

    References:
        Gu, Lillicrap, Sutskever, Levine, Continuous Deep Q-Learning with Model-based Acceleration, ICML 2016.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NAFPolicy,
        "CnnPolicy": NAFCnnPolicy,
        "MultiInputPolicy": NAFMultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[NAFPolicy],
        env: GymEnv | str | None,
        *,
        target_policy_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, env, target_policy_noise=target_policy_noise, **kwargs)
