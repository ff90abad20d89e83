"""Iterations in float32."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import Tensor

from icnn_rl.qp.linear.base import Inner, Point, SameRows, Triple
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import map_tensors

#: How many times as large delta and rho are in float32.
COARSER = 1e5

T = TypeVar("T")


def single(tree: T) -> T:
    """All numbers in float32."""
    return map_tensors(lambda t: t.float() if t.is_floating_point() else t, tree)


def coarse(system: T) -> T:
    """A system with rho and delta, both raised to what float32 can tell from 0, in float32."""
    own: Any = system
    rho = None if own.rho is None else COARSER * own.rho
    changed: T = dataclasses.replace(own, rho=rho, delta=COARSER * own.delta)
    return single(changed)


@dataclass(frozen=True)
class Cast(SameRows):
    """The same problem in float32: iterations and factors there, everything else in float64."""

    problem: Problem
    system: Inner

    @property
    def inner(self) -> Inner:
        return self.system

    def with_inner(self, inner: Inner) -> Self:
        return dataclasses.replace(self, system=inner)

    def in_single(self) -> Self:
        return self

    def lift(self, point: Point) -> Point:
        return map_tensors(Tensor.double, point)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        dx, dnu, dz = self.system.solve(rx.float(), ra.float(), rc.float())
        return dx.double(), dnu.double(), dz.double()
