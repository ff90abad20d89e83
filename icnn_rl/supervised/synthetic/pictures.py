"""Pictures of what was learned."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from icnn_rl.figures import new_figure
from icnn_rl.supervised.synthetic import SyntheticModule

__all__ = ["picture"]


def picture(trained: list[tuple[str, SyntheticModule, Tensor, Tensor]]) -> Figure:
    """The probability over the plane, its level 1/2, and the training points."""
    figure, axes = new_figure(len(trained) // 2, 2, (3.6, 2.9))
    for axis, (title, model, x, label) in zip(axes, trained, strict=True):
        reach = 1.1 * float(x.abs().max())
        line = torch.linspace(-reach, reach, 80)
        grid = torch.cartesian_prod(line, line)
        with torch.no_grad():
            p = model(grid).view(80, 80).mT.numpy()
        levels = torch.linspace(0.0, 1.0, 21).numpy()
        regions = axis.contourf(line, line, p, levels=levels, cmap="RdBu_r", vmin=0.0, vmax=1.0, alpha=0.8)
        axis.contour(line, line, p, levels=[0.5], colors="black", linewidths=1.0)
        axis.scatter(x[:, 0], x[:, 1], c=label, cmap="RdBu_r", s=8, edgecolors="white", linewidths=0.3)
        axis.set(xlabel="x_1", ylabel="x_2")
        axis.set_title(title, fontsize="small")
    figure.colorbar(regions, ax=axes, label="probability of the red class; the line is at 1/2", shrink=0.6)
    figure.suptitle("decision regions and training points", fontsize="medium")
    return figure
