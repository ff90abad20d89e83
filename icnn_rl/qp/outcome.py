"""What is known of a batch of problems once it is solved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from icnn_rl.qp.certificates import Residuals
from icnn_rl.qp.linear.base import System
from icnn_rl.qp.pytree import leaves, unflatten
from icnn_rl.solution import Status

__all__ = ["Outcome", "Solved"]


@dataclass(frozen=True)
class Outcome:
    """For each problem x, nu, z, s = d - C x, the active set, residuals, number of factorisations and status. Where the
    status is PRIMAL_INFEASIBLE, nu and z are its certificate; where it is DUAL_INFEASIBLE, ``ray``, zero elsewhere."""

    x: Tensor
    nu: Tensor
    z: Tensor
    s: Tensor
    active: Tensor
    residuals: Residuals
    steps: Tensor
    status: Tensor
    ray: Tensor

    def unsolved(self) -> Tensor | None:
        """The indices of the rows that are not solved; None if all are."""
        rows = (self.status != Status.SUCCESS).nonzero().squeeze(-1)
        return rows if rows.numel() else None

    def put(self, index: Tensor, part: Outcome, marked: Tensor | None = None) -> Outcome:
        """With the rows at ``index`` taken from ``part``, or those of them that are marked."""
        if marked is not None:
            index = index[marked]
        merged = []
        for a, b in zip(leaves(self), leaves(part), strict=True):
            merged.append(a.index_copy(0, index, b if marked is None else b[marked]))
        return unflatten(self, iter(merged))


@dataclass(frozen=True)
class Solved:
    """The outcome, the system factored on the active sets, and whether every row is solved."""

    outcome: Outcome
    system: System
    success: bool

    @staticmethod
    def of(outcome: Outcome, system: System) -> Solved:
        return Solved(outcome, system, not bool(outcome.status.any()))  # SUCCESS is 0

    def spread(self) -> Solved:
        """See :meth:`System.spread`."""
        return dataclasses.replace(self, system=self.system.spread())
