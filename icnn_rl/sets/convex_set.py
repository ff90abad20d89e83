"""Convex sets given by linear rows, bounds and at most one ellipsoid, and the quadratic programme over them.

    C = { y in R^n : G (y, u) <= h and A (y, u) = b for some u in R^k,  lb <= (y, u) <= ub,
                     (y - c)^T M (y - c) <= r }

k = 0 for most sets: the auxiliary u serve constraints that would need 2^n rows without them. Rows, bounds and
right-hand sides may differ from problem to problem of a batch.

With an ellipsoid the programme is no longer quadratic, and is still solved exactly: for a multiplier lam >= 0 of the
ellipsoid the minimiser of the Lagrangian over rows and bounds is a QP with Q + lam M in Q's place, whose
(y - c)^T M (y - c) falls as lam rises. lam is found by a bracketing root search, in one dimension; the last QP has the
ellipsoid's tangent among its rows, which makes the answer differentiable in everything and puts it on the boundary to
the square of what was left. All of this is done in float64, whatever the dtype that came.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor
from icnn_rl.eager import eager, transformed
from icnn_rl.first_order import first_order
from icnn_rl.qp.api import solve_qp
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.sets.ellipsoid import Ellipsoid, times, trace, unit
from icnn_rl.sets.trust_region import trust_region
from icnn_rl.solution import SolveError, Status

__all__ = ["ConvexSet", "Ellipsoid", "Interior", "Minimum"]

Bound = float | Tensor | None

_SEARCH = 60  # steps of the root search at most; six are the rule
_ON_BOUNDARY = 1e-12  # relative distance from the ellipsoid's boundary at which the search ends
_TOUCHING = 1e-12  # likewise at which rows and ellipsoid have one point in common, and no more
_STATIONARY = 1e-9  # relative residual of the minimiser over an ellipsoid alone
_CLOSE = 1e-9  # likewise within which y(lam) will do; and how well the last QP's multiplier has to agree with lam
_NEAR = 1e-5  # likewise within which one step along the tangent, to first order, is as good
_JUMP = 2e-10  # relative change of the objective that the ellipsoid may still make where y(lam) jumps at 0
_HOLDS = 1e-9  # by how much, relative to their sizes, rows and ellipsoid may be violated by a point that is a SUCCESS
_ROUNDING = 64.0  # units of eps, of the terms of a sum, that it may be off
_FLAT = 1e6  # condition number of M from which on the set is looked at in the ellipsoid's own coordinates
_FAR = 1e4  # likewise distance of the origin from the centre, in radii
_DEFINITE = 1e10  # condition number of M, its variables scaled, up to which it is factored
_LONG = 1e3  # of its least one: the width of an ellipsoid where it has none, and nothing else says how far to look
_GAP = 1e-6  # relative, in the objective, that the certificate of a minimum over an ellipsoid may leave
_LONG_AXIS = 10.0  # axes that are longer than so many usual lengths end there
_ANYWHERE = 1e6  # sizes within which a set without bounds is looked for
_LITTLE = 1e-10  # of the trace of M
_PINNED = 1e-9  # of the largest eigenvalue: directions in which a point that only touches does not move


class Interior(NamedTuple):
    """A point far from the borders of a set.

    point (B, n); depth (B,): by how much, measured as a distance, every row, bound and ellipsoid holds there, 1 at
    most. It is 0 where the set has no interior, or next to none, and < 0 where the set is empty: ``point`` is then one
    that violates the worst constraint least, or, with depth -inf, one of no meaning. Auxiliary variables keep their
    distance too, so the true depth of a lifted set may be larger.
    """

    point: Tensor
    depth: Tensor


class _Units(NamedTuple):
    """What rows (..., m), equations (..., q) and ellipsoid (...) of a set were multiplied by; None: by nothing."""

    rows: Tensor | None
    equations: Tensor | None
    ellipsoid: Tensor | None


class Minimum(NamedTuple):
    """Minimiser of a quadratic over a set.

    value (..., n), differentiable, on an ellipsoid's border once; multiplier (...) of the ellipsoid, in the units of
    lam above; solution: of the last quadratic programme, with the multipliers of the rows and bounds and the status of
    each row of the batch. Where no point is in rows, bounds and ellipsoid, the status is PRIMAL_INFEASIBLE and
    ``value`` breaks as little as possible.
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

    def _or(self, other: Minimum) -> Minimum:
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

    def _of(self, units: _Units) -> Minimum:
        """With the multipliers and slacks of a set whose rows were multiplied by these."""
        s, change = self.solution, dict[str, Any]()
        for names, scale in ((_OF_ROWS, units.rows), (("dual_eq", "violation_eq"), units.equations)):
            if scale is not None:
                for name in names:
                    part = getattr(s, name)
                    change[name] = part * scale if name.startswith("dual") else part / scale
        multiplier = self.multiplier if units.ellipsoid is None else self.multiplier * units.ellipsoid
        return Minimum(self.value, multiplier, dataclasses.replace(s, **change))

    def _lost(self, rows: Tensor) -> Minimum:
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
            return tame.minimise(Q, p, solver=solver, warm_start=warm_start, throw=False)._of(units).checked(throw)
        if self.ellipsoid is None:
            solution = self._solve(Q, p, solver=solver, warm_start=warm_start, throw=throw)
            return Minimum(self._own(solution.value), torch.zeros_like(solution.fun), solution)
        check_float_tensor("p", p)
        double = self.to(p.detach().double())
        matrix = _dense(Q, p.shape[-1], p).double()
        matrix = 0.5 * (matrix + matrix.mT)
        sound, indefinite = double._sound(torch.finfo(p.dtype).eps)
        found = sound._over_ellipsoid(matrix, p.double(), solver, warm_start, _traced(Q, p, self))
        if indefinite is not None:
            found = found._lost(indefinite)
        return found.to(p.dtype).checked(throw)

    def _over_ellipsoid(
        self, Q: Tensor, p: Tensor, solver: PrimalDual | External | None, warm_start: ActiveSet | None, traced: bool
    ) -> Minimum:
        """The minimum over a set with an ellipsoid, in float64: in the coordinates that promise most, then in the
        others where they did not keep it."""
        ellipsoid = self.ellipsoid
        assert ellipsoid is not None
        if not traced and self._alone():
            found = self._on_ellipsoid(Q, p)
            if bool((found.status != Status.NUMERICAL).all()):
                return found
        ways = [
            lambda: _Search(self, ellipsoid, Q, p, solver, warm_start).run(),
            lambda: self._in_own_axes(Q, p, solver),
        ]
        if flat := self._flat():
            ways.reverse()
        found = self._verified(*ways[0](), Q, p)
        # under a transform there is no looking at the status
        if flat or not transformed():
            short = (found.status == Status.NUMERICAL) | (found.status == Status.MAX_STEPS)
            if bool(short.any()):
                found = found._or(self._verified(*ways[1](), Q, p))
        return found

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

    def in_unit_rows(self) -> tuple[ConvexSet, _Units | None]:
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
        return dataclasses.replace(self, **parts, ellipsoid=ellipsoid), _Units(*scales)

    @eager("ConvexSet.interior")
    def interior(self, like: Tensor) -> Interior:
        """A point away from all borders: the centre of the largest ball between rows and bounds, of radius 1 at most;
        with an ellipsoid, a point of it towards that centre. ``like`` (..., n): shape, dtype and device."""
        tame, units = self.in_unit_rows()
        if units is not None:
            return tame.interior(like)
        centre = self._centre(like)
        if self.ellipsoid is None:
            return centre
        # the point of the polytope deepest in the ellipsoid, moved a little towards the centre of the polytope
        sound, indefinite = self._sound(torch.finfo(like.dtype).eps)
        ellipsoid = sound.ellipsoid
        assert ellipsoid is not None
        nearest, _ = self._nearest_to_center(ellipsoid, like)
        known = (centre.depth >= 0) & (nearest.status == Status.SUCCESS)  # else there is the centre alone
        deepest = torch.where(known.unsqueeze(-1), nearest.value, centre.point)
        shares = like.new_tensor(_SHARES).reshape(-1, *(1,) * like.dim())
        points = deepest + shares * (centre.point - deepest)
        share = torch.where(known, shares.squeeze(-1), 1.0)
        depths = torch.minimum(share * centre.depth, _snapped(ellipsoid.depth(points), points))
        depth, best = depths.max(0)
        point = points.gather(0, best.unsqueeze(-1).expand_as(centre.point).unsqueeze(0)).squeeze(0)
        depth = torch.minimum(depth, centre.depth)
        return Interior(point, depth if indefinite is None else torch.where(indefinite, -torch.inf, depth))

    @eager("ConvexSet.least_violating")
    def least_violating(self, proposal: Tensor) -> Tensor:
        """Of the points within the bounds at which the largest violation of a row is smallest, the one nearest to the
        proposal (..., n); of a row or bound where the bounds contradict each other. For empty sets.

        Rows of zeros say nothing about where. With an ellipsoid, where the rows can hold, they do, and the ellipsoid as
        nearly as it can; a set that is not empty gives one of its points.
        """
        if proposal.dtype != torch.float64:
            return self.to(proposal.double()).least_violating(proposal.double()).to(proposal)
        tame, units = self.in_unit_rows()
        if units is not None:
            return tame.least_violating(proposal)
        proposal = proposal.nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)
        flat, _ = dataclasses.replace(self, ellipsoid=None)._without_zeros()
        kept = flat._centre(proposal, hard=True)
        hard = torch.isfinite(kept.depth)
        loose = kept if bool(hard.all()) else flat._centre(proposal)
        point = torch.where(hard.unsqueeze(-1), kept.point, loose.point)
        least = -torch.where(hard, kept.depth, loose.depth)
        least = least.clamp(min=0.0) + _RELAXED * (1.0 + least.abs() + point.abs().amax(-1))
        relaxed = flat._relaxed(least, torch.where(hard, 0.0, least))
        near = relaxed.project(proposal, throw=False)
        point = torch.where((near.status == Status.SUCCESS).unsqueeze(-1), near.value, point)
        if self.ellipsoid is None:
            return point
        ellipsoid = self._sound()[0].ellipsoid  # of an indefinite M the positive part: within it the form holds too
        assert ellipsoid is not None
        nearest, _ = flat._nearest_to_center(ellipsoid, proposal)
        held = nearest.status == Status.SUCCESS
        # from there towards the point of the polytope that is nearest to the proposal, as far as the ellipsoid goes
        start, step = nearest.value, point - nearest.value
        pull = times(ellipsoid.M, step)
        a, b = (pull * step).sum(-1), (pull * (start - ellipsoid.center)).sum(-1)
        room = (ellipsoid.size - ellipsoid.form(start)).clamp(min=0.0)
        share = ((-b + (b * b + a * room).sqrt()) / a).nan_to_num(0.0).clamp(0.0, 1.0)
        share = torch.where(room > 0, share, 0.0).unsqueeze(-1)
        return torch.where(held.unsqueeze(-1), start + share * step, point)

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
        return self._map(lambda t: t.to(like))

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

    def _map(self, change: Any) -> ConvexSet:
        parts = {
            f.name: change(part) if isinstance(part := getattr(self, f.name), Tensor) else part
            for f in dataclasses.fields(self)
        }
        if self.ellipsoid is not None:
            parts["ellipsoid"] = Ellipsoid(*(change(t) for t in self.ellipsoid))
        return ConvexSet(**parts)

    def _sound(self, eps: float = torch.finfo(torch.float64).eps) -> tuple[ConvexSet, Tensor | None]:
        """With the positive part of M, and where M has a negative eigenvalue that is not rounding; None: nowhere.
        ``eps``: of the dtype that M came in."""
        if self.ellipsoid is None or transformed():
            return self, None
        spectrum = self.ellipsoid.spectrum(eps)
        indefinite = self.ellipsoid.indefinite(spectrum)
        sound = dataclasses.replace(self, ellipsoid=self.ellipsoid.without_rounding(spectrum))
        return sound, indefinite if bool(indefinite.any()) else None

    def _without_zeros(self) -> tuple[ConvexSet, Tensor | None]:
        """Without the rows of zeros that no point meets, and where there are some; None: nowhere."""
        if self.G is None or self.h is None or transformed():
            return self, None
        G, h = self.G.detach(), self.h.detach()
        if not bool((negative := h < 0).any()):
            return self, None
        hopeless = negative & (G == 0).all(-1)
        if not bool(hopeless.any()):
            return self, None
        return dataclasses.replace(self, h=torch.where(hopeless, torch.inf, self.h)), hopeless.any(-1)

    def _relaxed(self, rows: Tensor, bounds: Tensor) -> ConvexSet:
        """Rows and bounds moved outwards, by distances (...)."""
        change: dict[str, Any] = {}
        if self.G is not None and self.h is not None:
            change["h"] = self.h + self.G.norm(dim=-1) * rows.unsqueeze(-1)
        for name, sign in (("lb", -1.0), ("ub", 1.0)):
            if (bound := getattr(self, name)) is not None:
                change[name] = bound + sign * bounds.unsqueeze(-1)
        return dataclasses.replace(self, **change)

    def _flat(self) -> bool:
        """Whether the ellipsoid is so flat, or so far away, that the set is better looked at in its coordinates."""
        if self.ellipsoid is None or transformed():
            return False
        M, center, size = (t.detach() for t in self.ellipsoid)
        unused = (M == 0).all(-1)
        mean = trace(M) / (~unused).sum(-1).clamp(min=1)
        filled = M + torch.diag_embed(torch.where(unused, mean.unsqueeze(-1), 0.0))
        eigenvalues = torch.linalg.eigvalsh(filled.nan_to_num(0.0, 0.0, 0.0))
        flat = eigenvalues[..., -1] > _FLAT * eigenvalues[..., 0]
        far = (center * times(M, center)).sum(-1) > _FAR * _FAR * size
        return bool(flat.any() | far.any())

    def _axes(self, ellipsoid: Ellipsoid, length: Tensor | None = None) -> _Axes:
        """The set in the ellipsoid's own coordinates. ``length`` (...): how far from the centre to look, where neither
        rows nor bounds say it."""
        M, center, size = ellipsoid
        n, k = center.shape[-1], self.lifted
        W, diagonal = self._columns(ellipsoid, length)
        parts: dict[str, Any] = {}
        for matrix, right in (("G", "h"), ("A", "b")):
            m, v = getattr(self, matrix), getattr(self, right)
            if m is not None:
                own = m[..., :n]
                parts[matrix] = join([own @ W, *([m[..., n:]] if k else [])], -1)
                parts[right] = v - times(own, center)
                parts[f"{right} terms"] = v.detach().abs() + times(own.detach().abs(), center.detach().abs())
        rows, sides, terms = ([parts[name]] if "G" in parts else [] for name in ("G", "h", "h terms"))
        for name, sign in (("lb", -1.0), ("ub", 1.0)):
            if (bound := getattr(self, name)) is not None:
                bound = vector_of(bound, n + k, center)
                rows.append(torch.nn.functional.pad(sign * W, (0, k)))
                sides.append(sign * (bound[..., :n] - center))
                terms.append(bound[..., :n].detach().abs() + center.detach().abs())
                if k:
                    free = center.new_full((n,), -sign * -torch.inf)
                    parts[name] = join([free, bound[..., n:]], -1)
        if rows:
            parts["G"], parts["h"] = join(rows, -2), join(sides, -1)
        noise = join(terms, -1) if rows else None, parts.pop("b terms", None)
        parts.pop("h terms", None)
        # the derivatives of the form, of which diagonal is the value
        live = (W.mT @ M @ W) / size.detach()[..., None, None]
        form = torch.diag_embed(diagonal) + (live - live.detach())
        own_ellipsoid = Ellipsoid(form, torch.zeros_like(center), size / size.detach())
        return _Axes(ConvexSet(**parts, lifted=k, ellipsoid=own_ellipsoid), W, noise)

    def _columns(self, ellipsoid: Ellipsoid, far: Tensor | None) -> tuple[Tensor, Tensor]:
        """W (..., n, n), without a graph, and d (..., n) in [0, 1] with (W x)^T M (W x) = size sum_i d_i x_i^2.

        Variables are measured by how far they can go, D: by the ellipsoid, or by a usual distance of rows and bounds if
        that is less. There the columns are the axes of the ellipsoid, d_i = 1, but for axes that are too long to be
        reached: in the kernel of M they have no end.
        """
        M, center, size = (t.detach() for t in ellipsoid)
        width = (size.unsqueeze(-1) / M.diagonal(dim1=-2, dim2=-1).clamp(min=0.0)).sqrt()  # inf: any
        least = width.amin(-1, keepdim=True)
        usual = self._typical(center, far).unsqueeze(-1)
        most = torch.where(usual.isfinite(), torch.maximum(usual, least), width)
        width = torch.minimum(width, torch.where(least.isfinite(), most, usual))
        width = torch.where(width.isfinite(), width, torch.where(least.isfinite(), _LONG * least, 1.0))
        unit_form = width.unsqueeze(-1) * M * width.unsqueeze(-2) / size[..., None, None]
        e, V = torch.linalg.eigh((0.5 * (unit_form + unit_form.mT)).nan_to_num(0.0, 0.0, 0.0))
        rounding = _ROUNDING * torch.finfo(e.dtype).eps * e[..., -1:]
        e = torch.where(e > rounding, e, 0.0)
        length = e.rsqrt().clamp(max=_LONG_AXIS)
        return width.unsqueeze(-1) * V * length.unsqueeze(-2), e * length.square()

    def _typical(self, point: Tensor, else_: Tensor | None) -> Tensor:
        """The median distance of rows and bounds from the point (..., n), without any ``else_`` or inf: (...)."""
        n, distances = point.shape[-1], []
        if self.G is not None and self.h is not None:
            own = self.G.detach()[..., :n]
            distances.append((self.h.detach() - times(own, point)).abs() / own.norm(dim=-1))
        for bound in (self.lb, self.ub):
            if bound is not None:
                distances.append((vector_of(bound, n + self.lifted, point)[..., :n].detach() - point).abs())
        if not sum(part.shape[-1] for part in distances):
            return torch.full_like(point[..., 0], torch.inf) if else_ is None else else_
        every = join(distances, -1)
        median = torch.where(every.isfinite() & (every > 0), every, torch.nan).nanmedian(-1).values
        return torch.where(median.isnan(), torch.inf if else_ is None else else_, median)

    def _in_own_axes(self, Q: Tensor, p: Tensor, solver: PrimalDual | External | None) -> tuple[Minimum, Tensor]:
        """The minimum, found in the ellipsoid's coordinates, and where it is the only point."""
        ellipsoid = self.ellipsoid
        assert ellipsoid is not None
        steepest = Q.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
        force = p.detach() + times(Q.detach(), ellipsoid.center.detach())
        own, W, noise = self._axes(ellipsoid, force.norm(dim=-1) / steepest)
        assert own.ellipsoid is not None
        pull = times(W.mT, p + times(Q, ellipsoid.center))
        found, only = _Search(own, own.ellipsoid, W.mT @ Q @ W, pull, solver, None, noise).run()
        found = self._back(found, ellipsoid, W)
        y = found.value
        solution = dataclasses.replace(found.solution, fun=(y * (0.5 * times(Q, y) + p)).sum(-1))
        return Minimum(y, found.multiplier / ellipsoid.size, solution), only

    def _back(self, found: Minimum, ellipsoid: Ellipsoid, W: Tensor) -> Minimum:
        """A minimum over the set of :meth:`_axes`, as one over this set."""
        s, n, k = found.solution, W.shape[-1], self.lifted
        y = ellipsoid.center + times(W, s.value[..., :n])
        ends = 0 if self.h is None or self.G is None else self.h.shape[-1]
        duals, on = {"dual_lb": s.dual_lb, "dual_ub": s.dual_ub}, {"lower": s.active.lower, "upper": s.active.upper}
        m = ends
        for bound, dual, active in ((self.lb, "dual_lb", "lower"), (self.ub, "dual_ub", "upper")):
            if bound is not None:
                duals[dual] = torch.cat((s.dual_ineq[..., ends : ends + n], duals[dual][..., n:]), -1)
                on[active] = torch.cat((s.active.ineq[..., ends : ends + n], on[active][..., n:]), -1)
                ends += n
        solution = dataclasses.replace(
            s,
            value=torch.cat((y, s.value[..., n:]), -1) if k else y,
            **{name: getattr(s, name)[..., :m] for name in _OF_ROWS},
            active=ActiveSet(s.active.ineq[..., :m], **on),
            ray=torch.cat((times(W, s.ray[..., :n]), s.ray[..., n:]), -1),
            **duals,
        )
        return Minimum(y, found.multiplier, solution)

    def _verified(self, found: Minimum, only: Tensor, Q: Tensor, p: Tensor) -> Minimum:
        """NUMERICAL in place of SUCCESS where rows, bounds or ellipsoid do not hold, or where a better point could be,
        but in the rows in which the set has no second one, ``only``."""
        with torch.no_grad():
            good = self._holds(found) & (only | (self._gap(found, Q, p) <= _GAP))
            wrong = (found.status == Status.SUCCESS) & ~good
            status = torch.where(wrong, int(Status.NUMERICAL), found.status)
        return found._replace(solution=dataclasses.replace(found.solution, status=status))

    def _holds(self, found: Minimum) -> Tensor:
        """Whether rows, bounds and ellipsoid do: (...)."""
        assert self.ellipsoid is not None
        z = found.solution.value
        size = z.abs().amax(-1)
        holds = self.ellipsoid.holds(found.value)
        for matrix, right, both in ((self.G, self.h, False), (self.A, self.b, True)):
            if matrix is not None and right is not None and right.shape[-1]:
                out = times(matrix, z) - right
                scale = torch.where(torch.isfinite(right), right.abs(), 0.0) + matrix.norm(dim=-1) * size[..., None]
                holds = holds & ((out.abs() if both else out) <= _HOLDS * scale).all(-1)
        for bound, sign in ((self.lb, -1.0), (self.ub, 1.0)):
            if bound is not None:
                holds = holds & (sign * (z - bound) <= _HOLDS * size.unsqueeze(-1)).all(-1)
        return holds

    def _gap(self, found: Minimum, Q: Tensor, p: Tensor) -> Tensor:
        """By how much the objective could be lower at another point of the set, by weak duality with the multipliers
        found, relative to its size and beyond what rounding makes of it: (...)."""
        ellipsoid, s, z, y = self.ellipsoid, found.solution, found.solution.value, found.value
        assert ellipsoid is not None
        lam, away = found.multiplier.clamp(min=0.0), y - ellipsoid.center
        lengths, pull = y.abs() + ellipsoid.center.abs(), lam.unsqueeze(-1) * times(ellipsoid.M.abs(), away.abs())
        slope = times(Q, y) + p + lam.unsqueeze(-1) * times(ellipsoid.M, away)
        terms = times(Q.abs(), y.abs()) + p.abs() + lam.unsqueeze(-1) * times(ellipsoid.M.abs(), lengths)
        slope, terms = (torch.nn.functional.pad(t, (0, self.lifted)) for t in (slope, terms))
        rounding = _ROUNDING * torch.finfo(y.dtype).eps
        gap = 0.5 * (lam * (ellipsoid.size - ellipsoid.form(y)).abs() - rounding * (pull * lengths).sum(-1)).clamp(
            min=0.0
        )
        for matrix, right, dual in ((self.G, self.h, s.dual_ineq.clamp(min=0.0)), (self.A, self.b, s.dual_eq)):
            if matrix is not None and right is not None:
                slope, terms = slope + times(matrix.mT, dual), terms + times(matrix.abs().mT, dual.abs())
                gap = gap + torch.where(dual != 0, dual * (right - times(matrix, z)), 0.0).abs().sum(-1)
        low, high = self._room(z, ellipsoid, self.lb, -1.0), self._room(z, ellipsoid, self.ub, 1.0)
        left = (slope.abs() - rounding * terms).clamp(min=0.0)
        gap = gap + torch.where(slope > 0, left * low, left * high).sum(-1)
        scale: Tensor = (lengths * (0.5 * times(Q.abs(), lengths) + p.abs())).sum(-1)
        return gap / scale.clamp(min=torch.finfo(scale.dtype).tiny)

    def _nearest_to_center(
        self, ellipsoid: Ellipsoid, like: Tensor, noise: _Noise = (None, None)
    ) -> tuple[Minimum, Tensor]:
        """The point of rows and bounds with the smallest (y - c)^T M (y - c), and a number (...) that this is proven
        not to be below, in units of the size. ``noise``: sizes of the terms that right-hand sides were made of."""
        flat = dataclasses.replace(self, ellipsoid=ellipsoid)
        if flat._flat():
            own, W, noise = flat._axes(ellipsoid)
            assert own.ellipsoid is not None
            origin = dataclasses.replace(own, ellipsoid=None)._deepest(own.ellipsoid.M, torch.zeros_like(like))
            return self._back(origin, ellipsoid, W), own._least(own.ellipsoid, origin, noise)
        p = -times(ellipsoid.M, ellipsoid.center).expand(like.shape)
        nearest = dataclasses.replace(self, ellipsoid=None)._deepest(ellipsoid.M, p)
        return nearest, self._least(ellipsoid, nearest, noise)

    def _deepest(self, M: Tensor, p: Tensor) -> Minimum:
        """argmin 1/2 y^T M y + p^T y; where M is singular and that is not found, with a little of the identity."""
        found = self.minimise(M, p, throw=False)
        if transformed() or not bool(((found.status == Status.NUMERICAL) | (found.status == Status.MAX_STEPS)).any()):
            return found
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return found._or(self.minimise(M + _LITTLE * trace(M)[..., None, None] * eye, p, throw=False))

    @torch.no_grad()
    def _least(self, ellipsoid: Ellipsoid, nearest: Minimum, noise: _Noise) -> Tensor:
        """A lower bound of (y - c)^T M (y - c) / size over rows and bounds, by weak duality: (...).

        The form is convex, so that for any point y' of them and multipliers mu, nu, lam, kap of G y <= h, A y = b,
        lb <= y and y <= ub, with the residual r = M (y - c) + G^T mu + A^T nu - lam + kap,

            1/2 form(y') >= 1/2 form(y) + mu.(G y - h) + nu.(A y - b) + lam.(lb - y) + kap.(y - ub) + r.(y' - y),

        and |y' - y| is at most what bounds leave, or the ellipsoid, outside of which nothing has to be proven.
        """
        s, z, n = nearest.solution, nearest.solution.value, ellipsoid.center.shape[-1]
        eps, k = torch.finfo(z.dtype).eps, self.lifted
        slope = torch.nn.functional.pad(times(ellipsoid.M, nearest.value - ellipsoid.center), (0, k))
        terms = [ellipsoid.form(nearest.value).unsqueeze(-1)]  # twice the bound, summed
        sizes = [terms[0].abs()]
        for matrix, right, dual, made in (
            (self.G, self.h, s.dual_ineq, noise[0]),
            (self.A, self.b, s.dual_eq, noise[1]),
        ):
            if matrix is not None and right is not None:
                dual = dual.clamp(min=0.0) if matrix is self.G else dual
                used = dual != 0  # of an infinite side there is no multiplier
                slope = slope + times(matrix.mT, dual)
                terms.append(torch.where(used, 2.0 * dual * (times(matrix, z) - right), 0.0))
                about = right.abs() if made is None else made
                sizes.append(torch.where(used, dual.abs() * (times(matrix.abs(), z.abs()) + about), 0.0))
        # no multiplier of a bound is better than the one that takes up what is left of the slope
        room_low = self._room(z, ellipsoid, self.lb, -1.0)
        room_high = self._room(z, ellipsoid, self.ub, 1.0)
        terms.append(-2.0 * torch.where(slope > 0, slope * room_low, -slope * room_high))
        sizes.append(terms[-1].abs())
        total, off = (sum(part.sum(-1) for part in parts) for parts in (terms, sizes))
        bound: Tensor = (total - _ROUNDING * eps * off) / ellipsoid.size
        del n
        return bound

    def _room(self, z: Tensor, ellipsoid: Ellipsoid, bound: Bound, sign: float) -> Tensor:
        """How far points of the set may be from z (..., n + k) in every variable, upwards or downwards."""
        k = self.lifted
        reach = torch.nn.functional.pad(ellipsoid.reach(), (0, k), value=torch.inf)
        center = torch.nn.functional.pad(ellipsoid.center, (0, k))
        anywhere = _ANYWHERE * (1.0 + z.abs().amax(-1, keepdim=True))
        room = torch.minimum(sign * (center - z) + reach, anywhere)
        if bound is not None:
            room = torch.minimum(room, sign * (vector_of(bound, z.shape[-1], z) - z))
        return room.clamp(min=0.0)

    def _own(self, z: Tensor) -> Tensor:
        return z[..., : z.shape[-1] - self.lifted] if self.lifted else z

    def _solve(
        self,
        Q: Tensor | Diagonal | float,
        p: Tensor,
        tangent: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> QPSolution:
        """The QP over rows and bounds; ``tangent`` (..., n) and (...) is one more row over y, the last."""
        n, k = p.shape[-1], self.lifted
        helped, hopeless = self._without_zeros()
        if hopeless is not None:  # solved without these rows, and said to have no solution
            throw = options.pop("throw", True)
            solution = helped._solve(Q, p, tangent, throw=False, **options)
            status = torch.where(hopeless, int(Status.PRIMAL_INFEASIBLE), solution.status)
            value = torch.where(hopeless.unsqueeze(-1), solution.value.detach(), solution.value)
            fun = torch.where(hopeless, solution.fun.detach(), solution.fun)
            solution = dataclasses.replace(solution, value=value, fun=fun, status=status)
            if throw and bool(status.any()):
                raise SolveError(solution)
            return solution
        G, h = self.G, self.h
        if tangent is not None:
            row, right = torch.nn.functional.pad(tangent[0], (0, k)).unsqueeze(-2), tangent[1].unsqueeze(-1)
            G = row if G is None else join([G, row], -2)
            h = right if h is None else join([h, right], -1)
        if k:
            Q = _pad_quadratic(Q, n, k, p)
            p = torch.nn.functional.pad(p, (0, k))
        return solve_qp(Q, p, G, h, self.A, self.b, self.lb, self.ub, **options)

    def _alone(self) -> bool:
        """Whether the ellipsoid says it all: no row, and no bound that it does not keep."""
        ellipsoid = self.ellipsoid
        if self.lifted or self.A is not None or (self.h is not None and self.h.shape[-1]) or ellipsoid is None:
            return False
        if not all(bool(torch.isfinite(t).all()) for t in ellipsoid) or not bool((ellipsoid.size > 0).all()):
            return False
        if not bool(ellipsoid.spectrum().definite(_DEFINITE).all()):
            return False
        if self.lb is None and self.ub is None:
            return True
        reach = ellipsoid.reach()
        low, high = ellipsoid.center - reach, ellipsoid.center + reach
        return bool((low >= (-torch.inf if self.lb is None else self.lb)).all()) and bool(
            (high <= (torch.inf if self.ub is None else self.ub)).all()
        )

    def _on_ellipsoid(self, Q: Tensor, p: Tensor) -> Minimum:
        """The minimum where the ellipsoid says it all, without derivatives."""
        assert self.ellipsoid is not None
        M, center, size = self.ellipsoid
        finite = torch.isfinite(p).all(-1) & torch.isfinite(Q).all(-1).all(-1)
        row = finite.unsqueeze(-1)
        y, lam = trust_region(torch.where(row.unsqueeze(-1), Q, 0.0), torch.where(row, p, 0.0), M, center, size)
        y, lam = torch.where(row, y, torch.nan), torch.where(finite, lam, torch.nan)
        slope = times(Q, y) + p
        left = (slope + lam.unsqueeze(-1) * times(M, y - center)).norm(dim=-1)
        residual = left / (slope.norm(dim=-1) + p.norm(dim=-1)).clamp(min=torch.finfo(p.dtype).tiny)
        status = torch.where(residual <= _STATIONARY, int(Status.SUCCESS), int(Status.NUMERICAL))
        status = torch.where(finite, status, int(Status.NONFINITE_INPUT))
        nothing, none = torch.zeros_like(lam), torch.zeros_like(y)
        rows, no_bound = none[..., :0], torch.zeros_like(y, dtype=torch.bool)
        solution = QPSolution(
            value=y,
            fun=(y * (0.5 * times(Q, y) + p)).sum(-1),
            gap=nothing,
            status=status,
            num_steps=torch.ones_like(status),
            residual=residual,
            dual_ineq=rows,
            dual_ineq_low=rows,
            dual_eq=rows,
            dual_lb=none,
            dual_ub=none,
            slack=rows,
            slack_low=rows,
            violation_ineq=rows,
            violation_eq=rows,
            primal_residual=self.ellipsoid.violation(y).clamp(min=0.0),
            dual_residual=residual,
            active=ActiveSet(no_bound[..., :0], no_bound, no_bound),
            ray=none,
        )
        return Minimum(y, lam, solution)

    def _centre(self, like: Tensor, hard: bool = False) -> Interior:
        """The linear programme max t: G y + ||g|| t <= h, A y = b, lb + t <= y <= ub - t, t <= 1; ``hard`` bounds hold
        without t. depth is -inf where no t will do, NaN where the set is not finite."""
        if like.dtype != torch.float64:  # in float32 thin sets are lost in the rounding of rows and prices
            point, depth = self.to(like.double())._centre(like.double(), hard)
            return Interior(point.to(like), depth.to(like))
        n, k = like.shape[-1], self.lifted
        width, eye = n + k, torch.eye(n + k, dtype=like.dtype, device=like.device)
        rows, right = [], []
        if self.G is not None and self.h is not None:
            norm = self.G.norm(dim=-1, keepdim=True)
            scale = torch.where(norm > 0, norm, 1.0)
            rows.append(torch.cat((self.G / scale, norm / scale), -1))
            # a row of zeros says nothing about where
            right.append(torch.where(norm.squeeze(-1) > 0, self.h / scale.squeeze(-1), self.h.clamp(min=0.0)))
        most = like.new_full((width + 1,), torch.inf)
        least = -most
        most[-1] = 1.0
        for bound, sign in ((self.lb, -1.0), (self.ub, 1.0)):
            if bound is not None:
                rows.append(torch.cat((sign * eye, eye.new_full((width, 1), float(not hard))), -1))
                right.append(sign * vector_of(bound, width, like))
        G = join(rows, -2) if rows else None
        h = join(right, -1) if right else None
        A = None if self.A is None else torch.nn.functional.pad(self.A, (0, 1))
        price = like.new_zeros(*like.shape[:-1], width + 1)
        price[..., -1] = -1.0
        found = solve_qp(0.0, price, G, h, A, self.b, lb=least, ub=most, throw=False)
        # where nearly equal widths compete the programme may end short of its tolerance: what counts is the point
        depth = torch.where(
            found.status == Status.SUCCESS, found.value[..., -1], self._depth(found.value[..., :-1], hard)
        )
        depth = torch.where(found.status == Status.PRIMAL_INFEASIBLE, -torch.inf, depth)
        if not hard and (hopeless := self._without_zeros()[1]) is not None:
            depth = torch.where(hopeless, -torch.inf, depth)
        return Interior(found.value[..., :n], _snapped(depth, found.value[..., :n]))

    def _depth(self, z: Tensor, hard: bool) -> Tensor:
        """By how much rows, and bounds unless ``hard``, hold at z (..., n + k), 1 at most: (...)."""
        room = [torch.ones_like(z[..., 0])]
        if self.G is not None and self.h is not None and self.h.shape[-1]:
            room.append(-row_violation(self.G, self.h, z).amax(-1))
        if self.A is not None and self.b is not None and self.b.shape[-1]:
            room.append(-row_violation(self.A, self.b, z).abs().amax(-1))
        if not hard:
            room += [(z - self.lb).amin(-1)] if self.lb is not None else []
            room += [(self.ub - z).amin(-1)] if self.ub is not None else []
        return functools.reduce(torch.minimum, room)


#: Sizes of the terms that the right-hand sides of rows and of equations were made of; None: of the sides themselves.
_Noise = tuple[Tensor | None, Tensor | None]


class _Axes(NamedTuple):
    """A set in an ellipsoid's coordinates: the set of the x, bounds as rows, with center + W x in the original one, of
    which the ellipsoid is sum_i d_i x_i^2 <= 1 with d_i in [0, 1]; W; and the noise in the rows."""

    set: ConvexSet
    W: Tensor
    noise: _Noise


#: How far towards the centre of the polytope interior points of its intersection with an ellipsoid are looked for.
_SHARES = (0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 0.0)


#: What a solution says of every row of G.
_OF_ROWS = ("dual_ineq", "dual_ineq_low", "slack", "slack_low", "violation_ineq")

_RELAXED = 1e-11  # of the sizes: by how much more than by the least violation rows are relaxed
_LARGEST = 1e9  # proposals further away count as this


def _snapped(depth: Tensor, point: Tensor) -> Tensor:
    """A depth that is but rounding is 0."""
    rounding = 16 * torch.finfo(point.dtype).eps * (1.0 + point.abs().amax(-1))
    return torch.where(depth.abs() <= rounding, 0.0, depth)


class _Search:
    """The multiplier of the ellipsoid, and the minimiser that belongs to it; in float64."""

    def __init__(
        self,
        owner: ConvexSet,
        ellipsoid: Ellipsoid,
        Q: Tensor,
        p: Tensor,
        solver: PrimalDual | External | None,
        warm_start: ActiveSet | None,
        noise: _Noise = (None, None),
    ) -> None:
        self.owner, self.ellipsoid, self.Q, self.p, self.noise = owner, ellipsoid, Q, p, noise
        self.options: dict[str, Any] = {"solver": solver, "throw": False}
        self.pull = times(ellipsoid.M, ellipsoid.center)
        self.active = warm_start
        self.jumped = torch.zeros((), dtype=torch.bool, device=p.device)  # y(lam) goes inside at once
        # what the search works on, without a graph
        self.still = owner._map(Tensor.detach), Ellipsoid(*(t.detach() for t in ellipsoid))

    def run(self) -> tuple[Minimum, Tensor]:
        """The minimum, and where rows and ellipsoid have but one point in common, which needs no multiplier."""
        free = self.owner._solve(self.Q, self.p, warm_start=self.active, **self.options)
        with torch.no_grad():
            y = self.owner._own(free.value)
            f = torch.where(free.status == Status.DUAL_INFEASIBLE, 1.0, self.excess(y))
            outside = (f > 0) & ((free.status == Status.SUCCESS) | (free.status == Status.DUAL_INFEASIBLE))
        shape = torch.broadcast_shapes(f.shape, free.status.shape)  # type: ignore[no-untyped-call]
        unknown = (free.status == Status.SUCCESS) & f.isnan()
        if not bool((outside | unknown).any()) and free.status.shape == shape:
            return Minimum(self.owner._own(free.value), torch.zeros_like(free.fun), free), torch.zeros_like(outside)
        return self._on_boundary(free, f, outside)

    def _on_boundary(self, free: QPSolution, f: Tensor, outside: Tensor) -> tuple[Minimum, Tensor]:
        ellipsoid = self.ellipsoid
        with torch.no_grad():
            nearest, touching, empty = self._nearest(f, outside)
            nearest = self._sliding(nearest, touching)
            searched = outside & ~touching & ~empty & nearest.isfinite().all(-1)
            self.active = free.active if free.value.shape[:-1] == f.shape else None
            lam, y, sure = self.multiplier(f, searched)
            y = torch.where(searched.unsqueeze(-1), y, self.owner._own(free.value))
        on, weight = searched.unsqueeze(-1), lam.unsqueeze(-1)
        # form = size to first order in y, and in M, c and size where they are live; +inf: no row
        slope = torch.where(on, times(self.still[1].M, y - self.still[1].center), 0.0)
        change = 0.5 * (ellipsoid.size - ellipsoid.form(y))
        right = torch.where(searched, (slope * y).sum(-1) + change, torch.where(f.isnan(), torch.nan, torch.inf))
        # lam times the slope is taken out of the objective, so that the row, and not the objective, carries lam
        Q, p = self.Q + weight.unsqueeze(-1) * ellipsoid.M, self.p - weight * (self.pull + slope)
        guess = self.active and self.active._replace(ineq=torch.cat((self.active.ineq, on), -1))
        solution = self.owner._solve(Q, p, tangent=(slope, right), warm_start=guess, **self.options)
        if bool(searched.any()):
            solution = _once(solution)
        with torch.no_grad():
            # y(lam) is exact for a size that differs by its excess: where the last QP, ill-conditioned with the
            # ellipsoid, is not as good, it has a say in the derivatives alone
            found, error = self.owner._own(solution.value), self.excess(y).abs()
            jumped = searched & sure & self.jumped
            close, solved = (searched & sure & (error <= _CLOSE)) | jumped, solution.status == Status.SUCCESS
            solved = solved & ~jumped
            agrees = (solution.dual_ineq[..., -1] - lam).abs() <= _CLOSE * lam
            agrees = agrees & (self.excess(found).abs() <= error.clamp(min=_ON_BOUNDARY))
            correction = torch.where((close & solved & ~agrees).unsqueeze(-1), y - found, 0.0)
            y = torch.where((close & ~solved).unsqueeze(-1), y, nearest)
            # to first order from a point that is not on the boundary is not good enough
            vague = searched & solved & ~close & ~(sure & (error <= _NEAR))
            status = torch.where(vague, int(Status.NUMERICAL), solution.status)
            status = torch.where(touching | close, int(Status.SUCCESS), status)
            lost = outside & ~searched & ~touching & ~empty & (status == Status.SUCCESS)
            status = torch.where(lost, int(Status.NUMERICAL), status)
            status = torch.where(empty, int(Status.PRIMAL_INFEASIBLE), status)
        return self._report(solution, status, correction, y, touching | empty | (close & ~solved)), touching

    def _nearest(self, f: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points of rows and bounds deepest in the ellipsoid; where that is on its boundary, the only one that both
        have in common, and where outside, with nothing in common."""
        owner, ellipsoid = self.still
        if owner._alone():
            return ellipsoid.center.expand(*f.shape, -1), torch.zeros_like(outside), torch.zeros_like(outside)
        nearest, least = owner._nearest_to_center(ellipsoid, self.p.detach().expand(*f.shape, -1), self.noise)
        f_least = self.excess(nearest.value)
        reach = ((ellipsoid.center * self.pull.detach()).sum(-1) / ellipsoid.size).clamp(min=0.0).sqrt()
        touching = outside & (f_least.abs() <= _TOUCHING * (1.0 + reach))
        empty = outside & (f_least > 0) & ~touching & (least > 1.0)
        unknown = outside & ~touching & ~empty & ~(f_least < 0)
        return torch.where(unknown.unsqueeze(-1), torch.nan, nearest.value), touching, empty

    def _sliding(self, nearest: Tensor, touching: Tensor) -> Tensor:
        """Where rows and ellipsoid only touch, and M leaves a direction open, the best of the points that they have in
        common; NaN where that is not found."""
        owner, ellipsoid = self.still
        if not bool(touching.any()):
            return nearest
        spectrum = ellipsoid.spectrum()
        fixed = spectrum.values > _PINNED * spectrum.values[..., -1:]
        if bool(fixed.all()):
            return nearest
        rows = (spectrum.vectors * spectrum.scale.unsqueeze(-1)).mT * fixed.unsqueeze(-1)
        rows = torch.where(touching[..., None, None], rows, 0.0)
        sides, rows = times(rows, nearest.nan_to_num()), torch.nn.functional.pad(rows, (0, owner.lifted))
        A = rows if owner.A is None else join([owner.A, rows], -2)
        b = sides if owner.b is None else join([owner.b, sides], -1)
        found = dataclasses.replace(owner, A=A, b=b)._solve(self.Q.detach(), self.p.detach(), **self.options)
        best = torch.where((found.status == Status.SUCCESS).unsqueeze(-1), owner._own(found.value), torch.nan)
        return torch.where(touching.unsqueeze(-1), best, nearest)

    def _report(self, solution: QPSolution, status: Tensor, correction: Tensor, y: Tensor, other: Tensor) -> Minimum:
        """The last QP without the row of the tangent, corrected; y, without derivatives, in the other rows."""
        k = self.owner.lifted
        value = solution.value + torch.nn.functional.pad(correction, (0, k))
        other_value = torch.cat((y, solution.value[..., y.shape[-1] :].detach()), -1) if k else y
        value = torch.where(other.unsqueeze(-1), other_value, value)
        y = self.owner._own(value)
        multiplier = solution.dual_ineq[..., -1]
        solution = dataclasses.replace(
            solution,
            value=value,
            fun=(y * (0.5 * times(self.Q, y) + self.p)).sum(-1),
            status=status,
            **{name: getattr(solution, name)[..., :-1] for name in _OF_ROWS},
            active=solution.active._replace(ineq=solution.active.ineq[..., :-1]),
        )
        return Minimum(y, multiplier, solution)

    def at(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """y(lam), without a graph, and whether it is that."""
        owner, ellipsoid = self.still
        lam = lam.unsqueeze(-1)
        Q, p = self.Q.detach() + lam.unsqueeze(-1) * ellipsoid.M, self.p.detach() - lam * self.pull.detach()
        if owner.G is None and owner.A is None and owner.lb is None and owner.ub is None:
            y: Tensor = -torch.linalg.solve_ex(Q, p)[0]
            left = (times(Q, y) + p).abs().amax(-1)
            if bool((solved := left <= _STATIONARY * p.abs().amax(-1)).all()):
                return y, solved
        solution = owner._solve(Q, p, warm_start=self.active, **self.options)
        self.active = solution.active
        return owner._own(solution.value), solution.status == Status.SUCCESS

    def excess(self, y: Tensor) -> Tensor:
        """1 - sqrt(size / form): positive outside, and nearly linear in lam (More and Sorensen 1983)."""
        form, size = self.still[1].form(y), self.still[1].size.clamp(min=0.0)
        return (1.0 - (size / form.clamp(min=torch.finfo(y.dtype).tiny)).sqrt()).clamp(min=-8.0)

    def multiplier(self, f: Tensor, searched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """lam with y(lam) on the boundary, y(lam), and whether that was found, for the rows searched; 0 elsewhere.

        Args:
            f: the excess at lam = 0.
            searched: rows that have points outside, where y(0) is, and inside.
        """
        M, center, size = self.still[1]
        if self.still[0]._alone():
            row = searched.unsqueeze(-1)
            Q, p = torch.where(row.unsqueeze(-1), self.Q.detach(), M), torch.where(row, self.p.detach(), 0.0)
            y, lam = trust_region(Q, p, M, center, size)
            return torch.where(searched, lam, 0.0), y, torch.isfinite(y).all(-1)
        balance = trace(self.Q.detach()) / trace(M)
        # exact where Q is a multiple of M and no row is in the way
        guess = balance * f / (1.0 - f)
        slope = self.p.detach().norm(dim=-1) / (M.norm(dim=(-2, -1)) * size).sqrt()
        high = torch.where((f < 1) & (guess > 0), guess, balance + slope).expand_as(f)
        low, f_low, f_high = torch.zeros_like(f), f, torch.ones_like(f)
        lam, y, done, bracketed = high, self.p.detach().expand(*f.shape, -1), ~searched, torch.zeros_like(searched)
        sure = torch.ones_like(searched)
        for _ in range(2 * _SEARCH):
            secant = (low * f_high - high * f_low) / (f_high - f_low)
            inside = torch.where((secant > low) & (secant < high), secant, 0.5 * (low + high))
            # where Q is singular y(lam) may jump at 0: then the first y(lam) is as good as any, to lam size / 2
            terms = 0.5 * times(self.Q.detach().abs(), y.abs()) + self.p.detach().abs()
            least = _JUMP * (terms * y.abs()).sum(-1).nan_to_num() / size
            inside = torch.where(low == 0, torch.minimum(torch.maximum(inside, least), high), inside)
            lam = torch.where(done, lam, torch.where(bracketed, inside, high))
            trial, solved = self.at(torch.where(searched, lam, 0.0))
            y = torch.where(done.unsqueeze(-1), y, trial)
            sure = torch.where(done, sure, solved)
            now = self.excess(trial)
            over = now > 0
            self.jumped = self.jumped | (~done & bracketed & (lam <= least) & (low == 0) & (now < -_NEAR))
            done = (
                done
                | self.jumped
                | (now.abs() <= _ON_BOUNDARY)
                | now.isnan()
                | (bracketed & (high - low <= 1e-15 * high))
            )
            if bool(done.all()):
                break
            # Illinois: the end that stays has its value halved, so that both ends move
            f_low, f_high = (
                torch.where(over, now, torch.where(bracketed, 0.5 * f_low, f_low)),
                torch.where(over, torch.where(bracketed, 0.5 * f_high, f_high), now),
            )
            further = high + (high - low) * (1.5 * now / (f_low - now).abs()).nan_to_num(64.0).clamp(1.0, 64.0)
            low, high = torch.where(over, lam, low), torch.where(over, torch.where(bracketed, high, further), lam)
            bracketed = bracketed | ~over
        return torch.where(searched, lam, 0.0), y, sure


def _once(solution: QPSolution) -> QPSolution:
    """A solution with a row of the tangent, which stands for the ellipsoid to first order: second derivatives, which
    would lack its curvature, are refused."""
    names = ("value", "dual_ineq", "dual_eq", "dual_lb", "dual_ub")
    parts: dict[str, Any] = {name: first_order(getattr(solution, name)) for name in names}
    return dataclasses.replace(solution, **parts)


def _traced(Q: Tensor | Diagonal | float, p: Tensor, owner: ConvexSet) -> bool:
    """Whether somebody may want derivatives."""
    parts = (Q.d if isinstance(Q, Diagonal) else Q, p, *(owner.ellipsoid or ()))
    return transformed() or (torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in parts))


def largest(parts: list[Tensor]) -> Tensor:
    """Elementwise maximum of tensors that broadcast."""
    return functools.reduce(torch.maximum, parts)


def row_violation(G: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """(g_i^T y - h_i) / ||g_i|| for every row; a row of zeros holds (-inf) or does not (inf): (..., m).

    Computed in float64, where numbers of float32 neither overflow nor cancel.
    """
    G, h, like = G.double(), h.double(), y
    y = y.double()
    norm = torch.linalg.vector_norm(G, dim=-1)
    if not transformed() and (scale := unit(G.detach().abs().amax(-1)) if G.numel() else None) is not None:
        G, h = G * scale.unsqueeze(-1), h * scale
        norm = torch.linalg.vector_norm(G, dim=-1)
    away = times(G, y) - h
    zero = torch.where(away > 0, torch.inf, away - torch.inf)  # NaN stays NaN
    return torch.where(norm > 0, away / norm.clamp(min=torch.finfo(torch.float64).tiny), zero).to(like.dtype)


def vector_of(bound: float | Tensor, n: int, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(bound, dtype=like.dtype, device=like.device)
    return tensor.expand(*tensor.shape[:-1], n) if tensor.dim() else tensor.expand(n)


def join(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate along ``dim`` (negative); leading dimensions broadcast."""
    if len(parts) == 1:
        return parts[0]
    batch = torch.broadcast_shapes(*(t.shape[:dim] for t in parts))  # type: ignore[no-untyped-call]
    return torch.cat([t.expand(*batch, *t.shape[dim:]) for t in parts], dim)


def _dense(Q: Tensor | Diagonal | float, n: int, like: Tensor) -> Tensor:
    if isinstance(Q, Diagonal):
        return torch.diag_embed(Q.d)
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return Q
    return torch.as_tensor(Q, dtype=like.dtype, device=like.device) * torch.eye(n, dtype=like.dtype, device=like.device)


def _pad_quadratic(Q: Tensor | Diagonal | float, n: int, k: int, like: Tensor) -> Tensor | Diagonal:
    """Q over (y, u): nothing is charged for u."""
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return torch.nn.functional.pad(Q, (0, k, 0, k))
    d = Q.d if isinstance(Q, Diagonal) else torch.as_tensor(Q, dtype=like.dtype, device=like.device).expand(n)
    return Diagonal(torch.nn.functional.pad(d, (0, k)))
