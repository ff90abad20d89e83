"""Denoising of piecewise constant signals: total variation, and an OptNet layer that starts there and learns."""

from icnn_rl.supervised.denoising.module import (
    DenoisingDataset,
    DenoisingModule,
    DenseDenoiser,
    TotalVariationLayer,
    best_penalty,
)

__all__ = ["DenoisingDataset", "DenoisingModule", "DenseDenoiser", "TotalVariationLayer", "best_penalty"]
