"""``icnn-rl imputation``: hidden halves or pixels of faces as the argmin of a convolutional convex energy."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import TensorDataset

from icnn_rl.cli.supervised_run import Run, new_figure, options_of, user_errors
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, Solver
from icnn_rl.supervised.imputation import (
    TEST_FACES,
    AugmentedFaces,
    ConvRegression,
    ImputationModule,
    load_faces,
    mask_left,
    mask_random,
)
from icnn_rl.supervised.training.fit import falling

__all__ = ["run"]

_GREY_LEVELS = 255.0**2  # the paper's scale

#: Of the training loss.
_UNITS = {"mse": {"loss": "mean squared error, pixels in [0, 1]"}, "energy": {"loss": "energy a pixel"}}

Model = ImputationModule | ConvRegression


def run(args: argparse.Namespace) -> None:
    args = options_of(args)
    with user_errors():
        faces = load_faces(args.data)
        run = Run(args)
        train, test = faces[:350][: args.limit], faces[TEST_FACES][: args.limit]
        left = mask_left(train[0])
        masks = left.expand(test.shape) if args.mask == "left" else mask_random(test, args.fraction, seed=12345)
        hidden = float((~masks).double().sum()) / len(masks)  # pixels a face
        model = build(args, train, left)
        before = error(model, test, masks)
        history = run.train(
            model,
            AugmentedFaces(train, left if args.mask == "left" else None, fraction=args.fraction),
            TensorDataset(test, masks),  # for the curve only: nothing is chosen by it
            {"mse": lambda model, batch: _squared(model, *batch) / hidden},
            units={"mse": "grey levels squared, of hidden pixels", **_UNITS[args.loss]},
            lr=falling(args.lr),
            optimizer=partial(torch.optim.AdamW, weight_decay=args.weight_decay),
            max_grad_norm=1.0,
        )
    result = {
        "model": args.model,
        "test_mse": error(model, test, masks),
        "test_mse_before_training": before,
        "test_mse_of_the_mean_face": _grey(_mean_face(train).expand(test.shape), test, masks),
        "seconds": sum(row["time"] for row in history),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if model.regression is not None:
        ridge = model.regression(torch.where(masks, test, 0.0).flatten(1)).view_as(test)
        result["test_mse_of_the_ridge_regression"] = _grey(ridge, test, masks)
    run.save_figure("completions", picture(model, test[::10], masks[::10]))
    run.report(result)


def build(args: argparse.Namespace, train: Tensor, left: Tensor) -> Model:
    """The model before training."""
    shared: dict[str, Any] = {
        "shape": tuple(train.shape[1:]),
        "context": tuple(args.context),
        "latent": args.latent,
        "mirror": True,
        "dropout": args.dropout,
        "regression_rank": args.rank if args.mask == "left" else 0,
    }
    if args.model == "regression":
        model: Model = ConvRegression(**shared)
    else:
        solver: Solver = BundleEntropy(max_steps=args.steps, tol=1e-4)
        if args.model != "bundle":
            solver = ProjectedGradient("momentum", lr=0.3, momentum=0.5, max_steps=args.steps, tol=1e-4)
        model = ImputationModule(
            hidden=tuple(args.hidden), solver=solver, loss=args.loss, convex=args.model != "twin", **shared
        )
        model.fit_start_(torch.cat((train, train.flip(-1))))
    if model.regression is not None:
        model.fit_regression_(torch.cat((train, train.flip(-1))), left, args.penalty)
    return model


def _squared(model: Any, images: Tensor, mask: Tensor) -> Tensor:
    """Squared errors of the hidden pixels, summed over a face and averaged over faces: ``fit`` weighs batches by their
    faces, so that a mean over a batch's hidden pixels would weigh these unequally."""
    filled: Tensor = model(images, mask)
    return (filled[~mask] - images[~mask]).square().sum() / len(images) * _GREY_LEVELS


def _grey(filled: Tensor, images: Tensor, mask: Tensor) -> float:
    return float((filled[~mask] - images[~mask]).square().mean() * _GREY_LEVELS)


def error(model: Model, images: Tensor, mask: Tensor) -> float:
    """Mean squared error of the hidden pixels, in grey levels 0 .. 255 squared."""
    model.eval()
    with torch.no_grad():
        return _grey(model(images, mask), images, mask)


def _mean_face(train: Tensor) -> Tensor:
    return torch.cat((train, train.flip(-1))).mean(0)


def picture(model: Model, images: Tensor, masks: Tensor) -> Figure:
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
