"""Observations that end with the action executed before, for constraints that read it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icnn_rl.constraints import ActionConstraint
from icnn_rl.envs.action_sets import Array

__all__ = ["ending_with", "last_action_key", "with_last_action"]


def last_action_key(constraint: ActionConstraint, space: spaces.Space[Any]) -> str | None:
    """The part of Dict observations that is to end with the last action; None: the observation itself, or none.

    Raises:
        ValueError: there is no such part, or more than one.
    """
    keys = constraint.last_action_keys
    if not keys or not isinstance(space, spaces.Dict):
        return None
    if None in keys or len(keys) > 1:
        raise ValueError(
            "env: the constraint reads the last action, which is appended to one part of the Dict observation: "
            f"expected rate_limit(...).reading(key) with one key of {', '.join(map(repr, space))}, got "
            f"{', '.join(map(repr, sorted(key for key in keys if key))) or 'none'}."
        )
    (key,) = keys
    if key not in space.spaces:
        raise ValueError(
            f"env: the constraint reads the part {key!r}; the observation has {', '.join(map(repr, space))}."
        )
    return key


def with_last_action(space: spaces.Space[Any], actions: spaces.Box, key: str | None) -> spaces.Space[Any]:
    """The space of observations that end with the action executed before; of a Dict the part ``key``.

    Raises:
        ValueError: the observations are no vectors, or not of floats.
    """
    if key is not None and isinstance(space, spaces.Dict):
        return spaces.Dict({**space.spaces, key: with_last_action(space[key], actions, None)})
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            "env: the constraint reads the last action, which is appended to observations that are vectors (a Box of "
            f"one dimension); these are {space}. Put gymnasium.wrappers.FlattenObservation inside."
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            "env: the constraint reads the last action, which is appended to observations and rounded to their dtype: "
            f"expected floats, got {space.dtype}. Put gymnasium.wrappers.DtypeObservation(env, np.float32) inside."
        )
    # 0 after a reset
    low, high = np.minimum(actions.low, 0.0), np.maximum(actions.high, 0.0)
    dtype = np.dtype(space.dtype).type
    return spaces.Box(np.append(space.low, low).astype(dtype), np.append(space.high, high).astype(dtype), dtype=dtype)


def ending_with(obs: Any, action: Array, space: spaces.Space[Any], key: str | None) -> Any:
    """An observation, or a batch of them, that ends with the action, as the space says; of a Dict the part ``key``."""
    if key is not None and isinstance(space, spaces.Dict):
        return {**obs, key: ending_with(obs[key], action, space[key], None)}
    return np.concatenate((obs, action), -1).astype(space.dtype)
