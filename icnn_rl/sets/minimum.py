"""Minimisers over a set, and what is known of them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.solution import SolveError, Status

__all__ = ["OF_ROWS", "Minimum", "Units"]

#: What a solution says of every row of G.
OF_ROWS = ("dual_ineq", "dual_ineq_low", "slack", "slack_low", "violation_ineq")


class Units(NamedTuple):
    """What rows (..., m), equations (..., q) and ellipsoid (...) of a set were multiplied by; None: by nothing."""

    rows: Tensor | None
    equations: Tensor | None
    ellipsoid: Tensor | None


class Minimum(NamedTuple):
    """Minimiser of a quadratic over a set.

    value (..., n), differentiable, on an ellipsoid's border once; multiplier (...) of the ellipsoid, lam of
    :mod:`icnn_rl.sets.boundary`; solution: of the last quadratic programme, with the multipliers of the rows and bounds
    and the status of each row of the batch. Where no point is in rows, bounds and ellipsoid, the status is
    PRIMAL_INFEASIBLE and ``value`` breaks as little as possible.
    With an ellipsoid the status is SUCCESS only where rows, bounds and ellipsoid hold at ``value`` to 1e-9, relative to
    their sizes and up to the rounding of (y - c)^T M (y - c); else NUMERICAL. So it is, with a value of NaN, where M
    has a negative eigenvalue beyond rounding.
    """

    value: Tensor
    multiplier: Tensor
    solution: QPSolution

    @property
    def status(self) -> Tensor:
        """(...) see :class:`icnn_rl.Status`."""
        return self.solution.status

    def checked(self, throw: bool) -> Minimum:
        """Itself.

        Raises:
            SolveError: some row failed and ``throw`` is set.
        """
        if throw and bool(self.status.any()):
            raise SolveError(self.solution)
        return self

    def or_else(self, other: Minimum) -> Minimum:
        """The other where this one failed and the other did not."""
        settled = (other.status == Status.SUCCESS) | (other.status == Status.PRIMAL_INFEASIBLE)
        took = ((self.status == Status.NUMERICAL) | (self.status == Status.MAX_STEPS)) & settled

        def pick(one: Any, two: Any) -> Any:
            if isinstance(one, Tensor):
                return torch.where(took.reshape((*took.shape, *(1,) * (one.dim() - took.dim()))), two, one)
            if isinstance(one, ActiveSet):
                return ActiveSet(*(pick(a, b) for a, b in zip(one, two, strict=True)))
            return one

        names = [f.name for f in dataclasses.fields(self.solution)]
        parts = {name: pick(getattr(self.solution, name), getattr(other.solution, name)) for name in names}
        solution = dataclasses.replace(self.solution, **parts)
        return Minimum(pick(self.value, other.value), pick(self.multiplier, other.multiplier), solution)

    def in_units(self, units: Units) -> Minimum:
        """With the multipliers and slacks of a set whose rows were multiplied by these."""
        s, change = self.solution, dict[str, Any]()
        for names, scale in ((OF_ROWS, units.rows), (("dual_eq", "violation_eq"), units.equations)):
            if scale is not None:
                for name in names:
                    part = getattr(s, name)
                    change[name] = part * scale if name.startswith("dual") else part / scale
        multiplier = self.multiplier if units.ellipsoid is None else self.multiplier * units.ellipsoid
        return Minimum(self.value, multiplier, dataclasses.replace(s, **change))

    def without(self, rows: Tensor) -> Minimum:
        """With NaN and NUMERICAL in these rows."""
        row = rows.unsqueeze(-1)
        value = torch.where(row, torch.nan, self.value)
        solution = dataclasses.replace(
            self.solution,
            value=torch.where(row, torch.nan, self.solution.value),
            fun=torch.where(rows, torch.nan, self.solution.fun),
            status=torch.where(rows, int(Status.NUMERICAL), self.status),
        )
        return Minimum(value, torch.where(rows, torch.nan, self.multiplier), solution)

    def to(self, dtype: torch.dtype) -> Minimum:
        """With the numbers in this dtype."""
        if self.value.dtype == dtype:
            return self
        parts = {f.name: getattr(self.solution, f.name) for f in dataclasses.fields(self.solution)}
        change: dict[str, Any] = {
            name: t.to(dtype) for name, t in parts.items() if isinstance(t, Tensor) and t.is_floating_point()
        }
        return Minimum(self.value.to(dtype), self.multiplier.to(dtype), dataclasses.replace(self.solution, **change))
