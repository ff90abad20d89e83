"""Pictures for the environments of our own: shapes with smooth edges on a NumPy canvas."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Point = tuple[float, float] | Array
Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (30, 30, 35), (150, 155, 165)
RED, GREEN, BLUE, ORANGE = (205, 60, 60), (60, 150, 90), (55, 105, 190), (235, 150, 50)


class Canvas:
    """A picture of the square [-reach, reach]^2, y upwards.

    Args:
        size: pixels on a side.
        reach: half the side in the units of the scene.
    """

    def __init__(self, size: int, reach: float, background: Colour = WHITE) -> None:
        self._pixel = 2.0 * reach / size
        axis = (np.arange(size) + 0.5) * self._pixel - reach
        self._x, self._y = axis[None, :], -axis[:, None]
        self._colours = np.empty((size, size, 3))
        self._colours[:] = background

    def disc(self, centre: Point, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        """A filled disc."""
        self._fill(np.hypot(self._x - centre[0], self._y - centre[1]) - radius, colour, alpha)

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """A circle."""
        away = np.abs(np.hypot(self._x - centre[0], self._y - centre[1]) - radius)
        self._fill(away - 0.5 * width, colour, 1.0)

    def line(self, start: Point, end: Point, width: float, colour: Colour, alpha: float = 1.0) -> None:
        """A thick line with round ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max(dx * dx + dy * dy, 1e-12)
        along = np.clip(((self._x - start[0]) * dx + (self._y - start[1]) * dy) / length, 0.0, 1.0)
        away = np.hypot(self._x - start[0] - along * dx, self._y - start[1] - along * dy)
        self._fill(away - 0.5 * width, colour, alpha)

    def frame(self, half: float, width: float, colour: Colour) -> None:
        """The border of the square [-half, half]^2."""
        away = np.abs(np.maximum(np.abs(self._x), np.abs(self._y)) - half)
        self._fill(away - 0.5 * width, colour, 1.0)

    def sector(self, centre: Point, radius: float, half_angle: float, colour: Colour) -> None:
        """The part of a disc within ``half_angle`` (rad) of the upward direction."""
        x, y = self._x - centre[0], self._y - centre[1]
        r, angle = np.hypot(x, y), np.abs(np.arctan2(x, y))
        self._fill(np.maximum(r - radius, (angle - half_angle) * r), colour, 1.0)

    def picture(self) -> Array:
        """(size, size, 3) uint8."""
        picture: Array = np.rint(self._colours).astype(np.uint8)
        return picture

    def _fill(self, outside: Array, colour: Colour, alpha: float) -> None:
        """Paint where the signed distance to a border is negative; edges one pixel wide."""
        cover = alpha * np.clip(0.5 - outside / self._pixel, 0.0, 1.0)[:, :, None]
        self._colours += cover * (np.array(colour, dtype=float) - self._colours)
