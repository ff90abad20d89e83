"""Constraints on actions: picklable descriptions of the set an action must lie in, given the observation.

    C(s) = { a : G(s) a <= h(s),  lb(s) <= a <= ub(s),  (a - c(s))^T M(s) (a - c(s)) <= r(s) }

in the environment's own units of action and observation. Descriptions are combined with ``&``; functions of the
observation they may hold must be picklable: defined at the top level of a module, or objects of a class that is.

    constraint = power_limit(velocity_index=slice(8, 11), max_power=20.0) & rate_limit(0.1)

The same description serves the layer of a policy, the convex programme of a critic, and the wrapper around the
environment.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_range
from icnn_rl.eager import eager, transformed
from icnn_rl.sets import ConvexSet, Interior
from icnn_rl.sets.convex_set import join, largest, vector_of
from icnn_rl.sets.ellipsoid import Ellipsoid, power_of_two, unit
from icnn_rl.solution import Status

__all__ = [
    "ActionConstraint",
    "Barrier",
    "ConstraintWarning",
    "EmptySetError",
    "Projection",
    "ball",
    "box",
    "control_barrier",
    "ellipsoid",
    "l1_ball",
    "linear",
    "power_limit",
    "rate_limit",
]

#: Radii whose squares are normal numbers.
_SHORTEST, _LONGEST = 1e-150, 1e150

#: Up to so many actions a power limit is written with a row for each pattern of signs, 2^n of them; beyond, with n
#: auxiliary variables. For six actions the 64 rows take an eighth of the time.
_MOST_PATTERNS = 6

Observation = Tensor | Mapping[str, Tensor]
Reader = Callable[[Tensor], Any]

#: "least_violation", "error", n numbers, or a function of the observations that gives actions.
Fallback = Any


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


class EmptySetError(ValueError):
    """In some state no action satisfies the constraint."""


class ConstraintWarning(UserWarning):
    """Something about a constraint that its user should know; promote it with ``warnings.simplefilter("error",
    ConstraintWarning)``."""


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
        if isinstance(fallback, str) and fallback not in ("least_violation", "error"):
            raise ValueError(f"{_FALLBACKS}, got {fallback!r}.")
        inside = self.at(obs, action.shape[-1]).to(action)
        found = inside.project(action, throw=False)
        value, empty = found.value, found.status == Status.PRIMAL_INFEASIBLE
        if bool(empty.any()):
            instead = backup(fallback, obs, inside, action, empty)
            value = torch.where(empty.unsqueeze(-1), instead, value)
        short = (found.status == Status.MAX_STEPS) | (found.status == Status.NUMERICAL)
        if bool(short.any()):
            with torch.no_grad():
                short = short & ~(self.violation(obs, value) <= NEARLY)
                near = inside.least_violating(action)
            value = torch.where(short.unsqueeze(-1), near, value)
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
        """See :func:`linear`."""
        return linear(G, h)


def warn_empty(where: str) -> None:
    """Say, once for each that asks, that a set without any action was met."""
    warnings.warn(
        f"constraint: no action satisfies it in {where}, and the fallback is taken, here and wherever that happens "
        "again without a word: info['constraint/status'] and solver/empty_fraction tell. Relax the constraint, or set "
        "fallback='error' to stop there.",
        ConstraintWarning,
        stacklevel=3,
    )


def warn_of_step(constraint: ActionConstraint, step: float) -> None:
    """Say where a control barrier is too fast for an environment whose steps last so many seconds."""
    most = constraint.largest_rate
    if most * step > 1.0:
        warnings.warn(
            f"constraint: control_barrier with alpha = {most:g} does not keep B >= 0 at steps of {step:g} s: alpha "
            f"times the step is {most * step:.3g}, so that one step may use up more than is left. Take alpha below "
            f"{1.0 / step:.3g}, better a tenth of that.",
            ConstraintWarning,
            stacklevel=3,
        )


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


@torch.no_grad()
def backup(
    fallback: Fallback,
    obs: Observation | None,
    found: ConvexSet,
    proposal: Tensor,
    empty: Tensor,
    *,
    low: Any = None,
    high: Any = None,
    units: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Actions for states in which none satisfies the constraint: the one place that knows what a fallback means.

    Args:
        fallback: see :meth:`ActionConstraint.project`. A function is called with observations in float64.
        obs: what a function gets.
        found: the sets, in the units of the proposal.
        proposal: (..., n). Of the least violating actions the nearest to it is taken.
        empty: (...) bool, the states that ask; the others get something too, of no meaning.
        low, high: actions of the caller's are clipped to these, in the environment's units; None: no bound.
        units: (scale, offset), (n,) each, where the action in the environment's units is scale * proposal + offset.

    Returns:
        (..., n), in the units of the proposal.

    Raises:
        EmptySetError: ``fallback`` is "error".
        ValueError: a fallback of another kind or shape, or with numbers that are not finite.
    """
    if isinstance(fallback, str):
        if fallback == "least_violation":
            return found.least_violating(proposal)
        if fallback != "error":
            raise ValueError(f"{_FALLBACKS}, got {fallback!r}.")
        first = int(empty.reshape(-1).nonzero()[0])
        raise EmptySetError(
            f"constraint: no action satisfies it in {int(empty.sum())} of {empty.numel()} states, first in row "
            f"{first}. Relax the constraint, or choose a fallback: 'least_violation' or a backup action."
        )
    shape, n = proposal.shape, proposal.shape[-1]
    given = fallback(_double(obs)) if callable(fallback) else fallback
    try:
        action = torch.as_tensor(given, dtype=torch.float64, device=proposal.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{_FALLBACKS}, got {given!r}.") from error
    if action.shape not in (shape, (n,)):
        raise ValueError(f"fallback: expected shape ({n},) or {tuple(shape)}, got {tuple(action.shape)}.")
    if not bool((action.isfinite().all(-1) | ~empty).all()):
        raise ValueError(f"fallback: expected finite numbers, got {given!r}.")
    for bound, clip in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            action = clip(action, torch.as_tensor(bound, dtype=action.dtype, device=action.device))
    if units is not None:
        action = (action - units[1]) / units[0]
    return action.to(proposal.dtype).expand(shape)


_FALLBACKS = "fallback: expected 'least_violation', 'error', an action or a function of the observations"

#: A solve that stopped short still counts for its value if it violates the set by no more than this.
NEARLY = 1e-6


def _double(obs: Observation | None) -> Any:
    if isinstance(obs, Tensor):
        return obs.double()
    return {key: part.double() for key, part in obs.items()} if isinstance(obs, Mapping) else obs


def box(lower: Any = -torch.inf, upper: Any = torch.inf) -> ActionConstraint:
    """lower <= a <= upper, elementwise.

    Args:
        lower, upper: a number, n numbers, or a function of the observations (B, d) that gives (B, n).
    """
    bounds = [
        None if callable(bound) else _check_vector(f"box.{name}", bound)
        for name, bound in (("lower", lower), ("upper", upper))
    ]
    low, high = bounds
    if low is not None and high is not None:
        if low.dim() and high.dim() and low.shape != high.shape:
            raise ValueError(f"box: expected bounds of one length, got lower {len(low)} and upper {len(high)}.")
        if bool((low == torch.inf).any() | (high == -torch.inf).any()):
            raise ValueError(f"box: no number lies beyond infinity: lower {lower}, upper {upper}. No bound: -inf, inf.")
        if bool((low > high).any()):
            raise ValueError(f"box: a lower bound exceeds its upper bound: lower {lower}, upper {upper}.")
    return _Box(_frozen(lower), _frozen(upper))


def linear(G: Any, h: Any) -> ActionConstraint:
    """G a <= h.

    Args:
        G: m rows of n numbers, or a function of the observations (B, d) that gives (B, m, n).
        h: m numbers, or a function that gives (B, m).
    """
    if not callable(G):
        rows = _check_numbers("linear.G", G)
        if rows.dim() != 2:
            raise ValueError(f"linear.G: expected rows, shape (m, n), got {tuple(rows.shape)}.")
        if not bool(rows.isfinite().all()):
            raise ValueError("linear.G: contains an infinite number. A row without effect has h = inf.")
        if not callable(h) and (right := _check_numbers("linear.h", h)).shape != rows.shape[:1]:
            raise ValueError(
                f"linear.h: expected {rows.shape[0]} numbers, one for each row of G, got shape {tuple(right.shape)}."
            )
    if not callable(h):
        _check_numbers("linear.h", h)
    return _Linear(_frozen(G), _frozen(h))


def l1_ball(radius: float, weights: Sequence[float] | None = None) -> ActionConstraint:
    """sum_i w_i |a_i| <= radius; ``weights`` are 1 by default."""
    check_range("l1_ball.radius", radius, 0.0, float("inf"))
    if weights is not None:
        numbers = _check_vector("l1_ball.weights", weights)
        if bool((numbers < 0).any() | numbers.isinf().any()):
            raise ValueError(f"l1_ball.weights: expected finite numbers >= 0, got {weights}.")
    return _AbsoluteSum("l1_ball", None if weights is None else _frozen(weights), float(radius), False)


def power_limit(
    velocity_index: Any = None,
    max_power: float | None = None,
    *,
    weights: Reader | None = None,
    motoring_only: bool = False,
) -> ActionConstraint:
    """Power drawn by n motors: sum_i |w_i a_i| <= max_power, or sum_i max(w_i a_i, 0) <= max_power.

    Its violation is (sum - max_power) / ||w||, with the motors that do work alone in ||w|| where ``motoring_only`` is
    set and the sum too large: both are the row that is violated most in the units of power, as a distance.

    Args:
        velocity_index: where the n velocities w stand in the observation: a slice, "8:11", an index or n of them.
        max_power: >= 0, in the units of velocity times action; watts where these are rad/s and N m. inf: no limit.
        weights: instead of ``velocity_index``, a function of the observations (B, d) that gives w (B, n).
        motoring_only: charge only motors that do work; braking neither costs nor gives anything back.
    """
    if max_power is None:
        raise ValueError("power_limit.max_power: missing. Give the most power that may be drawn, a number >= 0.")
    check_range("power_limit.max_power", max_power, 0.0, float("inf"))
    if (velocity_index is None) == (weights is None):
        raise ValueError("power_limit: expected one of velocity_index and weights, got both or neither.")
    reader = weights if weights is not None else _Part(_index("power_limit.velocity_index", velocity_index))
    if not isinstance(motoring_only, bool):
        raise ValueError(f"power_limit.motoring_only: expected True or False, got {motoring_only!r}.")
    if not callable(reader):
        raise ValueError(
            f"power_limit.weights: expected a function of the observation, got {reader!r}. For fixed weights: l1_ball."
        )
    return _AbsoluteSum("power_limit", reader, float(max_power), motoring_only)


def rate_limit(max_change: Any) -> ActionConstraint:
    """|a - a_last| <= max_change, elementwise, with a_last the action executed before (0 after a reset).

    The observation must end with a_last: :class:`icnn_rl.envs.ProjectAction` appends it; of a Dict to the vector that
    ``rate_limit(...).reading(key)`` names.

    Args:
        max_change: a number or n numbers, per step.
    """
    if bool((_check_vector("rate_limit.max_change", max_change) < 0).any()):
        raise ValueError(f"rate_limit.max_change: expected numbers >= 0, got {max_change}.")
    return _Rate(_frozen(max_change))


def ball(radius: float, center: Any = 0.0) -> ActionConstraint:
    """||a - center|| <= radius, a radius from 1e-150 to 1e150."""
    check_range("ball.radius", radius, _SHORTEST, _LONGEST)
    _check_vector("ball.center", center)
    return _Quadratic("ball", None, float(radius) ** 2, _frozen(center))


def ellipsoid(M: Any, size: float = 1.0, center: Any = 0.0) -> ActionConstraint:
    """(a - center)^T M (a - center) <= size.

    Args:
        M: n x n numbers, symmetric and positive semidefinite, or a function of the observations (B, d): (B, n, n).
            Where it is singular, as J^T J of a redundant arm, the set has no end in some directions. In states where it
            has a negative eigenvalue, beyond rounding, the status is NUMERICAL, and the fallback of heads satisfies the
            constraint all the same; the wrapper raises. Where it is not finite the status is NONFINITE_INPUT.
        size: > 0.
        center: a number, n numbers, or a function that gives (B, n).
    """
    check_range("ellipsoid.size", size, 0.0, float("inf"), open_low=True)
    if not callable(M):
        matrix = _check_numbers("ellipsoid.M", M)
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"ellipsoid.M: expected shape (n, n), got {tuple(matrix.shape)}.")
        if not bool(matrix.isfinite().all()) or not torch.allclose(matrix, matrix.mT, atol=0.0):
            raise ValueError("ellipsoid.M: expected a symmetric matrix of finite numbers.")
        found = Ellipsoid(matrix, matrix[0], matrix[0, 0])
        if bool(found.indefinite(spectrum := found.spectrum())):
            raise ValueError(
                f"ellipsoid.M: expected a positive semidefinite matrix, got one with a negative eigenvalue: with its "
                f"diagonal scaled to 1, {float(spectrum.values[0]):.3g}. For A^T A compute it as A.T @ A."
            )
        if not bool(matrix.any()):
            raise ValueError("ellipsoid.M: all zero, which constrains nothing. Leave the ellipsoid out.")
    if not callable(center):
        _check_vector("ellipsoid.center", center)
    return _Quadratic("ellipsoid", _frozen(M), float(size), _frozen(center))


