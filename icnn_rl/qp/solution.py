"""What a quadratic programme's solve reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from icnn_rl.solution import Solution

__all__ = ["ActiveSet", "QPSolution"]


class ActiveSet(NamedTuple):
    """Which constraints hold with equality and carry the solution, all bool: ineq (B, m), lower and upper (B, n)."""

    ineq: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, kw_only=True)
class QPSolution(Solution):
    """The answer of :func:`icnn_rl.qp.solve_qp`.

    With the multipliers,  Q z + p + G^T dual_ineq + A^T dual_eq - dual_lb + dual_ub = 0. ``value``, ``fun`` and the
    multipliers are differentiable with respect to every tensor argument.

    Attributes:
        value: (B, n) the minimiser z. Of an infeasible row: the point that violates the constraints least, or 0, with
            multipliers 0, where h or a bound is infinite in the way that no point can meet; of an unbounded row, or one
            that ran into trouble: the last point; NaN where the input was not finite.
        fun: (B,) 1/2 z^T Q z + p^T z.
        gap: (B,) duality gap: fun less the value of the dual, a bound on fun - minimum up to the residuals.
        status, num_steps: (B,) see :class:`icnn_rl.Status`; factorisations.
        residual: (B,) the largest of the relative residuals, what ``tol`` was compared with.
        dual_ineq, dual_eq, dual_lb, dual_ub: (B, m), (B, q), (B, n), (B, n): multipliers; >= 0 but for dual_eq. Where
            the status is PRIMAL_INFEASIBLE a proof of it: G^T dual_ineq + A^T dual_eq - dual_lb + dual_ub = 0, while
            h^T dual_ineq + b^T dual_eq - lb^T dual_lb + ub^T dual_ub < 0.
        slack: (B, m) h - G z.
        primal_residual, dual_residual: (B,) relative violation of the constraints and of stationarity.
        active: the active set.
        ray: (B, n) where the status is DUAL_INFEASIBLE, a direction d with Q d = 0, A d = 0, G d <= 0 and p^T d < 0
            that no bound stops; zeros elsewhere.
    """

    dual_ineq: Tensor
    dual_eq: Tensor
    dual_lb: Tensor
    dual_ub: Tensor
    slack: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    active: ActiveSet
    ray: Tensor

    @property
    def warm_start(self) -> ActiveSet:  # type: ignore[override]  # a point says less than the set that it came from
        """The active set: hand it to the next, similar solve as ``warm_start=``."""
        return self.active
