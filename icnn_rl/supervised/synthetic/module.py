"""Two-dimensional binary classification: the pictures of what convexity in the label, or in the point, allows.

Two networks of the paper, each with a label y in [0, 1] beside the point x in R^2:

- PICNN f(x, y), convex in y, any function of x: p(x) = argmin_y f(x, y) - H(y), a probability. Its decision regions
  may have any shape.
- FICNN f(x, y), convex in (x, y) jointly. Since f(x, 1) - f(x, 0), a difference of convex functions, decides as well,
  its regions need not be convex; the sets { x : f(x, y) <= c } are.

References:
    B. Amos, L. Xu, Z. Kolter, Input Convex Neural Networks, ICML 2017, section 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_choice, check_float_tensor, check_last_dim, check_widths
from icnn_rl.nn import ICNN, PICNN
from icnn_rl.sets import Box
from icnn_rl.solvers import BundleEntropy, ImplicitCG, Solver, minimize
from icnn_rl.supervised.training.batches import Batch
from icnn_rl.supervised.training.losses import binary_cross_entropy
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = ["PROBLEMS", "SyntheticModule", "make_problem"]

PROBLEMS = ("moons", "circles", "linear")

_ADJOINT = ImplicitCG(tol=1e-4, max_steps=5)


class _Sliced:
    """f(x, .) of a fully convex network, as an energy in y alone."""

    smooth = True

    def __init__(self, net: ICNN, x: Tensor) -> None:
        self.energy, self.x = net.bind(), x

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(torch.cat((self.x, y), -1))

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self.energy.value_and_grad(torch.cat((self.x, y), -1))
        return f, g[:, self.x.shape[-1] :]


class SyntheticModule(SavedModule):
    """p(x) = argmin over [0, 1] of f(x, y) - H(y); trained on the cross-entropy of p.

    Args:
        network: "picnn" or "ficnn".
        hidden: widths of the convex path; of the context path too.
        solver: of the inner problem.

    Shapes:
        (B, 2) -> (B,), the probability of label 1. A sample for ``fit``: (x, label 0 or 1).
    """

    def __init__(
        self, network: str = "picnn", hidden: Sequence[int] = (200, 200), solver: Solver | None = None
    ) -> None:
        super().__init__()
        self.network = check_choice("network", network, ("picnn", "ficnn"))
        self.hidden = check_widths("hidden", hidden)
        self.solver = BundleEntropy(max_steps=8, tol=1e-5) if solver is None else solver
        self.net: ICNN | PICNN = (
            PICNN(2, 1, self.hidden, self.hidden, quadratic=False, strong_convexity=0.0)
            if network == "picnn"
            else ICNN(3, self.hidden)
        )
        self.solves = SolveCount()

    def arguments(self) -> dict[str, Any]:
        return {"network": self.network, "hidden": self.hidden, "solver": self.solver}

    def forward(self, x: Tensor) -> Tensor:
        check_float_tensor("x", x)
        check_last_dim("x", x, 2)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x: has NaN or infinite entries.")
        energy = self.net.bind(x) if isinstance(self.net, PICNN) else _Sliced(self.net, x)
        adjoint = _ADJOINT if torch.is_grad_enabled() else None
        start = x.new_full((len(x), 1), 0.5)
        solution = minimize(energy, self.solver, start, domain=Box(0.0, 1.0), adjoint=adjoint, throw=False)
        self.solves.add(solution.status)
        return solution.value.squeeze(-1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of a batch (x, label)."""
        x, label = batch
        if not bool(((label == 0) | (label == 1)).all()):
            raise ValueError(
                f"label: expected 0 or 1, got values from {float(label.min()):g} to {float(label.max()):g}."
            )
        return binary_cross_entropy(self(x).unsqueeze(-1), label.to(x.dtype).unsqueeze(-1)).mean()


def make_problem(name: str, n: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (n, 2), standardised, and labels (n,) of scikit-learn's moons, circles, or two overlapping clouds."""
    from sklearn import datasets  # an extra

    check_choice("name", name, PROBLEMS)
    if name == "moons":
        x, label = datasets.make_moons(n, noise=0.2, random_state=seed)
    elif name == "circles":
        x, label = datasets.make_circles(n, noise=0.15, factor=0.5, random_state=seed)
    else:
        x, label = datasets.make_classification(
            n, 2, n_redundant=0, n_informative=2, n_clusters_per_class=1, random_state=seed + 1
        )
    x = (x - x.mean(0)) / x.std(0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(label, dtype=torch.float32)
