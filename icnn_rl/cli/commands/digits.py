"""``icnn-rl digits``: a quadratic programme as the last layer of a classifier of digits."""

from __future__ import annotations

import argparse

from icnn_rl.cli.options import add_lr_decay, add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = add_supervised(commands, "digits", "classify handwritten digits", epochs=10, batch_size=100, lr=1e-3)
    parser.add_argument("--head", choices=("optnet", "linear"), default="optnet", help="last layer")
    parser.add_argument("--hidden", type=positive_int, default=600, help="units of the hidden layer")
    parser.add_argument("--inequalities", type=positive_int, default=20, help="inequalities of the quadratic programme")
    add_lr_decay(parser, True)
    parser.add_argument("--data", default=None, help="folder with MNIST's four idx files; None: ICNN_RL_DATA, or fetch")


def run(args: argparse.Namespace) -> None:
    import torch

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised.digits import DigitsDataset, DigitsModule, accuracy
    from icnn_rl.supervised.digits.pictures import wrong_digits
    from icnn_rl.supervised.training.fit import falling

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
