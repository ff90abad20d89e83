"""Critics that are concave in the action: Q_e(s, a) = -f_e(s, a) with f_e convex in a, one for each ensemble member
e."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from icnn_rl.agents.icnn_q.compiled import CompiledCritics, is_compiled
from icnn_rl.agents.normalization import NormalizedExtractor, is_vector_space, preprocess
from icnn_rl.constraints import ActionConstraint, ActionProjection, Fallback
from icnn_rl.eager import eager
from icnn_rl.nn import PICNN
from icnn_rl.nn.linear import intercepted
from icnn_rl.numba_support import available
from icnn_rl.sets import Box, ConvexSet
from icnn_rl.solution import Solution, Status
from icnn_rl.solvers import Problem, Solver
from icnn_rl.solvers.lazy_rows import solve_with_lazy_rows
from icnn_rl.solvers.newton.polytopes import Polytopes

__all__ = ["ConcaveCritic", "Greedy", "ICNNCritic"]

#: Actions inside the agents are scaled to this box, as in SAC and TD3.
ACTION_BOX = Box(-1.0, 1.0)

#: Of the statuses, which ascend; a plain number, which tensors compare with faster than with an enumeration's.
_LAST_USABLE = int(Status.MAX_STEPS)


class BoundCritic(Protocol):
    """mean_e f_e(s, .) for a batch of states, with closed-form derivatives, see :class:`icnn_rl.nn.EnsembleEnergy`."""

    def __call__(self, y: Tensor) -> Tensor: ...

    def member_values(self, y: Tensor) -> Tensor:
        """(E, B): every member's f_e."""
        ...

    def start(self) -> Tensor:
        """(B, n): where to begin the search."""
        ...

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (B,) and its gradient (B, n), without a graph: the search runs where none may be made."""
        ...

    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With the Hessian (B, n, n) besides."""
        ...


class Greedy(NamedTuple):
    """Greedy actions of a batch and what is known about them.

    action (B, n), in the environment's units where a user asks and in [-1, 1] inside; value (B,) = mean over the
    members of Q at the action; gap (B,): certified bound on how much a better action could add to that mean; status
    (B,), see :class:`icnn_rl.Status`.
    """

    action: Tensor
    value: Tensor
    gap: Tensor
    status: Tensor


