"""Convex sets given by linear rows, bounds and at most one ellipsoid.

    C = { y in R^n : G (y, u) <= h and A (y, u) = b for some u in R^k,  lb <= (y, u) <= ub,
                     (y - c)^T M (y - c) <= r }

k = 0 for most sets: the auxiliary u serve constraints that would need 2^n rows without them. Rows, bounds and
right-hand sides may differ from problem to problem of a batch.

The class holds the numbers and answers what takes no solve. The rest is in files of their own: programme.py has the
quadratic programme over rows and bounds, over_ellipsoid.py that over an ellipsoid as well, which is solved exactly too,
interior.py points far from the borders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor
from icnn_rl.eager import eager, transformed
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.sets.ellipsoid import Ellipsoid, times, unit
from icnn_rl.sets.fit import fit_set
from icnn_rl.sets.interior import Interior, interior_point, least_violating_point
from icnn_rl.sets.minimum import Minimum, Units
from icnn_rl.sets.over_ellipsoid import minimise_over_ellipsoid
from icnn_rl.sets.programme import own_part, solve
from icnn_rl.sets.rows import dense, largest, row_violation

__all__ = ["ConvexSet"]

Bound = float | Tensor | None


@dataclass(frozen=True)
class ConvexSet:
    """A convex set, or a batch of them; the arguments are those of :func:`icnn_rl.qp.solve_qp`.

    Args:
        G, h: rows G y <= h, (..., m, n + k) and (..., m).
        A, b: rows A y = b.
        lb, ub: bounds, (..., n + k) or numbers.
        lifted: k, the number of auxiliary variables behind the n of y.
        ellipsoid: or None.

    Example:
        >>> half = ConvexSet(G=torch.tensor([[1.0, 1.0]]), h=torch.tensor([1.0]), lb=0.0, ub=1.0)
        >>> half.project(torch.tensor([[1.0, 1.0]])).value
        tensor([[0.5000, 0.5000]])
    """

    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lb: Bound = None
    ub: Bound = None
    lifted: int = 0
    ellipsoid: Ellipsoid | None = None

    @eager("ConvexSet.minimise", mapped=True)
    def minimise(
        self,
        Q: Tensor | Diagonal | float,
        p: Tensor,
        *,
        solver: PrimalDual | External | None = None,
        warm_start: ActiveSet | None = None,
        throw: bool = True,
    ) -> Minimum:
        """argmin 1/2 y^T Q y + p^T y over the set; arguments as in :func:`icnn_rl.qp.solve_qp`, Q and p over y alone.

        Raises:
            ValueError: a wrong argument.
            SolveError: some row failed and ``throw`` is set.
        """
        tame, units = self.in_unit_rows()
        if units is not None:
            return tame.minimise(Q, p, solver=solver, warm_start=warm_start, throw=False).in_units(units).checked(throw)
        if self.ellipsoid is None:
            solution = solve(self, Q, p, solver=solver, warm_start=warm_start, throw=throw)
            return Minimum(own_part(self, solution.value), torch.zeros_like(solution.fun), solution)
        check_float_tensor("p", p)
        double = self.to(p.detach().double())
        matrix = dense(Q, p.shape[-1], p).double()
        matrix = 0.5 * (matrix + matrix.mT)
        assert double.ellipsoid is not None
        ellipsoid, indefinite = double.ellipsoid.sound(torch.finfo(p.dtype).eps)
        sound = dataclasses.replace(double, ellipsoid=ellipsoid)
        found = minimise_over_ellipsoid(sound, matrix, p.double(), solver, warm_start, _traced(Q, p, self))
        if indefinite is not None:
            found = found.without(indefinite)
        return found.to(p.dtype).checked(throw)

    def project(self, point: Tensor, *, throw: bool = True, warm_start: ActiveSet | None = None) -> Minimum:
        """The nearest point of the set, differentiable in ``point`` (..., n) and in what describes the set."""
        return self.minimise(1.0, -point, throw=throw, warm_start=warm_start)

    def violation(self, y: Tensor) -> Tensor:
        """Largest violation of y (..., n), as a distance: (g_i^T y - h_i) / ||g_i||; <= 0 inside: (...).

        Equations count as |a_i^T y - b_i| / ||a_i||, an ellipsoid as the distance to first order. A set without any
        constraint gives -inf, NaN in y or in the set NaN.

        Raises:
            ValueError: the set has auxiliary variables; ask the constraint that it came from.
        """
        if self.lifted:
            raise ValueError("violation: the set has auxiliary variables. Ask the constraint that it came from.")
        parts = []
        if self.G is not None and self.h is not None and self.G.shape[-2]:
            parts.append(row_violation(self.G, self.h, y).amax(-1))
        if self.A is not None and self.b is not None and self.A.shape[-2]:
            both = torch.maximum(row_violation(self.A, self.b, y), row_violation(-self.A, -self.b, y))
            parts.append(both.amax(-1))
        if self.lb is not None:
            parts.append((self.lb - y).amax(-1))
        if self.ub is not None:
            parts.append((y - self.ub).amax(-1))
        if self.ellipsoid is not None:
            parts.append(self.ellipsoid.violation(y))
        return largest(parts) if parts else torch.where(y.isnan().any(-1), y.sum(-1), -torch.inf)

    def in_unit_rows(self) -> tuple[ConvexSet, Units | None]:
        """The same set, with rows, and an ellipsoid, divided by powers of two where their squares would over- or
        underflow; and what they were multiplied by, None: by nothing."""
        if transformed():
            return self, None
        parts: dict[str, Any] = {}
        scales: list[Tensor | None] = []
        for matrix, right in (("G", "h"), ("A", "b")):
            m, v = getattr(self, matrix), getattr(self, right)
            scales.append(unit(m.detach().abs().amax(-1)) if m is not None and m.shape[-2] else None)
            if (scale := scales[-1]) is not None:
                parts[matrix], parts[right] = m * scale.unsqueeze(-1), v * scale
        ellipsoid = None if self.ellipsoid is None else self.ellipsoid.in_unit()
        scales.append(None)
        if ellipsoid is not None and self.ellipsoid is not None and ellipsoid is not self.ellipsoid:
            scales[-1] = unit(self.ellipsoid.M.detach().abs().amax((-2, -1)))
        if all(scale is None for scale in scales):
            return self, None
        return dataclasses.replace(self, **parts, ellipsoid=ellipsoid), Units(*scales)

    @eager("ConvexSet.interior")
    def interior(self, like: Tensor) -> Interior:
        """A point away from all borders: the centre of the largest ball between rows and bounds, of radius 1 at most;
        with an ellipsoid, a point of it towards that centre. ``like`` (..., n): shape, dtype and device."""
        return interior_point(self, like)

    @eager("ConvexSet.least_violating")
    def least_violating(self, proposal: Tensor) -> Tensor:
        """Of the points within the bounds at which the largest violation of a row is smallest, the one nearest to the
        proposal (..., n); of a row or bound where the bounds contradict each other. For empty sets.

        Rows of zeros say nothing about where. With an ellipsoid, where the rows can hold, they do, and the ellipsoid as
        nearly as it can; a set that is not empty gives one of its points.
        """
        return least_violating_point(self, proposal)

    def as_set(self, y: Tensor) -> ConvexSet:
        """Itself, as a :class:`icnn_rl.sets.Domain` for points like ``y`` (..., n).

        Raises:
            ValueError: it does not fit ``y``.
        """
        return fit_set("ConvexSet", self, y)

    def affine(self, scale: Tensor, offset: Tensor) -> ConvexSet:
        """The x for which scale * x + offset, elementwise, is in the set: change of units. scale (n,) > 0, offset (n,).

        Auxiliary variables keep their units.
        """
        s = torch.cat((scale, scale.new_ones(self.lifted))) if self.lifted else scale
        o = torch.cat((offset, offset.new_zeros(self.lifted))) if self.lifted else offset
        rows = {}
        for matrix, right in (("G", "h"), ("A", "b")):
            m, v = getattr(self, matrix), getattr(self, right)
            if m is not None:
                rows[matrix], rows[right] = m * s, v - times(m, o)
        bounds = {name: None if (bound := getattr(self, name)) is None else (bound - o) / s for name in ("lb", "ub")}
        ellipsoid = self.ellipsoid
        if ellipsoid is not None:
            M = scale.unsqueeze(-1) * ellipsoid.M * scale
            ellipsoid = Ellipsoid(M, (ellipsoid.center - offset) / scale, ellipsoid.size)
        return ConvexSet(**rows, **bounds, lifted=self.lifted, ellipsoid=ellipsoid)

    def to(self, like: Tensor) -> ConvexSet:
        """With the dtype and device of ``like``."""
        return self.mapped(lambda t: t.to(like))

    def rows(self, index: Tensor) -> ConvexSet:
        """The sets of the batch's rows at ``index``; what has no batch dimension is shared."""
        core = {"G": 2, "A": 2}
        picked = {}
        for name in ("G", "h", "A", "b", "lb", "ub"):
            part = getattr(self, name)
            batched = isinstance(part, Tensor) and part.dim() > core.get(name, 1) and part.shape[0] > 1
            picked[name] = part[index] if batched else part
        ellipsoid = self.ellipsoid
        if ellipsoid is not None:
            ellipsoid = Ellipsoid(
                *(t[index] if t.dim() > d and t.shape[0] > 1 else t for t, d in zip(ellipsoid, (2, 1, 0), strict=True))
            )
        return dataclasses.replace(self, **picked, ellipsoid=ellipsoid)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> ConvexSet:
        """With every tensor changed."""
        parts: dict[str, Any] = {
            f.name: change(part) if isinstance(part := getattr(self, f.name), Tensor) else part
            for f in dataclasses.fields(self)
        }
        if self.ellipsoid is not None:
            parts["ellipsoid"] = Ellipsoid(*(change(t) for t in self.ellipsoid))
        return ConvexSet(**parts)


def _traced(Q: Tensor | Diagonal | float, p: Tensor, owner: ConvexSet) -> bool:
    """Whether somebody may want derivatives."""
    parts = (Q.d if isinstance(Q, Diagonal) else Q, p, *(owner.ellipsoid or ()))
    return transformed() or (torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in parts))
