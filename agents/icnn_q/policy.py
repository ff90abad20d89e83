"""Policies of ICNNQ: the critics, their targets, and the convex programme that picks the action."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import (
    PyTorchObs,
    Schedule,
)
from torch import Tensor, nn

from icnn_rl.agents.arguments import arguments, checks_names
from icnn_rl.agents.icnn_q.critic import ConcaveCritic, ICNNCritic, finite_in_float32
from icnn_rl.agents.normalization import NormalizedCombinedExtractor, normalizing, share_moments
from icnn_rl.checks import check_widths
from icnn_rl.constraints import ActionConstraint, Fallback
from icnn_rl.constraints.base import check_constraint
from icnn_rl.nn.activations import resolve_activation
from icnn_rl.solvers import ProjectedNewton, Solver

__all__ = ["ICNNQCnnPolicy", "ICNNQMultiInputPolicy", "ICNNQPolicy"]

#: Arguments of the network that the policy does not set itself.
LEFT_TO_PICNN = ("gate", "quadratic", "strong_convexity", "positivity")


#: Features extractors that have no coordinates to ignore.
_WITHOUT_IGNORED = (FlattenExtractor, CombinedExtractor, NormalizedCombinedExtractor)


def _of_the_agent(_: type) -> dict[str, str]:
    """The agent's arguments, and where they belong."""
    from icnn_rl.agents.icnn_q.algorithm import ICNNQ  # which imports this module; asked only where a name is wrong

    return dict.fromkeys(arguments([ICNNQ]), "It belongs to the agent, beside policy_kwargs.")


