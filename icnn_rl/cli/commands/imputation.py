"""``icnn-rl imputation``: hidden halves or pixels of faces as the argmin of a convolutional convex energy."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from icnn_rl.cli.options import add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import non_negative_int, positive_float, positive_int

if TYPE_CHECKING:
    from torch import Tensor

    from icnn_rl.solvers import Solver
    from icnn_rl.supervised.imputation import ConvRegression, ImputationModule

__all__ = ["register", "run"]

_GREY_LEVELS = 255.0**2  # as in the paper

#: Unit of the training loss.
_UNITS = {"mse": {"loss": "mean squared error, pixels in [0, 1]"}, "energy": {"loss": "energy a pixel"}}


def register(commands: SubParsers) -> None:
    parser = add_supervised(
        commands, "imputation", "complete faces with a convex energy", epochs=8, batch_size=32, lr=1e-3
    )
    parser.add_argument("--data", default=None, help="olivetti_faces.npz or a folder; None: ICNN_RL_DATA, or fetch")
    parser.add_argument(
        "--model",
        choices=("bundle", "gradient", "twin", "regression"),
        default="bundle",
        help="bundle: entropy and cuts; gradient: gradient steps on a strongly convex energy; twin: the same, "
        "not convex; regression: no energy",
    )
    parser.add_argument("--mask", choices=("left", "random"), default="left", help="what is hidden")
    parser.add_argument("--fraction", type=float, default=0.5, help="share of pixels that a random mask hides")
    parser.add_argument("--loss", choices=("mse", "energy"), default="mse", help="training loss")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[8, 16], help="channels of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="+", default=[8, 16, 32], help="channels of the context path"
    )
    parser.add_argument("--latent", type=positive_int, default=64, help="units of the context's dense layer")
    parser.add_argument("--dropout", type=float, default=0.5, help="dropout of these units")
    parser.add_argument("--steps", type=positive_int, default=5, help="steps of the inner solver")
    parser.add_argument(
        "--rank",
        type=non_negative_int,
        default=256,
        help="rank of the ridge regression inside; 0: none. Left mask only",
    )
    parser.add_argument("--penalty", type=positive_float, default=80.0, help="penalty of the ridge regression")
    parser.add_argument("--weight-decay", type=float, default=1e-2, help="weight decay of AdamW")


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.utils.data import TensorDataset

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised.imputation import TEST_FACES, AugmentedFaces, load_faces, mask_left, mask_random
    from icnn_rl.supervised.imputation.pictures import picture
    from icnn_rl.supervised.training.fit import falling

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


def build(args: argparse.Namespace, train: Tensor, left: Tensor) -> ImputationModule | ConvRegression:
    """The model before training."""
    import torch

    from icnn_rl.solvers import BundleEntropy, ProjectedGradient
    from icnn_rl.supervised.imputation import ConvRegression, ImputationModule

    shared: dict[str, Any] = {
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
    """Squared errors of the hidden pixels, summed over a face and averaged over faces: ``fit`` weighs batches by their
    faces, so that a mean over a batch's hidden pixels would weigh these unequally."""
    filled: Tensor = model(images, mask)
    return (filled[~mask] - images[~mask]).square().sum() / len(images) * _GREY_LEVELS


def _grey(filled: Tensor, images: Tensor, mask: Tensor) -> float:
    return float((filled[~mask] - images[~mask]).square().mean() * _GREY_LEVELS)


def error(model: ImputationModule | ConvRegression, images: Tensor, mask: Tensor) -> float:
    """Mean squared error of the hidden pixels, in grey levels 0 .. 255 squared."""
    import torch

    model.eval()
    with torch.no_grad():
        return _grey(model(images, mask), images, mask)


def _mean_face(train: Tensor) -> Tensor:
    import torch

    return torch.cat((train, train.flip(-1))).mean(0)
