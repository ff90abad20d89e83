"""What a solver is: how to start, how to step. The loop, the freezing of finished rows and the report are in
``minimize``."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from icnn_rl.solvers import _energy
from icnn_rl.solvers._energy import EnergyFunction
from icnn_rl.solvers.domain import Box, Unconstrained, certificate

#: Rounding of f, in units of eps (|f| + scale): a change of f by less says nothing.
NOISE = 4.0


class Problem:
    """min f(y) over a box, for every row of a batch.

    Attributes:
        energy: f.
        lower, upper: bounds, broadcastable to y; infinite where there is none.
        curvature: m >= 0 with f - 1/2 sum_j m_j y_j^2 convex, or None.
        finite: whether every coordinate of every row is bounded on both sides.
        differentiable: whether values and gradients keep the autograd graph (for unrolling).
    """

    def __init__(self, energy: EnergyFunction, domain: Box | Unconstrained, y: Tensor) -> None:
        self.energy = energy
        self.differentiable = False
        self.lower, self.upper = (bound.detach() for bound in domain.bounds(y))
        self.curvature = _energy.curvature_of(energy)
        self._batch_dims = y.dim() - 1
        self._strict = self.curvature is not None and bool((self.curvature > 0).all())
        span = self.upper - self.lower
        self.finite = bool((span < float("inf")).all())
        self._widths = span if self.finite else None
        self._noise = NOISE * torch.finfo(y.dtype).eps
        self._tiny = torch.finfo(y.dtype).tiny

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
        return other

    def with_graph(self) -> Problem:
        """The same problem, its values and gradients differentiable with respect to what the energy depends on."""
        other = copy.copy(self)
        other.differentiable = True
        return other

    def project(self, y: Tensor) -> Tensor:
        """Nearest point of the box; NaN stays NaN."""
        return torch.clamp(y, self.lower, self.upper)

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return _energy.value_and_grad(self.energy, y, differentiable=self.differentiable)

    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _energy.value_grad_hessian(self.energy, y)

    def gap(self, y: Tensor, grad: Tensor) -> Tensor:
        """Certified bound on f(y) - min f, see :func:`icnn_rl.solvers.domain.certificate`."""
        return certificate(grad, self.lower - y, self.upper - y, self.curvature, strict=self._strict)

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
            blocked = ((y <= self.lower) & (grad > 0)) | ((y >= self.upper) & (grad < 0))
            promised = (grad.masked_fill(blocked, 0.0).abs() * self.widths(y)).sum(-1)
            gap = torch.where(torch.isfinite(gap), gap, promised)
        return gap / scale.clamp(min=self._tiny)

    def noise(self, fun: Tensor, scale: Tensor) -> Tensor:
        """Rounding of f: changes below this are not judged."""
        return (fun.abs() + scale).mul_(self._noise)


class Progress(NamedTuple):
    """What the loop reads off a state after every step, each (...): one number a row.

    ``residual`` is compared with ``tol``; ``noise`` is the rounding of f, and a gap below it is as good as zero;
    ``stalled`` rows cannot move any further in this precision.
    """

    fun: Tensor
    gap: Tensor
    residual: Tensor
    noise: Tensor
    stalled: Tensor


class Solver(Protocol):
    """Settings of a method. Frozen, without tensors or state: may be printed, pickled and shared.

    A state is a NamedTuple of tensors whose leading dimensions are the batch, so that the loop can freeze rows.
    """

    @property
    def tol(self) -> float: ...

    @property
    def max_steps(self) -> int: ...

    def init(self, problem: Problem, y0: Tensor) -> Any:
        """State at the starting point."""
        ...

    def step(self, problem: Problem, state: Any) -> Any:
        """State after one step, for all rows."""
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
