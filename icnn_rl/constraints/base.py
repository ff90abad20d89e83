"""Constraints on actions: picklable descriptions of the set an action must lie in, given the observation.

    C(s) = { a : G(s) a <= h(s),  lb(s) <= a <= ub(s),  (a - c(s))^T M(s) (a - c(s)) <= r(s) }

in the environment's own units of action and observation. Descriptions are combined with ``&``; functions of the
observation they may hold must be picklable: defined at the top level of a module, or objects of a class that is.

    constraint = power_limit(velocity_index=slice(8, 11), max_power=20.0) & rate_limit(0.1)

The same description serves the layer of a policy, the convex programme of a critic, and the wrapper around the
environment. A kind of constraint is a file of its own: box.py, linear.py, power_limit.py, ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.constraints.fallback import NEARLY, Fallback, backup, check_fallback, rescued
from icnn_rl.constraints.observations import Observation, any_part, whole
from icnn_rl.eager import eager
from icnn_rl.sets import ConvexSet, Interior, intersect
from icnn_rl.sets.rows import largest
from icnn_rl.solution import Status

__all__ = ["ActionConstraint", "Projection", "check_constraint", "check_not_empty"]


class Projection(NamedTuple):
    """Actions moved into the set.

    action (B, n), differentiable; moved (B,): Euclidean distance from what came; violation (B,): of what came, see
    :meth:`ActionConstraint.violation`; status (B,): see :class:`icnn_rl.Status`, PRIMAL_INFEASIBLE where the set is
    empty.
    """

    action: Tensor
    moved: Tensor
    violation: Tensor
    status: Tensor


class ActionConstraint(ABC):
    """A set of actions for every observation. Immutable and picklable; combine with ``&``.

    Observations are (B, d) or (d,) tensors in the environment's units; a mapping of them where :meth:`reading` names
    the part. Actions are (B, n) or (n,), likewise.
    """

    #: Whether the observation must end with the last action that was executed, see :func:`rate_limit`.
    needs_last_action: bool = False

    #: Whether the set differs between observations.
    depends_on_state: bool = True

    #: The fastest of the rates alpha in 1 / s, see :func:`control_barrier`; 0: there is none.
    largest_rate: float = 0.0

    @abstractmethod
    def at(self, obs: Observation, n: int) -> ConvexSet:
        """The set for a batch of observations and n actions."""

    def observed(self, obs: Observation) -> Tensor:
        """The observations as a tensor; of a constraint that reads none, a tensor that tells dtype and device.

        Raises:
            ValueError: they are a Dict, and no part was named, see :meth:`reading`.
        """
        return whole(obs) if self.depends_on_state else any_part(obs)

    def violation(self, obs: Observation, action: Tensor) -> Tensor:
        """By how much the worst row is violated, as a distance (g^T a - h) / ||g||; <= 0 inside the set: (B,).

        Outside a bound from below on the distance to the set, inside one on the distance to its border; to first order
        where there is a ball or an ellipsoid. NaN where observation or action hold NaN.
        """
        return self.at(obs, action.shape[-1]).to(action).violation(action)

    def feasible(self, obs: Observation, action: Tensor, tol: float = 0.0) -> Tensor:
        """Whether the violation is at most ``tol``: (B,) bool."""
        return self.violation(obs, action) <= tol

    def interior(self, obs: Observation, like: Tensor) -> Interior:
        """A strictly feasible action for every observation, ``like`` (B, n) in shape; depth < 0 where there is none."""
        return self.at(obs, like.shape[-1]).to(like).interior(like)

    @eager("ActionConstraint.project")
    def project(self, obs: Observation, action: Tensor, *, fallback: Fallback = "least_violation") -> Projection:
        """The nearest action of the set, differentiable in ``action`` and in what the set is made of.

        Args:
            obs: observations.
            action: (B, n).
            fallback: what to take where the set is empty: "least_violation", of the actions whose largest violation is
                smallest the one nearest to ``action``; "error"; an action of n numbers; or a function of the
                observations, in float64, that gives (B, n). The first, whatever is asked for, serves also where the
                solve stopped short, MAX_STEPS or NUMERICAL, at a point that violates the set by more than 1e-6.

        Raises:
            EmptySetError: some set is empty, and ``fallback`` is "error".
            ValueError: a fallback of another kind or shape.
        """
        check_fallback(fallback)
        inside = self.at(obs, action.shape[-1]).to(action)
        found = inside.project(action, throw=False)
        value, empty = found.value, found.status == Status.PRIMAL_INFEASIBLE
        short = (found.status == Status.MAX_STEPS) | (found.status == Status.NUMERICAL)
        if bool(short.any()):
            short = short & ~(self.violation(obs, value.detach()) <= NEARLY)
        value = rescued(
            value,
            action,
            inside,
            empty=empty,
            short=short,
            instead=lambda: backup(fallback, obs, inside, action, empty),
        )
        with torch.no_grad():
            moved = (value - action).norm(dim=-1)
            violation = self.violation(obs, action)
        return Projection(value, moved, violation, found.status)

    @property
    def last_action_keys(self) -> frozenset[str | None]:
        """The parts of Dict observations that have to end with the last action; None among them: the observation
        itself."""
        return frozenset({None}) if self.needs_last_action else frozenset()

    def reading(self, key: str) -> ActionConstraint:
        """This constraint on Dict observations, where it reads the part ``key``."""
        return _Reading(self, key)

    def __and__(self, other: ActionConstraint) -> ActionConstraint:
        if not isinstance(other, ActionConstraint):
            return NotImplemented
        return _All(
            tuple(part for side in (self, other) for part in (side.parts if isinstance(side, _All) else (side,)))
        )

    @staticmethod
    def linear(G: Any, h: Any) -> ActionConstraint:
        """See :func:`icnn_rl.constraints.linear`."""
        from icnn_rl.constraints.linear import linear  # which is one of us

        return linear(G, h)


@dataclass(frozen=True)
class _All(ActionConstraint):
    """All of them. Where one reads the last action, with which observations end then, the others read what is before
    it: indices from the end mean the same with and without."""

    parts: tuple[ActionConstraint, ...]

    @property
    def needs_last_action(self) -> bool:  # type: ignore[override]
        return any(part.needs_last_action for part in self.parts)

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return any(part.depends_on_state for part in self.parts)

    @property
    def last_action_keys(self) -> frozenset[str | None]:
        return frozenset().union(*(part.last_action_keys for part in self.parts))

    @property
    def largest_rate(self) -> float:  # type: ignore[override]
        return max(part.largest_rate for part in self.parts)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        return intersect([part.at(self._read_by(part, obs, n), n) for part in self.parts], n)

    def violation(self, obs: Observation, action: Tensor) -> Tensor:
        n = action.shape[-1]
        return largest([part.violation(self._read_by(part, obs, n), action) for part in self.parts])

    def _read_by(self, part: ActionConstraint, obs: Observation, n: int) -> Observation:
        if part.needs_last_action or not self.needs_last_action:
            return obs
        if isinstance(obs, Tensor):
            return obs[..., :-n]
        if not isinstance(part, _Reading) or part.key not in self.last_action_keys or part.key not in obs:
            return obs
        return {part.key: obs[part.key][..., :-n]}


@dataclass(frozen=True)
class _Reading(ActionConstraint):
    inner: ActionConstraint
    key: str

    @property
    def needs_last_action(self) -> bool:  # type: ignore[override]
        return self.inner.needs_last_action

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return self.inner.depends_on_state

    @property
    def last_action_keys(self) -> frozenset[str | None]:
        return frozenset({self.key}) if self.needs_last_action else frozenset()

    @property
    def largest_rate(self) -> float:  # type: ignore[override]
        return self.inner.largest_rate

    def at(self, obs: Observation, n: int) -> ConvexSet:
        return self.inner.at(self._part(obs), n)

    def violation(self, obs: Observation, action: Tensor) -> Tensor:
        return self.inner.violation(self._part(obs), action)

    def _part(self, obs: Observation) -> Tensor:
        if not isinstance(obs, Mapping):
            if not self.depends_on_state:  # which reads none
                return obs
            raise ValueError(f"constraint: reads the part {self.key!r} of Dict observations, got {type(obs).__name__}.")
        if self.key not in obs:
            raise ValueError(
                f"constraint: reads the part {self.key!r}; the observation has {', '.join(map(repr, obs))}."
            )
        return obs[self.key]


def check_constraint(constraint: object) -> ActionConstraint:
    """
    Raises:
        ValueError: it is none.
    """
    if not isinstance(constraint, ActionConstraint):
        raise ValueError(
            f"constraint: expected an ActionConstraint of icnn_rl.constraints, got {type(constraint).__name__}."
        )
    return constraint


def check_not_empty(constraint: ActionConstraint, low: Any, high: Any) -> None:
    """Whether a constraint that is the same in every state leaves an action between low and high, (n,) each.

    Raises:
        ValueError: it does not.
    """
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
    own = constraint.at(low.new_zeros(1, 0), len(low)).to(low)
    inside = intersect([own, ConvexSet(lb=low, ub=high)], len(low))
    middle = (0.5 * (low + high)).nan_to_num(0.0, 0.0, 0.0).unsqueeze(0)
    if int(inside.project(middle, throw=False).status) != Status.PRIMAL_INFEASIBLE:
        return
    least = float(constraint.violation(low.new_zeros(1, 0), inside.least_violating(middle)))
    raise ValueError(
        f"constraint: no action between {low.tolist()} and {high.tolist()} satisfies it, in any state: every one "
        f"violates it by {least:.3g} or more, in the units of the actions. Check its signs and units."
    )
