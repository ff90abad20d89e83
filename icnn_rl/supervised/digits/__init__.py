"""Handwritten digits: a quadratic programme as one layer of a classifier."""

from icnn_rl.supervised.digits.module import DigitsDataset, DigitsModule, accuracy

__all__ = ["DigitsDataset", "DigitsModule", "accuracy"]