class Barrier(NamedTuple):
    """What a control barrier needs to know about B(x), B >= 0 where the state is safe, in the states of a batch.

    value (B, m): B; drift (B, m): the highest derivative below, at a = 0; gain (B, m, n): its slope in a. Where a
    enters the first derivative of B, these are of dB/dt = drift + gain a, and ``rate`` is None. Where it enters the
    second, d2B/dt2 = drift + gain a, and rate (B, m) is dB/dt.
    """

    value: Tensor
    drift: Tensor
    gain: Tensor
    rate: Tensor | None = None


def control_barrier(barrier: Callable[[Tensor], Barrier], alpha: float | Sequence[float]) -> ActionConstraint:
    """Rows that keep B(x) >= 0 along the motion.

    Relative degree one:  dB/dt + alpha B >= 0.  Relative degree two, as for a limit on a position moved by forces: the
    plain row holds no action, so psi = dB/dt + alpha_1 B serves as the barrier,

        d psi/dt + alpha_2 psi = d2B/dt2 + (alpha_1 + alpha_2) dB/dt + alpha_1 alpha_2 B >= 0.

    The rows hold for continuous time: between the steps of a simulation B may sink below 0 by what one step changes,
    and the state must start with B >= 0 and psi >= 0. Where the map of a step is known, state its exact row with
    :func:`linear`.

    Args:
        barrier: function of the observations (B, d).
        alpha: alpha, or (alpha_1, alpha_2); > 0, in 1 / s. alpha times the time step must stay below 1: a larger one
            lets a single step use up more than is left of B. :class:`icnn_rl.envs.ProjectAction` warns of it where
            the environment tells its step, as ``dt``.

    References:
        A. D. Ames, X. Xu, J. W. Grizzle, P. Tabuada, Control barrier function based quadratic programs for safety
        critical systems, IEEE Trans. Automatic Control 62, 2017. W. Xiao, C. Belta, High-order control barrier
        functions, IEEE Trans. Automatic Control 67, 2022.
    """
    rates = tuple(float(rate) for rate in _check_vector("control_barrier.alpha", alpha).reshape(-1))
    if len(rates) not in (1, 2):
        raise ValueError(f"control_barrier.alpha: expected one number or two, got {len(rates)}.")
    for rate in rates:
        check_range("control_barrier.alpha", rate, 0.0, float("inf"), open_low=True)
    if not callable(barrier):
        raise ValueError(f"control_barrier.barrier: expected a function of the observation, got {barrier!r}.")
    return _ControlBarrier(barrier, rates)


