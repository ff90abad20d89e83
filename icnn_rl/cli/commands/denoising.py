"""``icnn-rl denoising``: piecewise constant signals in noise; total variation, learned OptNet layers, a dense net."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from icnn_rl.cli.options import add_lr_decay, add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

if TYPE_CHECKING:
    from icnn_rl.supervised import SavedModule

__all__ = ["register", "run"]

#: Training signals that the best penalty of total variation is found on.
_FEW = 1000


def register(commands: SubParsers) -> None:
    parser = add_supervised(
        commands, "denoising", "learn to denoise piecewise constant signals", epochs=20, batch_size=150, lr=1e-3
    )
    parser.add_argument(
        "--model",
        choices=("optnet", "optnet-random", "total-variation", "dense"),
        default="optnet",
        help="optnet: starts at total variation; optnet-random: starts at random; total-variation: learns its penalty "
        "only; dense: a fully connected net",
    )
    parser.add_argument(
        "--signals", type=positive_int, default=10_000, help="how many to generate; nine tenths to train on"
    )
    parser.add_argument("--length", type=positive_int, default=100, help="samples per signal")
    parser.add_argument("--noise", type=float, default=10.0, help="standard deviation of the noise")
    parser.add_argument("--rows", type=positive_int, default=None, help="rows of the learned matrix; None: length - 1")
    add_lr_decay(parser, True)


def run(args: argparse.Namespace) -> None:
    import torch

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised import evaluate
    from icnn_rl.supervised.denoising import DenoisingDataset, DenoisingModule, TotalVariationLayer, best_penalty
    from icnn_rl.supervised.denoising.pictures import matrix, signals
    from icnn_rl.supervised.training.fit import falling

    args = options_of(args)
    with user_errors():
        data = DenoisingDataset.generate(args.signals, args.length, noise=args.noise, seed=args.seed)
        train, test = (part.first(args.limit) for part in data.split(0.9))
        run = Run(args)
        few = DenoisingDataset(train.noisy[:_FEW], train.clean[:_FEW])
        lam, _ = best_penalty(few, torch.arange(2.0, 42.0))
        model = _model(args, lam)
        rate = falling(args.lr) if args.lr_decay else args.lr
        history = run.train(model, train, test, units={"loss": "mean squared error"}, lr=rate)
    start = TotalVariationLayer(args.length, lam)
    result: dict[str, object] = {
        "best_total_variation_penalty": lam,
        "train_mse_total_variation": evaluate(start, train, args.batch_size)["loss"],
        "test_mse_total_variation": evaluate(start, test, args.batch_size)["loss"],
        "train_mse": evaluate(model, train, args.batch_size)["loss"],
        "test_mse": evaluate(model, test, args.batch_size)["loss"],
        "train_cpu_seconds": sum(row["cpu_time"] for row in history),
    }
    run.save_figure("signals", signals(test, args.model, model, start, lam))
    if isinstance(model, DenoisingModule):
        run.save_figure("matrix", matrix(model))
    run.report(result)


def _model(args: argparse.Namespace, lam: float) -> SavedModule:
    from icnn_rl.supervised.denoising import DenoisingModule, DenseDenoiser, TotalVariationLayer

    if args.model == "dense":
        return DenseDenoiser(args.length)
    if args.model == "total-variation":
        return TotalVariationLayer(args.length)
    if args.model == "optnet":
        return DenoisingModule(args.length, "total_variation", args.rows, lam)
    return DenoisingModule(args.length, "random", args.rows, lam)
