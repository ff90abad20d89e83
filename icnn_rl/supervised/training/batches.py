"""What a data set is, what a batch is, and in which order batches come.

A data set is anything with a length and ``[i]``: samples that are tensors (arrays, numbers) or tuples of them, a list
of such or a ``torch.utils.data.Dataset`` alike. A batch is a tuple with one tensor for every part of the sample, the
samples' parts stacked along a new first dimension. It is a tuple even where samples have one part.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Data", "TensorPairs", "batch_of", "batches", "check_data", "epoch_seed"]

Batch = tuple[Tensor, ...]


class TensorPairs:
    """A data set of pairs that lie in two tensors, ``tensors``, one row a sample."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, Tensor]:
        """What goes in and what is to come out."""

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        given, wanted = self.tensors
        return given[index], wanted[index]


class Data(Protocol):
    """A length and samples. One with ``tensors``, as ``TensorDataset`` has, is indexed a batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def check_data(name: str, data: Data) -> int:
    """The number of samples, at least 1."""
    try:
        size = len(data)
    except TypeError:
        raise ValueError(
            f"{name}: expected a data set with a length, got {type(data).__name__}. Wrap an iterator in list(...)."
        ) from None
    if size == 0:
        raise ValueError(f"{name}: holds no samples.")
    return size


def batch_of(data: Data, indices: Sequence[int] | Tensor) -> Batch:
    """The samples at these places, as one batch."""
    index = torch.as_tensor(indices)
    columns = (data,) if isinstance(data, Tensor) else getattr(data, "tensors", None)
    if columns is not None:
        return tuple(column[index.to(column.device)] for column in columns)
    samples = [data[int(i)] for i in index]
    parts = [sample if isinstance(sample, tuple | list) else (sample,) for sample in samples]
    try:
        return tuple(torch.stack([torch.as_tensor(part) for part in column]) for column in zip(*parts, strict=True))
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"data: samples {index.tolist()} do not make a batch ({error}).") from error


def batches(data: Data, batch_size: int, seed: int | None = None) -> Iterator[Batch]:
    """All of ``data`` once, the last batch perhaps smaller; shuffled by a generator of its own if a seed is given."""
    size = len(data)
    order = torch.arange(size) if seed is None else torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for start in range(0, size, batch_size):
        yield batch_of(data, order[start : start + batch_size])


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch, so that a run that goes on from a checkpoint sees what it would have seen."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
