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
        part = self._around((centre,), radius)
        self._fill(
            np.hypot(self._x[:, part[1]] - centre[0], self._y[part[0]] - centre[1]) - radius, colour, alpha, part
        )

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """A circle."""
        away = np.abs(np.hypot(self._x - centre[0], self._y - centre[1]) - radius)
        self._fill(away - 0.5 * width, colour)

    def line(self, start: Point, end: Point, width: float, colour: Colour, alpha: float = 1.0) -> None:
        """A thick line with round ends."""
        part = self._around((start, end), width)
        x, y = self._x[:, part[1]] - start[0], self._y[part[0]] - start[1]
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        self._fill(np.hypot(x - along * dx, y - along * dy) - 0.5 * width, colour, alpha, part)

    def frame(self, half: float, width: float, colour: Colour) -> None:
        """The border of the square [-half, half]^2."""
        away = np.abs(np.maximum(np.abs(self._x), np.abs(self._y)) - half)
        self._fill(away - 0.5 * width, colour)

    def sector(self, centre: Point, radius: float, half_angle: float, colour: Colour) -> None:
        """The part of a disc within ``half_angle`` (rad) of the upward direction."""
        x, y = self._x - centre[0], self._y - centre[1]
        r, angle = np.hypot(x, y), np.abs(np.arctan2(x, y))
        self._fill(np.maximum(r - radius, (angle - half_angle) * r), colour)

    def picture(self) -> Array:
        """(size, size, 3) uint8."""
        picture: Array = np.rint(self._colours).astype(np.uint8)
        return picture

    def _around(self, points: tuple[Point, ...], margin: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels around these points."""
        size, reach = self._x.size, margin + 2.0 * self._pixel
        slices = []
        for axis, sign in ((1, -1.0), (0, 1.0)):
            places = [(sign * float(point[axis])) / self._pixel + 0.5 * size for point in points]
            least, most = min(places) - reach / self._pixel, max(places) + reach / self._pixel
            slices.append(slice(int(np.clip(least, 0, size)), int(np.clip(most + 1.0, 0, size))))
        return slices[0], slices[1]

    def _fill(
        self, outside: Array, colour: Colour, alpha: float = 1.0, part: tuple[slice, slice] | None = None
    ) -> None:
        """Paint where the signed distance to a border is negative; edges one pixel wide."""
        colours = self._colours if part is None else self._colours[part]
        cover = alpha * np.clip(0.5 - outside / self._pixel, 0.0, 1.0)[:, :, None]
        colours += cover * (np.array(colour, dtype=float) - colours)
