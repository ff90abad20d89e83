"""``icnn-rl denoising``: piecewise constant signals in noise; total variation, learned OptNet layers, a dense net."""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure
from torch import nn

from icnn_rl.cli.supervised_run import Run, new_figure, options_of, user_errors
from icnn_rl.supervised import SavedModule, evaluate
from icnn_rl.supervised.denoising import (
    DenoisingDataset,
    DenoisingModule,
    DenseDenoiser,
    TotalVariationLayer,
    best_penalty,
)
from icnn_rl.supervised.training.fit import falling

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
    if args.model == "dense":
        return DenseDenoiser(args.length)
    if args.model == "total-variation":
        return TotalVariationLayer(args.length)
    if args.model == "optnet":
        return DenoisingModule(args.length, "total_variation", args.rows, lam)
    return DenoisingModule(args.length, "random", args.rows, lam)


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
