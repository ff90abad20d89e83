"""Warm starts from epoch to epoch: the active set that a sample's programme had when it was last solved."""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.qp import ActiveSet

__all__ = ["WarmStarts"]


class WarmStarts:
    """A memory from samples to active sets, by the bytes of the sample. Not saved: it changes nothing but the time.

    Args:
        limit: rows to remember; when there are more, all are forgotten.
    """

    def __init__(self, limit: int = 200_000) -> None:
        self.limit = limit
        self._memory: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}

    def get(self, samples: Tensor) -> ActiveSet | None:
        """The active sets for the rows of ``samples``, empty ones for rows not seen; None if most were not seen."""
        found = [self._memory.get(key) for key in _keys(samples)]
        known = next((parts for parts in found if parts is not None), None)
        if known is None or 2 * sum(parts is not None for parts in found) < len(found):
            return None
        blank = tuple(torch.zeros_like(part) for part in known)
        ineq, lower, upper = zip(*(blank if parts is None else parts for parts in found), strict=True)
        return ActiveSet(*(torch.stack(part).to(samples.device) for part in (ineq, lower, upper)))

    def clear(self) -> None:
        """Forget everything."""
        self._memory.clear()

    def put(self, samples: Tensor, active: ActiveSet) -> None:
        """Remember; sets of programmes without lower sides or prices."""
        if len(self._memory) + len(samples) > self.limit:
            self.clear()
        self._memory.update(zip(_keys(samples), zip(*(part.cpu() for part in active[:3]), strict=True), strict=True))


def _keys(samples: Tensor) -> list[bytes]:
    return [row.tobytes() for row in samples.detach().cpu().flatten(1).numpy()]
