"""What a quadratic programme's solve reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.solution import Solution, Status

__all__ = ["ActiveSet", "QPSolution"]


class ActiveSet(NamedTuple):
    """Which constraints hold with equality and carry the solution, all bool.

    Attributes:
        ineq: (B, m) G z = h.
        lower, upper: (B, n) z = lb, z = ub.
        ineq_low: (B, m) G z = h_low; None where there was no ``h_low``.
        held: of an elastic problem the rows that are not broken, those of G, of A z <= b and of A z >= b, as far as
            they are elastic; None of any other.
    """

    ineq: Tensor
    lower: Tensor
    upper: Tensor
    ineq_low: Tensor | None = None
    held: Tensor | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class QPSolution(Solution):
    """The answer of :func:`icnn_rl.qp.solve_qp`.

    With the multipliers,

        Q z + p + G^T (dual_ineq - dual_ineq_low) + A^T dual_eq - dual_lb + dual_ub = 0.

    ``value``, ``fun``, the multipliers and the violations are differentiable with respect to every tensor argument.

    ``solution[3]``, ``solution[2:5]`` and ``solution[solution.success]`` are the solutions of some rows. A field is put
    into its shape and dtype when it is first asked for.

    Attributes:
        value: (B, n) the minimiser z. Of an infeasible row: the point that violates the constraints least, or 0, with
            multipliers 0, where h or a bound is infinite in the way that no point can meet; of an unbounded row, or one
            that ran into trouble: the last point; NaN where the input was not finite.
        fun: (B,) 1/2 z^T Q z + p^T z, and what the violations cost if there are prices on them. Its gradient is the
            envelope theorem's, made of the minimiser and the multipliers without another linear solve.
        gap: (B,) duality gap: fun less the value of the dual, a bound on fun - minimum up to the residuals.
        status, num_steps: (B,) see :class:`icnn_rl.Status`; factorisations.
        residual: (B,) the largest of the relative residuals, what ``tol`` was compared with.
        dual_ineq, dual_ineq_low, dual_eq, dual_lb, dual_ub: (B, m), (B, m), (B, q), (B, n), (B, n): multipliers of
            G z <= h, G z >= h_low, A z = b, z >= lb and z <= ub; >= 0 but for dual_eq, and 0 for what is not there.
            Where the status is PRIMAL_INFEASIBLE a proof of it::

                G^T (dual_ineq - dual_ineq_low) + A^T dual_eq - dual_lb + dual_ub = 0
                h^T dual_ineq - h_low^T dual_ineq_low + b^T dual_eq - lb^T dual_lb + ub^T dual_ub < 0
        slack, slack_low: (B, m) h - G z and G z - h_low.
        violation_ineq: (B, m) >= 0, by how much an elastic row of G is broken; 0 without ``elastic``.
        violation_eq: (B, q) A z - b of an elastic equation, of either sign; 0 without ``elastic``.
        primal_residual, dual_residual: (B,) relative violation of the constraints and of stationarity.
        active: the active set.
        ray: (B, n) where the status is DUAL_INFEASIBLE, a direction d with Q d = 0, A d = 0, G d <= 0 (and >= 0 where
            h_low is finite) and p^T d < 0 that no bound stops; zeros elsewhere.
    """

    dual_ineq: Tensor
    dual_ineq_low: Tensor
    dual_eq: Tensor
    dual_lb: Tensor
    dual_ub: Tensor
    slack: Tensor
    slack_low: Tensor
    violation_ineq: Tensor
    violation_eq: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    active: ActiveSet
    ray: Tensor

    @classmethod
    def on_demand(cls, field: Callable[[str], Any]) -> Self:
        """A solution whose fields are ``field(name)``, each called for when it is first asked for."""
        solution = object.__new__(cls)
        solution.__dict__["_field"] = field
        return solution

    def __getattr__(self, name: str) -> Any:
        """A field that is read for the first time."""
        field = self.__dict__.get("_field")
        if field is None or name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = self.__dict__[name] = field(name)
        return value

    def __getstate__(self) -> dict[str, Any]:
        """All fields: what makes them stays behind."""
        return {name: getattr(self, name) for name in _FIELDS}

    def __getitem__(self, rows: Any) -> QPSolution:
        """The solutions of some rows, by anything that indexes a tensor of the batch's shape."""
        status = self.status
        index = torch.arange(status.numel(), device=status.device).reshape(status.shape)[rows]
        dims = status.dim()

        def pick(t: Any) -> Any:
            if isinstance(t, ActiveSet):
                return ActiveSet(*map(pick, t))
            return t.reshape(-1, *t.shape[dims:])[index] if isinstance(t, Tensor) else t

        def field(name: str) -> Any:
            with torch.enable_grad():  # a row has the graph that the whole has
                return pick(getattr(self, name))

        return QPSolution.on_demand(field)

    def __repr__(self) -> str:
        value = self.value
        about = f"value {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if transformed() or not self.status.numel():
            return f"QPSolution({about})"
        codes, counts = torch.unique(self.status, return_counts=True)
        found = zip(codes.tolist(), counts.tolist(), strict=True)
        rows = ", ".join(f"{Status(code).name} {count}" for code, count in found)
        residual, steps = float(self.residual.max()), int(self.num_steps.max())
        return f"QPSolution({about}; rows: {rows}; residual <= {residual:.1e}, steps <= {steps})"

    @property
    def warm_start(self) -> ActiveSet:  # type: ignore[override]  # a point says less than the set that it came from
        """The active set: hand it to the next, similar solve as ``warm_start=``."""
        return self.active


_FIELDS = tuple(field.name for field in dataclasses.fields(QPSolution))
