"""What a solve reports: a status per row, the numbers behind it, and the error that carries both.

Every solver of the package returns a :class:`Solution`. A row that failed is described, never papered over: its status
says what went wrong and :data:`MESSAGES` what to try.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

__all__ = ["MESSAGES", "Solution", "SolveError", "Status"]


class Status(IntEnum):
    """Outcome of one row of a batch. Compare with ``Solution.status``, an int64 tensor. Prints its name."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        """The name; with a specification for numbers, ``f"{status:d}"``, the number."""
        return format(self.name if not spec or spec[-1] not in "bcdoxXn" else int(self), spec)

    SUCCESS = 0
    MAX_STEPS = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    NUMERICAL = 4
    NONFINITE_INPUT = 5
    NON_CONVEX = 6


MESSAGES: dict[Status, str] = {
    Status.SUCCESS: "Solved to the tolerance asked for.",
    Status.MAX_STEPS: (
        "The step limit came before the tolerance. Raise max_steps, loosen tol, rescale the problem, or start closer; "
        "for a piecewise-linear energy use BundleEntropy: gradients alone settle slowly on a kink."
    ),
    Status.PRIMAL_INFEASIBLE: (
        "No point satisfies the constraints. Check bounds (lb <= ub) and right-hand sides, or relax them."
    ),
    Status.DUAL_INFEASIBLE: (
        "The objective has no minimum: it keeps falling along a ray. Add bounds or a strongly convex term."
    ),
    Status.NUMERICAL: (
        "No further progress in this precision, short of the tolerance. Use float64, rescale the objective, or "
        "loosen tol; "
        "if the energy is not convex in its argument, no setting helps."
    ),
    Status.NONFINITE_INPUT: (
        "The objective or a derivative of it is NaN or infinite at the starting point, or a part of the problem is. "
        "Check the inputs and the weights they come from."
    ),
    Status.NON_CONVEX: (
        "Q has a negative eigenvalue. If that is rounding, pass solver=PrimalDual(convex='assume') or add a small "
        "multiple of the identity; else the problem is none for this method."
    ),
}


@dataclass(frozen=True)
class Solution:
    """The answer of a batched solve. ``B`` stands for the batch shape, ``n`` for the number of variables.

    Attributes:
        value: (B, n) the minimiser found; differentiable if an adjoint was asked for.
        fun: (B,) objective at ``value``, differentiable likewise. BundleEntropy reports f - tau H, the function it
            minimises.
        gap: (B,) certified upper bound on ``fun - minimum``, up to rounding; inf where no certificate exists.
        status: (B,) int64, see :class:`Status`.
        num_steps: (B,) int64, steps taken before the row was done.
        residual: (B,) relative stationarity measure, the number that ``tol`` was compared with.
        state: solver-specific extras (for instance the multipliers and cuts of the bundle method), or None.
    """

    value: Tensor
    fun: Tensor
    gap: Tensor
    status: Tensor
    num_steps: Tensor
    residual: Tensor
    state: Any = None

    @property
    def warm_start(self) -> Tensor:
        """Detached ``value``: hand it to the next, similar solve as ``warm_start=``."""
        return self.value.detach()

    @property
    def success(self) -> Tensor:
        """(B,) bool, true where the row met its tolerance."""
        return self.status == Status.SUCCESS

    @property
    def failed(self) -> Tensor:
        """(B,) bool, true where the value should not be used: neither solved nor merely short of steps."""
        return (self.status != Status.SUCCESS) & (self.status != Status.MAX_STEPS)


class SolveError(RuntimeError):
    """Some rows were not solved. ``solution`` holds everything that was found, the good rows included; ``cause`` is
    what is known of the reason besides the statuses, or empty."""

    def __init__(self, solution: Solution, cause: str = "") -> None:
        self.solution, self.cause = solution, cause
        parts = [describe(solution.status), cause, "All rows are in the error's `solution`; throw=False returns it."]
        super().__init__(" ".join(part for part in parts if part))


def describe(status: Tensor) -> str:
    """Count the rows per status that is not SUCCESS and say what to try: one sentence a status."""
    total = status.numel()
    parts = []
    for code, count in zip(*torch.unique(status, return_counts=True), strict=True):
        reason = Status(int(code))
        if reason is not Status.SUCCESS:
            first = int((status.reshape(-1) == code).nonzero()[0])
            row = f" First: row {first}." if total > 1 else ""
            parts.append(f"{int(count)} of {total} rows: {reason.name}. {MESSAGES[reason]}{row}")
    return " ".join(parts) if parts else f"{total} of {total} rows: SUCCESS."
