"""The critics of S learners as one: what an update asks of them, whether there is one learner or many."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor

from icnn_rl.agents.icnn_q.bellman_gradient import BellmanGradient
from icnn_rl.agents.icnn_q.critic import ACTION_BOX, ConcaveCritic
from icnn_rl.agents.icnn_q.losses import bellman_loss
from icnn_rl.agents.normalization import normalize
from icnn_rl.nn import PICNN
from icnn_rl.nn.groups import GroupMeans
from icnn_rl.solution import Solution
from icnn_rl.solvers import Problem, ProjectedNewton, Solver, solve
from icnn_rl.solvers.newton.fixed_steps import solve_fixed_steps
from icnn_rl.solvers.newton.smoothed_start import smoothed_start
from icnn_rl.solvers.shortcuts import without_shortcuts

__all__ = ["Critics", "LoneCritics", "StackedCritics"]


class Bound(NamedTuple):
    """The energies of a batch of states, and the sets of actions that may be taken there."""

    energy: Any
    obs: PyTorchObs
    allowed: Any


class Critics(Protocol):
    """S learners with E members each: energies f_e(s, .), convex in the scaled action, Q_e = -f_e."""

    learners: int
    members: int
    constrained: bool

    def parameters(self) -> list[Tensor]:
        """All weights; those of learner s are rows s E .. s E + E - 1 where there are several."""
        ...

    def bind(self, obs: PyTorchObs) -> Bound:
        """Everything that depends on the states, once."""
        ...

    def member_values(self, bound: Bound, actions: Tensor) -> Tensor:
        """f_e (S, E, B) at the actions (S, B, n)."""
        ...

    def maximise(self, bound: Bound, solver: Solver, atol: Tensor, *, fixed_steps: bool = False) -> Solution:
        """argmax_a of mean_e Q_e, (S, B, n); a certified gap of ``atol`` (S,) is small enough."""
        ...

    def nearest(self, bound: Bound, actions: Tensor) -> Tensor:
        """The allowed actions nearest to these, (S, B, n)."""
        ...

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """The Bellman losses (S,), the energies (S, E, B), and the gradient of the losses in every parameter."""
        ...

    def clamp(self) -> None:
        """Whatever keeps the critics concave in the action after a step."""
        ...

    def take_statistics(self, other: Critics) -> None:
        """Running means and deviations of the features, from the critics that learn."""
        ...


class LoneCritics:
    """One learner: any :class:`ConcaveCritic`, with whatever observations, features and constraint it has."""

    learners = 1

    def __init__(self, critic: ConcaveCritic) -> None:
        self.critic = critic
        self.members = critic.members
        self.constrained = critic.limits is not None
        self._running = get_parameters_by_name(critic, ["running_"])
        net = critic.net
        alone = len(list(critic.parameters())) == len(list(net.parameters()))  # the features have no weights
        self._by_hand = BellmanGradient(net, 1) if alone and BellmanGradient.fits(net) else None  # type: ignore[arg-type]

    def parameters(self) -> list[Tensor]:
        return list(self.critic.parameters())

    def bind(self, obs: PyTorchObs) -> Bound:
        return Bound(self.critic.bind(obs), obs, self.critic.action_set(obs))

    def member_values(self, bound: Bound, actions: Tensor) -> Tensor:
        values: Tensor = bound.energy.member_values(actions[0])
        return values.unsqueeze(0)

    def maximise(self, bound: Bound, solver: Solver, atol: Tensor, *, fixed_steps: bool = False) -> Solution:
        found = self.critic.maximise(bound.energy, solver, bound.obs, bound.allowed, atol)
        return Solution(*(getattr(found, name).unsqueeze(0) for name in _ROWS))

    def nearest(self, bound: Bound, actions: Tensor) -> Tensor:
        return self.critic.nearest(bound.obs, actions[0], bound.allowed).unsqueeze(0)

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        if self._by_hand is not None:
            with torch.no_grad():
                x = self.critic.extract_features(obs, self.critic.features_extractor)
            return self._by_hand(x.expand(self.members, -1, -1), actions, target, usable)
        energies = self.critic.bind(obs).member_values(actions[0]).unsqueeze(0)
        return _by_autograd(energies, target, usable, self.parameters())

    def clamp(self) -> None:
        self.critic.clamp_weights_()

    def take_statistics(self, other: Critics) -> None:
        assert isinstance(other, LoneCritics)
        for own, theirs in zip(self._running, other._running, strict=True):
            own.copy_(theirs)


class StackedCritics:
    """Many learners: networks of E members each side by side in one of S E, on vectors of features.

    Args:
        net: of S E members.
        learners: S.
        mean, variance: (S, 1, o) of the observations, None: these are features as they are.
    """

    constrained = False

    def __init__(self, net: PICNN, learners: int, mean: Tensor | None = None, variance: Tensor | None = None) -> None:
        self.net, self.learners = net, learners
        self.members = (net.ensemble or 1) // learners
        self._mean, self._variance = mean, variance
        self._by_hand = BellmanGradient(net, learners) if BellmanGradient.fits(net) else None
        # a box with no question left to ask: its bounds are looked at here, once
        start = net.heads.weight.new_zeros(learners, 1, net.y_features)
        self._problem = Problem(lambda y: y.sum(-1), ACTION_BOX, start)

    def parameters(self) -> list[Tensor]:
        return list(self.net.parameters())

    def features(self, obs: Tensor) -> Tensor:
        """Every learner's features to each of its members: (S, B, o) -> (S E, B, o)."""
        normalised = self._mean is not None and self._variance is not None
        x = normalize(obs, self._mean, self._variance) if normalised else obs.float()  # type: ignore[arg-type]
        return x.unsqueeze(1).expand(-1, self.members, -1, -1).flatten(0, 1)

    def bind(self, obs: PyTorchObs) -> Bound:
        assert isinstance(obs, Tensor)
        return Bound(GroupMeans(self.net.bind(self.features(obs)), self.learners), obs, None)

    def member_values(self, bound: Bound, actions: Tensor) -> Tensor:
        values: Tensor = bound.energy.member_values(actions)
        return values

    def maximise(self, bound: Bound, solver: Solver, atol: Tensor, *, fixed_steps: bool = False) -> Solution:
        energy = bound.energy
        if not fixed_steps and energy.members.linear.device.type == "cpu":
            return self._one_by_one(energy, solver, atol)
        problem, start = self._problem.of(energy), energy.start()
        if not fixed_steps:
            return solve(problem, solver, smoothed_start(problem, start), atol=atol.unsqueeze(-1))
        assert isinstance(solver, ProjectedNewton)
        with without_shortcuts():
            return solve_fixed_steps(problem, solver, smoothed_start(problem, start), atol=atol.unsqueeze(-1))

    def _one_by_one(self, energy: GroupMeans, solver: Solver, atol: Tensor) -> Solution:
        """On a CPU side by side is no faster, and the compiled method takes one learner at a time."""
        found = []
        for s in range(self.learners):
            own = energy.group(s)
            start = own.start()
            found.append(solve(Problem(own, ACTION_BOX, start), solver, start, averages=True, atol=atol[s]))
        return Solution(*(torch.stack([getattr(one, name) for one in found]) for name in _ROWS))

    def nearest(self, bound: Bound, actions: Tensor) -> Tensor:
        return actions

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        assert isinstance(obs, Tensor)
        if self._by_hand is not None:
            return self._by_hand(self.features(obs), actions, target, usable)
        energies = self.member_values(self.bind(obs), actions)
        return _by_autograd(energies, target, usable, self.parameters())

    def clamp(self) -> None:
        self.net.clamp_weights_()

    def take_statistics(self, other: Critics) -> None:
        """The learners' critics and targets share theirs."""


_ROWS = [field.name for field in dataclasses.fields(Solution) if field.name != "state"]


def _by_autograd(
    energies: Tensor, target: Tensor, usable: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    losses = bellman_loss(energies, target, usable)
    gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    # laid out as the weights are: fused Adam reads memory in order
    return losses.detach(), energies.detach(), [None if g is None else g.contiguous() for g in gradients]
