"""Imputation with a convex energy: the observed entries stay, the others are the argmin.

For an image or a table row y in [0, 1]^n, of which the entries in a mask are observed,

    y^ = argmin_y f(x, y) - tau H(y)    over  { y in [0, 1]^n : y = observed where observed },

x being the observed entries and the mask themselves, f a PICNN: convolutional for images, fully connected for rows. The
mask is an input: one model serves any mask it was trained with.

References:
    B. Amos, L. Xu, Z. Kolter, Input Convex Neural Networks, ICML 2017, section 6.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from icnn_rl.checks import check_choice, check_float_tensor, check_range, check_widths
from icnn_rl.nn import PICNN, ConvEnergy, ConvPICNN, EnsembleEnergy
from icnn_rl.sets import Box
from icnn_rl.solution import Solution
from icnn_rl.solvers import BundleEntropy, DualKKT, ImplicitCG, Solver, Unrolled, minimize
from icnn_rl.solvers.minimize import Adjoint
from icnn_rl.supervised.imputation.regression import Regression
from icnn_rl.supervised.training.batches import Batch
from icnn_rl.supervised.training.losses import energy_loss
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = ["ImputationModule", "check_masked", "mask_left", "mask_random", "squared_error"]

_LOSSES = ("mse", "energy")
_ADJOINT = ImplicitCG(tol=1e-2, max_steps=8)


def mask_random(images: Tensor, fraction: float, seed: int = 0) -> Tensor:
    """A mask of ``images``' shape, true where observed; every entry is hidden with probability ``fraction``."""
    check_range("fraction", fraction, 0.0, 1.0)
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(images.shape, generator=generator) >= fraction).to(images.device)


def mask_left(images: Tensor) -> Tensor:
    """A mask of ``images``' shape (..., W), true where observed: the right half."""
    columns = torch.arange(images.shape[-1], device=images.device) >= images.shape[-1] // 2
    return columns.expand(images.shape).clone()


def check_masked(images: Tensor, mask: Tensor, shape: Sequence[int], bounds: tuple[float, float]) -> None:
    """ValueError, naming the argument, unless shapes fit and observed entries are finite and within bounds."""
    check_float_tensor("images", images)
    if images.dim() != len(shape) + 1 or images.shape[1:] != tuple(shape):
        raise ValueError(f"images: expected shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}.")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask: expected a bool tensor, true where observed, got {came}.")
    if mask.shape != images.shape:
        raise ValueError(f"mask: expected images' shape {tuple(images.shape)}, got {tuple(mask.shape)}.")
    seen = images[mask]
    if not bool(torch.isfinite(seen).all()):
        bad = int((~torch.isfinite(images) & mask).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"images: row {bad} has NaN or infinite entries where mask says observed.")
    low, high = bounds
    if seen.numel() > 0 and not (low <= float(seen.min()) and float(seen.max()) <= high):
        raise ValueError(
            f"images: observed entries run from {float(seen.min()):g} to {float(seen.max()):g}, expected [{low:g}, "
            f"{high:g}]. Rescale them, or pass bounds."
        )


