"""``icnn-rl tables``: hidden entries of table rows, the convex energy beside scikit-learn's imputers."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from icnn_rl.cli.options import add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["register", "run"]

#: :data:`icnn_rl.supervised.imputation.tables.TABLES`.
TABLE_NAMES = ("iris", "wine", "breast_cancer", "diabetes", "faces16")


def register(commands: SubParsers) -> None:
    parser = add_supervised(commands, "tables", "fill holes in table rows", epochs=60, batch_size=32, lr=5e-3)
    parser.add_argument(
        "--table", choices=TABLE_NAMES, default="breast_cancer", help="bundled with scikit-learn, or faces"
    )
    parser.add_argument("--data", default=None, help="for faces16: olivetti_faces.npz or a folder; None: ICNN_RL_DATA")
    parser.add_argument("--fraction", type=float, default=0.3, help="share of entries hidden")
    parser.add_argument("--hidden", type=positive_int, nargs="+", default=[64], help="widths of the convex path")
    parser.add_argument(
        "--context", type=positive_int, nargs="+", default=[128, 128], help="widths of the context path"
    )
    parser.add_argument("--steps", type=positive_int, default=5, help="steps of the bundle method")


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.utils.data import TensorDataset

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.solvers import BundleEntropy
    from icnn_rl.supervised.imputation import (
        IMPUTERS,
        ImputationModule,
        RandomlyMasked,
        impute,
        mask_random,
        split_table,
    )
    from icnn_rl.supervised.training.fit import falling

    args = options_of(args)
    with user_errors():
        train, test = (part[: args.limit] for part in split_table(args.table, args.seed, args.data))
        run = Run(args)
        mask = mask_random(test, args.fraction, seed=args.seed + 1)
        inside = test.clamp(0.0, 1.0)  # the box of the network: it does not know of rows beyond those it has seen
        model = ImputationModule(
            (train.shape[1],), tuple(args.hidden), BundleEntropy(max_steps=args.steps, tol=1e-4), context=args.context
        )
        model.fit_start_(train)
        history = run.train(
            model,
            RandomlyMasked(train, args.fraction),
            TensorDataset(inside, mask),  # for the curve only
            units={"loss": "mean squared error, columns in [0, 1]"},
            lr=falling(args.lr),
            max_grad_norm=1.0,
        )
    spread = train.std(0).clamp(min=1e-6)
    with torch.no_grad():
        result: dict[str, Any] = {"table": args.table, "rmse_icnn": _rmse(model(inside, mask), test, mask, spread)}
    result["seconds_icnn"] = sum(row["time"] for row in history)
    for name in IMPUTERS:
        start = time.perf_counter()
        result[f"rmse_{name}"] = _rmse(impute(name, train, test, mask, args.seed), test, mask, spread)
        result[f"seconds_{name}"] = time.perf_counter() - start
    run.report(result)


def _rmse(filled: Tensor, truth: Tensor, mask: Tensor, spread: Tensor) -> float:
    """Of the hidden entries, in standard deviations of their columns: about 1 for the mean."""
    return float((((filled - truth) / spread)[~mask]).square().mean().sqrt())
