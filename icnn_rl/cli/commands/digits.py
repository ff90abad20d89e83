"""``icnn-rl digits``: a quadratic programme as the last layer of a classifier of digits."""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure

from icnn_rl.cli.supervised_run import Run, new_figure, options_of, user_errors
from icnn_rl.supervised.digits import DigitsDataset, DigitsModule, accuracy
from icnn_rl.supervised.training.fit import falling

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    args = options_of(args)
    with user_errors():
        train, test = (DigitsDataset.load(part, args.data).first(args.limit) for part in ("train", "test"))
        run = Run(args)
        model = DigitsModule(args.head, args.hidden, args.inequalities)
        rate = falling(args.lr) if args.lr_decay else args.lr
        history = run.train(
            model, train, test, {"accuracy": accuracy}, {"loss": "cross-entropy", "accuracy": "share"}, lr=rate
        )
    guess = torch.cat([model.predict(images) for images in torch.split(test.images, 1000)])
    if not bool((guess == test.labels).all()):
        run.save_figure("wrong_digits", wrong_digits(test, guess))
    seconds = [row["cpu_time"] for row in history]
    run.report(
        {
            "test_accuracy": history[-1]["val/accuracy"],
            "best_test_accuracy": max(row["val/accuracy"] for row in history),
            "cpu_seconds_an_epoch": sum(seconds) / len(seconds),
            "failed_fraction": max(row.get("solver/failed_fraction", 0.0) for row in history),
        }
    )


def wrong_digits(test: DigitsDataset, guess: torch.Tensor) -> Figure:
    """Some that were taken for others."""
    wrong = (guess != test.labels).nonzero().flatten()[:24].tolist()
    figure, axes = new_figure(3, 8, (1.2, 1.4))
    for axis in axes:
        axis.axis("off")
    for axis, i in zip(axes, wrong, strict=False):
        axis.imshow(test.images[i].reshape(28, 28).numpy(), cmap="gray_r")
        axis.set_title(f"{int(guess[i])}, not {int(test.labels[i])}", fontsize="small")
    figure.suptitle("images of the test set: what they were taken for, not what they are", fontsize="small")
    return figure
