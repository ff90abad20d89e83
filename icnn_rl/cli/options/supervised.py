"""Options of the supervised commands."""

from __future__ import annotations

import sys
from argparse import BooleanOptionalAction
from pathlib import Path

from icnn_rl.cli.options.parser import Parser, SubParsers
from icnn_rl.runs.values import non_negative_int, positive_float, positive_int

__all__ = ["MULTILABEL_LOSSES", "TABLE_NAMES", "register"]

#: :data:`icnn_rl.supervised.multilabel.module.LOSSES` and :data:`icnn_rl.supervised.imputation.tables.TABLES`.
MULTILABEL_LOSSES = ("argmin", "max_margin", "energy")
TABLE_NAMES = ("iris", "wine", "breast_cancer", "diabetes", "faces16")


def register(commands: SubParsers) -> None:
    """Add the commands."""
    for add in (
        _add_sudoku,
        _add_denoising,
        _add_digits,
        _add_imputation,
        _add_multilabel,
        _add_synthetic,
        _add_tables,
    ):
        add(commands)


def _add_command(commands: SubParsers, name: str, summary: str, *, epochs: int, batch_size: int, lr: float) -> Parser:
    """A command with the options that all have."""
    parser = commands.add_parser(name, help=summary)
    parser.add_argument("--epochs", type=positive_int, default=epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help="samples of an update")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate of Adam")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of data, model and order")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"run folder; None: runs/{name}-sSEED, numbered if taken"
    )
    parser.add_argument("--device", default="cpu", help="to train on: cpu, cuda, cuda:1, auto")
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=None,
        help="take the first so many samples to train on, and no more to test, for a trial; None: all",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with a run from its last epoch; its settings are its own, but for --epochs, which may be more",
    )
    parser.add_argument(
        "--progress-bar", action=BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
    return parser


def _add_lr_decay(parser: Parser, default: bool) -> None:
    parser.add_argument(
        "--lr-decay", action=BooleanOptionalAction, default=default, help="let the learning rate fall to 0, linearly"
    )


def _add_sudoku(commands: SubParsers) -> None:
    parser = _add_command(
        commands, "sudoku", "learn Sudoku from solved boards alone", epochs=20, batch_size=150, lr=1e-3
    )
    parser.add_argument("--box", type=int, choices=(2, 3), default=2, help="2: boards of 4 x 4, 3: of 9 x 9")
    parser.add_argument(
        "--model",
        choices=("optnet", "hull", "rules", "true-rules", "conv"),
        default="optnet",
        help="optnet: learn from random numbers; hull: the affine hull of the solved boards, no training; rules: learn "
        "from there; true-rules: learn nothing, the control; conv: a convolutional net",
    )
    parser.add_argument(
        "--constraints", type=positive_int, default=None, help="learned equations; None: the rules' rank"
    )
    parser.add_argument("--channels", type=positive_int, default=512, help="of each of conv's ten hidden layers")
    parser.add_argument("--q-penalty", type=positive_float, default=0.1, help="weight q of the programme's |z|^2")
    parser.add_argument("--data", default=None, help="npz or text file of boards, also in ICNN_RL_DATA; None: generate")
    parser.add_argument("--boards", type=positive_int, default=10_000, help="how many to generate")
    parser.add_argument(
        "--clues", type=non_negative_int, nargs=2, default=(4, 10), help="fewest and most givens of those"
    )
    parser.add_argument("--split", type=positive_float, default=0.9, help="share of the boards to train on")
    _add_lr_decay(parser, False)
    parser.add_argument(
        "--resolves", type=non_negative_int, default=0, help="re-solves with what is sure written in, in the test"
    )


def _add_denoising(commands: SubParsers) -> None:
    parser = _add_command(
        commands, "denoising", "learn to denoise piecewise constant signals", epochs=20, batch_size=150, lr=1e-3
    )
    parser.add_argument(
        "--model",
        choices=("optnet", "optnet-random", "total-variation", "dense"),
        default="optnet",
        help="optnet: started at total variation; optnet-random: at random; total-variation: its penalty alone is "
        "learned; dense: a fully connected net",
    )
    parser.add_argument(
        "--signals", type=positive_int, default=10_000, help="how many to generate; nine tenths to train on"
    )
    parser.add_argument("--length", type=positive_int, default=100, help="samples of a signal")
    parser.add_argument("--noise", type=float, default=10.0, help="standard deviation")
    parser.add_argument("--rows", type=positive_int, default=None, help="of the learned matrix; None: length - 1")
    _add_lr_decay(parser, True)


def _add_digits(commands: SubParsers) -> None:
    parser = _add_command(commands, "digits", "classify handwritten digits", epochs=10, batch_size=100, lr=1e-3)
    parser.add_argument("--head", choices=("optnet", "linear"), default="optnet", help="last layer")
    parser.add_argument("--hidden", type=positive_int, default=600, help="units of the hidden layer")
    parser.add_argument("--inequalities", type=positive_int, default=20, help="of the quadratic programme")
    _add_lr_decay(parser, True)
    parser.add_argument("--data", default=None, help="folder with MNIST's four idx files; None: ICNN_RL_DATA, or fetch")


def _add_imputation(commands: SubParsers) -> None:
    parser = _add_command(
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
    parser.add_argument("--fraction", type=float, default=0.5, help="of pixels hidden by a random mask")
    parser.add_argument("--loss", choices=("mse", "energy"), default="mse", help="training loss")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[8, 16], help="channels of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="+", default=[8, 16, 32], help="channels of the context path"
    )
    parser.add_argument("--latent", type=positive_int, default=64, help="units of the context's dense layer")
    parser.add_argument("--dropout", type=float, default=0.5, help="of these units")
    parser.add_argument("--steps", type=positive_int, default=5, help="of the inner solver")
    parser.add_argument(
        "--rank", type=non_negative_int, default=256, help="of the ridge regression inside; 0: none. Left mask only"
    )
    parser.add_argument("--penalty", type=positive_float, default=80.0, help="of the ridge regression")
    parser.add_argument("--weight-decay", type=float, default=1e-2, help="AdamW's")


def _add_multilabel(commands: SubParsers) -> None:
    parser = _add_command(
        commands, "multilabel", "tag BibTeX entries with a convex energy", epochs=12, batch_size=128, lr=1e-3
    )
    parser.add_argument("--data", default=None, help="bibtex.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument(
        "--model",
        choices=("icnn", "feedforward", "logistic"),
        default="icnn",
        help="the estimator or one of two baselines",
    )
    parser.add_argument("--loss", choices=MULTILABEL_LOSSES, default="argmin", help="of the icnn")
    parser.add_argument("--hidden", type=positive_int, nargs="*", default=[32], help="widths of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="*", default=[600], help="widths of the path over the features"
    )
    parser.add_argument("--cuts", type=positive_int, default=10, help="cuts of the bundle method")
    parser.add_argument("--dropout", type=float, default=0.5, help="of context units")
    parser.add_argument("--input-dropout", type=float, default=0.3, help="of features")


def _add_synthetic(commands: SubParsers) -> None:
    parser = _add_command(commands, "synthetic", "classify points of the plane", epochs=40, batch_size=50, lr=1e-2)
    parser.add_argument("--points", type=positive_int, default=200, help="to train on, and as many to test")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[200, 200], help="widths")


def _add_tables(commands: SubParsers) -> None:
    parser = _add_command(commands, "tables", "fill holes in table rows", epochs=60, batch_size=32, lr=5e-3)
    parser.add_argument(
        "--table", choices=TABLE_NAMES, default="breast_cancer", help="bundled with scikit-learn, or faces"
    )
    parser.add_argument("--data", default=None, help="of faces16: olivetti_faces.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument("--fraction", type=float, default=0.3, help="of entries hidden")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[64], help="widths of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="+", default=[128, 128], help="widths of the context path"
    )
    parser.add_argument("--steps", type=positive_int, default=5, help="of the bundle method")
