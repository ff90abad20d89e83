"""Denoising of piecewise constant signals: exact total variation, and an OptNet layer that starts there and learns.

    TotalVariationLayer:  z(y) = argmin_z  1/2 |z - y|^2 + sum_i lam_i |z_{i+1} - z_i|
    DenoisingModule:      z(y) = m + argmin_x  1/2 x^T Q x - x^T W (y - m) + sum_j lam_j |(D x)_j|,    m the mean of y

Q > 0, W, D and lam are learned; with Q = W = I and D the differences of neighbours this is total variation, whatever m.
The programme is solved in its dual, which has one bounded variable a row of D and no other constraint:

    x = Q^-1 (W (y - m) - D^T u),    u = argmin_{|u| <= lam}  1/2 u^T (D Q^-1 D^T) u - u^T D Q^-1 W (y - m).

References:
    B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017, section 4.2.
    L. I. Rudin, S. Osher, E. Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 60, 1992.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from icnn_rl.checks import (
    check_choice,
    check_float_tensor,
    check_last_dim,
    check_positive_int,
    check_range,
    check_widths,
)
from icnn_rl.qp import PrimalDual, solve_qp, total_variation
from icnn_rl.supervised.training.batches import Batch, TensorPairs
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount
from icnn_rl.supervised.training.warm_starts import WarmStarts

__all__ = ["DenoisingDataset", "DenoisingModule", "DenseDenoiser", "TotalVariationLayer", "best_penalty"]


class DenoisingDataset(TensorPairs):
    """Noisy signals and clean ones: samples are pairs of float tensors (length,).

    Raises:
        ValueError: not two tensors of one shape (n, length), or numbers that are not finite.
    """

    def __init__(self, noisy: Tensor, clean: Tensor) -> None:
        self.noisy, self.clean = check_float_tensor("noisy", noisy), check_float_tensor("clean", clean)
        if noisy.dim() != 2 or noisy.shape != clean.shape:
            raise ValueError(
                f"noisy, clean: expected one shape (n, length), got {tuple(noisy.shape)} and {tuple(clean.shape)}."
            )
        for name, signals in (("noisy", noisy), ("clean", clean)):
            bad = ~torch.isfinite(signals).all(1)
            if bool(bad.any()):
                raise ValueError(f"{name}: signal {int(bad.nonzero()[0])} holds NaN or an infinite number.")

    @classmethod
    def generate(
        cls,
        n: int = 10_000,
        length: int = 100,
        pieces: tuple[int, int] = (1, 9),
        heights: tuple[int, int] = (10, 99),
        noise: float = 10.0,
        seed: int = 0,
    ) -> Self:
        """The paper's signals: pieces[0] to pieces[1] pieces of constant whole height, breaks anywhere but after the
        first and before the last sample, Gaussian noise of standard deviation ``noise``. All draws are uniform.
        """
        check_positive_int("n", n)
        check_positive_int("length", length)
        check_range("noise", noise, 0.0, math.inf)
        if not 1 <= pieces[0] <= pieces[1] <= max(length - 1, 1):
            raise ValueError(f"pieces: expected 1 <= fewest <= most <= {max(length - 1, 1)}, got {pieces}.")
        if not heights[0] <= heights[1]:
            raise ValueError(f"heights: expected lowest <= highest, got {heights}.")
        rng = np.random.default_rng(seed)
        clean = np.empty((n, length))
        for row in clean:
            count = rng.integers(pieces[0], pieces[1] + 1)
            breaks = np.sort(rng.choice(max(length - 2, 0), count - 1, replace=False)) + 1
            values = rng.integers(heights[0], heights[1] + 1, count)
            row[:] = np.repeat(values, np.diff([0, *breaks, length]))
        noisy = clean + noise * rng.normal(size=clean.shape)
        return cls(torch.tensor(noisy, dtype=torch.float32), torch.tensor(clean, dtype=torch.float32))

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """(noisy, clean)."""
        return self.noisy, self.clean

    def first(self, count: int | None) -> Self:
        """The first ``count`` samples; None: all."""
        return type(self)(self.noisy[:count], self.clean[:count])

    def split(self, fraction: float) -> tuple[Self, Self]:
        """The first ``fraction`` of the samples, and the rest."""
        check_range("fraction", fraction, 0.0, 1.0, open_low=True)
        cut = round(fraction * len(self))
        return type(self)(self.noisy[:cut], self.clean[:cut]), type(self)(self.noisy[cut:], self.clean[cut:])


class _Denoiser(SavedModule):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = check_positive_int("length", length)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error."""
        noisy, clean = batch
        return mse_loss(self(noisy), clean)

    def _signals(self, y: Tensor) -> Tensor:
        check_last_dim("y", check_float_tensor("y", y), self.length)
        return y


