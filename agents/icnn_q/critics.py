"""The critics of S learners as one: what an update asks of them, whether there is one learner or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor

from icnn_rl.agents.icnn_q.batch import Batch, Draws, Settings
from icnn_rl.agents.icnn_q.compiled import CompiledCritics, is_compiled
from icnn_rl.agents.icnn_q.critic import ACTION_BOX, ConcaveCritic, ICNNCritic
from icnn_rl.agents.icnn_q.losses import bellman_loss, bellman_target, loss_numbers, on_bound
from icnn_rl.agents.normalization import NormalizedExtractor, normalize
from icnn_rl.nn import PICNN
from icnn_rl.nn.groups import GroupMeans
from icnn_rl.solution import Solution, Status
from icnn_rl.solvers import Problem, ProjectedNewton, Solver, solve
from icnn_rl.solvers.newton.fixed_steps import solve_fixed_steps
from icnn_rl.solvers.newton.polytopes import Polytopes
from icnn_rl.solvers.newton.smoothed_start import smoothed_start
from icnn_rl.solvers.shortcuts import without_shortcuts

__all__ = ["Critics", "LoneCritics", "StackedCritics"]


class Critics(Protocol):
    """S learners with E members each: energies f_e(s, .), convex in the scaled action, Q_e = -f_e."""

    learners: int
    members: int
    compiled: CompiledCritics | None

    def parameters(self) -> list[Tensor]:
        """All weights; those of learner s are rows s E .. s E + E - 1 where there are several."""
        ...

    def target(
        self, batch: Batch, own: Settings, draws: Draws, solver: Solver, atol: Tensor, *, fixed_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """scale r + gamma (1 - ended) min_e Q_e(s', a'), a' the greedy action with noise; (S, B).

        Args:
            atol: (S,), a certified gap of the greedy action that is small enough.
            fixed_steps: take all steps of the solver.

        Returns:
            the target, which rows have one (S, B), and the means over B of what :data:`TARGET_KEYS` names (S, 6).
        """
        ...

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """What :data:`LOSS_KEYS` names of the Bellman losses (S, 4), and their gradient in every parameter."""
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
        self._running = get_parameters_by_name(critic, ["running_"])
        alone = len(list(critic.parameters())) == len(list(critic.net.parameters()))  # the features have no weights
        self.compiled = critic.compiled if alone and isinstance(critic, ICNNCritic) else None

    def parameters(self) -> list[Tensor]:
        return list(self.critic.parameters())

    def target(
        self, batch: Batch, own: Settings, draws: Draws, solver: Solver, atol: Tensor, *, fixed_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        critic, next_obs = self.critic, batch.next_obs
        allowed = critic.action_set(next_obs)
        if self.compiled is not None and is_compiled(solver):
            polytopes = None if critic.limits is None else Polytopes.of(allowed, critic.action_dim)  # type: ignore[arg-type]
            if critic.limits is None or polytopes is not None:
                x = self._features(next_obs)
                found_target = self.compiled.target(x, batch, own, draws, solver, atol, polytopes)
                if found_target is not None:
                    return found_target
        energy = critic.bind(next_obs)
        found = critic.maximise(energy, solver, next_obs, allowed, atol)
        action = found.value if draws.noise is None else (found.value + draws.noise[0]).clamp(-1.0, 1.0)
        if draws.noise is not None:
            action = critic.nearest(next_obs, action, allowed)
        energies = energy.member_values(action).unsqueeze(0)
        return _target(energies, stacked([found]), batch, own, draws.members)

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        if self.compiled is not None:
            return self.compiled.gradient(self._features(obs), actions, target, usable)
        self.critic.set_training_mode(True)
        with torch.enable_grad():
            energies = self.critic.bind(obs).member_values(actions[0]).unsqueeze(0)
            return _by_autograd(energies, target, usable, self.parameters())

    def _features(self, obs: PyTorchObs) -> Tensor:
        """To each member: (E, B, o)."""
        extractor = self.critic.features_extractor
        if self.compiled is not None and type(extractor) is NormalizedExtractor:
            assert isinstance(obs, Tensor)
            rows = obs.flatten(1).unsqueeze(0)
            return self.compiled.features(rows, extractor.mean.unsqueeze(0), extractor.variance.unsqueeze(0))
        with torch.no_grad():
            x = self.critic.extract_features(obs, extractor)
        return x.expand(self.members, -1, -1)

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

    def __init__(self, net: PICNN, learners: int, mean: Tensor | None = None, variance: Tensor | None = None) -> None:
        self.net, self.learners = net, learners
        self.members = (net.ensemble or 1) // learners
        self._mean, self._variance = mean, variance
        self.compiled = CompiledCritics(net, learners) if CompiledCritics.fits(net) else None
        # a box with no question left to ask: its bounds are looked at here, once
        start = net.heads.weight.new_zeros(learners, 1, net.y_features)
        self._problem = Problem(lambda y: y.sum(-1), ACTION_BOX, start)

    def parameters(self) -> list[Tensor]:
        return list(self.net.parameters())

    def _features(self, obs: Tensor) -> Tensor:
        """Every learner's features to each of its members: (S, B, o) -> (S E, B, o)."""
        x = obs.float()
        if self._mean is not None and self._variance is not None:
            if self.compiled is not None:
                return self.compiled.features(obs, self._mean.squeeze(1), self._variance.squeeze(1))
            x = normalize(obs, self._mean, self._variance)
        return x.unsqueeze(1).expand(-1, self.members, -1, -1).flatten(0, 1)

    def target(
        self, batch: Batch, own: Settings, draws: Draws, solver: Solver, atol: Tensor, *, fixed_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(batch.next_obs, Tensor)
        x = self._features(batch.next_obs)
        if self.compiled is not None and not fixed_steps and is_compiled(solver):
            target = self.compiled.target(x, batch, own, draws, solver, atol)
            assert target is not None  # nothing is forbidden
            return target
        energy = GroupMeans(self.net.bind(x), self.learners)
        found = self._maximise(energy, solver, atol, fixed_steps)
        action = found.value if draws.noise is None else (found.value + draws.noise).clamp(-1.0, 1.0)
        return _target(energy.member_values(action), found, batch, own, draws.members)

    def gradient(
        self, obs: PyTorchObs, actions: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        assert isinstance(obs, Tensor)
        x = self._features(obs)
        if self.compiled is not None:
            return self.compiled.gradient(x, actions, target, usable)
        with torch.enable_grad():
            energies = GroupMeans(self.net.bind(x), self.learners).member_values(actions)
            return _by_autograd(energies, target, usable, self.parameters())

    @torch.no_grad()
    def act(self, obs: Tensor, solver: Solver) -> tuple[Tensor, Tensor]:
        """The greedy actions (S, n) for observations (S, o) of one state each, and the status of their search (S,)."""
        if self.compiled is not None and is_compiled(solver):
            return self._act_compiled(self.compiled, obs, solver)
        x = self._features(obs.unsqueeze(1))
        energy = GroupMeans(self.net.bind(x), self.learners)
        # the environments wait for the actions: asking whether there is anything left to do costs nothing more
        found = self._maximise(energy, solver, x.new_zeros(self.learners), fixed_steps=False)
        return found.value.squeeze(1), found.status.squeeze(1)

    def _act_compiled(self, compiled: CompiledCritics, obs: Tensor, solver: ProjectedNewton) -> tuple[Tensor, Tensor]:
        if obs.dtype not in (torch.float32, torch.float64):
            obs = obs.double()
        actions, statuses = [], []
        for s in range(self.learners):
            mean, variance = (None if part is None else part[s, 0] for part in (self._mean, self._variance))
            action, status = compiled.act_on(obs[s].numpy(), mean, variance, solver, s)
            actions.append(torch.from_numpy(action))
            statuses.append(status)
        return torch.stack(actions), torch.tensor(statuses)

    def _maximise(self, energy: GroupMeans, solver: Solver, atol: Tensor, fixed_steps: bool) -> Solution:
        """argmax_a of every learner's mean_e Q_e, (S, B, n)."""
        problem, start, enough = self._problem.of(energy), energy.start(), atol.unsqueeze(-1)
        if not fixed_steps:
            return solve(problem, solver, smoothed_start(problem, start), atol=enough)
        assert isinstance(solver, ProjectedNewton)
        with without_shortcuts():
            return solve_fixed_steps(problem, solver, smoothed_start(problem, start), atol=enough)

    def clamp(self) -> None:
        self.net.clamp_weights_()

    def take_statistics(self, other: Critics) -> None:
        """The learners' critics and targets share theirs."""


def stacked(found: Sequence[Solution]) -> Solution:
    """Solutions of S learners as one."""
    names = (field.name for field in dataclasses.fields(Solution) if field.name != "state")
    return Solution(**{name: torch.stack([getattr(one, name) for one in found]) for name in names})


def _target(
    energies: Tensor, found: Solution, batch: Batch, own: Settings, drawn: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`Critics.target`: from every member's energy (S, E, B) and the search for the greedy action."""
    if drawn is not None:
        energies = energies.gather(1, drawn.unsqueeze(-1).expand(-1, -1, energies.shape[-1]))
    # where no action is allowed the fallback is taken, as the environment's wrapper does
    empty = found.status == Status.PRIMAL_INFEASIBLE
    failed = found.failed & ~empty
    discount = own.gamma.unsqueeze(-1) if batch.discounts is None else batch.discounts
    rewards = own.reward_factor.unsqueeze(-1) * batch.rewards
    target, usable = bellman_target(rewards, batch.ended > 0, discount, own.within(-energies.amax(1)), ~failed)
    gap = torch.where(empty, torch.nan, found.gap)
    parts = (found.num_steps, gap, found.success, failed, empty, on_bound(found.value))
    return target, usable, torch.stack([part.float() for part in parts], -1).nanmean(1)


def _by_autograd(
    energies: Tensor, target: Tensor, usable: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    losses = bellman_loss(energies, target, usable)
    gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    # laid out as the weights are: fused Adam reads memory in order
    laid_out: list[Tensor | None] = [None if g is None else g.contiguous() for g in gradients]
    return loss_numbers(losses, energies, target, usable).mT, laid_out
