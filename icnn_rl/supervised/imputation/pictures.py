"""Pictures of what was learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from icnn_rl.figures import new_figure
from icnn_rl.supervised.imputation import (
    ConvRegression,
    ImputationModule,
)

__all__ = ["picture"]


def picture(model: ImputationModule | ConvRegression, images: Tensor, masks: Tensor) -> Figure:
    """Rows of faces: the truth, what is seen, and the completion as the inner solver's steps go on."""
    columns = [("truth", images), ("seen, hidden blue", torch.where(masks, images, torch.nan))]
    model.eval()
    with torch.no_grad():
        if isinstance(model, ImputationModule):
            columns.append(("start", torch.where(masks, images, model.start.view(1, *model.shape))))
            columns += [(f"{k} step{'s' * (k > 1)}", _after(model, k, images, masks)) for k in _some_steps(model)]
        else:
            columns.append(("completion", model(images, masks)))
    figure, axes = new_figure(len(images), len(columns), (1.25, 1.35))
    grey = colormaps["gray"].with_extremes(bad="tab:blue")  # what is not known is no grey
    for at, axis in enumerate(axes):
        row, (title, column) = at // len(columns), columns[at % len(columns)]
        axis.imshow(column[row, 0].numpy(), cmap=grey, vmin=0.0, vmax=1.0)
        axis.axis("off")
        if row == 0:
            axis.set_title(title, fontsize="x-small")
    figure.suptitle("faces of the test set; steps of the inner solver", fontsize="small")
    return figure


def _some_steps(model: ImputationModule) -> list[int]:
    steps = model.solver.max_steps
    return sorted({1, 2, max(steps // 2, 1), steps})


def _after(model: ImputationModule, steps: int, images: Tensor, masks: Tensor) -> Tensor:
    """The completion after so many steps of the inner solver."""
    solver: Any = model.solver
    try:
        model.solver = dataclasses.replace(solver, max_steps=steps, tol=1e-12)
        filled: Tensor = model(images, masks)
        return filled
    finally:
        model.solver = solver
