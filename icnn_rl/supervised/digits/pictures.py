"""Pictures of what was learned."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from icnn_rl.figures import new_figure
from icnn_rl.supervised.digits import DigitsDataset

__all__ = ["wrong_digits"]


def wrong_digits(test: DigitsDataset, guess: torch.Tensor) -> Figure:
    """Some that were taken for others."""
    wrong = (guess != test.labels).nonzero().flatten()[:24].tolist()
    figure, axes = new_figure(3, 8, (1.2, 1.4))
    for axis in axes:
        axis.axis("off")
    for axis, i in zip(axes, wrong, strict=False):
        axis.imshow(test.images[i].reshape(28, 28).numpy(), cmap="gray_r")
        axis.set_title(f"{int(guess[i])}, not {int(test.labels[i])}", fontsize="small")
    figure.suptitle("images of the test set: what they were taken for, not what they are", fontsize="small")
    return figure
