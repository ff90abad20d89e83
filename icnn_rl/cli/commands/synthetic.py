"""``icnn-rl synthetic``: two-dimensional classification with both networks, and the picture of the decision regions."""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import TensorDataset

from icnn_rl.cli.supervised_run import Run, new_figure, options_of, user_errors
from icnn_rl.supervised.synthetic import PROBLEMS, SyntheticModule, make_problem
from icnn_rl.supervised.training.fit import falling

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    args = options_of(args)
    run = Run(args)
    result: dict[str, float] = {}
    trained = []
    for problem in PROBLEMS:
        with user_errors():
            points, labels = make_problem(problem, 2 * args.points, args.seed)
        x, test_x = (part[: args.limit] for part in torch.split(points, args.points))
        label, test_label = (part[: args.limit] for part in torch.split(labels, args.points))
        for network in ("ficnn", "picnn"):
            torch.manual_seed(args.seed)
            model = SyntheticModule(network, args.hidden)
            with user_errors():
                history = run.train(
                    model, TensorDataset(x, label), None, part=f"{problem}-{network}", lr=falling(args.lr)
                )
            result[f"{problem}_{network}_train_accuracy"] = _accuracy(model, x, label)
            result[f"{problem}_{network}_test_accuracy"] = _accuracy(model, test_x, test_label)
            result[f"{problem}_{network}_loss"] = history[-1]["loss"]
            trained.append((f"{problem}, {network.upper()}", model, x, label))
    run.save_figure("regions", picture(trained))
    run.report(result)


def _accuracy(model: SyntheticModule, x: Tensor, label: Tensor) -> float:
    with torch.no_grad():
        return float(((model(x) >= 0.5) == (label > 0.5)).float().mean())


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
