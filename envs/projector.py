"""Batches of actions moved into the sets that a constraint gives, down to the last bit of the array that is sent.

The test for feasibility and the projection run on NumPy arrays: for the few numbers of one action torch's price per
operation would be most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from icnn_rl.constraints.base import ActionConstraint, check_constraint, check_not_empty
from icnn_rl.constraints.fallback import Backup, Fallback
from icnn_rl.constraints.observations import Observation, kept
from icnn_rl.constraints.spaces import two_observations
from icnn_rl.qp.kernel import dispatch
from icnn_rl.sets import ConvexSet, intersect
from icnn_rl.solution import Status

Array = np.ndarray[Any, np.dtype[Any]]

#: Actions further away than so many widths of the action space are cut there before they are projected: beyond, the
#: rounding of the action itself is larger than the set.
_FAR = 1e4
#: The same where the action space has no bound.
_VERY_FAR = 1e9
#: Larger numbers count as this, so that their squares are numbers.
_HUGE = 1e30
_NEWTON = 30  # steps to the border of an ellipsoid at most; five are the rule
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
        self._constant: _Sets | None = None
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

    def _sets(self, obs: Observation, batch: int) -> _Sets:
        if self._constant is not None:
            return self._constant
        own = self.constraint.at(obs, self.n)
        if own.ellipsoid is None and not own.lifted and own.A is None:
            sets: _Sets = _Polytopes(own, batch, self.low, self.high)
        else:
            sets = _Others(own, batch, self.low, self.high, lambda a: self.constraint.violation(obs, a))
        if not self.constraint.depends_on_state:
            self._constant = sets
        return sets

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constant": None}  # holds what is not picklable, and is quickly made again

    def _rescued(self, sets: _Sets, obs: Observation, point: Array, found: Array, status: Array, good: Array) -> Array:
        """Something for the rows that have no projection; ``status`` is corrected in place where the set is empty."""
        lost = (status != Status.SUCCESS) & (status != Status.PRIMAL_INFEASIBLE) & ~good
        if lost.any():  # the solver gave up: where it stands, if that is allowed, or any point of the set
            inner, depth = sets.interior(point)
            allowed = sets.violation(self._cast(found).astype(np.float64)) <= self.tol  # false next to a NaN
            found = np.where((lost & (depth >= 0) & ~allowed)[:, None], inner, found)
            status[lost] = np.where(depth[lost] >= 0, status[lost], int(Status.PRIMAL_INFEASIBLE))
        empty = (status == Status.PRIMAL_INFEASIBLE) & ~good
        return np.where(empty[:, None], self._instead(sets, obs, point, empty), found) if empty.any() else found

    def _instead(self, sets: _Sets, obs: Observation, point: Array, empty: Array) -> Array:
        """Actions for states in which none satisfies the constraint."""
        rows = torch.from_numpy(empty)
        given = self._backup(obs, sets, torch.from_numpy(point), rows, describe=lambda rows: _named(obs, rows.numpy()))
        return given.numpy()

    def _cast(self, value: Array) -> Array:
        clipped: Array = np.minimum(np.maximum(value.astype(self.dtype), self.space.low), self.space.high)
        return clipped

    def _rounded(self, sets: _Sets, value: Array, done: Array) -> tuple[Array, Array]:
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


class _Polytopes:
    """{ a : G a <= h, lb <= a <= ub }, and the bounds of the action space, a row each."""

    def __init__(self, own: ConvexSet, batch: int, low: Array, high: Array) -> None:
        n = len(low)
        self.G, self.h = np.empty((batch, 0, n)), np.empty((batch, 0))
        if own.G is not None and own.h is not None:
            own, _ = own.in_unit_rows()
            self.G, self.h = _rows(own.G, batch, 2), _rows(own.h, batch, 1)
        self.norm = np.sqrt(np.einsum("bij,bij->bi", self.G, self.G))
        self.lb = None if own.lb is None else _rows(own.lb, batch, 1)
        self.ub = None if own.ub is None else _rows(own.ub, batch, 1)
        self._low, self._high = low, high

    @property
    def lower(self) -> Array:
        """Bounds of either kind: (B, n)."""
        lower = np.maximum(self._low, -np.inf if self.lb is None else self.lb)
        return np.broadcast_to(lower, (len(self.h), len(self._low)))

    @property
    def upper(self) -> Array:
        """Likewise."""
        upper = np.minimum(self._high, np.inf if self.ub is None else self.ub)
        return np.broadcast_to(upper, (len(self.h), len(self._low)))

    def violation(self, a: Array) -> Array:
        """Of the constraint alone, as a distance: (B,)."""
        worst = np.full(len(a), -np.inf)
        if self.h.shape[-1]:
            away = np.matmul(self.G, a[:, :, None])[:, :, 0] - self.h
            norm = self.norm
            if norm.all():
                away /= norm
            else:  # a row of zeros holds or does not; a norm that is NaN is no 0
                zero = np.where(np.isnan(self.h), np.nan, np.where(self.h >= 0, -np.inf, np.inf))
                away = np.where(norm == 0, zero, away / np.where(norm == 0, 1.0, norm))
            worst = away.max(-1)
        if self.lb is not None:
            worst = np.maximum(worst, (self.lb - a).max(-1))
        if self.ub is not None:
            worst = np.maximum(worst, (a - self.ub).max(-1))
        return worst

    def nearest(self, a: Array) -> tuple[Array, Array]:
        """Projections and statuses."""
        lower, upper = self.lower, self.upper
        if not self.h.shape[-1]:
            status = np.where((lower > upper).any(-1), int(Status.PRIMAL_INFEASIBLE), int(Status.SUCCESS))
            return np.minimum(np.maximum(a, lower), upper), status
        quick = dispatch.nearest(a, self.G, self.h, lower, upper)
        if quick is not None and quick[1].all():
            return quick[0], np.zeros(len(a), np.int64)
        found = self.both().project(torch.from_numpy(a), throw=False)
        return found.value.numpy(), found.status.numpy().copy()

    def interior(self, like: Array) -> tuple[Array, Array]:
        """Points away from the borders, and by how much."""
        point, depth = self.both().interior(torch.from_numpy(like))
        return point.numpy(), depth.numpy()

    def least_violating(self, like: Tensor) -> Tensor:
        """See :meth:`ConvexSet.least_violating`."""
        return self.both().least_violating(like)

    def both(self) -> ConvexSet:
        """As a ConvexSet."""
        some = self.h.shape[-1] > 0
        return ConvexSet(
            G=torch.tensor(self.G) if some else None,
            h=torch.tensor(self.h) if some else None,
            lb=torch.tensor(self.lower),
            ub=torch.tensor(self.upper),
        )


class _Others:
    """Sets with an ellipsoid, equations or auxiliary variables: the same by torch."""

    def __init__(
        self, own: ConvexSet, batch: int, low: Array, high: Array, violation: Callable[[Tensor], Tensor]
    ) -> None:
        box = ConvexSet(lb=torch.from_numpy(low), ub=torch.from_numpy(high))
        self._both = intersect([own, box], len(low))
        self._violation, self._batch, self._low, self._high = violation, batch, low, high
        self._ellipsoid = own.ellipsoid
        if own.ellipsoid is not None:
            indefinite = own.ellipsoid.indefinite(own.ellipsoid.spectrum())
            if bool(indefinite.any()):
                M = own.ellipsoid.M if own.ellipsoid.M.dim() == 2 else own.ellipsoid.M[indefinite.reshape(-1)][0]
                raise ValueError(
                    f"constraint: the ellipsoid's M has a negative eigenvalue, expected a positive semidefinite "
                    f"matrix: {M.tolist()}."
                )

    def violation(self, a: Array) -> Array:
        """Of the constraint alone: (B,)."""
        return self._violation(torch.from_numpy(a)).expand(self._batch).numpy()

    def nearest(self, a: Array) -> tuple[Array, Array]:
        """Projections and statuses."""
        quick = self._on_ellipsoid(a)
        if quick is not None:
            return quick, np.zeros(len(a), np.int64)
        found = self._both.project(torch.from_numpy(a), throw=False)
        return found.value.numpy(), found.status.numpy().copy()

    def _on_ellipsoid(self, a: Array) -> Array | None:
        """The projection on the ellipsoid, if all else holds there: then it is the projection on the set."""
        if self._ellipsoid is None:
            return None
        M, centre, size = self._ellipsoid
        point = _nearest_of_ellipsoid(M.numpy(), centre.numpy(), size.numpy(), a)
        inside = ((point >= self._low) & (point <= self._high)).all()
        return point if inside and (self.violation(point) <= 1e-9).all() else None

    def interior(self, like: Array) -> tuple[Array, Array]:
        """Points away from the borders, and by how much."""
        point, depth = self._both.interior(torch.from_numpy(like))
        return point.expand(like.shape).numpy(), depth.expand(self._batch).numpy()

    def least_violating(self, like: Tensor) -> Tensor:
        """See :meth:`ConvexSet.least_violating`."""
        return self._both.least_violating(like)


_Sets = _Polytopes | _Others


def _nearest_of_ellipsoid(M: Array, centre: Array, size: Array, a: Array) -> Array:
    """argmin ||x - a|| over (x - centre)^T M (x - centre) <= size, for a (B, n).

    With M = V diag(e) V^T and y = V^T (a - centre) the answer is centre + V (y / (1 + lam e)). lam >= 0 is the root of
    1 / sqrt(size) - 1 / sqrt(form(lam)), nearly linear in lam, to which Newton's steps from 0 climb (More and Sorensen
    1983).
    """
    e, V = np.linalg.eigh(M)
    e = np.maximum(e, 0.0)  # in the kernel of M there are eigenvalues of the size of rounding, of either sign
    y = np.matmul(np.swapaxes(V, -1, -2), (a - centre)[..., None])[..., 0]
    lam, floor = np.zeros(len(a)), np.finfo(np.float64).tiny
    for _ in range(_NEWTON):
        shrink = 1.0 + lam[:, None] * e
        share = e * np.square(y / shrink)
        form = np.maximum(share.sum(-1), floor)
        excess = np.sqrt(form / size) - 1.0
        if (excess <= 1e-14).all():
            break
        steepness = (share * e / shrink).sum(-1) / form
        lam = np.maximum(lam + excess / np.maximum(steepness, floor), 0.0)
    point: Array = centre + np.matmul(V, (y / (1.0 + lam[:, None] * e))[..., None])[..., 0]
    return point


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


def last_action_key(constraint: ActionConstraint, space: spaces.Space[Any]) -> str | None:
    """The part of Dict observations that is to end with the last action; None: the observation itself, or none.

    Raises:
        ValueError: there is no such part, or more than one.
    """
    keys = constraint.last_action_keys
    if not keys or not isinstance(space, spaces.Dict):
        return None
    if None in keys or len(keys) > 1:
        raise ValueError(
            "env: the constraint reads the last action, which is appended to one part of the Dict observation: "
            f"expected rate_limit(...).reading(key) with one key of {', '.join(map(repr, space))}, got "
            f"{', '.join(map(repr, sorted(key for key in keys if key))) or 'none'}."
        )
    (key,) = keys
    if key not in space.spaces:
        raise ValueError(
            f"env: the constraint reads the part {key!r}; the observation has {', '.join(map(repr, space))}."
        )
    return key


def with_last_action(space: spaces.Space[Any], actions: spaces.Box, key: str | None) -> spaces.Space[Any]:
    """The space of observations that end with the action executed before; of a Dict the part ``key``.

    Raises:
        ValueError: the observations are no vectors, or not of floats.
    """
    if key is not None and isinstance(space, spaces.Dict):
        return spaces.Dict({**space.spaces, key: with_last_action(space[key], actions, None)})
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            "env: the constraint reads the last action, which is appended to observations that are vectors (a Box of "
            f"one dimension); these are {space}. Put gymnasium.wrappers.FlattenObservation inside."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            "env: the constraint reads the last action, which is appended to observations and rounded to their dtype: "
            f"expected floats, got {space.dtype}. Put gymnasium.wrappers.DtypeObservation(env, np.float32) inside."
        )
    # 0 after a reset
    low, high = np.minimum(actions.low, 0.0), np.maximum(actions.high, 0.0)
    dtype = np.dtype(space.dtype).type
    return spaces.Box(np.append(space.low, low).astype(dtype), np.append(space.high, high).astype(dtype), dtype=dtype)


def ending_with(obs: Any, action: Array, space: spaces.Space[Any], key: str | None) -> Any:
    """An observation, or a batch of them, that ends with the action, as the space says; of a Dict the part ``key``."""
    if key is not None and isinstance(space, spaces.Dict):
        return {**obs, key: ending_with(obs[key], action, space[key], None)}
    return np.concatenate((obs, action), -1).astype(space.dtype)


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


def _rows(part: Any, batch: int, core: int) -> Array:
    """Numbers as an array with a batch dimension and ``core`` others."""
    array: Array = np.atleast_1d(torch.as_tensor(part).to(torch.float64).numpy())
    if array.ndim == core + 1 and len(array) == batch:
        return array
    return np.broadcast_to(array, (batch, *array.shape[array.ndim - core :]))
