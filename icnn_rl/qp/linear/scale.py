"""x = t D v, rows of A and C times E_a and E_c: the same problem in equilibrated data, see :mod:`..equilibration`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from icnn_rl.qp.equilibration import Scales
from icnn_rl.qp.linear.base import Around, Point, Triple
from icnn_rl.qp.linear.dense import flops
from icnn_rl.qp.linear.schur import Schur
from icnn_rl.qp.linear.stagewise import Stagewise
from icnn_rl.qp.problem import Problem


@dataclass(frozen=True)
class Scale(Around):
    """See the module."""

    scales: Scales

    @staticmethod
    def of(problem: Problem) -> Scale:
        """Around a system that takes singular matrices."""
        staged = Stagewise.cost(problem, True) < flops(problem.n, problem.m)
        problem = problem if staged else problem.dense()
        scales = Scales.of(problem)
        scaled = scales.apply(problem)
        return Scale(problem, Stagewise.of_equilibrated(scaled) if staged else Schur.of_equilibrated(scaled), scales)

    def lift(self, point: Point) -> Point:
        point, scales = self.system.lift(point), self.scales
        nu, z = scales.force * scales.a_rows * point.nu, scales.force * scales.c_rows * point.z
        return Point(scales.length * scales.columns * point.x, nu, z, scales.length / scales.c_rows * point.s)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        scales = self.scales
        per_force, per_length = scales.force.reciprocal(), scales.length.reciprocal()
        v, dnu, dz = self.system.solve(
            per_force * scales.columns * rx, per_length * scales.a_rows * ra, per_length * scales.c_rows * rc
        )
        return (
            scales.length * scales.columns * v,
            scales.force * scales.a_rows * dnu,
            scales.force * scales.c_rows * dz,
        )
