"""What a learner does in place of its greedy action. A new kind is one class here and one line in :data:`KINDS`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from icnn_rl.checks import check_choice, check_positive_int, check_range

__all__ = ["KINDS", "CurvatureNoise", "Exploration", "GaussianNoise", "HeldNoise", "read_exploration"]

Array = np.ndarray[Any, np.dtype[Any]]


class Exploration(Protocol):
    """Actions to try. They are scaled to [-1, 1]; what comes back is clipped to it, and to the constraint.

    What is kept from step to step is saved with the agent, and may differ from one number of environments to another.
    """

    def __call__(self, actions: Array, curvature: Callable[[], Array], random: Any) -> Array:
        """
        Args:
            actions: (B, n), one row for each environment: the greedy ones, or random ones while warming up.
            curvature: gives the Hessian of -Q, the mean over the members, at the actions: (B, n, n), positive
                semidefinite.
            random: NumPy's legacy random functions: ``random.normal(mean, deviation, shape)`` and the like.
        """
        ...


@dataclass
class GaussianNoise:
    """a + N(0, std^2), new at every step."""

    std: float = 0.2

    def __post_init__(self) -> None:
        check_range("std", self.std, 0.0, float("inf"))

    def __call__(self, actions: Array, curvature: Callable[[], Array], random: Any) -> Array:
        tried: Array = actions + random.normal(0.0, self.std, actions.shape).astype(np.float32)
        return tried


@dataclass
class HeldNoise:
    """a + N(0, std^2), held for so many steps: what a push of some length leads to is seen."""

    std: float = 0.2
    steps: int = 4
    _noise: Array | None = field(default=None, init=False, repr=False)
    _left: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_range("std", self.std, 0.0, float("inf"))
        check_positive_int("steps", self.steps)

    def __call__(self, actions: Array, curvature: Callable[[], Array], random: Any) -> Array:
        if self._noise is None or self._noise.shape != actions.shape or self._left == 0:
            self._noise, self._left = random.normal(0.0, self.std, actions.shape).astype(np.float32), self.steps
        self._left -= 1
        return actions + self._noise


@dataclass
class CurvatureNoise:
    """a + c H^(-1/2) xi: wide where Q is flat in the action, narrow where it is not.

    Up to c, the Laplace approximation of the policy proportional to exp( Q / alpha ), which is log-concave here. c
    makes the mean square over the coordinates std^2, as :class:`GaussianNoise` has it; ``floor`` is added to H, as a
    share of its mean diagonal.
    """

    std: float = 0.2
    floor: float = 0.1

    def __post_init__(self) -> None:
        check_range("std", self.std, 0.0, float("inf"))
        check_range("floor", self.floor, 0.0, float("inf"), open_low=True)

    def __call__(self, actions: Array, curvature: Callable[[], Array], random: Any) -> Array:
        H = np.asarray(curvature(), dtype=np.float64)
        n = actions.shape[-1]
        mean = np.trace(H, axis1=-2, axis2=-1)[:, None, None] / n
        L = np.linalg.cholesky(H + (self.floor * mean + np.finfo(np.float64).tiny) * np.eye(n))
        xi = random.normal(0.0, 1.0, (*actions.shape, 1))
        inverse = np.linalg.inv(L).mT  # L^-T: its product with its transpose is H^-1
        square = (inverse * inverse).sum((-2, -1)) / n
        noise = (inverse @ xi)[..., 0] * (self.std / np.sqrt(square))[:, None]
        tried: Array = actions + noise.astype(np.float32)
        return tried


#: What a configuration can name.
KINDS: dict[str, Callable[..., Exploration]] = {
    "gaussian": GaussianNoise,
    "held": HeldNoise,
    "curvature": CurvatureNoise,
}


def read_exploration(given: Exploration | Mapping[str, Any] | None) -> Exploration | None:
    """An exploration as it is given, or made from plain data: {"kind": "held", "std": 0.2, "steps": 4}.

    Raises:
        ValueError: it is neither, or there is no such kind or argument.
    """
    if given is None or (callable(given) and not isinstance(given, Mapping)):
        return given
    if not isinstance(given, Mapping) or "kind" not in given:
        raise ValueError(
            f"exploration: expected an Exploration, or {{'kind': ...}} with one of {', '.join(KINDS)}, got {given!r}."
        )
    kind = KINDS[check_choice("exploration.kind", given["kind"], tuple(KINDS))]
    arguments = {name: value for name, value in given.items() if name != "kind"}
    known = list(inspect.signature(kind).parameters)
    if wrong := sorted(arguments.keys() - set(known)):
        raise ValueError(f"exploration.{wrong[0]}: {given['kind']} has no such argument. It has {', '.join(known)}.")
    return kind(**arguments)
