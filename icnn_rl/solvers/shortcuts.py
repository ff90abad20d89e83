"""Shortcuts that depend on the numbers: cheap to ask for on the CPU, a wait for the device elsewhere.

Inside :func:`without_shortcuts` none is taken: the same operations run whatever the numbers are, and nothing leaves the
device, so that they can be captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_ASKING = ContextVar("asking", default=True)


@contextlib.contextmanager
def without_shortcuts() -> Iterator[None]:
    """Within, ``maybe_any`` answers True and ``known_equal`` False, without looking."""
    token = _ASKING.set(False)
    try:
        yield
    finally:
        _ASKING.reset(token)


def maybe_any(mask: Tensor) -> bool:
    """Whether some element is true, or may be."""
    return not _ASKING.get() or bool(mask.any())


def known_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are known to be equal."""
    return _ASKING.get() and torch.equal(one, other)