class TotalVariationLayer(_Denoiser):
    """Total-variation denoising, exact, with a learned penalty: (..., length) -> (..., length).

    Args:
        length: of the signals, at least 2.
        lam: > 0, what the penalty starts from.
        per_edge: one penalty an edge instead of one for all.

    Attributes:
        log_lam: the parameter, () or (length - 1,).
    """

    def __init__(self, length: int, lam: float = 20.0, *, per_edge: bool = False) -> None:
        super().__init__(length)
        self.start, self.per_edge = check_range("lam", lam, 0.0, math.inf, open_low=True), per_edge
        self.log_lam = nn.Parameter(torch.full((length - 1,) if per_edge else (), math.log(lam)))
        self.solves = SolveCount()

    def arguments(self) -> dict[str, Any]:
        return {"length": self.length, "lam": self.start, "per_edge": self.per_edge}

    @property
    def lam(self) -> Tensor:
        """The penalty, () or (length - 1,), > 0."""
        return self.log_lam.exp()

    def forward(self, y: Tensor) -> Tensor:
        """z (..., length). Rows that hold a NaN are counted as failed, and are NaN."""
        solution = total_variation(self._signals(y), self.lam, throw=False)
        self.solves.add(solution.status)
        return solution.value


class DenoisingModule(_Denoiser):
    """The learned programme above: (..., length) -> (..., length).

    Started at total variation, D = B D_0 with the differences D_0 and B = I, so that small changes of the parameters
    are small changes of the answer: D of a constant signal stays 0. Started at random, D_0 = I.

    Args:
        length: of the signals, at least 2.
        init: "total_variation", or "random": D of normal numbers of variance 0.09 as in the authors' code.
        rows: of D; by default length - 1. More of them, next to "total_variation", start as random combinations of
            differences with a penalty of a hundredth.
        lam: > 0, what every lam_j starts from.
        learn_metric: whether Q and W are learned, or stay the identity.
        solver: settings of the quadratic programme.

    Attributes:
        B, basis, log_lam: D = B basis; parameter (rows, k), constant (k, length), parameter (rows,).
        L, W: Q = L L^T, L lower triangular; (length, length).

    Example:
        >>> DenoisingModule(length=100, init="total_variation")(torch.randn(8, 100)).shape
        torch.Size([8, 100])
    """

    basis: Tensor

    def __init__(
        self,
        length: int = 100,
        init: str = "total_variation",
        rows: int | None = None,
        lam: float = 20.0,
        *,
        learn_metric: bool = True,
        solver: PrimalDual | None = None,
    ) -> None:
        super().__init__(length)
        if length < 2:
            raise ValueError(f"length: expected at least 2 samples, got {length}.")
        self.init = check_choice("init", init, ("total_variation", "random"))
        self.rows = length - 1 if rows is None else check_positive_int("rows", rows)
        self.start = check_range("lam", lam, 0.0, math.inf, open_low=True)
        self.learn_metric = learn_metric
        self.solver = PrimalDual() if solver is None else solver
        B, basis = 0.3 * torch.randn(self.rows, length), torch.eye(length)
        log_lam = torch.full((self.rows,), math.log(lam))
        if init == "total_variation":
            basis = basis.diff(dim=0)
            edges = length - 1
            if self.rows < edges:
                raise ValueError(f"rows: total variation of {length} samples has {edges} rows, got {rows}.")
            B = B[:, :edges]
            B[:edges] = torch.eye(edges)
            log_lam[edges:] -= math.log(100.0)
        self.B, self.log_lam = nn.Parameter(B.contiguous()), nn.Parameter(log_lam)
        self.L = nn.Parameter(torch.eye(length), requires_grad=learn_metric)
        self.W = nn.Parameter(torch.eye(length), requires_grad=learn_metric)
        self.register_buffer("basis", basis.contiguous())
        self.solves, self.warm = SolveCount(), WarmStarts()

    def arguments(self) -> dict[str, Any]:
        return {
            "length": self.length,
            "init": self.init,
            "rows": self.rows,
            "lam": self.start,
            "learn_metric": self.learn_metric,
            "solver": self.solver,
        }

    @property
    def D(self) -> Tensor:  # noqa: N802  the mathematics' name
        """(rows, length)."""
        return self.B @ self.basis

    @property
    def lam(self) -> Tensor:
        """(rows,), > 0."""
        return self.log_lam.exp()

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Learning rates that suit the parts: ``lr`` for B, ten times that for log_lam, a third for L and W."""
        groups = [{"params": [self.B], "lr": lr}, {"params": [self.log_lam], "lr": 10.0 * lr}]
        return groups + ([{"params": [self.L, self.W], "lr": 0.3 * lr}] if self.learn_metric else [])

    def forward(self, y: Tensor) -> Tensor:
        """z (..., length). Rows that were not solved, those with a NaN for instance, are counted in ``solves``."""
        flat = self._signals(y).reshape(-1, self.length)
        wide = flat.double()  # D Q^-1 D^T in float32 may have a negative eigenvalue
        mean = wide.mean(-1, keepdim=True)
        L, W, D, lam = self.L.double().tril(), self.W.double(), self.B.double() @ self.basis.double(), self.lam.double()
        root = torch.linalg.solve_triangular(L, D.mT, upper=False)  # L^-1 D^T
        pull = torch.linalg.solve_triangular(L, W @ (wide - mean).mT, upper=False)  # L^-1 W (y - m), a column a signal
        known = self.warm.get(flat) if self.training else None
        solution = solve_qp(
            root.mT @ root, -pull.mT @ root, lb=-lam, ub=lam, solver=self.solver, warm_start=known, throw=False
        )
        if self.training:
            self.warm.put(flat, solution.warm_start)
        self.solves.add(solution.status)
        x = torch.linalg.solve_triangular(L.mT, pull - root @ solution.value.mT, upper=True).mT
        z: Tensor = (mean + x).to(y.dtype).reshape(y.shape)
        return z


class DenseDenoiser(_Denoiser):
    """The baseline: a fully connected net, length - hidden - length with ReLU."""

    def __init__(self, length: int = 100, hidden: tuple[int, ...] = (199,)) -> None:
        super().__init__(length)
        self.hidden = check_widths("hidden", hidden)
        widths = (length, *self.hidden)
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], length))

    def arguments(self) -> dict[str, Any]:
        return {"length": self.length, "hidden": self.hidden}

    def forward(self, y: Tensor) -> Tensor:
        out: Tensor = self.net(self._signals(y))
        return out


def best_penalty(data: DenoisingDataset, penalties: Tensor) -> tuple[float, Tensor]:
    """The penalty with the least mean squared error of total variation on ``data``, and the errors of all, (k,)."""
    errors = torch.stack([mse_loss(total_variation(data.noisy, float(lam)).value, data.clean) for lam in penalties])
    return float(penalties[errors.argmin()]), errors
