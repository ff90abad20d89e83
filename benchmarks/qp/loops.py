"""PIQP and DAQP, which solve one programme a call and do not differentiate: a loop over the rows.

A forward pass sets up one solver with the first row, and gives it for every further row what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from benchmarks.qp import engines
from benchmarks.qp.adapter import AbstractPeer, Answer
from benchmarks.qp.cases import Arguments, as_bounded
from benchmarks.qp.engines import Array, Engine, Problem

#: Cases with sparse matrices and stages.
STAGED = ("mpc-20", "mpc-100", "mpc-200")


def problems(arguments: Arguments) -> list[Problem]:
    """One a row."""
    problem = as_bounded(arguments)
    parts = {field.name: getattr(problem, field.name).numpy() for field in fields(problem)}
    batched = {name for name, part in parts.items() if part.ndim > (2 if name in ("Q", "G", "A") else 1)}
    return [
        {name: part[row] if name in batched else part for name, part in parts.items()} for row in range(len(problem.p))
    ]


class _Loop(AbstractPeer):
    engine: Callable[[], Engine]
    differentiates = False

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        data = [self.engine().convert(problem) for problem in problems(arguments)]
        self.first, self.others = data[0], engines.changing(data)[1:]

    def forward(self) -> list[tuple[Array, bool]]:
        engine = self.engine()
        engine.setup(self.first)
        found = [engine.solve()]
        for data in self.others:
            engine.update(data)
            found.append(engine.solve())
        return found

    def answer(self) -> Answer:
        values, solved = zip(*self.forward(), strict=True)
        return Answer(torch.as_tensor(np.stack(values)), ~torch.tensor(solved), {})


class Piqp(_Loop):
    name = "PIQP"
    modules = ("piqp",)
    engine = engines.PiqpDense


class PiqpSparse(_Loop):
    name = "PIQP, sparse"
    modules = ("piqp",)
    engine = engines.PiqpSparse

    @classmethod
    def takes(cls, case: str) -> bool:
        return case in STAGED


class PiqpMultistage(PiqpSparse):
    name = "PIQP, multistage"
    engine = engines.PiqpMultistage


class Daqp(_Loop):
    name = "DAQP"
    modules = ("daqp",)
    engine = engines.Daqp
