"""A convex set as the solvers need it: where to start in it, the quadratic model over it, what multipliers certify.

All numbers of the set are float64 and detached, whatever the dtype of y: a multiplier has to be exact where y is not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.solution import ActiveSet
from icnn_rl.sets import ConvexSet, Ellipsoid, Minimum
from icnn_rl.sets.certificate import certificate
from icnn_rl.sets.implied_bounds import implied_bounds
from icnn_rl.sets.rows import vector_of
from icnn_rl.solution import Status
from icnn_rl.solvers.box_qp import box_qp, times

__all__ = ["Duals", "Plan", "Region"]

_OUTSIDE = 16.0  # violation of a row that a starting point is not moved for, in units of its rounding


class Duals(NamedTuple):
    """Multipliers of a quadratic model over the set, and its minimiser with the auxiliary variables: all float64.

    point (..., n + k); ineq (..., m) >= 0 of G y <= h; eq (..., q) of A y = b; ellipsoid (...) >= 0 of half of
    (y - c)^T M (y - c) <= r.
    """

    point: Tensor
    ineq: Tensor
    eq: Tensor
    ellipsoid: Tensor


class Plan(NamedTuple):
    """The minimiser of a model: y (..., n), the rows that carry it, and their multipliers; None: no row does."""

    y: Tensor
    active: ActiveSet
    duals: Duals | None


class Start(NamedTuple):
    """A point of the set; the region, with a harmless set in place of those that are empty or not finite; and the
    status of every row: SUCCESS where there is something to solve."""

    region: Region
    point: Tensor
    status: Tensor


@dataclass(frozen=True)
class Region:
    """A set, or one a row of the batch.

    Attributes:
        set: the set.
        lower, upper: (..., n + k) bounds that hold in it: those given, and where there are none what rows and ellipsoid
            imply. Infinite where y is not bounded.
    """

    set: ConvexSet
    lower: Tensor
    upper: Tensor

    @staticmethod
    def of(region: ConvexSet, y: Tensor) -> Region:
        """For points like ``y`` (..., n)."""
        like = y.detach().double()
        detached: ConvexSet = region.mapped(lambda t: t.detach().double())
        return Region(detached, *implied_bounds(detached, like))

    @property
    def plain(self) -> bool:
        """Inequalities only: a point of the bounding box belongs to the set if it meets the rows."""
        return self.set.lifted == 0 and self.set.A is None and self.set.ellipsoid is None

    def rows(self, index: Tensor) -> Region:
        """The sets of the batch's rows at ``index``."""
        lower, upper = (b[index] if b.dim() == 2 and b.shape[0] > 1 else b for b in (self.lower, self.upper))
        return Region(self.set.rows(index), lower, upper)

    def own_bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the n own variables, in the dtype of y."""
        n = y.shape[-1]
        return self.lower[..., :n].to(y.dtype), self.upper[..., :n].to(y.dtype)

    def tight(self, y: Tensor) -> ActiveSet:
        """The rows and bounds that hold with equality at y: a guess of the active set. Empty but for plain sets."""
        if not self.plain or self.set.G is None or self.set.h is None:
            return self.no_rows(y)
        left, h = self._left(y), self.set.h
        slack = torch.finfo(y.dtype).eps ** 0.5
        lower, upper = self.own_bounds(y)
        return ActiveSet(left >= h - slack * (h.abs() + left.abs()), y <= lower, y >= upper)

    def _left(self, y: Tensor) -> Tensor:
        """G y, in float64."""
        G = self.set.G
        assert G is not None
        return y.double() @ G.mT if G.dim() == 2 else times(G, y.double())

    def no_rows(self, y: Tensor) -> ActiveSet:
        """The empty active set."""
        batch, width = y.shape[:-1], y.shape[-1] + self.set.lifted
        m = 0 if self.set.h is None else self.set.h.shape[-1]
        return ActiveSet(*(torch.zeros(*batch, size, dtype=torch.bool, device=y.device) for size in (m, width, width)))

    def outside(self, y: Tensor, tolerance: float) -> Tensor:
        """Whether a row is not met, relative to the sizes of its two sides: (..., n) -> (...). Plain sets only."""
        if self.set.G is None or self.set.h is None:
            return torch.zeros_like(y[..., 0], dtype=torch.bool)
        left, h = self._left(y), self.set.h
        slack = tolerance * (h.abs() + left.abs()) if tolerance > 0 else 0.0  # h may be infinite
        return ~(left <= h + slack).all(-1)  # NaN: outside

    def meets(self, y: Tensor) -> bool:
        """Whether all points meet the rows up to rounding. Plain sets only."""
        return not bool(self.outside(y, _OUTSIDE * torch.finfo(y.dtype).eps).any())

    def project(self, y: Tensor) -> Minimum:
        """Nearest points."""
        return self.set.project(y.detach().double(), throw=False)

    def start(self, y: Tensor) -> Start:
        """Points of the set, near y, to begin from."""
        if self.plain and bool((self.lower <= self.upper).all()):
            clipped, tolerance = torch.clamp(y, *self.own_bounds(y)), _OUTSIDE * torch.finfo(y.dtype).eps
            if bool((outside := self.outside(clipped, tolerance)).any()):
                clipped = self._retracted(clipped)
                outside = self.outside(clipped, tolerance)
            if not bool(outside.any()):
                return Start(self, clipped, torch.zeros_like(y[..., 0], dtype=torch.int64))
        found = self.project(y)
        status = found.status
        bad = status != Status.SUCCESS
        point = torch.where(found.value.isnan(), y, found.value.to(y.dtype))
        return Start(self._without(bad, point) if bool(bad.any()) else self, point, status)

    def _retracted(self, y: Tensor) -> Tensor:
        """Moved towards the middle of the bounds as far as the rows ask for, if the middle meets them."""
        G, h = self.set.G, self.set.h
        assert G is not None
        assert h is not None
        x = y.double()
        middle = (0.5 * (self.lower + self.upper)).nan_to_num(0.0, 0.0, 0.0)
        room, step = h - times(G, middle), times(G, x - middle)
        share = torch.where((step > room) & (room >= 0), room / step, 1.0).amin(-1, keepdim=True)
        return torch.where(share < 1.0, middle + share * (x - middle), x).to(y.dtype)

    def _without(self, bad: Tensor, point: Tensor) -> Region:
        """A small box, or ball, around the point in place of the sets that are ``bad``."""
        row, s, y = bad.unsqueeze(-1), self.set, point.double().nan_to_num(0.0, 0.0, 0.0)
        middle = torch.nn.functional.pad(y, (0, s.lifted))
        parts: dict[str, Any] = {}
        for matrix, right, value in (("G", "h", 1.0), ("A", "b", 0.0)):
            m, v = getattr(s, matrix), getattr(s, right)
            if m is not None:
                parts[matrix] = torch.where(row.unsqueeze(-1), 0.0, m)
                parts[right] = torch.where(row, value, v)
        for name, side in (("lb", -1.0), ("ub", 1.0)):
            if (bound := getattr(s, name)) is not None:
                parts[name] = torch.where(row, middle + side, vector_of(bound, middle.shape[-1], middle))
        if s.ellipsoid is not None:
            eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
            parts["ellipsoid"] = Ellipsoid(
                torch.where(row.unsqueeze(-1), eye, s.ellipsoid.M),
                torch.where(row, y, s.ellipsoid.center),
                torch.where(bad, 1.0, s.ellipsoid.size),
            )
        lower, upper = (torch.where(row, middle + side, b) for side, b in ((-1.0, self.lower), (1.0, self.upper)))
        return Region(dataclasses.replace(s, **parts), lower, upper)

    def model(self, y: Tensor, g: Tensor, h: Tensor, active: ActiveSet, solves: int) -> Plan:
        """argmin over the set of g . (x - y) + 1/2 (x - y)^T H (x - y).

        Args:
            y: (..., n) the point that the model was made at.
            g, h: (..., n) and (..., n, n), H positive definite.
            active: a guess.
            solves: linear solves that the model over bounds alone may take.

        Rows are looked at only where the minimiser over the bounds alone breaks them: elsewhere it is the answer.
        """
        if not self.plain or _most(active.ineq.any(-1)):
            return self._solve(y, g, h, active)
        lower, upper = self.own_bounds(y)
        d, residual = box_qp(g, h, lower - y, upper - y, solves)
        x = torch.clamp(y + d, lower, upper)
        wrong = self.outside(x, 0.0) | ~_settled(d, residual, h, lower - y, upper - y)
        nothing = self.no_rows(y)
        if not bool(wrong.any()):
            return Plan(x, nothing, None)
        if y.dim() != 2 or _most(wrong):
            return self._solve(y, g, h, active)
        index = wrong.nonzero().squeeze(-1)
        guess = ActiveSet(active.ineq[index], active.lower[index], active.upper[index])
        part = self.rows(index)._solve(y[index], g[index], h[index], guess)
        assert part.duals is not None
        duals = Duals(
            x.double().index_copy(0, index, part.duals.point),
            *(_spread(t, index, wrong) for t in part.duals[1:]),
        )
        merged = ActiveSet(*(a.index_copy(0, index, b) for a, b in zip(nothing[:3], part.active[:3], strict=True)))
        return Plan(x.index_copy(0, index, part.y), merged, duals)

    def _solve(self, y: Tensor, g: Tensor, h: Tensor, active: ActiveSet) -> Plan:
        """The model as a quadratic programme, in float64."""
        h = h.double()
        p = g.double() - times(h, y.double())
        guess = active if bool(active.ineq.any() | active.lower.any() | active.upper.any()) else None
        found = self.set.minimise(h, p, throw=False, warm_start=guess)
        if bool((found.status == Status.NON_CONVEX).any()):
            eigenvalues = torch.linalg.eigvalsh(torch.nan_to_num(h, 0.0, 0.0, 0.0))
            lift = (1e-8 * eigenvalues[..., -1].abs() - eigenvalues[..., 0]).clamp(min=0.0)
            h = h + torch.diag_embed(lift.unsqueeze(-1).expand_as(y))
            p = g.double() - times(h, y.double())
            found = self.set.minimise(h, p, throw=False, warm_start=guess)
        solved = (found.status == Status.SUCCESS).unsqueeze(-1)
        x = torch.where(solved, found.value.to(y.dtype), y)
        solution = found.solution
        q = 0 if self.set.b is None else self.set.b.shape[-1]
        duals = Duals(
            torch.cat((x.double(), solution.value[..., y.shape[-1] :]), -1) if self.set.lifted else x.double(),
            torch.where(solved, solution.dual_ineq, 0.0).clamp(min=0.0),
            torch.where(solved, solution.dual_eq[..., :q], 0.0),
            torch.where(solved.squeeze(-1), found.multiplier, 0.0),
        )
        return Plan(x, solution.active, duals)

    def gap(self, grad: Tensor, duals: Duals, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bound on f(y) - min f over the set at y, the point of the multipliers, from the gradient there.

        For any z >= 0, nu and lam >= 0, f(x) is at least its Lagrangian on the set, and that is least over the bounds:

            f(y) - min f <= z . (h - G y) + nu . (b - A y) + lam / 2 (r - (y - c)^T M (y - c)) + box(grad of the
            Lagrangian),

        with box the :func:`icnn_rl.sets.certificate.certificate` over the bounds. Returns also what the gradient of the
        Lagrangian promises within 1 + |y| of y, a measure of progress where the bound is infinite.
        """
        k, x = self.set.lifted, duals.point
        bound, slope = self._lagrangian(grad.double(), duals)
        if curvature is not None:
            curvature = curvature.double()
            curvature = torch.nn.functional.pad(curvature.expand_as(grad), (0, k)) if k else curvature
        low, high = self.lower - x, self.upper - x
        gap = bound + certificate(slope, low, high, curvature)
        if bool(torch.isfinite(gap).all()):
            return gap.to(grad.dtype), gap.to(grad.dtype)
        reach = 1.0 + x.abs()
        promised = bound + certificate(slope, torch.maximum(low, -reach), torch.minimum(high, reach), None)
        return gap.to(grad.dtype), promised.to(grad.dtype)

    def _lagrangian(self, slope: Tensor, duals: Duals) -> tuple[Tensor, Tensor]:
        """f(y) - L(y), and the gradient of L at y, the auxiliary variables included."""
        s, x = self.set, duals.point
        n, k = slope.shape[-1], s.lifted
        slope = torch.nn.functional.pad(slope, (0, k)) if k else slope
        bound = torch.zeros_like(slope[..., 0])
        if s.G is not None and s.h is not None:
            slack = s.h - times(s.G, x)
            bound = bound + (duals.ineq * slack).masked_fill(duals.ineq == 0, 0.0).sum(-1)  # 0 * inf
            slope = slope + times(s.G.mT, duals.ineq)
        if s.A is not None and s.b is not None:
            bound = bound + (duals.eq * (s.b - times(s.A, x))).sum(-1)
            slope = slope + times(s.A.mT, duals.eq)
        if s.ellipsoid is not None:
            y, half = x[..., :n], 0.5 * duals.ellipsoid
            bound = bound + half * (s.ellipsoid.size - s.ellipsoid.form(y))
            pull = duals.ellipsoid.unsqueeze(-1) * times(s.ellipsoid.M, y - s.ellipsoid.center)
            slope = slope + (torch.nn.functional.pad(pull, (0, k)) if k else pull)
        return bound, slope


def _most(rows: Tensor) -> bool:
    """Whether it is not worth while to leave the others out."""
    return 4 * int(rows.sum()) > 3 * rows.numel()


def _spread(part: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """``part`` at ``index`` and zeros elsewhere."""
    return part.new_zeros(rows.shape[0], *part.shape[1:]).index_copy_(0, index, part)


def _settled(d: Tensor, residual: Tensor, h: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether d is a fixed point of the projected scaled gradient step."""
    step = residual / h.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(h.dtype).tiny)
    off = (torch.clamp(d + step, low, high) - d).abs().amax(-1)
    settled: Tensor = off <= torch.finfo(d.dtype).eps ** 0.5 * d.abs().amax(-1)
    return settled
