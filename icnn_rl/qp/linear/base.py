"""What a linear system has to offer: three contracts, each of which contains the one before.

* :class:`System` solves; gradients ask for no more.
* :class:`Reduction` leads to the problem in which iterations are cheapest, and back.
* :class:`Inner` is what is iterated on: it can be factored.

Systems are frozen dataclasses of tensors, so that rows can be taken out of a batch and autograd can carry them; every
tensor has B rows, or 1 that all share. The classes below the contracts hold what several systems have in common.

    System  <-  Mixed, Spread, the compiled kernel's            solve, refined, minus_outers, spread
      Reduction  <-  Dual, Eliminate, Scale, Cast               inner, with_inner, lift, outer, guess, in_single
        Inner  <-  Primal, Schur, Range, Stagewise              start, factor, factored, with_factor, spent, held
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem

#: dx (B, n), dnu (B, q), dz (B, k), or the right-hand sides rx, ra, rc of the same shapes.
Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Point:
    """x (B, n), nu (B, q), z (B, k), s = d - C x (B, k)."""

    x: Tensor
    nu: Tensor
    z: Tensor
    s: Tensor


@dataclass(frozen=True)
class Factor:
    """What depends on e: e + delta and w = 1 / (e + delta) (B, k), a Cholesky or LU factor; for the range-space system
    the diagonal of M; for the Schur complement S the matrix U^{-T} A^T (B, n, q) that it is made of, and its factor;
    the pivots of an LU factor."""

    e: Tensor
    w: Tensor
    chol: Tensor
    mass: Tensor | None = None
    half: Tensor | None = None
    schur: Tensor | None = None
    pivots: Tensor | None = None


class System(Protocol):
    """A factored system."""

    @property
    def problem(self) -> Problem:
        """The problem whose equations are solved."""

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        """dx, dnu, dz, up to the regularisation."""

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        """The same with the regularisation corrected away, on the set that the factor belongs to."""

    def minus_outers(self, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """-(u v^T + s t^T), a row each: what the derivative of a matrix is made of."""

    def spread(self) -> System:
        """The same system with a row for each of the batch in every tensor that is not shared, and no row numbers:
        torch.func maps every tensor."""


class Reduction(System, Protocol):
    """Reduces a problem to the one that is iterated on, and leads back."""

    @property
    def inner(self) -> Inner:
        """The system of the problem in which iterations are cheapest."""

    def with_inner(self, inner: Inner) -> Reduction:
        """The same with that system replaced: factored, after the iterations."""

    def lift(self, point: Point) -> Point:
        """From a point of the inner problem to one of this."""

    def outer(self, active: Tensor) -> Tensor:
        """From an active set of the inner problem to one of this, (B, k) bool."""

    def guess(self, active: Tensor) -> Tensor:
        """From an active set of this problem to one of the inner problem."""

    def in_single(self) -> Reduction:
        """The same with its innermost problem in float32: there it iterates and is factored."""


class Inner(Reduction, Protocol):
    """The system of the problem that is iterated on. It is its own ``inner``."""

    @property
    def start(self) -> Tensor:
        """(1|B, k): the e of the penalty problem that iterations start from."""

    @property
    def factor(self) -> Factor | None:
        """The last factor."""

    def factored(self, e: Tensor) -> Inner:
        """A copy with the factor of E = diag(e); e (B, k), inf for rows that are out."""

    def with_factor(self, factor: Factor) -> Inner:
        """A copy with this factor."""

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        """What a solution takes off the right-hand sides rx and ra: Q dx + A^T dnu + C^T dz and A dx. (C dx is rc +
        (e + delta) dz.)"""

    def held(self, before: Tensor, x: Tensor) -> Tensor | None:
        """(B,): the force with which a proximal term that stands in for a singular Q holds x, reached from ``before``,
        back; None if there is no such term."""


class Refined:
    """A system that is corrected by its residual, in torch."""

    def refined(self: System, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        problem = self.problem
        x, nu, z = self.solve(rx, ra, rc)
        for _ in range(corrections):
            dx, dnu, dz = self.solve(*problem.products(x, nu, z).left(-rx, ra, rc))
            x, nu, z = x + dx, nu + dnu, z + dz
        return x, nu, z

    def minus_outers(self, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        # in two passes over the result
        return torch.addcmul(-u.unsqueeze(-1) * v.unsqueeze(-2), s.unsqueeze(-1), t.unsqueeze(-2), value=-1.0)

    def spread(self: System) -> System:
        return self


class SameRows(Refined):
    """The active sets of the inner problem are those of this one."""

    def outer(self, active: Tensor) -> Tensor:
        return active

    def guess(self, active: Tensor) -> Tensor:
        return active


class Innermost(SameRows):
    """Iterations take place here."""

    @property
    def inner(self) -> Self:
        return self

    def with_inner(self, inner: Inner) -> Inner:
        return inner

    def lift(self, point: Point) -> Point:
        return point


@dataclass(frozen=True)
class Around(Refined):
    """A change of variables around ``system``, which does not touch active sets."""

    problem: Problem
    system: Reduction

    @property
    def inner(self) -> Inner:
        return self.system.inner

    def with_inner(self, inner: Inner) -> Self:
        return dataclasses.replace(self, system=self.system.with_inner(inner))

    def in_single(self) -> Self:
        return dataclasses.replace(self, system=self.system.in_single())

    def outer(self, active: Tensor) -> Tensor:
        return self.system.outer(active)

    def guess(self, active: Tensor) -> Tensor:
        return self.system.guess(active)
