"""Multi-label classification with a convex energy over all labels at once."""

from icnn_rl.supervised.multilabel.bibtex import MultiLabelData, load_bibtex
from icnn_rl.supervised.multilabel.module import LOSSES, MultiLabelModule

__all__ = ["LOSSES", "MultiLabelData", "MultiLabelModule", "load_bibtex"]
