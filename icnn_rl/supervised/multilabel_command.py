"""The command ``multilabel``: train on BibTeX, test, and leave model, numbers and learning curve in a folder."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from icnn_rl._files import write_text
from icnn_rl.solvers import BundleEntropy
from icnn_rl.supervised.bibtex import MultiLabelData, load_bibtex
from icnn_rl.supervised.multilabel import AVERAGES, LOSSES, MultiLabelICNN, best_threshold

__all__ = ["register"]

MODELS = ("icnn", "feedforward", "logistic")


def register(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "multilabel",
        help="tag BibTeX entries with a convex energy over all labels",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=None, help="bibtex.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument("--model", choices=MODELS, default="icnn", help="the estimator or one of two baselines")
    parser.add_argument("--loss", choices=LOSSES, default="argmin", help="of the icnn")
    parser.add_argument("--hidden", type=int, nargs="*", default=[32], help="widths of the convex path")
    parser.add_argument("--context", type=int, nargs="*", default=[600], help="widths of the path over the features")
    parser.add_argument("--cuts", type=int, default=10, help="cuts of the bundle method")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=128, help="rows an update")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate at the start")
    parser.add_argument("--dropout", type=float, default=0.5, help="of context units")
    parser.add_argument("--input-dropout", type=float, default=0.3, help="of features")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, dropout and held-out rows")
    parser.add_argument("--out", type=Path, default=Path("runs/multilabel"), help="folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, test, write OUT/result.json (and OUT/model.safetensors), and return the result."""
    data = load_bibtex(args.data)
    start = time.perf_counter()
    found, thresholds, extra = _logistic(data, args) if args.model == "logistic" else _network(data, args)
    seconds = time.perf_counter() - start
    settings = {key: value for key, value in vars(args).items() if key not in ("run", "data", "out")}
    result = {
        "model": args.model,
        "seed": args.seed,
        "settings": settings,
        "thresholds": thresholds,
        "f1": {average: _f1(data, found, average, thresholds[average]) for average in AVERAGES},
        "f1_at_half": {average: _f1(data, found, average, 0.5) for average in AVERAGES},
        "seconds": round(seconds, 1),
        **extra,
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "scikit-learn": sklearn.__version__},
    }
    write_text(args.out / "result.json", json.dumps(result, indent=1, default=str) + "\n")
    print(
        f"{args.model}, seed {args.seed}: test macro-F1 over rows {result['f1']['samples']:.4f} (threshold "
        f"{thresholds['samples']:.2f}), over labels {result['f1']['macro']:.4f} (threshold {thresholds['macro']:.2f}); "
        f"at threshold 0.5: {result['f1_at_half']['samples']:.4f}, {result['f1_at_half']['macro']:.4f}; {seconds:.0f} s"
    )
    return result


def _network(data: MultiLabelData, args: argparse.Namespace) -> tuple[NDArray[Any], dict[str, float], dict[str, Any]]:
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
        progress_bar=True,
    ).fit(data.X_train, data.Y_train)
    clf.module_.save(args.out / "model.safetensors")
    curve = [{key: round(row[key], 5) for key in ("epoch", "loss", "time")} for row in clf.history_]
    return clf.predict_proba(data.X_test), clf.thresholds_, {"curve": curve}


def _logistic(data: MultiLabelData, args: argparse.Namespace) -> tuple[NDArray[Any], dict[str, float], dict[str, Any]]:
    """One logistic regression a label, C chosen with the thresholds on held-out rows."""
    order = np.random.default_rng(args.seed).permutation(len(data.X_train))
    held, kept = order[: len(order) // 10], order[len(order) // 10 :]
    best: tuple[float, NDArray[Any], dict[str, float], float] | None = None
    for strength in (0.3, 1.0, 3.0):
        model = OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear"))
        model.fit(data.X_train[kept], data.Y_train[kept])
        guess, target = model.predict_proba(data.X_train[held]), data.Y_train[held]
        thresholds = {average: best_threshold(guess, target, average) for average in AVERAGES}
        score = f1_score(target, guess >= thresholds["samples"], average="samples", zero_division=0.0)
        if best is None or score > best[0]:
            best = float(score), model.predict_proba(data.X_test), thresholds, strength
    assert best is not None
    return best[1], best[2], {"C": best[3]}


def _f1(data: MultiLabelData, found: NDArray[Any], average: str, threshold: float) -> float:
    return round(float(f1_score(data.Y_test, found >= threshold, average=average, zero_division=0.0)), 5)