def squared_error(filled: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """The mean at the entries ``where``; where there are none a 0 that still depends on the parameters: a small batch
    may hide nothing by chance, and a mean over nothing, NaN, would stop the training."""
    errors = filled[where] - truth[where]
    return errors.square().sum() / max(errors.numel(), 1)


class ImputationModule(SavedModule):
    """Fills what a mask hides; trained with :func:`~icnn_rl.supervised.fit` on samples (image, mask).

    Args:
        shape: (C, H, W) of an image, or (n,) of a row.
        hidden: widths of the convex path: channels at half, quarter .. size for images.
        solver: of the inner problem. BundleEntropy minimises f - tau H; any other minimises f itself, which then gets a
            quadratic head 1/2 sum_j q_j(x) y_j^2, so that its minimum lies inside.
        context: widths of the context path; by default 16, 32, 64 .. for images, 128-128 for rows.
        latent: units of the dense layer in an image's context path.
        activation: of the convex path.
        bounds: range of the entries, the box.
        mirror: give the context the mirrored image as well: faces are nearly symmetric.
        loss: "mse": squared error of the hidden entries, through the implicit gradient. "energy": f - tau H at the
            truth against its minimum; cheaper, no derivative of the argmin.
        regression_rank: 0, or the rank of a linear regression that :meth:`fit_regression_` puts into f's linear term.
        convex: False: the twin whose weights are free in sign, trained through the unrolled steps of ProjectedGradient.

    Shapes:
        ``module(images, mask)``: (B, *shape), bool (B, *shape) true where observed -> (B, *shape); observed entries
        come back as they are, hidden ones are ignored and may be NaN.

    Raises:
        ValueError: a mask of another shape or dtype, observed entries that are NaN or out of bounds, wrong settings.

    Example:
        >>> model = ImputationModule(shape=(1, 28, 28), hidden=(16, 16), solver=BundleEntropy(max_steps=5))
        >>> filled = model(images, mask_random(images, fraction=0.5))
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (16, 16),
        solver: Solver | None = None,
        *,
        context: Sequence[int] | None = None,
        latent: int = 64,
        activation: str = "softplus",
        bounds: tuple[float, float] = (0.0, 1.0),
        mirror: bool = False,
        loss: str = "mse",
        regression_rank: int = 0,
        dropout: float = 0.0,
        convex: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.hidden = check_widths("shape", shape), check_widths("hidden", hidden)
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape: expected (C, H, W) or (n,), got {self.shape}.")
        self.solver = BundleEntropy(max_steps=5, tol=1e-4) if solver is None else solver
        self.latent, self.activation = latent, activation
        self.bounds = (float(bounds[0]), float(bounds[1]))
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds: expected low < high, got {bounds}.")
        self.mirror, self.dropout = bool(mirror), dropout
        self.loss_name = check_choice("loss", loss, _LOSSES)
        self.convex = bool(convex)
        self.context = self._default_context() if context is None else check_widths("context", context)
        self.net = self._make_net()
        n = self.net_size
        self.regression = Regression(n, regression_rank) if regression_rank else None
        self.register_buffer("start", torch.full((n,), 0.5))
        self.solves = SolveCount()

    start: Tensor

    def arguments(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "hidden": self.hidden,
            "solver": self.solver,
            "context": self.context,
            "latent": self.latent,
            "activation": self.activation,
            "bounds": self.bounds,
            "mirror": self.mirror,
            "loss": self.loss_name,
            "regression_rank": 0 if self.regression is None else self.regression.rank,
            "dropout": self.dropout,
            "convex": self.convex,
        }

    def _default_context(self) -> tuple[int, ...]:
        if len(self.shape) == 1:
            return (128, 128)
        return tuple(min(16 * 2**j, 64) for j in range(len(self.hidden) + 1))

    def _make_net(self) -> ConvPICNN | PICNN:
        quadratic = self.entropy == 0.0
        least = 0.1 if quadratic else 0.0
        if len(self.shape) == 3:
            channels, *size = self.shape
            return ConvPICNN(
                (channels * (3 if self.mirror else 2), *size),
                self.shape,
                self.context,
                self.hidden,
                latent=self.latent,
                activation=self.activation,
                dropout=self.dropout,
                quadratic=quadratic,
                strong_convexity=least,
                convex=self.convex,
            )
        if not self.convex or self.mirror:
            raise ValueError("convex, mirror: only for images.")
        return PICNN(
            2 * self.shape[0],
            self.shape[0],
            self.context,
            self.hidden,
            activation=self.activation,
            context_norm=True,
            quadratic=quadratic,
            strong_convexity=least,
        )

    @property
    def net_size(self) -> int:
        """n, the number of entries."""
        size = 1
        for side in self.shape:
            size *= side
        return size

    @property
    def entropy(self) -> float:
        """tau; 0 for a solver that minimises f itself."""
        return float(getattr(self.solver, "entropy", 0.0))

    @torch.no_grad()
    def fit_start_(self, images: Tensor) -> None:
        """Let the solver start at the mean of ``images`` (N, *shape), as the paper does."""
        self.start.copy_(self._unit(images).flatten(1).mean(0))

    @torch.no_grad()
    def fit_regression_(self, images: Tensor, mask: Tensor, penalty: float) -> None:
        """Ridge regression of all entries on the observed ones, for one mask (*shape) that all images share.

        Its prediction m(x) enters f as the linear term whose minimiser alone would be m(x): lin = -tau logit m(x) with
        the entropy, lin = -q m(x) beside the quadratic head. Closed form, held fixed in training; a convolutional net
        is softened, so that training starts near m(x).
        """
        if self.regression is None:
            raise ValueError("regression_rank: 0; build the module with a rank to use a regression.")
        check_masked(images, mask.expand(images.shape), self.shape, self.bounds)
        self.regression.fit_(self._unit(images).flatten(1), mask.flatten(), penalty)
        if isinstance(self.net, ConvPICNN):
            self.net.soften_()

    def _unit(self, images: Tensor) -> Tensor:
        low, high = self.bounds
        return (images - low) / (high - low)

    def energy(self, images: Tensor, mask: Tensor) -> ConvEnergy | EnsembleEnergy:
        """f(x, .) for images scaled to [0, 1], hidden entries 0: an energy in y (B, n)."""
        seen = mask.to(images.dtype)
        if len(self.shape) == 3:
            parts = [images, seen, images.flip(-1)] if self.mirror else [images, seen]
            energy: ConvEnergy | EnsembleEnergy = cast(ConvPICNN, self.net).bind(torch.cat(parts, 1))
        else:
            energy = cast(PICNN, self.net).bind(torch.cat((images, seen), 1))
        if self.regression is None:
            return energy
        guess = self.regression(images.flatten(1))
        tilt = -energy.quadratic * guess if self.entropy == 0.0 else -self.entropy * torch.logit(guess)
        return dataclasses.replace(energy, linear=energy.linear + tilt)

    def _adjoint(self, energy: ConvEnergy | EnsembleEnergy) -> Adjoint | None:
        if not torch.is_grad_enabled():
            return None
        if not isinstance(self.solver, BundleEntropy):
            return Unrolled()  # a few gradient steps stop short of the minimum; this differentiates what they did
        return _ADJOINT if energy.smooth else DualKKT()

    @overload
    def forward(self, images: Tensor, mask: Tensor, return_solution: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, mask: Tensor, return_solution: Literal[True]) -> tuple[Tensor, Solution]: ...

    def forward(self, images: Tensor, mask: Tensor, return_solution: bool = False) -> Tensor | tuple[Tensor, Solution]:
        """The completed images; with ``return_solution`` also the solver's report, on entries scaled to [0, 1]."""
        check_masked(images, mask, self.shape, self.bounds)
        unit = torch.where(mask, self._unit(images), 0.0)
        energy = self.energy(unit, mask)
        solution = self._solve(energy, unit, mask, self._adjoint(energy))
        low, high = self.bounds
        filled = torch.where(mask, images, low + (high - low) * solution.value.view_as(images))
        return (filled, solution) if return_solution else filled

    def _solve(
        self, energy: ConvEnergy | EnsembleEnergy, unit: Tensor, mask: Tensor, adjoint: Adjoint | None
    ) -> Solution:
        seen, y = mask.flatten(1), unit.flatten(1)
        box = Box(torch.where(seen, y, 0.0), torch.where(seen, y, 1.0))
        start = torch.where(seen, y, self.start.to(y))
        solution = minimize(energy, self.solver, start, domain=box, adjoint=adjoint, throw=False)
        self.solves.add(solution.status)
        return solution

    def loss(self, batch: Batch) -> Tensor:
        """The chosen loss of a batch (images, mask), over hidden entries that are known; entries scaled to [0, 1]."""
        images, mask = batch
        known = torch.isfinite(images) & ~mask
        if self.loss_name == "mse":
            return squared_error(self._unit(self(images, mask)), self._unit(images), known)
        check_masked(images, mask, self.shape, self.bounds)
        unit = torch.where(mask, self._unit(images), 0.0)
        energy = self.energy(unit, mask)
        with torch.no_grad():
            found = self._solve(energy, unit, mask, None).value
        truth = torch.where(known | mask, self._unit(images), 0.0).flatten(1)
        truth = torch.where((known | mask).flatten(1), truth, found)  # entries that nobody knows pull nowhere
        return energy_loss(energy, truth, found, entropy=self.entropy).mean() / self.net_size