class ICNNQPolicy(BasePolicy):
    """Twin input-convex critics, their targets, and the convex programme that picks the action.

    Args:
        observation_space, action_space, lr_schedule: given by the agent.
        net_arch: widths of the context path, under SB3's name; a dict takes its "qf" entry. ``context`` says the same.
        context: widths of the context path; default (256, 256).
        hidden: widths of the convex path.
        activation: of the convex path: convex, non-decreasing.
        activation_fn: of the context path, an nn.Module class.
        layer_norm: LayerNorm on the context path.
        normalize_observations: bring vector observations, and the vectors of Dict observations, to zero mean and unit
            variance over all so far, see :class:`icnn_rl.agents.normalization.NormalizedExtractor`. Images and what a
            ``features_extractor_class`` of one's own reads stay as they are. Of a vector
            ``features_extractor_kwargs={"ignored": (start, stop)}`` hides coordinates from the critic.
        n_critics: members E of the ensemble.
        average_weights: the greedy action of ``predict(deterministic=True)``, and what looks inside (``best_action``,
            ``q_values``), come from the target critic, whose weights are a running average over the last 1 / tau
            updates or so: steadier, a little later. Exploration goes by the critic's own.
        solver: for the argmax in the Bellman target, where a few steps are enough.
        act_solver: for actions to execute; None: ``solver`` with at least 20 steps and a tolerance of 1e-5 at most.
        constraint: on the action, in the environment's units: the greedy action is sought among those that it allows.
            It reads the observations as they come, which must be in the environment's units too.
        fallback: for states that leave no action, see :class:`icnn_rl.qp.ActionProjection`; the same as that of the
            environment's wrapper.
        trust_obs: take the observations for the constraint's, whatever wrappers there are.
        trust_actions: take the actions for the constraint's, whatever wrappers there are, and ask for no second half.
        picnn_kwargs: further arguments of :class:`icnn_rl.nn.PICNN` (``gate``, ``quadratic``, ``strong_convexity``,
            ``positivity``).
        features_extractor_class, features_extractor_kwargs, normalize_images, optimizer_class, optimizer_kwargs: as in
            SB3.
        share_features_extractor: accepted for SB3's sake; there is no actor to share with.
    """

    critic: ConcaveCritic
    critic_target: ConcaveCritic

    @checks_names(_of_the_agent)
    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        *,
        context: Sequence[int] | None = None,
        hidden: Sequence[int] = (64,),
        activation: str | Callable[[Tensor], Tensor] = "squareplus",
        layer_norm: bool = True,
        normalize_observations: bool = True,
        n_critics: int = 2,
        average_weights: bool = False,
        solver: Solver = ProjectedNewton(tol=3e-4, max_steps=6),  # noqa: B008  (frozen)
        act_solver: Solver | None = None,
        constraint: ActionConstraint | None = None,
        fallback: Fallback = "least_violation",
        trust_obs: bool = False,
        trust_actions: bool = False,
        picnn_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = False,
    ) -> None:
        if normalize_observations:
            features_extractor_class = normalizing(features_extractor_class, observation_space)
        if features_extractor_class in _WITHOUT_IGNORED and "ignored" in (features_extractor_kwargs or {}):
            raise ValueError(
                "features_extractor_kwargs: ignored is for vector observations, not for parts of a Dict, with "
                "normalize_observations=True."
            )
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        if net_arch is not None and context is not None:
            raise ValueError(
                f"net_arch and context both give the context path's widths: got {net_arch} and {context}. Keep one."
            )
        self.net_arch, self.activation_fn = net_arch, activation_fn
        self.context = check_widths("context", context) if context is not None else _context_widths(net_arch)
        self.hidden, self.activation = check_widths("hidden", hidden), activation
        self.layer_norm, self.normalize_observations, self.n_critics = layer_norm, normalize_observations, n_critics
        self.average_weights = average_weights
        self.solver = solver
        self.act_solver = act_solver or _patient(solver)
        _check_bends(activation, self.solver, self.act_solver)
        self.constraint = None if constraint is None else check_constraint(constraint)
        self.fallback = fallback
        self.trust_obs, self.trust_actions = trust_obs, trust_actions
        self.picnn_kwargs = _check_picnn_kwargs(picnn_kwargs or {})
        self.share_features_extractor = share_features_extractor
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        self.critic = self.make_critic()
        self.critic_target = self.make_critic()
        self.critic_target.features_extractor = share_moments(
            self.critic.features_extractor, self.critic_target.features_extractor
        )
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        kwargs = dict(self.optimizer_kwargs)
        if self.optimizer_class is torch.optim.Adam and not kwargs.get("foreach") and not kwargs.get("differentiable"):
            kwargs.setdefault("fused", True)  # the same arithmetic in one pass
        self.critic.optimizer = self.optimizer_class(self.critic.parameters(), lr=lr_schedule(1), **kwargs)  # type: ignore[call-arg]

    def make_critic(self) -> ConcaveCritic:
        """A new critic with its own features extractor."""
        return ICNNCritic(**self._critic_kwargs(), picnn_kwargs=self._network_kwargs()).to(self.device)

    def _critic_kwargs(self) -> dict[str, Any]:
        shared = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "solver": self.act_solver,
            "normalize_images": self.normalize_images,
            "constraint": self.constraint,
            "fallback": self.fallback,
        }
        return self._update_features_extractor(shared, None)

    def _network_kwargs(self) -> dict[str, Any]:
        return {
            "context": self.context,
            "hidden": self.hidden,
            "activation": self.activation,
            "context_activation": self.activation_fn(),
            "context_norm": self.layer_norm,
            "ensemble": self.n_critics,
            **self.picnn_kwargs,
        }

    @property
    def actor(self) -> ConcaveCritic:
        """The critic: it is its own actor."""
        return self.critic

    @property
    def actor_target(self) -> ConcaveCritic:
        """The target critic, likewise."""
        return self.critic_target

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        acting = self.settled_critic if deterministic else self.critic
        return acting._predict(observation, deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The greedy action, in the environment's units; see SB3. Exploration noise is added while learning only.

        Raises:
            ValueError: an observation is not finite.
        """
        acting = self.settled_critic if deterministic else self.critic
        if (scaled := acting.act_on(observation)) is not None:
            return self.unscale_action(scaled), state
        return super().predict(finite_obs(observation), state, episode_start, deterministic)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """From [-1, 1] to the environment's units: never beyond its bounds, as rounding may be. NaN stays NaN."""
        assert isinstance(self.action_space, spaces.Box)
        action: np.ndarray = super().unscale_action(scaled_action)
        return action.clip(self.action_space.low, self.action_space.high)

    @property
    def device(self) -> torch.device:
        """The critic's, once there is one."""
        critic = self._modules.get("critic")
        return super().device if critic is None else critic.device  # type: ignore[return-value]

    @property
    def settled_critic(self) -> ConcaveCritic:
        """What acts where there is nothing to explore."""
        return self.critic_target if self.average_weights else self.critic

    @property
    def act_failed(self) -> int:
        """Greedy actions whose solve failed, whichever weights they came from."""
        return self.critic.act_failed + self.critic_target.act_failed

    def set_training_mode(self, mode: bool) -> None:
        """Training mode of the critic; the target always evaluates."""
        self.critic.set_training_mode(mode)
        self.training = mode

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            lr_schedule=self._dummy_schedule,
            context=self.context,
            activation_fn=self.activation_fn,
            hidden=self.hidden,
            activation=self.activation,
            layer_norm=self.layer_norm,
            normalize_observations=self.normalize_observations,
            n_critics=self.n_critics,
            average_weights=self.average_weights,
            solver=self.solver,
            act_solver=self.act_solver,
            constraint=self.constraint,
            fallback=self.fallback,
            trust_obs=self.trust_obs,
            trust_actions=self.trust_actions,
            picnn_kwargs=self.picnn_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )
        return data