@dataclass(frozen=True)
class _Box(ActionConstraint):
    lower: Any
    upper: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.lower) or callable(self.upper)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = _plain(obs, self.depends_on_state)
        return ConvexSet(
            lb=None if self.lower == -torch.inf else _vector("box.lower", self.lower, obs, n),
            ub=None if self.upper == torch.inf else _vector("box.upper", self.upper, obs, n),
        )


@dataclass(frozen=True)
class _Linear(ActionConstraint):
    G: Any
    h: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.G) or callable(self.h)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = _plain(obs, self.depends_on_state)
        G = _values("linear.G", self.G, obs, "m", str(n))
        if G.shape[-1] != n:
            raise ValueError(f"linear.G: expected rows of {n} numbers, one for each action, got {G.shape[-1]}.")
        h = _values("linear.h", self.h, obs, "m")
        if G.dim() < 2 or h.shape[-1:] != G.shape[-2:-1]:
            raise ValueError(
                f"linear: expected G (..., m, {n}) and h (..., m), got {tuple(G.shape)} and {tuple(h.shape)}."
            )
        return ConvexSet(G=G, h=h)


@dataclass(frozen=True)
class _AbsoluteSum(ActionConstraint):
    """sum_i |w_i a_i| <= limit, or with the positive parts alone."""

    name: str
    weights: Any  # None: ones
    limit: float
    positive: bool

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.weights)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        w, limit = self._in_unit(self._weights(_plain(obs, self.depends_on_state), n))
        if self.limit == 0:
            return _idle(w, self.positive)
        return _patterns(w, limit, self.positive) if n <= _MOST_PATTERNS else _lifted(w, limit, self.positive)

    def violation(self, obs: Observation, action: Tensor) -> Tensor:
        n = action.shape[-1]
        if self.positive and n <= _MOST_PATTERNS:  # rows differ in length: the worst need not be all motors that work
            return self.at(_plain(obs, self.depends_on_state).to(action), n).violation(action)
        w, limit = self._in_unit(self._weights(_plain(obs, self.depends_on_state), n).double())
        drawn = w * action.double()
        drawn = drawn.clamp(min=0.0) if self.positive else drawn.abs()
        over = drawn.sum(-1) - limit
        norm = w.norm(dim=-1)
        if self.positive:  # the row of the motors that do work
            norm = torch.where(over > 0, torch.where(drawn > 0, w, 0.0).norm(dim=-1), norm)
        # without weights there is no row: -inf, or NaN where the action is NaN
        return torch.where(norm > 0, over / torch.where(norm > 0, norm, 1.0), over - torch.inf).to(action.dtype)

    def _in_unit(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (..., n) and limit, (...) or (), divided by a power of two where squares of the former would over- or
        underflow."""
        scale, limit = None if transformed() else unit(w.detach().abs().amax(-1)), w.new_tensor(self.limit)
        return (w, limit) if scale is None else (w * scale.unsqueeze(-1), limit * scale)

    def _weights(self, obs: Tensor, n: int) -> Tensor:
        if self.weights is None:
            return obs.new_ones(n)
        w = _values(f"{self.name}.weights", self.weights, obs, str(n))
        if w.shape[-1:] != (n,):
            raise ValueError(self._wrong_weights(w, obs, n))
        return w

    def _wrong_weights(self, w: Tensor, obs: Tensor, n: int) -> str:
        got = f"{w.shape[-1]}" if w.dim() else "a single number"
        if not isinstance(self.weights, _Part):
            return f"{self.name}.weights: expected {n} numbers, one for each action, got {got}."
        index, size = self.weights.index, obs.shape[-1]
        named = f"{self.name}.velocity_index: expected {n} velocities, one for each action, got {got}"
        if not isinstance(index, slice):
            return f"{named} from {index}."
        text = ":".join("" if end is None else str(end) for end in (index.start, index.stop))
        ends = [end for end in (index.start, index.stop) if end is not None]
        if any(end > size or end < -size for end in ends):
            return f"{named}: the slice {text} runs past the end of observations of {size} numbers."
        return f"{named} from the slice {text} of observations of {size} numbers."


@dataclass(frozen=True)
class _Rate(ActionConstraint):
    max_change: Any
    needs_last_action = True

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = _plain(obs)
        if obs.shape[-1] < n:
            raise ValueError(
                f"rate_limit: expected observations that end with the {n} numbers of the last action, got "
                f"{obs.shape[-1]} numbers. ProjectAction appends it."
            )
        last, most = obs[..., -n:], _vector("rate_limit.max_change", self.max_change, obs, n)
        return ConvexSet(lb=last - most, ub=last + most)


@dataclass(frozen=True)
class _Quadratic(ActionConstraint):
    name: str
    M: Any  # None: the identity
    size: float
    center: Any

    @property
    def depends_on_state(self) -> bool:  # type: ignore[override]
        return callable(self.M) or callable(self.center)

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = _plain(obs, self.depends_on_state)
        M = (
            torch.eye(n, dtype=obs.dtype, device=obs.device)
            if self.M is None
            else _values("ellipsoid.M", self.M, obs, str(n), str(n))
        )
        if M.shape[-2:] != (n, n):
            raise ValueError(f"ellipsoid.M: expected shape (..., {n}, {n}), got {tuple(M.shape)}.")
        center = _vector(f"{self.name}.center", self.center, obs, n)
        return ConvexSet(ellipsoid=Ellipsoid(M, center, obs.new_tensor(self.size)))


@dataclass(frozen=True)
class _ControlBarrier(ActionConstraint):
    barrier: Callable[[Tensor], Barrier]
    alpha: tuple[float, ...]

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = _plain(obs)
        b = self.barrier(obs)
        if not isinstance(b, Barrier):
            raise ValueError(f"control_barrier: expected a function that returns a Barrier, got {type(b).__name__}.")
        if (b.rate is None) != (len(self.alpha) == 1):
            raise ValueError(
                "control_barrier: alpha has one number where the action enters dB/dt, and two, with Barrier.rate, "
                f"where it enters d2B/dt2; got {len(self.alpha)} and rate {'missing' if b.rate is None else 'given'}."
            )
        if b.gain.shape[-1] != n:
            raise ValueError(f"control_barrier: expected a gain of {n} columns, got {b.gain.shape[-1]}.")
        self._check_shapes(b, obs.shape[:-1])
        h = b.drift + self.alpha[0] * b.value
        if b.rate is not None:
            first, second = self.alpha
            h = b.drift + (first + second) * b.rate + first * second * b.value
        return ConvexSet(G=-b.gain.to(obs), h=h.to(obs))

    @property
    def largest_rate(self) -> float:  # type: ignore[override]
        return max(self.alpha)

    @staticmethod
    def _check_shapes(b: Barrier, batch: torch.Size) -> None:
        """A number for each row and state: what broadcasts by chance would judge one state by another's barrier."""
        wanted = (*batch, b.gain.shape[-2])
        for name in ("value", "drift", "rate"):
            part = getattr(b, name)
            if part is not None and tuple(part.shape) != wanted:
                raise ValueError(
                    f"control_barrier: expected Barrier.{name} of shape {wanted}, for each state a number for each row "
                    f"of the gain, got {tuple(part.shape)}."
                )


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
class _Part:
    """Coordinates of the observation."""

    index: tuple[int, ...] | slice

    def __call__(self, obs: Tensor) -> Tensor:
        if isinstance(self.index, slice):
            return obs[..., self.index]
        size = obs.shape[-1]
        if not all(-size <= i < size for i in self.index):
            raise ValueError(
                f"velocity_index: expected indices below {size}, the observation's size, got {self.index}."
            )
        return obs[..., list(self.index)]


def _idle(w: Tensor, positive: bool) -> ConvexSet:
    """No power at all: bounds. A set without an interior is better not described by rows that meet in one point."""
    free = torch.where(w.isnan(), w, torch.inf)  # of a motor whose velocity is not known nothing is known
    lower, upper = (w < 0, w > 0) if positive else (w.abs() > 0, w.abs() > 0)  # false next to a NaN
    return ConvexSet(lb=torch.where(lower, 0.0, -free), ub=torch.where(upper, 0.0, free))


def _patterns(w: Tensor, limit: Tensor, positive: bool) -> ConvexSet:
    """A row for every pattern of signs, or for every set of motors."""
    signs = _signs(w.shape[-1], positive, w.dtype, w.device)
    return ConvexSet(G=signs * w.unsqueeze(-2), h=limit.unsqueeze(-1).expand(*limit.shape, len(signs)))


@functools.lru_cache(maxsize=64)
def _signs(n: int, positive: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The patterns of n signs, or of ones and zeros without the one of no motor at all."""
    choices = (1.0, 0.0) if positive else (1.0, -1.0)
    patterns = list(itertools.product(choices, repeat=n))
    with torch.inference_mode(False):  # it outlives the mode of the first call
        return torch.tensor(patterns[:-1] if positive else patterns, dtype=dtype, device=device)


def _lifted(w: Tensor, limit: Tensor, positive: bool) -> ConvexSet:
    """u_i >= |w_i a_i|, or max(w_i a_i, 0), and sum_i u_i <= limit."""
    n = w.shape[-1]
    if not transformed():  # u in units of the largest weight: it stands beside them in the rows
        scale = power_of_two(w.detach().abs().amax(-1))
        w, limit = w * scale.unsqueeze(-1), limit * scale
    W, eye = torch.diag_embed(w), torch.eye(n, dtype=w.dtype, device=w.device).expand(*w.shape, n)
    above = [torch.cat((W, -eye), -1)]
    if not positive:
        above.append(torch.cat((-W, -eye), -1))
    total = torch.cat((w.new_zeros(n), w.new_ones(n))).expand(*w.shape[:-1], 1, 2 * n)
    G = torch.cat((*above, total), -2)
    h = torch.cat((w.new_zeros(*limit.shape, G.shape[-2] - 1), limit.unsqueeze(-1)), -1)
    lb = torch.cat((w.new_full((n,), -torch.inf), w.new_zeros(n)))
    return ConvexSet(G=G, h=h, lb=lb, lifted=n)


def intersect(sets: Sequence[ConvexSet], n: int) -> ConvexSet:
    """The intersection of sets in R^n, as one.

    Raises:
        ValueError: more than one has an ellipsoid.
    """
    ellipsoids = [s.ellipsoid for s in sets if s.ellipsoid is not None]
    if len(ellipsoids) > 1:
        raise ValueError(
            f"constraint: {len(ellipsoids)} balls or ellipsoids; one can be combined with linear constraints exactly. "
            "Keep one, or replace the others by linear rows."
        )
    lifted = sum(s.lifted for s in sets)
    parts: dict[str, Tensor | None] = {}
    for matrix, right in (("G", "h"), ("A", "b")):
        before, rows, sides = 0, [], []
        for s in sets:
            m, v = getattr(s, matrix), getattr(s, right)
            if m is not None:
                own, aux = m[..., :n], m[..., n:]
                aux = torch.nn.functional.pad(aux, (before, lifted - before - s.lifted))
                rows.append(torch.cat((own, aux), -1) if lifted else own)
                sides.append(v)
            before += s.lifted
        parts[matrix], parts[right] = (join(rows, -2), join(sides, -1)) if rows else (None, None)
    for name, pick, missing in (("lb", torch.maximum, -torch.inf), ("ub", torch.minimum, torch.inf)):
        own_bound: Tensor | None = None
        aux_bounds: list[Tensor] = []
        like = next((t for s in sets for t in (s.G, s.lb, s.ub) if isinstance(t, Tensor)), torch.empty(0))
        for s in sets:
            bound = getattr(s, name)
            if bound is not None:
                bound = vector_of(bound, n + s.lifted, like)
                own = bound[..., :n]
                own_bound = own if own_bound is None else pick(own_bound, own)
            aux_bounds.append(like.new_full((s.lifted,), missing) if bound is None else bound[..., n:])
        if own_bound is None and lifted and any(bool(torch.isfinite(t).any()) for t in aux_bounds):
            own_bound = like.new_full((n,), missing)
        parts[name] = own_bound if own_bound is None or not lifted else join([own_bound, *aux_bounds], -1)
    return ConvexSet(**parts, lifted=lifted, ellipsoid=ellipsoids[0] if ellipsoids else None)


def _plain(obs: Observation, read: bool = True) -> Tensor:
    """The observations as a tensor; where they are not ``read``, any part of a Dict gives dtype and device."""
    if isinstance(obs, Mapping) and not read and len(obs):
        first = next(iter(obs.values()))
        return first if first.is_floating_point() else first.double()
    if isinstance(obs, Mapping):
        raise ValueError(
            f"constraint: the observation is a Dict with {', '.join(map(repr, obs))}; say which part the constraint "
            "reads: constraint.reading('...')."
        )
    return check_float_tensor("obs", obs)


def _values(name: str, value: Any, obs: Tensor, *core: str) -> Tensor:
    """Constants, or a function's answer, in the dtype and on the device of the observations. ``core``: the dimensions
    of the answer for one state, which say, where they are wrong, what was expected."""
    if not callable(value):
        return _constant(value, obs.dtype, obs.device)
    answer = value(obs)
    called = f"{name}: the function {getattr(value, '__name__', type(value).__name__)} of the observation"
    if not isinstance(answer, Tensor):
        raise ValueError(f"{called} returned {type(answer).__name__}, not a tensor.")
    batch, k = obs.shape[:-1], len(core)
    # of stacked frames and images there is no telling which dimensions are the batch
    if obs.dim() <= 2 and (answer.dim() != len(batch) + k or answer.shape[: len(batch)] != batch):
        wanted = ", ".join((*map(str, batch), *core)) + ("," if len(batch) + k == 1 else "")
        hint = "one for every state: return value.expand(len(obs), ...)"
        if answer.dim() == len(batch) + k - 1 and answer.shape[: len(batch)] == batch:
            hint = f"a dimension is missing: return value.unsqueeze({-2 if k == 2 else -1})"
        raise ValueError(
            f"{called} returned shape {tuple(answer.shape)} for {len(obs) if batch else 'one'} "
            f"state{'s' if len(batch) and batch[0] != 1 else ''}, expected ({wanted}); {hint}."
        )
    return answer.to(obs)


@functools.lru_cache(maxsize=256)
def _constant(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in nested tuples as a tensor: made once, for it is asked for at every step of an environment."""
    with torch.inference_mode(False):  # it outlives the mode of the first call
        return torch.tensor(value, dtype=dtype, device=device)


def _vector(name: str, value: Any, obs: Tensor, n: int) -> Tensor:
    v = _values(name, value, obs, str(n))
    if v.dim() == 0:
        return v.expand(n)
    if v.shape[-1] != n:
        raise ValueError(f"{name}: expected a number or {n} numbers, one for each action, got {v.shape[-1]}.")
    return v


def _check_numbers(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers or a function of the observation, got {value!r}.") from error
    if bool(tensor.isnan().any()):
        raise ValueError(f"{name}: contains NaN.")
    return tensor


def _check_vector(name: str, value: Any) -> Tensor:
    tensor = _check_numbers(name, value)
    if tensor.dim() > 1 or tensor.numel() == 0:
        raise ValueError(f"{name}: expected a number or a list of numbers, got shape {tuple(tensor.shape)}.")
    return tensor


def _frozen(value: Any) -> Any:
    """Numbers as nested tuples: hashable, comparable, picklable; functions as they are."""
    if callable(value):
        return value
    numbers = torch.as_tensor(value, dtype=torch.float64).tolist()
    return _tuples(numbers)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _index(name: str, value: Any) -> tuple[int, ...] | slice:
    if isinstance(value, slice):
        return value
    if isinstance(value, str):
        pieces = value.split(":")
        try:
            start, stop = (int(piece) if piece else None for piece in pieces)
        except ValueError:
            raise ValueError(f'{name}: expected a slice such as "8:11", got {value!r}.') from None
        return slice(start, stop)
    if hasattr(value, "tolist"):  # NumPy, torch
        value = value.tolist()
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, Sequence) and value and all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        return tuple(value)
    raise ValueError(f'{name}: expected a slice, "8:11" or a list of indices, got {value!r}.')
