"""Two systems put together, for rows that took different ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Refined, System, Triple
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import select_rows


@dataclass(frozen=True)
class Mixed(Refined):
    """Two systems: the rows at ``index`` belong to the second."""

    problem: Problem
    first: System
    index: Tensor
    second: System

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        right = (rx, ra, rc)
        others = self.second.solve(*(part[self.index] for part in right))
        mine = self.first.solve(*right)
        return self._together(mine, others)

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        mine = self.first.refined(rx, ra, rc, corrections)
        return self._together(mine, self.second.refined(rx[self.index], ra[self.index], rc[self.index], corrections))

    def _together(self, mine: Triple, others: Triple) -> Triple:
        dx, dnu, dz = (a.index_copy(0, self.index, b) for a, b in zip(mine, others, strict=True))
        return dx, dnu, dz

    def spread(self) -> Spread:
        index, batch = self.index, self.problem.p.shape[0]
        chosen = torch.zeros(batch, 1, dtype=torch.bool, device=index.device).index_fill(0, index, True)
        place = torch.zeros(batch, dtype=index.dtype, device=index.device)
        place = place.index_copy(0, index, torch.arange(len(index), device=index.device))
        return Spread(self.problem, self.first.spread(), chosen, select_rows(place, self.second.spread()))


@dataclass(frozen=True)
class Spread(Refined):
    """Two systems with all rows each: those that are ``chosen`` (B, 1) bool belong to the second."""

    problem: Problem
    first: System
    chosen: Tensor
    second: System

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        return self._together(self.first.solve(rx, ra, rc), self.second.solve(rx, ra, rc))

    def refined(self, rx: Tensor, ra: Tensor, rc: Tensor, corrections: int) -> Triple:
        mine = self.first.refined(rx, ra, rc, corrections)
        return self._together(mine, self.second.refined(rx, ra, rc, corrections))

    def _together(self, mine: Triple, others: Triple) -> Triple:
        dx, dnu, dz = (torch.where(self.chosen, b, a) for a, b in zip(mine, others, strict=True))
        return dx, dnu, dz
