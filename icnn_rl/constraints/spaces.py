"""What gymnasium's spaces and wrappers tell about the observations and actions of a constraint."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, RescaleObservation

__all__ = ["CHANGED_UNITS", "as_box", "two_observations"]

#: Wrappers whose observations are in other units, or at other places, than the environment's.
CHANGED_UNITS = (NormalizeObservation, RescaleObservation, FrameStackObservation)


def as_box(space: spaces.Space[Any]) -> spaces.Box:
    """The space, of which it has been checked that it is a Box."""
    assert isinstance(space, spaces.Box)
    return space


def two_observations(space: spaces.Space[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """To try a constraint on, which a function that takes the batch for something else mistakes: zeros, as far as the
    space has them."""
    zeros = np.zeros((2, *(space.shape or ())))
    return np.clip(zeros, space.low, space.high) if isinstance(space, spaces.Box) else zeros
