"""Convex sets given by linear rows, bounds and at most one ellipsoid, and the quadratic programme over them.

    C = { y in R^n : G (y, u) <= h and A (y, u) = b for some u in R^k,  lb <= (y, u) <= ub,
                     (y - c)^T M (y - c) <= r }

k = 0 for most sets: the auxiliary u serve constraints that would need 2^n rows without them. Rows, bounds and
right-hand sides may differ from problem to problem of a batch.

With an ellipsoid the programme is no longer quadratic, and is still solved exactly: for a multiplier lam >= 0 of the
ellipsoid the minimiser of the Lagrangian over rows and bounds is a QP with Q + lam M in Q's place, whose
(y - c)^T M (y - c) falls as lam rises. lam is found by a bracketing root search, in one dimension; the last QP has the
ellipsoid's tangent as an equality, which puts the answer on the boundary to the square of what was left and makes it
differentiable in everything.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.external import External
from icnn_rl.qp.primal_dual import PrimalDual
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.qp.solving import solve_qp
from icnn_rl.solution import SolveError, Status

__all__ = ["ConvexSet", "Ellipsoid", "Interior", "Minimum"]

Bound = float | Tensor | None

_SEARCH = 60  # steps of the root search at most; ten are the rule
_ON_BOUNDARY = 1e-9  # relative distance from the ellipsoid's boundary at which the tangent finishes the job


class Ellipsoid(NamedTuple):
    """{ y : (y - center)^T M (y - center) <= size }: M (..., n, n) positive definite, center (..., n), size (...)
    > 0."""

    M: Tensor
    center: Tensor
    size: Tensor

    def form(self, y: Tensor) -> Tensor:
        """(y - c)^T M (y - c): (..., n) -> (...)."""
        d = y - self.center
        form: Tensor = (d * _times(self.M, d)).sum(-1)
        return form

    def violation(self, y: Tensor) -> Tensor:
        """Distance to the boundary to first order, < 0 inside: (...)."""
        d = y - self.center
        slope = _times(self.M, d)
        # sqrt(form) - sqrt(size) over the norm of its gradient M d / sqrt(form)
        root = (d * slope).sum(-1).clamp(min=torch.finfo(y.dtype).tiny).sqrt()
        steepness = slope.norm(dim=-1) / root
        away: Tensor = (root - self.size.sqrt()) / steepness.clamp(min=torch.finfo(y.dtype).tiny)
        return away


class Interior(NamedTuple):
    """A point far from the borders of a set.

    point (B, n); depth (B,): by how much, measured as a distance, every row and bound holds there; < 0 where the set is
    empty, and ``point`` is then one whose largest violation is smallest.
    """

    point: Tensor
    depth: Tensor


class Minimum(NamedTuple):
    """Minimiser of a quadratic over a set.

    value (..., n), differentiable; multiplier (...) of the ellipsoid, in the units of lam above; solution: of the last
    quadratic programme, with the multipliers of the rows and bounds and the status of each row of the batch.
    """

    value: Tensor
    multiplier: Tensor
    solution: QPSolution

    @property
    def status(self) -> Tensor:
        """(...) see :class:`icnn_rl.Status`."""
        return self.solution.status


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
        options: dict[str, Any] = {"solver": solver, "throw": throw}
        if self.ellipsoid is None:
            solution = self._solve(Q, p, warm_start=warm_start, **options)
            return Minimum(self._own(solution.value), torch.zeros_like(solution.fun), solution)
        return _Search(self, self.ellipsoid, Q, p, options).run()

    def project(self, point: Tensor, *, throw: bool = True, warm_start: ActiveSet | None = None) -> Minimum:
        """The nearest point of the set, differentiable in ``point`` (..., n) and in what describes the set."""
        return self.minimise(1.0, -point, throw=throw, warm_start=warm_start)

    def violation(self, y: Tensor) -> Tensor:
        """Largest violation of y (..., n), as a distance: (g_i^T y - h_i) / ||g_i||; <= 0 inside: (...).

        Raises:
            ValueError: the set has auxiliary variables; ask the constraint that it came from.
        """
        if self.lifted:
            raise ValueError("violation: the set has auxiliary variables. Ask the constraint that it came from.")
        parts = []
        if self.G is not None and self.h is not None:
            parts.append(row_violation(self.G, self.h, y).amax(-1))
        if self.A is not None and self.b is not None:
            away = _times(self.A, y) - self.b
            parts.append((away.abs() / self.A.norm(dim=-1).clamp(min=torch.finfo(y.dtype).tiny)).amax(-1))
        if self.lb is not None:
            parts.append((self.lb - y).amax(-1))
        if self.ub is not None:
            parts.append((y - self.ub).amax(-1))
        if self.ellipsoid is not None:
            parts.append(self.ellipsoid.violation(y))
        return largest(parts) if parts else y.new_full(y.shape[:-1], -torch.inf)

    def interior(self, like: Tensor) -> Interior:
        """A point away from all borders: the centre of the largest ball between rows and bounds, of radius 1 at most;
        with an ellipsoid, a point of it towards that centre. ``like`` (..., n): shape, dtype and device."""
        centre = self._centre(like)
        if self.ellipsoid is None:
            return centre
        # the point of the polytope deepest in the ellipsoid, moved a little towards the centre of the polytope
        ellipsoid = self.ellipsoid
        form = ellipsoid.M, -_times(ellipsoid.M, ellipsoid.center)
        nearest = dataclasses.replace(self, ellipsoid=None).minimise(*form, throw=False).value
        deepest = torch.where((centre.depth >= 0).unsqueeze(-1), nearest, centre.point)
        shares = like.new_tensor(_SHARES).reshape(-1, *(1,) * like.dim())
        points = deepest + shares * (centre.point - deepest)
        depths = torch.minimum(shares.squeeze(-1) * centre.depth, -ellipsoid.violation(points))
        depth, best = depths.max(0)
        point = points.gather(0, best.unsqueeze(-1).expand_as(centre.point).unsqueeze(0)).squeeze(0)
        return Interior(point, torch.minimum(depth, centre.depth))

    def least_violating(self, like: Tensor) -> Tensor:
        """A point within the bounds at which the largest violation of a row is smallest; of a row or bound where the
        bounds contradict each other. For empty sets."""
        kept = self._centre(like, hard=True)
        point = torch.where(torch.isfinite(kept.depth).unsqueeze(-1), kept.point, self._centre(like).point)
        if self.ellipsoid is None:
            return point
        flat = dataclasses.replace(self, ellipsoid=None)
        form = self.ellipsoid.M, -_times(self.ellipsoid.M, self.ellipsoid.center)
        nearest = flat.minimise(*form, throw=False)  # the rows hold, the ellipsoid as nearly as it can
        return torch.where((nearest.status == Status.SUCCESS).unsqueeze(-1), nearest.value, point)

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
                rows[matrix], rows[right] = m * s, v - _times(m, o)
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

    def _own(self, z: Tensor) -> Tensor:
        return z[..., : z.shape[-1] - self.lifted] if self.lifted else z

    def _solve(
        self,
        Q: Tensor | Diagonal | float,
        p: Tensor,
        tangent: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> QPSolution:
        """The QP over rows and bounds; ``tangent`` is one more equality over y."""
        n, k = p.shape[-1], self.lifted
        A, b = self.A, self.b
        if tangent is not None:
            row = torch.nn.functional.pad(tangent[0], (0, k)).unsqueeze(-2)
            A, b = (
                (row, tangent[1].unsqueeze(-1))
                if A is None or b is None
                else (join([A, row], -2), join([b, tangent[1].unsqueeze(-1)], -1))
            )
        if k:
            Q = _pad_quadratic(Q, n, k, p)
            p = torch.nn.functional.pad(p, (0, k))
        return solve_qp(Q, p, self.G, self.h, A, b, self.lb, self.ub, **options)

    def _centre(self, like: Tensor, hard: bool = False) -> Interior:
        """The linear programme max t: G y + ||g|| t <= h, A y = b, lb + t <= y <= ub - t, t <= 1; ``hard`` bounds hold
        without t. depth is NaN where it has no solution."""
        n, k = like.shape[-1], self.lifted
        width, eye = n + k, torch.eye(n + k, dtype=like.dtype, device=like.device)
        rows, right = [], []
        if self.G is not None and self.h is not None:
            rows.append(torch.cat((self.G, self.G.norm(dim=-1, keepdim=True)), -1))
            right.append(self.h)
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
        depth = torch.where(found.status == Status.SUCCESS, found.value[..., -1], torch.nan)
        return Interior(found.value[..., :n], depth)


#: How far towards the centre of the polytope interior points of its intersection with an ellipsoid are looked for.
_SHARES = (0.5, 0.1, 0.01, 1e-3, 0.0)


class _Search:
    """The multiplier of the ellipsoid, and the minimiser that belongs to it."""

    def __init__(
        self, owner: ConvexSet, ellipsoid: Ellipsoid, Q: Tensor | Diagonal | float, p: Tensor, options: dict[str, Any]
    ) -> None:
        self.owner, self.ellipsoid, self.p, self.options = owner, ellipsoid, p, options
        n = p.shape[-1]
        self.Q = _dense(Q, n, p)
        self.pull = _times(ellipsoid.M, ellipsoid.center)

    def at(self, lam: Tensor) -> Tensor:
        """y(lam), without a graph."""
        lam = lam.unsqueeze(-1)
        Q = self.Q.detach() + lam.unsqueeze(-1) * self.ellipsoid.M.detach()
        p = self.p.detach() - lam * self.pull.detach()
        return self.owner._own(self.owner._solve(Q, p, **{**self.options, "throw": False}).value)

    def excess(self, y: Tensor) -> Tensor:
        """1 / sqrt(size) - 1 / sqrt(form), positive outside and nearly linear in lam (More and Sorensen 1983)."""
        form, size = self.ellipsoid.form(y), self.ellipsoid.size
        return size.rsqrt() - form.clamp(min=torch.finfo(y.dtype).tiny).rsqrt()

    @torch.no_grad()
    def multiplier(self) -> tuple[Tensor, Tensor]:
        """lam >= 0 with y(lam) on the boundary, 0 where y(0) is inside; and the rows where no lam is large enough."""
        low = torch.zeros_like(self.p[..., 0] + self.ellipsoid.size)
        f_low = self.excess(self.at(low)).expand_as(low)
        inside = f_low <= 0
        unit = _trace(self.Q.detach()).clamp(min=torch.finfo(self.p.dtype).eps) / _trace(self.ellipsoid.M)
        slope = self.p.norm(dim=-1) / (self.ellipsoid.M.norm(dim=(-2, -1)) * self.ellipsoid.size).sqrt()
        high = (unit + slope).expand_as(low).clone()
        f_high = self.excess(self.at(high)).expand_as(low)
        for _ in range(_SEARCH):
            short = (f_high > 0) & ~inside
            if not bool(short.any()):
                break
            low, f_low = torch.where(short, high, low), torch.where(short, f_high, f_low)
            high = torch.where(short, 8 * high, high)
            f_high = torch.where(short, self.excess(self.at(high)).expand_as(low), f_high)
        unreachable = (f_high > 0) & ~inside
        lam, scale = high, self.ellipsoid.size.rsqrt()
        for _ in range(_SEARCH):
            lam = (low * f_high - high * f_low) / (f_high - f_low)
            lam = torch.where((f_high - f_low).abs() > 0, lam, high).clamp(low, high)
            f = self.excess(self.at(lam)).expand_as(low)
            done = (f.abs() <= _ON_BOUNDARY * scale) | inside | unreachable
            if bool(done.all()):
                break
            # Illinois: the end that stays has its value halved, so that both ends move
            right = f <= 0
            f_low = torch.where(right, 0.5 * f_low, f)
            f_high = torch.where(right, f, 0.5 * f_high)
            low, high = torch.where(right, low, lam), torch.where(right, lam, high)
        return torch.where(inside, 0.0, lam), unreachable

    def run(self) -> Minimum:
        lam, unreachable = self.multiplier()
        ellipsoid = self.ellipsoid
        y = self.at(lam)
        size, M = ellipsoid.size, ellipsoid.M
        on = (lam > 0).unsqueeze(-1)
        # 1/2 form = 1/2 size to first order in y, and in M, c and size where they are live
        tangent = torch.where(on, _times(M, y - ellipsoid.center).detach(), 0.0)
        change = 0.5 * (size - ellipsoid.form(y))
        right = torch.where(on.squeeze(-1), (tangent * y).sum(-1) + change, 0.0)
        weight = lam.unsqueeze(-1)
        Q, p = self.Q + weight.unsqueeze(-1) * M, self.p - weight * self.pull
        solution = self.owner._solve(Q, p, tangent=(tangent, right), **{**self.options, "throw": False})
        status = torch.where(unreachable, int(Status.PRIMAL_INFEASIBLE), solution.status)
        value = self.owner._own(solution.value)
        solution = dataclasses.replace(
            solution,
            value=torch.where(unreachable.unsqueeze(-1), self._padded(y, solution.value), solution.value),
            fun=(value * (0.5 * _times(self.Q, value) + self.p)).sum(-1),
            status=status,
        )
        if self.options["throw"] and bool(status.any()):
            raise SolveError(solution)
        step = (solution.dual_eq[..., -1] * on.squeeze(-1)).detach()
        return Minimum(self.owner._own(solution.value), (lam + step).clamp(min=0.0), solution)

    def _padded(self, y: Tensor, value: Tensor) -> Tensor:
        return torch.cat((y, value[..., y.shape[-1] :].detach()), -1) if self.owner.lifted else y


def largest(parts: list[Tensor]) -> Tensor:
    """Elementwise maximum of tensors that broadcast."""
    return functools.reduce(torch.maximum, parts)


def row_violation(G: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """(g_i^T y - h_i) / ||g_i|| for every row; a row of zeros holds (-inf) or does not (inf): (..., m)."""
    norm = G.norm(dim=-1)
    return torch.where(
        norm > 0,
        (_times(G, y) - h) / norm.clamp(min=torch.finfo(y.dtype).tiny),
        torch.where(h >= 0, -torch.inf, torch.inf),
    )


def _trace(m: Tensor) -> Tensor:
    return m.diagonal(dim1=-2, dim2=-1).sum(-1)


def _times(m: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(m, v.unsqueeze(-1)).squeeze(-1)


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