class ICNNQCnnPolicy(ICNNQPolicy):
    """For images: NatureCNN features."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class ICNNQMultiInputPolicy(ICNNQPolicy):
    """For Dict observations: every part through its own extractor, then concatenated."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


def _patient(solver: Solver) -> Solver:
    """The same method, run to convergence: for single states precision is nearly free."""
    return dataclasses.replace(solver, max_steps=max(20, solver.max_steps), tol=min(1e-5, solver.tol))  # type: ignore


def _check_picnn_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    if own := sorted(given.keys() - set(LEFT_TO_PICNN)):
        raise ValueError(
            f"picnn_kwargs: expected {', '.join(LEFT_TO_PICNN)}, got {', '.join(own)}. The policy has arguments of its "
            "own for the rest: context, hidden, activation, activation_fn, layer_norm, n_critics."
        )
    return given


def _check_bends(activation: str | Callable[[Tensor], Tensor], *solvers: Solver) -> None:
    """Warn where Newton's method would look for a maximum among kinks."""
    resolved = resolve_activation(activation)
    if any(isinstance(solver, ProjectedNewton) for solver in solvers) and resolved.piecewise_linear:
        warnings.warn(
            f"activation: {resolved.name!r} is piecewise linear, and ProjectedNewton finds its maxima only roughly "
            "(solver/gap and solver/converged_fraction say how roughly). Take 'squareplus' or 'softplus', or "
            "solver=icnn_rl.solvers.ProximalBundle(tol=3e-4), which is exact on kinks and slower.",
            stacklevel=2,
        )


def _context_widths(net_arch: Sequence[int] | dict[str, list[int]] | None) -> tuple[int, ...]:
    if net_arch is None:
        return (256, 256)
    _, critic_arch = get_actor_critic_arch(net_arch if isinstance(net_arch, dict) else list(net_arch))
    return tuple(critic_arch)


def finite_obs(obs: Any) -> Any:
    """The observation, or a ValueError where it is not finite as the networks read it, in float32."""
    parts = obs.items() if isinstance(obs, dict) else (("observation", obs),)
    for name, part in parts:
        array = np.asarray(part) if not isinstance(part, tuple) else None  # SB3 itself explains the (obs, info) mistake
        if array is not None and array.dtype.kind == "f" and not finite_in_float32(array):
            raise ValueError(
                f"{name}: contains NaN or numbers that are infinite in float32; expected finite ones. Check the "
                "environment (VecCheckNan helps to find the step)."
            )
    return obs
