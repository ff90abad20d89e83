"""What is done in states in which no action satisfies the constraint, or in which none was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from icnn_rl.constraints.errors import ConstraintWarning, EmptySetError
from icnn_rl.constraints.observations import Observation, in_double

__all__ = ["NEARLY", "Backup", "Fallback", "backup", "check_fallback", "rescued"]

#: "least_violation", "error", n numbers, or a function of the observations that gives actions.
Fallback = Any

#: A solve that stopped short still counts for its value if it violates the set by no more than this.
NEARLY = 1e-6

_NAMES = ("least_violation", "error")
_EXPECTED = "fallback: expected 'least_violation', 'error', an action or a function of the observations"


class _Set(Protocol):
    def least_violating(self, proposal: Tensor, /) -> Tensor: ...


def check_fallback(fallback: Fallback, n: int | None = None) -> Fallback:
    """The fallback; an action, where it is known to have ``n`` numbers, as a tuple.

    Raises:
        ValueError: it is none.
    """
    if isinstance(fallback, str):
        if fallback not in _NAMES:
            raise ValueError(f"{_EXPECTED}, got {fallback!r}.")
        return fallback
    if callable(fallback) or n is None:
        return fallback
    action = _numbers(fallback)
    if action.shape != (n,) or not bool(action.isfinite().all()):
        raise ValueError(f"fallback: expected {n} finite numbers, one for each action, got {fallback!r}.")
    return tuple(action.tolist())


@torch.no_grad()
def backup(
    fallback: Fallback,
    obs: Observation | None,
    found: _Set,
    proposal: Tensor,
    empty: Tensor,
    *,
    low: Any = None,
    high: Any = None,
    units: tuple[Tensor, Tensor] | None = None,
    describe: Callable[[Tensor], str] | None = None,
) -> Tensor:
    """Actions for states in which none satisfies the constraint: the one place that knows what a fallback means.

    Args:
        fallback: see :meth:`icnn_rl.constraints.ActionConstraint.project`. A function is called with observations in
            float64.
        obs: what a function gets.
        found: the sets, in the units of the proposal.
        proposal: (..., n). Of the least violating actions the nearest to it is taken.
        empty: (...) bool, the states that ask; the others get something too, of no meaning.
        low, high: actions of the caller's are clipped to these, in the environment's units; None: no bound.
        units: (scale, offset), (n,) each, where the action in the environment's units is scale * proposal + offset.
        describe: says in which states it is, for the error; by default how many there are.

    Returns:
        (..., n), in the units of the proposal.

    Raises:
        EmptySetError: ``fallback`` is "error".
        ValueError: a fallback of another kind or shape, or with numbers that are not finite.
    """
    if isinstance(fallback, str):
        if check_fallback(fallback) == "least_violation":
            return found.least_violating(proposal)
        raise EmptySetError(
            f"constraint: no action satisfies it in {(describe or _how_many)(empty)}. Relax the constraint, or choose "
            "a fallback: 'least_violation' or a backup action."
        )
    shape, n = proposal.shape, proposal.shape[-1]
    given = fallback(in_double(obs)) if callable(fallback) else fallback
    action = _numbers(given).to(proposal.device)
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


class Backup:
    """:func:`backup` with a fallback of its own; the first empty set that it meets is warned of."""

    def __init__(self, fallback: Fallback, n: int | None = None) -> None:
        self.fallback = check_fallback(fallback, n)
        self._warned = False

    def __call__(
        self,
        obs: Observation | None,
        found: _Set,
        proposal: Tensor,
        empty: Tensor,
        *,
        describe: Callable[[Tensor], str] | None = None,
        **more: Any,
    ) -> Tensor:
        if not self._warned and not (isinstance(self.fallback, str) and self.fallback == "error"):
            self._warned = True
            _warn((describe or _how_many)(empty))
        return backup(self.fallback, obs, found, proposal, empty, describe=describe, **more)


def rescued(
    x: Tensor, proposal: Tensor, found: _Set, *, empty: Tensor, short: Tensor, instead: Callable[[], Tensor]
) -> Tensor:
    """``x`` (..., n) but in the rows whose solve failed: ``instead`` of it where the set is ``empty``, the least
    violating point where the solve stopped ``short``, whatever the fallback is."""
    if bool(empty.any()):
        x = torch.where(empty.unsqueeze(-1), instead(), x)
    if bool(short.any()):
        with torch.no_grad():
            near = found.least_violating(proposal)
        x = torch.where(short.unsqueeze(-1), near, x)
    return x


def _numbers(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{_EXPECTED}, got {given!r}.") from error


def _how_many(empty: Tensor) -> str:
    first = int(empty.reshape(-1).nonzero()[0])
    return f"{int(empty.sum())} of {empty.numel()} states, first in row {first}"


def _warn(where: str) -> None:
    warnings.warn(
        f"constraint: no action satisfies it in {where}, and the fallback is taken, here and wherever that happens "
        "again without a word: info['constraint/status'] and solver/empty_fraction tell. Relax the constraint, or set "
        "fallback='error' to stop there.",
        ConstraintWarning,
        stacklevel=4,
    )
