"""Handwritten digits: a quadratic programme as one layer of a classifier, beside the same net without it.

    FC600 - ReLU - FC10 - ReLU - head - softmax,    head(x) = FC10, or argmin_z 1/2 z^T Q z + (p - x)^T z, G z <= h.

References:
    B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017, section 4.3.
    Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from icnn_rl.checks import check_choice, check_float_tensor, check_last_dim, check_positive_int
from icnn_rl.qp import PrimalDual, QPLayer
from icnn_rl.supervised.training.batches import Batch, TensorPairs
from icnn_rl.supervised.training.data_files import Source, find_file
from icnn_rl.supervised.training.saved_module import SavedModule
from icnn_rl.supervised.training.solve_counts import SolveCount

__all__ = ["DigitsDataset", "DigitsModule", "accuracy"]

CLASSES, _SIDE = 10, 28
_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FILES = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


class DigitsDataset(TensorPairs):
    """Images and labels: samples are pairs (784,) float32 in [0, 1] and an int64 digit.

    Raises:
        ValueError: images of another shape or with NaN, labels outside 0..9, not as many of one as of the other.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        check_last_dim("images", check_float_tensor("images", images), _SIDE**2)
        bad = ~torch.isfinite(images).all(-1)
        if bool(bad.any()):
            raise ValueError(f"images: image {int(bad.nonzero()[0])} holds NaN or an infinite number.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:-1]:
            raise ValueError(
                f"labels: expected int64 of shape {tuple(images.shape[:-1])}, one an image, got {labels.dtype} of "
                f"shape {tuple(labels.shape)}."
            )
        wrong = (labels < 0) | (labels >= CLASSES)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise ValueError(f"labels: expected 0 to {CLASSES - 1}, but label {first} is {int(labels[first])}.")
        self.images, self.labels = images, labels

    @classmethod
    def load(cls, part: str = "train", path: str | Path | None = None) -> Self:
        """MNIST, "train" (60 000) or "test" (10 000), from its gzipped idx files.

        Args:
            path: folder that holds them, itself or in "mnist"; otherwise as :func:`find_file` says.
        """
        prefix = {"train": "train", "test": "t10k"}[check_choice("part", part, ("train", "test"))]
        images, labels = (
            _read_idx(find_file(f"mnist/{name}", path, Source(_URL + name, _FILES[name])), dims)
            for name, dims in ((f"{prefix}-images-idx3-ubyte.gz", 3), (f"{prefix}-labels-idx1-ubyte.gz", 1))
        )
        return cls(images.flatten(1).float() / 255.0, labels.long())

    def first(self, count: int | None) -> Self:
        """The first ``count`` samples; None: all."""
        return type(self)(self.images[:count], self.labels[:count])

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """(images, labels)."""
        return self.images, self.labels


def _read_idx(path: Path, dims: int) -> Tensor:
    """The bytes of a gzipped idx file as a tensor with ``dims`` dimensions."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a gzip file, or damaged ({error}).") from error
    start = 4 + 4 * dims
    if len(data) < start or data[:4] != bytes((0, 0, 8, dims)):
        raise ValueError(f"{path}: not an idx file of bytes with {dims} dimensions.")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    if len(data) != start + int(np.prod(shape)):
        raise ValueError(f"{path}: damaged; its header says {shape}, but it holds {len(data) - start} bytes.")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).reshape(shape)


class DigitsModule(SavedModule):
    """A classifier of 28 x 28 images: (B, 784) or (B, 1, 28, 28) -> log-probabilities (B, 10).

    Args:
        head: "optnet", the last layer is a quadratic programme with learned Q, p, G and h; or "linear".
        hidden: width of the first layer.
        n_ineq: rows of G.
        solver: settings of the quadratic programme.
    """

    def __init__(
        self, head: str = "optnet", hidden: int = 600, n_ineq: int = 20, *, solver: PrimalDual | None = None
    ) -> None:
        super().__init__()
        self.head_name = check_choice("head", head, ("optnet", "linear"))
        self.hidden, self.n_ineq = check_positive_int("hidden", hidden), check_positive_int("n_ineq", n_ineq)
        self.solver = PrimalDual() if solver is None else solver
        self.body = nn.Sequential(nn.Linear(_SIDE**2, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES), nn.ReLU())
        self.head: nn.Module
        if head == "linear":
            self.head = nn.Linear(CLASSES, CLASSES)
        else:
            # Q = I would leave a class dead whose ReLU is: Q^-1 has to mix them from the start
            lower = (torch.eye(CLASSES) + 0.5 * torch.randn(CLASSES, CLASSES)).tril()
            Q = lower @ lower.mT + 0.2 * torch.eye(CLASSES)
            learn = ("Q", "p", "G", "h")  # p is what the bias is to a linear layer
            self.head = QPLayer(CLASSES, n_ineq=self.n_ineq, learn=learn, Q=Q, solver=self.solver, throw=False)
        self.solves = SolveCount()

    def arguments(self) -> dict[str, Any]:
        return {"head": self.head_name, "hidden": self.hidden, "n_ineq": self.n_ineq, "solver": self.solver}

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, 10)."""
        images = check_float_tensor("images", images)
        flat = images.flatten(-3) if images.dim() > 2 else images
        check_last_dim("images", flat, _SIDE**2)
        x = self.body(flat)
        if self.head_name == "linear":
            logits = self.head(x)
        else:
            logits, solution = self.head(-x, return_solution=True)
            self.solves.add(solution.status)
        log_probabilities: Tensor = logits.log_softmax(-1)
        return log_probabilities

    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Digits, int64 (B,)."""
        digits: Tensor = self(images).argmax(-1)
        return digits


def accuracy(model: nn.Module, batch: Batch) -> float:
    """The share of a batch's images that are classified right. A metric for ``fit``."""
    images, labels = batch
    return float((model(images).argmax(-1) == labels).double().mean())
