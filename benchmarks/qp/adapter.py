"""What an adapter of a package does: the same programme, the answer, and the gradient of sum_i weight_i |z_i|^2.

An adapter converts the data once, outside what is timed. ``forward`` solves; ``both`` solves and differentiates with
respect to what is wanted; ``answer`` says what ``both`` found, as torch tensors.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.qp.cases import Arguments


@dataclass(frozen=True)
class Answer:
    """z (B, n), the rows that the package says it could not solve, and the gradients."""

    value: Tensor
    failed: Tensor
    grads: dict[str, Tensor]


class AbstractPeer(ABC):
    """What is measured. ``weights`` (B,) are those of the rows in the loss."""

    #: As in the tables.
    name: str
    #: What has to be importable.
    modules: tuple[str, ...] = ()
    #: Whether there is a backward pass. Where there is none, ``both`` is not called and ``answer`` has no gradients.
    differentiates = True

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        self.wanted, self.weights = wanted, weights

    @classmethod
    def takes(cls, case: str) -> bool:
        """Whether the package can be given the case at all, and in reasonable time."""
        return True

    @abstractmethod
    def forward(self) -> object: ...

    def both(self) -> object:
        raise NotImplementedError(f"{self.name} does not differentiate")

    @abstractmethod
    def answer(self) -> Answer: ...


def imported(module: str) -> Any:
    """What other packages warn of is not ours to act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def available(modules: Iterable[str]) -> bool:
    try:
        for module in modules:
            imported(module)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what other packages print and warn of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
