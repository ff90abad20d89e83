"""Two-dimensional binary classification: what convexity in the label, or in the point, allows."""

from icnn_rl.supervised.synthetic.module import PROBLEMS, SyntheticModule, make_problem

__all__ = ["PROBLEMS", "SyntheticModule", "make_problem"]
