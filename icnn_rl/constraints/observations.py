"""Observations as constraints read them: a tensor, or a Dict of parts of which they name one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor

__all__ = ["Observation", "Parts", "any_part", "cast", "in_double", "kept", "whole"]

#: (B, d) or (d,), or a mapping of them.
Observation = Tensor | Mapping[str, Tensor]


class Parts(Mapping[str, Tensor]):
    """Dict observations, each part converted when it is read, and a record of which were.

    Args:
        parts: what came.
        convert: makes a tensor of a part.
    """

    def __init__(self, parts: Mapping[str, Any], convert: Callable[[Any], Tensor]) -> None:
        self._parts, self._convert = parts, convert
        #: The keys that somebody has asked for.
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        part = self._convert(self._parts[key])
        self.read.add(key)
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def unread(self, key: str) -> Tensor:
        """The part, for somebody who looks at its dtype and device alone."""
        return self._convert(self._parts[key])


def kept(obs: Any, *, batched: bool) -> Observation:
    """A copy of an environment's observation, or of a batch of them, as a constraint reads it: float64, batch first. Of
    a Dict the parts that are arrays of numbers."""
    convert = partial(_tensor, batched=batched)
    if not isinstance(obs, Mapping):
        return convert(np.array(obs, dtype=np.float64))
    parts = {key: np.array(part) for key, part in obs.items() if not isinstance(part, Mapping | tuple)}
    return Parts({key: part for key, part in parts.items() if part.dtype.kind in "fiub"}, convert)


def _tensor(array: Any, batched: bool) -> Tensor:
    tensor = torch.from_numpy(array.astype(np.float64, copy=False))
    return tensor if batched else tensor.unsqueeze(0)


def cast(obs: Observation, like: Tensor) -> Observation:
    """In the dtype and on the device of ``like``."""
    return Parts(obs, lambda part: part.to(like)) if isinstance(obs, Mapping) else obs.to(like)


def whole(obs: Observation) -> Tensor:
    """The observation as one tensor.

    Raises:
        ValueError: it is a Dict.
    """
    if isinstance(obs, Mapping):
        raise ValueError(
            f"constraint: the observation is a Dict with {', '.join(map(repr, obs))}; say which part the constraint "
            "reads: constraint.reading('...')."
        )
    return check_float_tensor("obs", obs)


def any_part(obs: Observation) -> Tensor:
    """Of observations that are not read: a tensor of floats that tells dtype and device."""
    if not isinstance(obs, Mapping) or not len(obs):
        return whole(obs)
    key = next(iter(obs))
    first = obs.unread(key) if isinstance(obs, Parts) else obs[key]
    return first if first.is_floating_point() else first.double()


def in_double(obs: Observation | None) -> Any:
    """In float64, for a function of the user's."""
    if isinstance(obs, Mapping):
        return Parts(obs, Tensor.double)
    return None if obs is None else obs.double()