class ConcaveCritic(BasePolicy):
    """Features of the observation, then E convex energies f_e(s, .) of the scaled action; Q_e = -f_e.

    It is its own actor: the greedy action is argmin_a of the mean of the f_e over [-1, 1]^n, found by ``solver``; with
    a constraint, over the part of it that the constraint leaves in state s. Deterministic.

    Args:
        observation_space: of the environment.
        action_space: a finite Box.
        features_extractor: maps preprocessed observations to a vector.
        features_dim: size of that vector.
        solver: finds the action to execute.
        normalize_images: divide image observations by 255.
        constraint: on the action, in the environment's units; it reads the observations as they come.
        fallback: for states that leave no action, see :class:`icnn_rl.qp.ActionProjection`.

    Raises:
        ValueError: the constraint does not fit the observations or the actions.
    """

    net: nn.Module

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        solver: Solver,
        normalize_images: bool = True,
        constraint: ActionConstraint | None = None,
        fallback: Fallback = "least_violation",
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.constraint, self.fallback = constraint, fallback
        low, high = action_space.low.reshape(-1), action_space.high.reshape(-1)
        #: Moves scaled actions into the set that the constraint allows.
        self.limits = None
        if constraint is not None:
            self.limits = ActionProjection(constraint, low, high, scaled=True, fallback=fallback)
        self.features_dim = features_dim
        self.action_dim = get_action_dim(action_space)
        self.solver = solver
        self._last_polytopes: tuple[Any, Polytopes | None] | None = None
        #: Greedy actions whose solve failed, since the critic was built: the agent logs them.
        self.act_failed = 0

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        """As SB3's, but what is normalised keeps its digits until its mean is taken off."""
        prepared = preprocess(obs, self.observation_space, features_extractor, self.normalize_images)
        features: Tensor = features_extractor(prepared)
        return features

    @abstractmethod
    def bind_features(self, features: Tensor) -> BoundCritic:
        """f(s, .) for a batch of features."""

    def bind(self, obs: PyTorchObs) -> BoundCritic:
        """f(s, .) for a batch of observations: everything that depends on the state is evaluated here, once."""
        return self.bind_features(self.extract_features(obs, self.features_extractor))

    @property
    def members(self) -> int:
        """E."""
        return int(getattr(self.net, "ensemble", None) or 1)

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Q_e(s, a) of every member, each (B, 1), for actions scaled to [-1, 1]."""
        return tuple(-f.unsqueeze(-1) for f in self.bind(obs).member_values(actions))

    def action_set(self, obs: PyTorchObs) -> Box | ConvexSet:
        """The scaled actions that may be taken in a batch of states."""
        if self.limits is None:
            return ACTION_BOX
        batch = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        like = torch.zeros(batch, self.action_dim, dtype=torch.float64, device=self.device)
        return self.limits.actions.at(obs, like)

    @eager("The greedy action")
    def maximise(
        self,
        energy: BoundCritic,
        solver: Solver,
        obs: PyTorchObs,
        allowed: Box | ConvexSet | None = None,
        atol: float | Tensor = 0.0,
    ) -> Solution:
        """argmax_a of mean_e Q_e over the scaled actions that may be taken; where there are none, the fallback.
        ``allowed``: :meth:`action_set`, where the caller has it. ``atol``: a certified gap that is small enough, in
        units of Q, whatever the solver's own tolerance."""
        start = energy.start()
        allowed = self.action_set(obs) if allowed is None else allowed
        solution = solve_with_lazy_rows(Problem(energy, allowed, start), solver, start, atol=atol)
        if self.limits is None or not bool((empty := solution.status == Status.PRIMAL_INFEASIBLE).any()):
            return solution
        instead = torch.where(empty.unsqueeze(-1), self.nearest(obs, solution.value, allowed), solution.value)
        return dataclasses.replace(solution, value=instead, fun=torch.where(empty, energy(instead), solution.fun))

    @eager("The nearest action")
    def nearest(self, obs: PyTorchObs, actions: Tensor, allowed: Box | ConvexSet) -> Tensor:
        """The allowed actions nearest to these, all scaled."""
        if self.limits is None:
            return actions
        assert isinstance(allowed, ConvexSet)
        moved: Tensor = self.limits(obs, actions, within=allowed)
        return moved

    def greedy(self, obs: PyTorchObs) -> Greedy:
        """The greedy actions, scaled to [-1, 1]; failures are counted."""
        found = self._solve(obs)
        return Greedy(*(part.clone() for part in (found.value, -found.fun, found.gap, found.status)))

    @eager("The greedy action")
    def _solve(self, obs: PyTorchObs) -> Solution:
        with torch.inference_mode():
            solution = self.maximise(self.bind(obs), self.solver, obs)
        return self._count(solution)

    def _count(self, solution: Solution) -> Solution:
        """Failures are counted, and what is not known is NaN."""
        if bool((solution.status <= _LAST_USABLE).all()):  # nearly always: one question instead of counting
            return solution
        self.act_failed += int(solution.failed.sum())
        unknown = (solution.status == Status.NONFINITE_INPUT).unsqueeze(-1)
        return dataclasses.replace(solution, value=torch.where(unknown, torch.nan, solution.value))

    def polytopes_at(self, obs: object) -> Polytopes | None:
        """The scaled actions that may be taken for observations as the environments give them, where compiled code
        knows sets of this kind; None: it does not. The last ones are kept: a step asks twice."""
        if self.limits is None or not isinstance(obs, np.ndarray) or self.device.type != "cpu":
            return None
        key = obs.shape, obs.tobytes()
        if self._last_polytopes is None or self._last_polytopes[0] != key:
            with torch.no_grad():
                allowed = self.action_set(torch.from_numpy(obs))
            assert isinstance(allowed, ConvexSet)
            self._last_polytopes = key, Polytopes.of(allowed, self.action_dim) if available() else None
        return self._last_polytopes[1]

    def act_on(self, obs: object) -> np.ndarray | None:
        """The greedy action, scaled, for one observation as the environment gives it, where there is a shorter way than
        through tensors; None: there is none, or the observation is not one finite row."""
        return None

    @property
    def device(self) -> torch.device:
        """As SB3's, without a walk through all modules where the network has heads: predict asks at every step."""
        heads = getattr(self.net, "heads", None)
        device: torch.device = super().device if heads is None else heads.weight.device
        return device

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, without walking through all modules where nothing changes: predict asks at every step."""
        if self.training != mode:
            super().set_training_mode(mode)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._solve(observation).value.clone()  # inference tensors may not leave

    def clamp_weights_(self) -> None:
        """Whatever keeps the critic concave in the action after an optimiser step."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            features_extractor=self.features_extractor,
            features_dim=self.features_dim,
            solver=self.solver,
            constraint=self.constraint,
            fallback=self.fallback,
        )
        return data


