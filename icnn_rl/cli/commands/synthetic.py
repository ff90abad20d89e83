"""``icnn-rl synthetic``: two-dimensional classification with both networks, and the picture of the decision regions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from icnn_rl.cli.options import add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

if TYPE_CHECKING:
    from torch import Tensor

    from icnn_rl.supervised.synthetic import SyntheticModule

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = add_supervised(commands, "synthetic", "classify points of the plane", epochs=40, batch_size=50, lr=1e-2)
    parser.add_argument("--points", type=positive_int, default=200, help="points to train on, and as many to test")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[200, 200], help="widths")


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.utils.data import TensorDataset

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised.synthetic import PROBLEMS, SyntheticModule, make_problem
    from icnn_rl.supervised.synthetic.pictures import picture
    from icnn_rl.supervised.training.fit import falling

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
    import torch

    with torch.no_grad():
        return float(((model(x) >= 0.5) == (label > 0.5)).float().mean())
