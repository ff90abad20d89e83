"""Frozen dataclasses of tensors as trees: map over the tensors, or take them out and put them back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """The same tree with every tensor replaced. Whatever is neither tensor nor dataclass stays."""
    if isinstance(tree, Tensor):
        return function(tree)  # type: ignore[return-value]  # T is Tensor here
    names = _names(type(tree))  # type: ignore[arg-type]  # mypy takes a type variable for unhashable
    if names is None:
        return tree
    return type(tree)(**{name: map_tensors(function, getattr(tree, name)) for name in names})


@functools.cache
def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass; a solve walks through many, and dataclasses.fields is slow."""
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def leaves(tree: Any) -> list[Tensor]:
    """The tensors, in the order of the fields."""
    found: list[Tensor] = []
    map_tensors(lambda t: found.append(t) or t, tree)  # type: ignore[func-returns-value]
    return found


def unflatten(tree: T, tensors: Iterator[Tensor]) -> T:
    """The tree with its tensors taken from ``tensors``, in the order of :func:`leaves`."""
    return map_tensors(lambda _: next(tensors), tree)


def where_rows(rows: Tensor, new: T, old: T) -> T:
    """Tensor by tensor, the rows marked in ``rows`` (B,) from ``new``."""
    merged = []
    for a, b in zip(leaves(new), leaves(old), strict=True):
        merged.append(torch.where(rows if a.dim() == 1 else rows.unsqueeze(-1), a, b))
    return unflatten(new, iter(merged))


def select_rows(index: Tensor, tree: T) -> T:
    """Some rows of a batch. Tensors of size 1 in their first dimension are shared by all rows and stay."""
    return map_tensors(lambda t: t if t.shape[0] == 1 else t[index], tree)
