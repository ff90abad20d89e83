"""Gymnasium wrappers whose observations are in other units, or at other places, than the environment's."""

from __future__ import annotations

from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, RescaleObservation

__all__ = ["CHANGED_UNITS"]

CHANGED_UNITS = (NormalizeObservation, RescaleObservation, FrameStackObservation)
