"""A minimisation problem, and what a solver of it is: how to start, how to step. The loop is in ``minimize``, what it
shares with others in ``loop``."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from icnn_rl.sets import Box, Domain, Unconstrained
from icnn_rl.sets.certificate import certificate
from icnn_rl.solvers import derivatives
from icnn_rl.solvers.derivatives import EnergyFunction
from icnn_rl.solvers.region import Region

#: Rounding of f, in units of eps (|f| + scale): a change of f by less says nothing.
NOISE = 4.0


class Problem:
    """min f(y) over a box or a convex set, for every sample of a batch.

    Attributes:
        energy: f.
        region: the set; None: a box, and the bounds say it all.
        lower, upper: bounds, broadcastable to y; infinite where there is none.
        curvature: m >= 0 with f - 1/2 sum_j m_j y_j^2 convex, or None.
        finite: whether every coordinate of every row is bounded on both sides.
        differentiable: whether values and gradients keep the autograd graph (for unrolling).
    """

    def __init__(self, energy: EnergyFunction, domain: Domain, y: Tensor) -> None:
        self.energy = energy
        self.differentiable = False
        self.region: Region | None = None
        if isinstance(domain, Box | Unconstrained):
            bounds = domain.bounds(y)
        else:
            self.region = Region.of(domain.as_set(y), y)
            bounds = self.region.own_bounds(y)
        self.lower, self.upper = (bound.detach() for bound in bounds)
        self.curvature = derivatives.curvature_of(energy)
        self._batch_dims = y.dim() - 1
        span = self.upper - self.lower
        self.finite = bool((span < float("inf")).all())
        self._widths = span if self.finite else None
        self._noise = NOISE * torch.finfo(y.dtype).eps
        self._tiny = torch.finfo(y.dtype).tiny

    @functools.cached_property
    def _strict(self) -> bool:
        """Whether the curvature is positive everywhere."""
        return self.curvature is not None and bool((self.curvature > 0).all())

    @property
    def separable(self) -> bool:
        """Whether :meth:`rows` can take rows out of the batch: the energy must know how."""
        return self._batch_dims == 1 and bool(getattr(self.energy, "separable", False))

    def rows(self, index: Tensor) -> Problem:
        """The problem of the rows at ``index`` alone."""
        other = copy.copy(self)

        def pick(part: Tensor) -> Tensor:
            return part[index] if part.dim() == 2 and part.shape[0] > 1 else part  # one row: shared by all

        other.energy = self.energy.rows(index)  # type: ignore[attr-defined]  # checked by ``separable``
        other.curvature = None if self.curvature is None else pick(self.curvature)
        other.lower, other.upper = pick(self.lower), pick(self.upper)
        other._widths = other.upper - other.lower if self.finite else None
        other.region = None if self.region is None else self.region.rows(index)
        return other

    def of(self, energy: EnergyFunction) -> Problem:
        """The same domain with another energy. Nothing here reads a number, which would wait for the device."""
        other = copy.copy(self)
        other.energy, other.curvature, other._strict = energy, derivatives.curvature_of(energy), False
        return other

    def start(self, y: Tensor) -> tuple[Problem, Tensor, Tensor | None]:
        """Points of the domain to begin from, the problem with a harmless set in place of sets that are empty or not
        finite, and a status (...) that says which were; None if all sets are sound."""
        if self.region is None:
            return self, self.project(y), None
        found = self.region.start(y)
        if found.region is self.region:
            return self, found.point, None
        other = copy.copy(self)
        other.region = found.region
        other.lower, other.upper = found.region.own_bounds(y)
        other._widths = other.upper - other.lower if self.finite else None
        return other, found.point, found.status

    def with_graph(self) -> Problem:
        """The same problem, its values and gradients differentiable with respect to what the energy depends on."""
        other = copy.copy(self)
        other.differentiable = True
        return other

    def project(self, y: Tensor) -> Tensor:
        """Nearest point of the domain; NaN stays NaN."""
        if self.region is None:
            return torch.clamp(y, self.lower, self.upper)
        return self.region.project(y).value.to(y.dtype)

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return derivatives.value_and_grad(self.energy, y, differentiable=self.differentiable)

    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return derivatives.value_grad_hessian(self.energy, y)

    def gap(self, y: Tensor, grad: Tensor) -> Tensor:
        """Certified bound on f(y) - min f, see :func:`icnn_rl.sets.certificate.certificate`. On a set it takes a
        quadratic programme for the multipliers; solvers that have some ask the region."""
        if self.region is not None:
            return self._gap_on_set(self.region, y, grad)[0]
        return self.box_gap(y, grad)

    def box_gap(self, y: Tensor, grad: Tensor) -> Tensor:
        """The bound that the bounds alone give: valid on a set too, as it is on every superset."""
        return certificate(grad, self.lower - y, self.upper - y, self.curvature, strict=self._strict)

    def _gap_on_set(self, region: Region, y: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """With the multipliers of a gradient step as long as the domain: those of the minimiser, where y is it."""
        width = self.widths(y).expand_as(y).norm(dim=-1)
        stiffness = (grad.norm(dim=-1) / width.clamp(min=self._tiny)).clamp(min=self._tiny)
        plan = region.model(y, grad, torch.diag_embed(stiffness.unsqueeze(-1).expand_as(y)), region.no_rows(y), 2)
        if plan.duals is None:
            return self.box_gap(y, grad), self._promised(y, grad)
        n = y.shape[-1]
        there = torch.cat((y.double(), plan.duals.point[..., n:]), -1) if region.set.lifted else y.double()
        return region.gap(grad, plan.duals._replace(point=there), self.curvature)

    def widths(self, y: Tensor) -> Tensor:
        """Length of each coordinate's interval, or 1 + |y_j| where it is infinite: the unit that residuals are measured
        in."""
        if self._widths is not None:
            return self._widths
        span = (self.upper - self.lower).expand_as(y)
        return torch.where(torch.isfinite(span), span, 1.0 + y.abs())

    def residual(self, y: Tensor, grad: Tensor, gap: Tensor, scale: Tensor) -> Tensor:
        """gap / scale; where no gap is known, the decrease that the projected gradient promises, / scale."""
        if not self.finite and not bool(torch.isfinite(gap).all()):
            region = self.region
            promised = self._promised(y, grad) if region is None else self._gap_on_set(region, y, grad)[1]
            gap = torch.where(torch.isfinite(gap), gap, promised)
        return gap / scale.clamp(min=self._tiny)

    def _promised(self, y: Tensor, grad: Tensor) -> Tensor:
        blocked = ((y <= self.lower) & (grad > 0)) | ((y >= self.upper) & (grad < 0))
        return (grad.masked_fill(blocked, 0.0).abs() * self.widths(y)).sum(-1)

    def noise(self, fun: Tensor, scale: Tensor) -> Tensor:
        """Rounding of f: changes below this are not judged."""
        return (fun.abs() + scale).mul_(self._noise)


class Progress(NamedTuple):
    """What the loop reads off a state after every step, each (...): one number for each sample.

    ``residual`` is compared with ``tol``; ``noise`` is the rounding of f, and a gap below it is as good as zero;
    ``stalled`` samples cannot move any further in this precision.
    """

    fun: Tensor
    gap: Tensor
    residual: Tensor
    noise: Tensor
    stalled: Tensor


class Solver(Protocol):
    """Settings of a method. Frozen, without tensors or state: may be printed, pickled and shared.

    A state is a NamedTuple of tensors whose leading dimensions are the batch, so that the loop can freeze samples.
    """

    @property
    def tol(self) -> float: ...

    @property
    def max_steps(self) -> int: ...

    def init(self, problem: Problem, y0: Tensor) -> Any:
        """State at the starting point."""
        ...

    def step(self, problem: Problem, state: Any) -> Any:
        """State after one step of every sample."""
        ...

    def progress(self, problem: Problem, state: Any) -> Progress:
        """The numbers that decide about stopping."""
        ...

    def value(self, state: Any) -> Tensor:
        """The best point so far (..., n)."""
        ...

    def extras(self, state: Any) -> Any:
        """What goes into ``Solution.state``, or None."""
        ...
