"""Losses for structured prediction with a convex energy f(y): small f at the truth y*, larger elsewhere.

The prediction is y^ = argmin_y f(y) - tau H(y) over a box, H the entropy of the bundle method (tau = 0: plain argmin).
Three ways to train f, each a plain function of an energy and of points, one number a row:

- :func:`argmin_loss`: a loss of y^ itself, differentiated through the argmin;
- :func:`max_margin`: f at the truth lower than everywhere else, by a margin that grows with the distance;
- :func:`energy_loss`: f at the truth no higher than at y^.

The last two need no derivative of the argmin: at a minimiser the derivative of a minimum is that of the function at
that point (Danskin), so the point found is a constant.

References:
    I. Tsochantaridis et al., Large margin methods for structured and interdependent output variables, JMLR 2005;
    Y. LeCun et al., A tutorial on energy-based learning, 2006; B. Amos, L. Xu, Z. Kolter, Input Convex Neural Networks,
    ICML 2017, section 5; M. Blondel, A. Martins, V. Niculae, Learning with Fenchel-Young losses, JMLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_range
from icnn_rl.sets import Box
from icnn_rl.solution import Solution
from icnn_rl.solvers import Solver, minimize
from icnn_rl.solvers.minimize import Adjoint

__all__ = [
    "LossAugmented",
    "argmin_loss",
    "binary_cross_entropy",
    "binary_entropy",
    "energy_loss",
    "hamming",
    "loss_augmented_argmin",
    "max_margin",
]

Energy = Callable[[Tensor], Tensor]

_SMALLEST = 1e-6  # a probability that float32 can tell from 0, and 1 minus it from 1


def binary_entropy(y: Tensor) -> Tensor:
    """H(y) = -sum_j y_j log y_j + (1 - y_j) log(1 - y_j) in nats, of y (B, n) in [0, 1] -> (B,)."""
    return -(torch.xlogy(y, y) + torch.xlogy(1.0 - y, 1.0 - y)).sum(-1)


def binary_cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """-sum_j y*_j log y_j + (1 - y*_j) log(1 - y_j), (B, n) in [0, 1] -> (B,); y is kept 1e-6 away from 0 and 1."""
    p = prediction.clamp(_SMALLEST, 1.0 - _SMALLEST)
    return -(target * p.log() + (1.0 - target) * (1.0 - p).log()).sum(-1)


def hamming(y: Tensor, target: Tensor) -> Tensor:
    """Delta(y, y*) = sum_j |y_j - y*_j| for y* in {0, 1}, y in [0, 1]: (B, n) -> (B,). There it is linear in y,

        sum_j y*_j + (1 - 2 y*_j) y_j,

    so that f - Delta stays convex."""
    return (target + (1.0 - 2.0 * target) * y).sum(-1)


@dataclass
class LossAugmented:
    """The energy f(y) - margin Delta(y, y*) with the Hamming distance: convex, since Delta is linear in y.

    Args:
        energy: f.
        target: y* (B, n) of 0 and 1.
        margin: a factor.
    """

    energy: Any
    target: Tensor
    margin: float = 1.0

    @property
    def smooth(self) -> bool:
        """Whether f is twice differentiable."""
        return bool(getattr(self.energy, "smooth", False))

    @property
    def curvature(self) -> Tensor | None:
        """That of f."""
        curvature: Tensor | None = getattr(self.energy, "curvature", None)
        return curvature

    def __call__(self, y: Tensor) -> Tensor:
        f: Tensor = self.energy(y)
        return f - self.margin * hamming(y, self.target)

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self.energy, "value_and_grad"):
            f, g = self.energy.value_and_grad(y)
        else:
            with torch.enable_grad():
                leaf = y if y.requires_grad else y.detach().requires_grad_()
                f = self.energy(leaf)
                (g,) = torch.autograd.grad(f.sum(), leaf, create_graph=True)
        return f - self.margin * hamming(y, self.target), g - self.margin * (1.0 - 2.0 * self.target)


def loss_augmented_argmin(
    energy: Energy, solver: Solver, target: Tensor, *, margin: float = 1.0, y0: Tensor | None = None
) -> Solution:
    """argmin over [0, 1]^n of f(y) - margin Delta(y, y*): the worst offender against the margin.

    With BundleEntropy it is the argmin of f - tau H - margin Delta. Started at ``y0``, 1/2 by default. Detached.
    """
    check_range("margin", margin, 0.0, float("inf"))
    start = torch.full_like(target, 0.5) if y0 is None else y0
    with torch.no_grad():
        augmented = LossAugmented(energy, target, margin)
        return minimize(augmented, solver, start, domain=Box(0.0, 1.0), adjoint=None, throw=False)


def max_margin(energy: Energy, target: Tensor, found: Tensor, *, margin: float = 1.0, entropy: float = 0.0) -> Tensor:
    """[ f(y*) - ( f(y^) - margin Delta(y^, y*) ) ]_+ with y^ the loss-augmented argmin: (B,).

    Zero where the truth lies below every other point by the margin. ``entropy`` is the tau with which y^ was found: f
    stands for f - tau H then. The subgradient in f's parameters is that of f(y*) - f(y^), ``found`` held fixed.

    Args:
        energy: f, y (B, n) -> (B,).
        target: y* (B, n) of 0 and 1.
        found: y^ (B, n) from :func:`loss_augmented_argmin`.
    """
    y = found.detach()
    return (energy_loss(energy, target, y, entropy=entropy) + margin * hamming(y, target)).clamp(min=0.0)


def energy_loss(energy: Energy, target: Tensor, found: Tensor, *, entropy: float = 0.0) -> Tensor:
    """f(y*) - f(y^) with y^ the argmin, ``found``, held fixed: (B,), not negative if y^ is exact.

    With ``entropy`` = tau, f stands for f - tau H: the Fenchel-Young loss. For a linear f(y) = c . y on [0, 1]^n it is
    tau times the logistic loss with the logits -c / tau,

        sum_j c_j y*_j + tau log(1 + exp(-c_j / tau)) - tau H(y*);

    any other convex f couples the coordinates. Its gradient is that of f(y*) - f(y^).
    """
    y = found.detach()
    loss = energy(target) - energy(y)
    if entropy > 0.0:
        loss = loss - entropy * (binary_entropy(target) - binary_entropy(y))
    return loss


def argmin_loss(
    energy: Energy,
    solver: Solver,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    y0: Tensor | None = None,
    domain: Box | None = None,
    adjoint: Adjoint | str | None = "auto",
) -> Tensor:
    """loss(y^, y*) with y^ = argmin f (or f - tau H), differentiable through the argmin: what ``loss`` returns.

    Args:
        energy: f.
        solver: any of :mod:`icnn_rl.solvers`.
        target: y* (B, n).
        loss: (y^, y*) -> a tensor, for instance :func:`binary_cross_entropy`.
        y0: start, 1/2 by default.
        domain: [0, 1]^n by default.
        adjoint: how the derivative is computed, see :func:`icnn_rl.minimize`.
    """
    start = torch.full_like(target, 0.5) if y0 is None else y0
    box = Box(0.0, 1.0) if domain is None else domain
    return loss(minimize(energy, solver, start, domain=box, adjoint=adjoint, throw=False).value, target)
