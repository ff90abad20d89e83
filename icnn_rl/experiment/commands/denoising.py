"""``icnn-rl denoising``: piecewise constant signals in noise; total variation, learned OptNet layers, a dense net."""

from __future__ import annotations

import argparse

import torch
from torch import nn

from icnn_rl.experiment.commands.run import Run, new_figure, options_of, user_errors
from icnn_rl.supervised import SavedModule, evaluate
from icnn_rl.supervised.denoising import (
    DenoisingDataset,
    DenoisingModule,
    DenseDenoiser,
    TotalVariationLayer,
    best_penalty,
)
from icnn_rl.supervised.fit import falling

__all__ = ["run"]

#: Training signals that the best penalty of total variation is found on.
_FEW = 1000


def run(args: argparse.Namespace) -> None:
    args = options_of(args)
    with user_errors():
        data = DenoisingDataset.generate(args.signals, args.length, noise=args.noise, seed=args.seed)
        train, test = (part.first(args.limit) for part in data.split(0.9))
        run = Run(args)
        few = DenoisingDataset(train.noisy[:_FEW], train.clean[:_FEW])
        lam, _ = best_penalty(few, torch.arange(2.0, 42.0))
        model = _model(args, lam)
        rate = falling(args.lr) if args.lr_decay else args.lr
        history = run.train(model, train, test, lr=rate)
    start = TotalVariationLayer(args.length, lam)
    result: dict[str, object] = {
        "best_total_variation_penalty": lam,
        "train_mse_total_variation": evaluate(start, train, args.batch_size)["loss"],
        "test_mse_total_variation": evaluate(start, test, args.batch_size)["loss"],
        "train_mse": evaluate(model, train, args.batch_size)["loss"],
        "test_mse": evaluate(model, test, args.batch_size)["loss"],
        "train_cpu_seconds": sum(row["cpu_time"] for row in history),
    }
    _plot_signals(run, test, model, start)
    if isinstance(model, DenoisingModule):
        _plot_matrix(run, model)
    run.report(result)


def _model(args: argparse.Namespace, lam: float) -> SavedModule:
    if args.model == "dense":
        return DenseDenoiser(args.length)
    if args.model == "total-variation":
        return TotalVariationLayer(args.length)
    if args.model == "optnet":
        return DenoisingModule(args.length, "total_variation", args.rows, lam)
    return DenoisingModule(args.length, "random", args.rows, lam)


def _plot_signals(run: Run, test: DenoisingDataset, model: nn.Module, start: nn.Module) -> None:
    """signals.png: four test signals."""
    figure, axes = new_figure(2, 2)
    with torch.no_grad():
        lines = (test.noisy[:4], test.clean[:4], model(test.noisy[:4]), start(test.noisy[:4]))
    for axis, noisy, clean, answer, flat in zip(axes, *(line.numpy() for line in lines), strict=False):
        axis.plot(noisy, ".", color="0.7", label="noisy")
        axis.plot(clean, color="black", linewidth=1, label="clean")
        axis.plot(flat, color="tab:orange", linewidth=1, label="total variation")
        axis.plot(answer, color="tab:blue", linewidth=1, label=run.args.model)
    axes[0].legend(fontsize="x-small")
    run.save_figure("signals", figure)


def _plot_matrix(run: Run, model: DenoisingModule) -> None:
    """matrix.png: the learned rows, each times its penalty."""
    figure, axes = new_figure(1, 1)
    matrix = (model.lam[:, None] * model.D).detach()
    bound = float(matrix.abs().max())
    image = axes[0].imshow(matrix.numpy(), cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    figure.colorbar(image)
    axes[0].set_title("lam_j D_ji")
    run.save_figure("matrix", figure)
