"""The commands of sweeps and of the supervised experiments: one module each, with ``register(commands)``."""

from __future__ import annotations

import argparse

from icnn_rl.experiment.commands import (
    denoising,
    digits,
    imputation,
    multilabel,
    report,
    sudoku,
    sweep,
    synthetic,
    tables,
    tune,
    zoo,
)

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them all to a command line."""
    for module in (sweep, report, sudoku, denoising, digits, imputation, multilabel, synthetic, tables, tune, zoo):
        module.register(commands)
