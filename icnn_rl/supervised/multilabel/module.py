"""The energy behind multi-label classification, as a torch module.

f(x, y) of a PICNN is convex in the labels y in [0, 1]^n; the prediction is y^(x) = argmin_y f(x, y) - tau H(y), H the
entropy: probabilities, found together. Labels that go together lower each other's energy, which a feedforward net's
independent sigmoids cannot express. f linear in y would be exactly that net.

References:
    B. Amos, L. Xu, Z. Kolter, Input Convex Neural Networks, ICML 2017, section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.checks import check_choice, check_range
from icnn_rl.nn import PICNN
from icnn_rl.sets import Box
from icnn_rl.solvers import BundleEntropy, ImplicitCG, Solver, minimize
from icnn_rl.supervised.training.batches import Batch
from icnn_rl.supervised.training.losses import binary_cross_entropy, energy_loss, loss_augmented_argmin, max_margin
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = ["LOSSES", "MultiLabelModule"]

LOSSES = ("argmin", "max_margin", "energy")

_ADJOINT = ImplicitCG(tol=1e-2, max_steps=10)


class _Context(nn.Module):
    """The PICNN's context activation: ReLU and dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, u: Tensor) -> Tensor:
        return F.dropout(u.relu(), self.dropout, self.training)


class MultiLabelModule(SavedModule):
    """x -> y^ = argmin over [0, 1]^n of f(x, y) - tau H(y), f a PICNN; trained with :func:`~icnn_rl.supervised.fit`.

    Args:
        features: size of x.
        labels: n.
        context: widths of the context path.
        hidden: widths of the convex path; () makes f linear in y, a feedforward net.
        activation: of the convex path.
        solver: of the inner problem. tau is its ``entropy``.
        loss: "argmin": cross-entropy of y^, through the implicit gradient. "max_margin": the margin is the Hamming
            distance. "energy": f - tau H at the truth against its minimum.
        dropout: share of context units dropped in training; ``input_dropout``: of entries of x.
        margin: factor on the Hamming distance.

    Shapes:
        ``module(x)``: (B, features) -> (B, n) in [0, 1]; differentiable. A sample for ``fit``: (x, y), y of 0 and 1.
    """

    def __init__(
        self,
        features: int,
        labels: int,
        context: Sequence[int] = (600,),
        hidden: Sequence[int] = (32,),
        *,
        activation: str = "softplus",
        solver: Solver | None = None,
        loss: str = "argmin",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        self.loss_name = check_choice("loss", loss, LOSSES)
        self.solver = BundleEntropy(max_steps=10, tol=1e-4) if solver is None else solver
        self.dropout = check_range("dropout", dropout, 0.0, 1.0)
        self.input_dropout = check_range("input_dropout", input_dropout, 0.0, 1.0)
        self.margin = check_range("margin", margin, 0.0, math.inf)
        self.activation = activation
        self.net = PICNN(
            features,
            labels,
            context,
            hidden,
            activation=activation,
            context_activation=_Context(self.dropout),
            context_norm=True,
            quadratic=False,
            strong_convexity=0.0,
        )
        self.solves = SolveCount()

    def arguments(self) -> dict[str, Any]:
        return {
            "features": self.net.x_features,
            "labels": self.net.y_features,
            "context": self.net.context_widths,
            "hidden": self.net.hidden,
            "activation": self.activation,
            "solver": self.solver,
            "loss": self.loss_name,
            "dropout": self.dropout,
            "input_dropout": self.input_dropout,
            "margin": self.margin,
        }

    @property
    def entropy(self) -> float:
        """tau; 0 for a solver that minimises f itself."""
        return float(getattr(self.solver, "entropy", 0.0))

    def forward(self, x: Tensor) -> Tensor:
        adjoint = _ADJOINT if torch.is_grad_enabled() else None
        start = x.new_full((len(x), self.net.y_features), 0.5)
        energy = self.net.bind(F.dropout(x, self.input_dropout, self.training))
        solution = minimize(energy, self.solver, start, domain=Box(0.0, 1.0), adjoint=adjoint, throw=False)
        self.solves.add(solution.status)
        return solution.value

    def loss(self, batch: Batch) -> Tensor:
        """The mean of the chosen loss over a batch (x, y)."""
        x, y = batch
        if self.loss_name == "argmin":
            return binary_cross_entropy(self(x), y).mean()
        energy = self.net.bind(F.dropout(x, self.input_dropout, self.training))
        if self.loss_name == "max_margin":
            solution = loss_augmented_argmin(energy, self.solver, y, margin=self.margin)
            self.solves.add(solution.status)
            return max_margin(energy, y, solution.value, margin=self.margin, entropy=self.entropy).mean()
        with torch.no_grad():
            solution = loss_augmented_argmin(energy, self.solver, y, margin=0.0)
        self.solves.add(solution.status)
        return energy_loss(energy, y, solution.value, entropy=self.entropy).mean()
