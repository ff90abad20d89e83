"""Batches of actions moved into the sets that a constraint gives, down to the last bit of the array that is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from icnn_rl.constraints.base import ActionConstraint, check_constraint, check_not_empty
from icnn_rl.constraints.fallback import Backup, Fallback
from icnn_rl.constraints.observations import Observation, kept
from icnn_rl.constraints.spaces import two_observations
from icnn_rl.envs.action_sets import ActionSet, Array, action_sets
from icnn_rl.solution import Status

#: Actions further away than so many widths of the action space are cut there before they are projected: beyond, the
#: rounding of the action itself is larger than the set.
_FAR = 1e4
#: The same where the action space has no bound.
_VERY_FAR = 1e9
#: Larger numbers count as this, so that their squares are numbers.
_HUGE = 1e30
#: A row counts as active where it holds with less room than this, relative to the width of the action space.
_ON_BORDER = 1e-6


class Executed(NamedTuple):
    """A batch of actions as they are sent.

    action (B, n) in the action space's dtype; before (B,): violation of what came, bounds of the action space
    included; after (B,): of what is sent; moved (B,): the Euclidean distance between the two; status (B,), see
    :class:`icnn_rl.Status`; active (B,) bool: the action lies on a border of the constraint. Numbers beyond 1e30 that
    came count as 1e30.
    """

    action: Array
    before: Array
    after: Array
    moved: Array
    status: Array
    active: Array

    def info(self, row: int) -> dict[str, Any]:
        """What a step reports about its action."""
        return {
            "action/executed": self.action[row].copy(),
            "constraint/violation_before": float(self.before[row]),
            "constraint/violation": float(self.after[row]),
            "constraint/moved": float(self.moved[row]),
            "constraint/status": Status(int(self.status[row])),
            "constraint/active": bool(self.active[row]),
        }


class Projector:
    """Moves actions into the constraint's set and the bounds of the action space; see
    :class:`icnn_rl.envs.ProjectAction` for the arguments."""

    def __init__(self, constraint: ActionConstraint, space: spaces.Space[Any], fallback: Fallback, tol: float) -> None:
        check_constraint(constraint)
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"env: expected actions in a Box of one dimension and floats, got {space}.")
        if isinstance(tol, bool) or not isinstance(tol, int | float) or not 0.0 < tol < np.inf:
            raise ValueError(f"tol: expected a number > 0, got {tol!r}.")
        self.constraint, self.space, self.tol = constraint, space, float(tol)
        self.n, self.dtype = space.shape[0], np.dtype(space.dtype)
        self._backup = Backup(fallback, self.n)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        # the largest float32 is a usual way to write "no bound"
        self.low, self.high = np.where(low < -_VERY_FAR, -np.inf, low), np.where(high > _VERY_FAR, np.inf, high)
        width = self.high - self.low
        self.width = float(width[np.isfinite(width)].max(initial=0.0)) or 1.0
        bounded = np.isfinite(width)
        self._least = np.where(bounded, self.low - _FAR * self.width, -_VERY_FAR)
        self._most = np.where(bounded, self.high + _FAR * self.width, _VERY_FAR)
        self._huge = min(_HUGE, 0.5 * float(np.finfo(self.dtype).max))
        self._reads = True  # unless try_on finds nothing that it could
        self._constant: ActionSet | None = None
        #: What stands for the last action before the first.
        self.rest: Array = np.clip(np.zeros(self.n), space.low, space.high).astype(self.dtype)

    @property
    def fallback(self) -> Fallback:
        """As it came, of an action a tuple."""
        return self._backup.fallback

    @torch.no_grad()
    def __call__(self, obs: Observation, given: Array) -> Executed:
        """Actions (B, n) for observations (B, ...)."""
        point = np.minimum(np.maximum(given.astype(np.float64), -self._huge), self._huge)
        sent = point.astype(self.dtype)
        as_sent = sent.astype(np.float64)
        sets = self._sets(obs, len(given))
        before = after = sets.violation(as_sent)
        _refuse_nan(np.isnan(before), obs)
        good = (after <= self.tol) & ((as_sent >= self.low) & (as_sent <= self.high)).all(-1)
        status = np.zeros(len(given), np.int64)
        beyond = np.maximum(self.low - point, point - self.high).max(-1)
        if good.all():
            moved = np.zeros(len(point)) if given.dtype == self.dtype else _distance(as_sent, point)
            return Executed(sent, np.maximum(before, beyond), after, moved, status, self._on(after, status))
        near = np.minimum(np.maximum(point, self._least), self._most)
        found, status = sets.nearest(near)
        if status.any():
            found = self._rescued(sets, obs, near, found, status, good)
            status = np.where(good, int(Status.SUCCESS), status)
        moved_in, left = self._rounded(sets, found, good | (status == Status.PRIMAL_INFEASIBLE))
        sent = np.where(good[:, None], sent, moved_in)
        _refuse_nan(~np.isfinite(sent).all(-1), obs)  # whatever went wrong, such an action is never sent
        if given.dtype != self.dtype:
            before = sets.violation(point)
        moved = _distance(sent.astype(np.float64), point)
        after = np.where(good, after, left)
        return Executed(sent, np.maximum(before, beyond), after, moved, status, self._on(after, status))

    def _on(self, violation: Array, status: Array) -> Array:
        on: Array = (violation >= -_ON_BORDER * self.width) & (status != Status.PRIMAL_INFEASIBLE)
        return on

    def try_on(self, space: spaces.Space[Any]) -> None:
        """Find out now what does not fit: make the sets of two observations of zeros, as far as the space has them, for
        a function may mistake the batch for something else; whether observations are read at all; and whether a set
        that is the same in every state is empty.

        Raises:
            ValueError: the constraint does not fit the observations or the actions, or is empty.
        """
        if isinstance(space, spaces.Dict):
            obs: Any = {
                key: two_observations(part) for key, part in space.spaces.items() if isinstance(part, spaces.Box)
            }
        elif isinstance(space, spaces.Box):
            obs = two_observations(space)
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            obs = None
        elif self.constraint.depends_on_state or callable(self.fallback):
            raise ValueError(f"env: constraint or fallback reads the observation, which is no array: {space}.")
        else:
            self._reads, obs = False, None
        if obs is not None or not self._reads:
            self.constraint.at(self.read(obs, batched=True), self.n)
        if not self.constraint.depends_on_state:
            check_not_empty(self.constraint, self.low, self.high)

    def read(self, obs: Any, *, batched: bool) -> Observation:
        """A copy of an observation, or of a batch of them, for the constraint; empty where there is none to read."""
        return kept(obs, batched=batched) if self._reads else torch.zeros(1, 0, dtype=torch.float64)

    def _sets(self, obs: Observation, batch: int) -> ActionSet:
        if self._constant is not None:
            return self._constant
        own = self.constraint.at(obs, self.n)
        sets = action_sets(own, batch, self.low, self.high, lambda a: self.constraint.violation(obs, a))
        if not self.constraint.depends_on_state:
            self._constant = sets
        return sets

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constant": None}  # holds what is not picklable, and is quickly made again

    def _rescued(
        self, sets: ActionSet, obs: Observation, point: Array, found: Array, status: Array, good: Array
    ) -> Array:
        """Something for the rows that have no projection; ``status`` is corrected in place where the set is empty."""
        lost = (status != Status.SUCCESS) & (status != Status.PRIMAL_INFEASIBLE) & ~good
        if lost.any():  # the solver gave up: where it stands, if that is allowed, or any point of the set
            inner, depth = sets.interior(point)
            allowed = sets.violation(self._cast(found).astype(np.float64)) <= self.tol  # false next to a NaN
            found = np.where((lost & (depth >= 0) & ~allowed)[:, None], inner, found)
            status[lost] = np.where(depth[lost] >= 0, status[lost], int(Status.PRIMAL_INFEASIBLE))
        empty = (status == Status.PRIMAL_INFEASIBLE) & ~good
        return np.where(empty[:, None], self._instead(sets, obs, point, empty), found) if empty.any() else found

    def _instead(self, sets: ActionSet, obs: Observation, point: Array, empty: Array) -> Array:
        """Actions for states in which none satisfies the constraint."""
        rows = torch.from_numpy(empty)
        given = self._backup(obs, sets, torch.from_numpy(point), rows, describe=lambda rows: _named(obs, rows.numpy()))
        return given.numpy()

    def _cast(self, value: Array) -> Array:
        clipped: Array = np.minimum(np.maximum(value.astype(self.dtype), self.space.low), self.space.high)
        return clipped

    def _rounded(self, sets: ActionSet, value: Array, done: Array) -> tuple[Array, Array]:
        """In the action space's dtype, and the violation. Where rounding leaves the set, towards its interior by just
        enough; not where ``done``."""
        sent = self._cast(value)
        out = sets.violation(sent.astype(np.float64))
        bad = (out > 0.5 * self.tol) & ~done
        if not bad.any():
            return sent, out
        inner, depth = sets.interior(value)
        bad &= depth > 0
        share = np.where(bad, np.clip(out / np.maximum(out + depth, 1e-300), 1e-12, 1.0), 0.0)
        while bad.any():  # the violation falls at least in proportion to the share
            trial = self._cast(value + share[:, None] * (inner - value))
            left = sets.violation(trial.astype(np.float64))
            better = bad & (left < out)
            sent, out = np.where(better[:, None], trial, sent), np.where(better, left, out)
            bad &= (out > 0.5 * self.tol) & (share < 1.0)
            share = np.minimum(2.0 * share, 1.0)
        return sent, out


def checked_actions(action: Any, shape: tuple[int, ...]) -> Array:
    """Finite numbers of the right shape.

    Raises:
        ValueError: they are not; says what came.
    """
    try:
        array = np.asarray(action)
        good = np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complexfloating)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"action: expected {shape} numbers, got {action!r}.")
    if array.shape != shape:
        raise ValueError(f"action: expected shape {shape}, got {array.shape}: {action!r}.")
    if not np.isfinite(array).all():
        raise ValueError(f"action: expected finite numbers, got {action!r}.")
    return array


def _refuse_nan(rows: Array, obs: Observation) -> None:
    if rows.any():
        raise ValueError(f"constraint: what it gives in {_named(obs, rows)} is not a number.")


def _named(obs: Observation, rows: Array) -> str:
    """The first of the observations in these rows, in words."""
    first = int(rows.nonzero()[0][0])
    if isinstance(obs, Mapping):
        parts = {key: obs[key][first].tolist() for key in obs if obs[key][first].numel() <= 64}
        return f"the state {parts}"
    return f"the state {obs[first].tolist()}" if obs.numel() else "any state"


def _distance(a: Array, b: Array) -> Array:
    away: Array = np.sqrt(np.square(a - b).sum(-1))
    return away
