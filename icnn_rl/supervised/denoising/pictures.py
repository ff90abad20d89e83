"""Pictures of what was learned."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import nn

from icnn_rl.figures import new_figure
from icnn_rl.supervised.denoising import (
    DenoisingDataset,
    DenoisingModule,
)

__all__ = ["matrix", "signals"]


def signals(test: DenoisingDataset, name: str, model: nn.Module, start: nn.Module, lam: float) -> Figure:
    """Four test signals. Total variation is broad and pale: the model, which may start there, is drawn over it."""
    figure, axes = new_figure(2, 2)
    with torch.no_grad():
        lines = (test.noisy[:4], test.clean[:4], model(test.noisy[:4]), start(test.noisy[:4]))
    for i, (axis, noisy, clean, answer, flat) in enumerate(zip(axes, *(line.numpy() for line in lines), strict=False)):
        axis.plot(noisy, ".", color="0.7", label="noisy")
        axis.plot(flat, color="tab:orange", linewidth=4, alpha=0.6, label=f"total variation, penalty {lam:g}")
        axis.plot(clean, color="black", linewidth=1, label="clean")
        axis.plot(answer, color="tab:blue", linewidth=1.2, label=f"{name}, trained")
        axis.set(xlabel="position", ylabel="value", title=f"test signal {i}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def matrix(model: DenoisingModule) -> Figure:
    """The learned rows, each times its penalty."""
    figure, axes = new_figure(1, 1)
    rows = (model.lam[:, None] * model.D).detach()
    bound = float(rows.abs().max())
    image = axes[0].imshow(rows.numpy(), cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="penalty times entry, λ_j D_ji")
    axes[0].set(xlabel="position i in the signal", ylabel="row j", title="what is kept small: the rows of λ D")
    return figure
