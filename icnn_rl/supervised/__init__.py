"""Supervised experiments on convex layers, each a module to take away, and one training loop for all of them."""

from icnn_rl.supervised.training.fit import evaluate, fit
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = ["SavedModule", "SolveCount", "evaluate", "fit"]
