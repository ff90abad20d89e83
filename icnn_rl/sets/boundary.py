"""The multiplier of an ellipsoid that rows and bounds cut.

For a multiplier lam >= 0 the minimiser y(lam) of the Lagrangian over rows and bounds is a QP with Q + lam M in Q's
place, whose (y - c)^T M (y - c) falls as lam rises. lam is found by a bracketing root search, in one dimension; the
last QP has the ellipsoid's tangent among its rows, which makes the answer differentiable in everything and puts it on
the boundary to the square of what was left. All of this is done in float64.

References:
    J. J. More, D. C. Sorensen, Computing a trust region step, SIAM J. Sci. Stat. Comput. 4, 1983.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icnn_rl.first_order import first_order
from icnn_rl.qp.external import External
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.sets.deepest import nearest_to_center
from icnn_rl.sets.ellipsoid import Ellipsoid, times, trace
from icnn_rl.sets.ellipsoid_alone import is_alone
from icnn_rl.sets.minimum import OF_ROWS, Minimum
from icnn_rl.sets.own_axes import Noise
from icnn_rl.sets.programme import own_part, solve
from icnn_rl.sets.rows import join
from icnn_rl.sets.trust_region import trust_region
from icnn_rl.solution import Status

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["BoundarySearch"]

_SEARCH = 60  # steps of the root search at most; six are the rule
_ON_BOUNDARY = 1e-12  # relative distance from the ellipsoid's boundary at which the search ends
_TOUCHING = 1e-12  # likewise at which rows and ellipsoid have one point in common, and no more
_STATIONARY = 1e-9  # relative residual of a y(lam) without rows
_CLOSE = 1e-9  # relative distance within which y(lam) will do; and how well the last QP's multiplier has to agree
_NEAR = 1e-5  # likewise within which one step along the tangent, to first order, is as good
_JUMP = 2e-10  # relative change of the objective that the ellipsoid may still make where y(lam) jumps at 0
_PINNED = 1e-9  # of the largest eigenvalue: directions in which a point that only touches does not move


class BoundarySearch:
    """The multiplier of the ellipsoid, and the minimiser that belongs to it; in float64."""

    def __init__(
        self,
        owner: ConvexSet,
        ellipsoid: Ellipsoid,
        Q: Tensor,
        p: Tensor,
        solver: PrimalDual | External | None,
        warm_start: ActiveSet | None,
        noise: Noise = (None, None),
    ) -> None:
        self.owner, self.ellipsoid, self.Q, self.p, self.noise = owner, ellipsoid, Q, p, noise
        self.options: dict[str, Any] = {"solver": solver, "throw": False}
        self.pull = times(ellipsoid.M, ellipsoid.center)
        self.active = warm_start
        self.jumped = torch.zeros((), dtype=torch.bool, device=p.device)  # y(lam) goes inside at once
        # what the search works on, without a graph
        self.still = owner.mapped(Tensor.detach), Ellipsoid(*(t.detach() for t in ellipsoid))

    def run(self) -> tuple[Minimum, Tensor]:
        """The minimum, and where rows and ellipsoid have but one point in common, which needs no multiplier."""
        free = solve(self.owner, self.Q, self.p, warm_start=self.active, **self.options)
        with torch.no_grad():
            y = own_part(self.owner, free.value)
            f = torch.where(free.status == Status.DUAL_INFEASIBLE, 1.0, self.excess(y))
            outside = (f > 0) & ((free.status == Status.SUCCESS) | (free.status == Status.DUAL_INFEASIBLE))
        shape = torch.broadcast_shapes(f.shape, free.status.shape)  # type: ignore[no-untyped-call]
        unknown = (free.status == Status.SUCCESS) & f.isnan()
        if not bool((outside | unknown).any()) and free.status.shape == shape:
            return Minimum(own_part(self.owner, free.value), torch.zeros_like(free.fun), free), torch.zeros_like(
                outside
            )
        return self._on_boundary(free, f, outside)

    def _on_boundary(self, free: QPSolution, f: Tensor, outside: Tensor) -> tuple[Minimum, Tensor]:
        ellipsoid = self.ellipsoid
        with torch.no_grad():
            nearest, touching, empty = self._nearest(f, outside)
            nearest = self._sliding(nearest, touching)
            searched = outside & ~touching & ~empty & nearest.isfinite().all(-1)
            self.active = free.active if free.value.shape[:-1] == f.shape else None
            lam, y, sure = self.multiplier(f, searched)
            y = torch.where(searched.unsqueeze(-1), y, own_part(self.owner, free.value))
        on, weight = searched.unsqueeze(-1), lam.unsqueeze(-1)
        # form = size to first order in y, and in M, c and size where they are live; +inf: no row
        slope = torch.where(on, times(self.still[1].M, y - self.still[1].center), 0.0)
        change = 0.5 * (ellipsoid.size - ellipsoid.form(y))
        right = torch.where(searched, (slope * y).sum(-1) + change, torch.where(f.isnan(), torch.nan, torch.inf))
        # lam times the slope is taken out of the objective, so that the row, and not the objective, carries lam
        Q, p = self.Q + weight.unsqueeze(-1) * ellipsoid.M, self.p - weight * (self.pull + slope)
        guess = self.active and self.active._replace(ineq=torch.cat((self.active.ineq, on), -1))
        solution = solve(self.owner, Q, p, tangent=(slope, right), warm_start=guess, **self.options)
        if bool(searched.any()):
            solution = _once(solution)
        with torch.no_grad():
            # y(lam) is exact for a size that differs by its excess: where the last QP, ill-conditioned with the
            # ellipsoid, is not as good, it has a say in the derivatives alone
            found, error = own_part(self.owner, solution.value), self.excess(y).abs()
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
        if is_alone(owner):
            return ellipsoid.center.expand(*f.shape, -1), torch.zeros_like(outside), torch.zeros_like(outside)
        nearest, least = nearest_to_center(owner, ellipsoid, self.p.detach().expand(*f.shape, -1), self.noise)
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
        found = solve(dataclasses.replace(owner, A=A, b=b), self.Q.detach(), self.p.detach(), **self.options)
        best = torch.where((found.status == Status.SUCCESS).unsqueeze(-1), own_part(owner, found.value), torch.nan)
        return torch.where(touching.unsqueeze(-1), best, nearest)

    def _report(self, solution: QPSolution, status: Tensor, correction: Tensor, y: Tensor, other: Tensor) -> Minimum:
        """The last QP without the row of the tangent, corrected; y, without derivatives, in the other rows."""
        k = self.owner.lifted
        value = solution.value + torch.nn.functional.pad(correction, (0, k))
        other_value = torch.cat((y, solution.value[..., y.shape[-1] :].detach()), -1) if k else y
        value = torch.where(other.unsqueeze(-1), other_value, value)
        y = own_part(self.owner, value)
        multiplier = solution.dual_ineq[..., -1]
        solution = dataclasses.replace(
            solution,
            value=value,
            fun=(y * (0.5 * times(self.Q, y) + self.p)).sum(-1),
            status=status,
            **{name: getattr(solution, name)[..., :-1] for name in OF_ROWS},
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
        solution = solve(owner, Q, p, warm_start=self.active, **self.options)
        self.active = solution.active
        return own_part(owner, solution.value), solution.status == Status.SUCCESS

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
        if is_alone(self.still[0]):
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
