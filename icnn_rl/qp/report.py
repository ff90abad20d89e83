"""From what the solvers found to a :class:`QPSolution`, in the user's blocks, shapes and dtype.

A field is made when it is asked for: a single small solve takes less time than its seventeen reshapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.inputs import Form
from icnn_rl.qp.linear.base import Triple
from icnn_rl.qp.outcome import Outcome
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.solution import ActiveSet, QPSolution

__all__ = ["Report", "Sides"]


class Sides(NamedTuple):
    """What C of a problem is made of: numbers of rows of G and of variables, and which bounds there are."""

    m: int
    n: int
    lower: bool
    upper: bool

    @staticmethod
    def of(problem: Problem) -> Sides:
        return Sides(problem.m, problem.n, problem.lower, problem.upper)


@dataclass(eq=False)
class Report:
    """The fields of a solution by their names.

    Attributes:
        form: how the user's blocks lie in the problem's.
        sides: how these lie in the rows of C.
        outcome: what is known of the rows of the batch.
        point, fun: x, nu and z, and the least value, with the graph if there is one.
        shape: the batch shape.
        dtype: of every number.
        traced: whether there is a graph.
    """

    form: Form
    sides: Sides
    outcome: Outcome
    point: Triple
    fun: Tensor
    shape: torch.Size
    dtype: torch.dtype
    traced: bool

    def solution(self) -> QPSolution:
        return QPSolution.on_demand(self)

    def __call__(self, name: str) -> Any:
        # a field may be read inside of a no_grad() and solved outside, or the reverse
        with torch.set_grad_enabled(self.traced):
            return self._out(getattr(self, f"_{name}")())

    def _out(self, part: Any) -> Any:
        if isinstance(part, ActiveSet):
            return ActiveSet(*map(self._out, part))
        if not isinstance(part, Tensor):
            return part
        if len(self.shape) != 1:
            part = part.reshape((*self.shape, *part.shape[1:]))
        return part if part.dtype == self.dtype or not part.is_floating_point() else part.to(self.dtype)

    # what is made of the point

    def _value(self) -> Tensor:
        return self.point[0][:, : self.form.n] if self.form.extra else self.point[0]

    def _fun(self) -> Tensor:
        return self.fun

    def _dual_ineq(self) -> Tensor:
        return self._high(self.point[2])

    def _dual_ineq_low(self) -> Tensor:
        return self._low(self.point[2])

    def _dual_eq(self) -> Tensor:
        return self.point[1]

    def _dual_lb(self) -> Tensor:
        return self._at_lower(self.point[2])[:, : self.form.n]

    def _dual_ub(self) -> Tensor:
        return self._at_upper(self.point[2])[:, : self.form.n]

    def _violation_ineq(self) -> Tensor:
        return self._violations(self.point[0])[0]

    def _violation_eq(self) -> Tensor:
        return self._violations(self.point[0])[1]

    # what is made of the outcome

    def _gap(self) -> Tensor:
        return self.outcome.residuals.duality

    def _status(self) -> Tensor:
        return self.outcome.status

    def _num_steps(self) -> Tensor:
        return self.outcome.steps

    def _residual(self) -> Tensor:
        return self.outcome.residuals.largest

    def _primal_residual(self) -> Tensor:
        return self.outcome.residuals.primal

    def _dual_residual(self) -> Tensor:
        return self.outcome.residuals.dual

    def _slack(self) -> Tensor:
        s = self._high(self.outcome.s, torch.inf)
        return s - self._violations(self.outcome.x)[0] if self.form.soft_ineq else s

    def _slack_low(self) -> Tensor:
        s = self._low(self.outcome.s, torch.inf)
        return s - self._violations(self.outcome.x)[0] if self.form.soft_ineq else s

    def _ray(self) -> Tensor:
        return self.outcome.ray[:, : self.form.n]

    def _active(self) -> ActiveSet:
        form, active = self.form, self.outcome.active
        lower, upper = self._at_lower(active), self._at_upper(active)
        return ActiveSet(
            self._high(active),
            lower[:, : form.n],
            upper[:, : form.n],
            self._low(active) if form.low else None,
            lower[:, form.n :] if form.extra else None,
        )

    def _state(self) -> None:
        return None

    # where things lie

    def _high(self, rows: Tensor, absent: float = 0.0) -> Tensor:
        """The part of a vector over the rows of C that belongs to G z <= h."""
        m = self.form.m
        return rows[:, :m] if self.form.high else rows.new_full((rows.shape[0], m), absent)

    def _low(self, rows: Tensor, absent: float = 0.0) -> Tensor:
        """The part that belongs to G z >= h_low."""
        m, before = self.form.m, self.form.m * self.form.high
        return rows[:, before : before + m] if self.form.low else rows.new_full((rows.shape[0], m), absent)

    def _at_lower(self, rows: Tensor) -> Tensor:
        m, n, lower, _ = self.sides
        return rows[:, m : m + n] if lower else rows.new_zeros(rows.shape[0], n)

    def _at_upper(self, rows: Tensor) -> Tensor:
        m, n, lower, upper = self.sides
        return rows[:, m + n * lower :] if upper else rows.new_zeros(rows.shape[0], n)

    def _violations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By how much rows of G and equations are broken."""
        form, batch = self.form, x.shape[0]
        end = form.n + form.m * form.soft_ineq
        ineq = x[:, form.n : end] if form.soft_ineq else x.new_zeros(batch, form.m)
        over, under = x[:, end : end + form.q], x[:, end + form.q :]
        return ineq, over - under if form.soft_eq else x.new_zeros(batch, form.q)
