"""Supervised experiments on convex layers, each a module to take away, and one training loop for all of them."""

from icnn_rl.supervised.counts import SolveCount
from icnn_rl.supervised.fit import evaluate, fit
from icnn_rl.supervised.module import SavedModule

__all__ = ["SavedModule", "SolveCount", "evaluate", "fit"]
