"""``icnn-rl tables``: hidden entries of table rows, the convex energy beside scikit-learn's imputers."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from icnn_rl.cli.supervised_run import Run, options_of, user_errors
from icnn_rl.solvers import BundleEntropy
from icnn_rl.supervised.imputation import IMPUTERS, ImputationModule, RandomlyMasked, impute, mask_random, split_table
from icnn_rl.supervised.training.fit import falling

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
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
