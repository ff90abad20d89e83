"""``icnn-rl multilabel``: tags of BibTeX entries with a convex energy over all labels, and two baselines."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from icnn_rl.cli.options import add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnn_rl.cli.supervised_run import Run
    from icnn_rl.supervised.multilabel import MultiLabelData

__all__ = ["register", "run"]

#: :data:`icnn_rl.supervised.multilabel.module.LOSSES`.
MULTILABEL_LOSSES = ("argmin", "max_margin", "energy")

AVERAGES = ("samples", "macro")


def register(commands: SubParsers) -> None:
    parser = add_supervised(
        commands, "multilabel", "tag BibTeX entries with a convex energy", epochs=12, batch_size=128, lr=1e-3
    )
    parser.add_argument("--data", default=None, help="bibtex.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument(
        "--model",
        choices=("icnn", "feedforward", "logistic"),
        default="icnn",
        help="the estimator or one of two baselines",
    )
    parser.add_argument("--loss", choices=MULTILABEL_LOSSES, default="argmin", help="loss of the icnn")
    parser.add_argument("--hidden", type=positive_int, nargs="*", default=[32], help="widths of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="*", default=[600], help="widths of the path over the features"
    )
    parser.add_argument("--cuts", type=positive_int, default=10, help="cuts of the bundle method")
    parser.add_argument("--dropout", type=float, default=0.5, help="dropout of context units")
    parser.add_argument("--input-dropout", type=float, default=0.3, help="dropout of features")


def run(args: argparse.Namespace) -> None:
    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised.multilabel import MultiLabelData, load_bibtex

    args = options_of(args)
    import sklearn  # noqa: F401  # an extra: fail before the data are read

    with user_errors():
        data = MultiLabelData(*(part[: args.limit] for part in load_bibtex(args.data)))
        run = Run(args)
        start = time.perf_counter(), time.process_time()
        found, thresholds = _logistic(data, args) if args.model == "logistic" else _network(data, args, run)
    run.report(
        {
            "model": args.model,
            **{f"test_f1_{average}": _f1(data, found, average, thresholds[average]) for average in AVERAGES},
            **{f"threshold_{average}": thresholds[average] for average in AVERAGES},
            **{f"test_f1_{average}_at_half": _f1(data, found, average, 0.5) for average in AVERAGES},
            "seconds": time.perf_counter() - start[0],
            "cpu_seconds": time.process_time() - start[1],
        }
    )


def _network(data: MultiLabelData, args: argparse.Namespace, run: Run) -> tuple[NDArray[Any], dict[str, float]]:
    from icnn_rl.runs.device import device_of
    from icnn_rl.solvers import BundleEntropy
    from icnn_rl.supervised.multilabel.estimator import MultiLabelICNN

    clf = MultiLabelICNN(
        hidden=() if args.model == "feedforward" else tuple(args.hidden),
        context=tuple(args.context),
        loss=args.loss,
        solver=BundleEntropy(max_steps=args.cuts, tol=1e-4),
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        dropout=args.dropout,
        input_dropout=args.input_dropout,
        seed=args.seed,
        device=str(device_of(args.device)),
        progress_bar=args.progress_bar,
    ).fit(data.X_train, data.Y_train, **run.keeping())
    run.write_table("history", clf.history_)
    run.plot_history(clf.history_)
    run.save_model(clf.module_)
    return clf.predict_proba(data.X_test), clf.thresholds_


def _logistic(data: MultiLabelData, args: argparse.Namespace) -> tuple[NDArray[Any], dict[str, float]]:
    """One logistic regression a label, C chosen with the thresholds on held-out rows."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier

    from icnn_rl.supervised.multilabel.estimator import best_threshold

    order = np.random.default_rng(args.seed).permutation(len(data.X_train))
    held, kept = order[: len(order) // 10], order[len(order) // 10 :]
    best: tuple[float, NDArray[Any], dict[str, float]] | None = None
    for strength in (0.3, 1.0, 3.0):
        model = OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear"))
        model.fit(data.X_train[kept], data.Y_train[kept])
        guess, target = model.predict_proba(data.X_train[held]), data.Y_train[held]
        thresholds = {average: best_threshold(guess, target, average) for average in AVERAGES}
        score = f1_score(target, guess >= thresholds["samples"], average="samples", zero_division=0.0)
        if best is None or score > best[0]:
            best = float(score), model.predict_proba(data.X_test), thresholds
    assert best is not None
    return best[1], best[2]


def _f1(data: MultiLabelData, found: NDArray[Any], average: str, threshold: float) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(data.Y_test, found >= threshold, average=average, zero_division=0.0))
