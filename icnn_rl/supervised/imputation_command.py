"""The command ``imputation``: complete the Olivetti faces, and leave model, numbers, curve and pictures in a folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from icnn_rl._files import write_text
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, Solver
from icnn_rl.supervised.faces import TEST_FACES, AugmentedFaces, load_faces
from icnn_rl.supervised.fit import fit
from icnn_rl.supervised.imputation import ImputationModule, mask_left, mask_random
from icnn_rl.supervised.imputation_baselines import ConvRegression

__all__ = ["register"]

MODELS = ("bundle", "gradient", "twin", "regression")

_GREY_LEVELS = 255.0**2  # the paper's scale


def register(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "imputation",
        help="complete faces with a convolutional convex energy",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=None, help="olivetti_faces.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument(
        "--model",
        choices=MODELS,
        default="bundle",
        help="bundle: entropy and cuts; gradient: gradient steps on a strongly convex energy; twin: the same, "
        "not convex; regression: no energy",
    )
    parser.add_argument("--mask", choices=("left", "random"), default="left", help="what is hidden")
    parser.add_argument("--fraction", type=float, default=0.5, help="of pixels hidden by a random mask")
    parser.add_argument("--loss", choices=("mse", "energy"), default="mse", help="training loss")
    parser.add_argument("--hidden", type=int, nargs="+", default=[8, 16], help="channels of the convex path")
    parser.add_argument("--context", type=int, nargs="+", default=[8, 16, 32], help="channels of the context path")
    parser.add_argument("--latent", type=int, default=64, help="units of the context's dense layer")
    parser.add_argument("--dropout", type=float, default=0.5, help="of these units")
    parser.add_argument("--steps", type=int, default=5, help="of the inner solver")
    parser.add_argument("--rank", type=int, default=256, help="of the ridge regression inside; 0: none. Left mask only")
    parser.add_argument("--penalty", type=float, default=80.0, help="of the ridge regression")
    parser.add_argument("--weight-decay", type=float, default=1e-2, help="AdamW's")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the 350 training faces")
    parser.add_argument("--batch-size", type=int, default=32, help="faces an update")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate at the start; it falls to 0")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--out", type=Path, default=Path("runs/imputation"), help="folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, test, write OUT/result.json, model.safetensors, completions.png, and return the result."""
    faces = load_faces(args.data)
    train, test = faces[:350], faces[TEST_FACES]
    left = mask_left(train[0])
    masks = left.expand(test.shape) if args.mask == "left" else mask_random(test, args.fraction, seed=12345)
    torch.manual_seed(args.seed)
    model = build(args, train, left)
    before = _error(model, test, masks)
    start = time.perf_counter()
    history = fit(
        model,
        AugmentedFaces(train, left if args.mask == "left" else None, fraction=args.fraction),
        validation=TensorDataset(test, masks),  # for the curve only: nothing is chosen by it
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=lambda progress: args.lr * (1.0 - progress),
        seed=args.seed,
        loss=lambda model, batch: model.loss(batch),
        metrics={"mse": lambda model, batch: _squared(model, *batch)},
        optimizer=partial(torch.optim.AdamW, weight_decay=args.weight_decay),
        max_grad_norm=1.0,
    )
    seconds = time.perf_counter() - start
    result = {
        "model": args.model,
        "seed": args.seed,
        "settings": {key: value for key, value in vars(args).items() if key not in ("run", "data", "out")},
        "test_mse": round(_error(model, test, masks), 2),
        "test_mse_before_training": round(before, 2),
        "test_mse_of_the_mean_face": round(_mean_face(train, test, masks), 2),
        "curve": [{k: float(f"{row[k]:.6g}") for k in ("epoch", "loss", "val/mse", "time")} for row in history],
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    if model.regression is not None:
        ridge = model.regression(torch.where(masks, test, 0.0).flatten(1)).view_as(test)
        result["test_mse_of_the_ridge_regression"] = round(_grey(ridge, test, masks), 2)
    write_text(args.out / "result.json", json.dumps(result, indent=1) + "\n")
    model.save(args.out / "model.safetensors")
    picture(model, test[::10], masks[::10], args.out / "completions.png")
    print(f"{args.model}, seed {args.seed}: test MSE {result['test_mse']} in grey levels squared, {seconds:.0f} s")
    return result


def build(args: argparse.Namespace, train: Tensor, left: Tensor) -> ImputationModule | ConvRegression:
    """The model before training."""
    shared = {
        "shape": tuple(train.shape[1:]),
        "context": tuple(args.context),
        "latent": args.latent,
        "mirror": True,
        "dropout": args.dropout,
        "regression_rank": args.rank if args.mask == "left" else 0,
    }
    if args.model == "regression":
        model: ImputationModule | ConvRegression = ConvRegression(**shared)
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
    return (model(images, mask)[~mask] - images[~mask]).square().mean() * _GREY_LEVELS


def _grey(filled: Tensor, images: Tensor, mask: Tensor) -> float:
    return float((filled[~mask] - images[~mask]).square().mean() * _GREY_LEVELS)


def _error(model: Any, images: Tensor, mask: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return _grey(model(images, mask), images, mask)


def _mean_face(train: Tensor, test: Tensor, mask: Tensor) -> float:
    mean = torch.cat((train, train.flip(-1))).mean(0).expand(test.shape)
    return _grey(mean, test, mask)


def picture(model: ImputationModule | ConvRegression, images: Tensor, masks: Tensor, path: Path) -> None:
    """Rows of faces: the truth, what is seen, and the completion as the inner solver's steps go on."""
    columns = [("truth", images), ("seen", torch.where(masks, images, 1.0))]
    model.eval()
    with torch.no_grad():
        if isinstance(model, ImputationModule):
            solver, steps = model.solver, model.solver.max_steps
            columns.append(("start", torch.where(masks, images, model.start.view(1, *model.shape))))
            for k in sorted({1, 2, max(steps // 2, 1), steps}):
                model.solver = dataclasses.replace(solver, max_steps=k, tol=1e-12)  # type: ignore[type-var]
                columns.append((f"{k} step{'s' * (k > 1)}", model(images, masks)))
            model.solver = solver
        else:
            columns.append(("completion", model(images, masks)))
    figure, axes = plt.subplots(len(images), len(columns), figsize=(1.25 * len(columns), 1.3 * len(images)))
    for row, line in zip(range(len(images)), np.atleast_2d(axes), strict=True):
        for (title, column), axis in zip(columns, line, strict=True):
            axis.imshow(column[row, 0].numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
