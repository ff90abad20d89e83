"""Weighted sums of absolute values: l1 balls, and the power that motors draw.

Up to six actions the set is written with a row for each pattern of signs, beyond with n auxiliary variables.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_range
from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_vector, evaluate, frozen
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.eager import transformed
from icnn_rl.sets import ConvexSet
from icnn_rl.sets.ellipsoid import power_of_two, unit

__all__ = ["l1_ball", "power_limit"]

#: Up to so many actions there is a row for each pattern of signs, 2^n of them: for six actions the 64 rows take an
#: eighth of the time of n auxiliary variables.
_MOST_PATTERNS = 6


def _read_index(name: str, value: Any) -> Any:
    """A velocity index as YAML has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(
            f"{name}: got the number {value}. YAML reads a slice without quotes, 8:11, as a number of base sixty: "
            f'write "8:11", or [{value}] for the one place {value}.'
        )
    return value


@register_constraint("l1_ball")
def l1_ball(radius: float, weights: Sequence[float] | None = None) -> ActionConstraint:
    """sum_i w_i |a_i| <= radius; ``weights`` are 1 by default."""
    check_range("l1_ball.radius", radius, 0.0, float("inf"))
    if weights is not None:
        numbers = check_vector("l1_ball.weights", weights)
        if bool((numbers < 0).any() | numbers.isinf().any()):
            raise ValueError(f"l1_ball.weights: expected finite numbers >= 0, got {weights}.")
    return _AbsoluteSum("l1_ball", None if weights is None else frozen(weights), float(radius), False)


@register_constraint("power_limit", readers={"velocity_index": _read_index})
def power_limit(
    velocity_index: Any = None,
    max_power: float | None = None,
    *,
    weights: Callable[[Tensor], Any] | None = None,
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
    reader = weights if weights is not None else _Coordinates(_index("power_limit.velocity_index", velocity_index))
    if not isinstance(motoring_only, bool):
        raise ValueError(f"power_limit.motoring_only: expected True or False, got {motoring_only!r}.")
    if not callable(reader):
        raise ValueError(
            f"power_limit.weights: expected a function of the observation, got {reader!r}. For fixed weights: l1_ball."
        )
    return _AbsoluteSum("power_limit", reader, float(max_power), motoring_only)


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
        w, limit = self._in_unit(self._weights(self.observed(obs), n))
        if self.limit == 0:
            return _idle(w, self.positive)
        return _patterns(w, limit, self.positive) if n <= _MOST_PATTERNS else _lifted(w, limit, self.positive)

    def violation(self, obs: Observation, action: Tensor) -> Tensor:
        n = action.shape[-1]
        if self.positive and n <= _MOST_PATTERNS:  # rows differ in length: the worst need not be all motors that work
            return self.at(self.observed(obs).to(action), n).violation(action)
        w, limit = self._in_unit(self._weights(self.observed(obs), n).double())
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
        w = evaluate(f"{self.name}.weights", self.weights, obs, str(n))
        if w.shape[-1:] != (n,):
            raise ValueError(self._wrong_weights(w, obs, n))
        return w

    def _wrong_weights(self, w: Tensor, obs: Tensor, n: int) -> str:
        got = f"{w.shape[-1]}" if w.dim() else "a single number"
        if not isinstance(self.weights, _Coordinates):
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
class _Coordinates:
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
