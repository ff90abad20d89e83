"""Control barriers: rows that keep the state safe along the motion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_range
from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.errors import ConstraintWarning
from icnn_rl.constraints.observations import Observation
from icnn_rl.constraints.parameters import check_vector
from icnn_rl.constraints.registry import register_constraint
from icnn_rl.sets import ConvexSet

__all__ = ["Barrier", "control_barrier", "warn_of_step"]


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


@register_constraint("control_barrier")
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
    rates = tuple(float(rate) for rate in check_vector("control_barrier.alpha", alpha).reshape(-1))
    if len(rates) not in (1, 2):
        raise ValueError(f"control_barrier.alpha: expected one number or two, got {len(rates)}.")
    for rate in rates:
        check_range("control_barrier.alpha", rate, 0.0, float("inf"), open_low=True)
    if not callable(barrier):
        raise ValueError(f"control_barrier.barrier: expected a function of the observation, got {barrier!r}.")
    return _ControlBarrier(barrier, rates)


@dataclass(frozen=True)
class _ControlBarrier(ActionConstraint):
    barrier: Callable[[Tensor], Barrier]
    alpha: tuple[float, ...]

    def at(self, obs: Observation, n: int) -> ConvexSet:
        obs = self.observed(obs)
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