class ICNNCritic(ConcaveCritic):
    """E partially input-convex networks as critic (Amos, Xu and Kolter, section 4.2). Arguments beyond ConcaveCritic's:
    see :class:`icnn_rl.nn.PICNN`."""

    net: PICNN

    def __init__(self, *args: Any, picnn_kwargs: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.picnn_kwargs = picnn_kwargs
        self._compiled: CompiledCritics | None = None
        self._compiled_for: tuple[torch.device, torch.dtype] | None = None
        self.net = PICNN(self.features_dim, self.action_dim, **picnn_kwargs)

    def bind_features(self, features: Tensor) -> BoundCritic:
        return self.net.bind(features, reduction="mean")

    @property
    def compiled(self) -> CompiledCritics | None:
        """The same critic in compiled code, where there is one for it: not for a class that derives from this one,
        which may compute something else."""
        if type(self) is not ICNNCritic:
            return None
        weight = self.net.heads.weight
        kind = weight.device, weight.dtype
        if self._compiled_for != kind:
            self._compiled = CompiledCritics(self.net, 1) if CompiledCritics.fits(self.net) else None
            self._compiled_for = kind
        return self._compiled

    def act_on(self, obs: object) -> np.ndarray | None:
        extractor, space = self.features_extractor, self.observation_space
        if not isinstance(obs, np.ndarray) or obs.dtype not in (np.float32, np.float64):
            return None
        if not is_vector_space(space) or obs.shape not in (space.shape, (1, *space.shape)):  # type: ignore[misc]
            return None
        if type(extractor) not in (NormalizedExtractor, FlattenExtractor) or not finite_in_float32(obs):
            return None
        compiled = self.compiled
        if compiled is None or not is_compiled(self.solver):
            return None
        if isinstance(extractor, NormalizedExtractor):
            action, status = compiled.act_on(obs.reshape(-1), extractor.mean, extractor.variance, self.solver)
        else:
            action, status = compiled.act_on(obs.reshape(-1).astype(np.float32, copy=False), None, None, self.solver)
        if status <= _LAST_USABLE and self.constraint is not None and not self._may_be_taken(obs, action):
            found = self._act_within(obs, compiled)
            if found is None:
                return None
            action, status = found
        if status > _LAST_USABLE:
            return None  # counted, and told, the long way
        shape = self.action_space.shape if obs.shape == space.shape else (1, *self.action_space.shape)  # type: ignore[misc]
        return action.reshape(shape)

    def _may_be_taken(self, obs: np.ndarray, action: np.ndarray) -> bool:
        """Whether the constraint allows a scaled action (n,). The best of all actions is then the best of those that it
        allows, and nothing has to be known of the others."""
        assert self.constraint is not None
        low, high = self.action_space.low.reshape(-1), self.action_space.high.reshape(-1)  # type: ignore[attr-defined]
        own_units = torch.from_numpy(0.5 * (high - low) * action + 0.5 * (high + low)).unsqueeze(0).double()
        row = torch.from_numpy(obs.reshape(1, *self.observation_space.shape)).double()  # type: ignore[misc]
        with torch.no_grad():
            return bool(self.constraint.violation(row, own_units) <= 0.0)  # NaN: no

    def _act_within(self, obs: np.ndarray, compiled: CompiledCritics) -> tuple[np.ndarray, int] | None:
        """The best action of those that the constraint allows, and the status of its search."""
        assert is_compiled(self.solver)
        row = obs.reshape(1, *self.observation_space.shape)  # type: ignore[misc]
        allowed = self.polytopes_at(row)
        if allowed is None:
            return None
        with torch.no_grad():
            x = self.extract_features(torch.from_numpy(row), self.features_extractor)
            found = compiled.act_within(x, allowed, self.solver)
        return None if found is None else (found.value[0].numpy(), int(found.status[0]))

    @eager("The greedy action")
    def _solve(self, obs: PyTorchObs) -> Solution:
        if (
            self.limits is None
            and is_compiled(self.solver)
            and not intercepted()
            and (compiled := self.compiled) is not None
        ):
            with torch.no_grad():
                solution = compiled.act(self.extract_features(obs, self.features_extractor), self.solver)
            return self._count(solution)
        return super()._solve(obs)

    def clamp_weights_(self) -> None:
        self.net.clamp_weights_()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "picnn_kwargs": self.picnn_kwargs}


def finite_in_float32(array: np.ndarray) -> bool:
    """Whether the numbers are finite as the networks read them."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())
