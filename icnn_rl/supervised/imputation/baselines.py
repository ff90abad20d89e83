"""What the convex energy is compared with on images: the same context path as a plain regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from icnn_rl.checks import check_widths
from icnn_rl.nn.conv.context import ConvContext
from icnn_rl.supervised.imputation.module import check_masked, squared_error
from icnn_rl.supervised.imputation.regression import Regression
from icnn_rl.supervised.training.batches import Batch
from icnn_rl.supervised.training.saved_module import SavedModule

__all__ = ["ConvRegression"]


class ConvRegression(SavedModule):
    """sigmoid of a convolutional net of the observed pixels and the mask; no energy, no inner problem.

    The arguments are :class:`~icnn_rl.supervised.imputation.module.ImputationModule`'s, the interface too.
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: Sequence[int] = (16, 32, 64),
        *,
        latent: int = 64,
        mirror: bool = False,
        dropout: float = 0.0,
        regression_rank: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.context_widths = check_widths("shape", shape), check_widths("context", context)
        channels, height, width = self.shape
        self.latent, self.mirror, self.dropout = latent, mirror, dropout
        self.context = ConvContext(
            channels * (3 if mirror else 2), (height, width), self.context_widths, latent, True, dropout
        )
        self.local = nn.Conv2d(self.context_widths[0], channels, 1)
        self.dense = nn.Linear(latent, channels * height * width)
        self.regression = Regression(channels * height * width, regression_rank) if regression_rank else None

    def arguments(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "context": self.context_widths,
            "latent": self.latent,
            "mirror": self.mirror,
            "dropout": self.dropout,
            "regression_rank": 0 if self.regression is None else self.regression.rank,
        }

    @torch.no_grad()
    def fit_regression_(self, images: Tensor, mask: Tensor, penalty: float) -> None:
        """As :meth:`ImputationModule.fit_regression_`: its logits are added to the net's, which is softened."""
        if self.regression is None:
            raise ValueError("regression_rank: 0; build the module with a rank to use a regression.")
        self.regression.fit_(images.flatten(1), mask.flatten(), penalty)
        for weight in (self.local.weight, self.dense.weight):
            weight.mul_(0.1)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        check_masked(images, mask, self.shape, (0.0, 1.0))
        seen = torch.where(mask, images, 0.0)
        parts = [seen, mask.to(images.dtype)] + ([seen.flip(-1)] if self.mirror else [])
        u, v = self.context(torch.cat(parts, 1))
        logits = self.local(u[0]) + self.dense(v).view_as(images)
        if self.regression is not None:
            logits = logits + torch.logit(self.regression(seen.flatten(1))).view_as(images)
        return torch.where(mask, images, torch.sigmoid(logits))

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the hidden pixels."""
        images, mask = batch
        return squared_error(self(images, mask), images, ~mask)
