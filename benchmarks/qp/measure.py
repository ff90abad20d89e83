"""Times and accuracy of every package on a case, in rounds that alternate between the packages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.qp import peers, reference
from benchmarks.qp.adapter import AbstractPeer, Answer, quiet
from benchmarks.qp.cases import CASES, perturbed

#: A value, or a gradient with respect to p, is wrong when it is off by more than this, relative to the largest entry.
WRONG = 1e-3
#: Seconds after which a package's runs of one kind end, were it in the first round.
BUDGET = 0.7
#: Seconds of calls that are timed together: the processor's clock is too coarse for short ones, above all those that
#: other threads do the work of.
BLOCK = 0.05


@dataclass
class Times:
    """Seconds of processor time of a call, one entry a round: the mean of as many calls as fill a block."""

    each: list[float] = field(default_factory=list)
    spent: float = 0.0

    @property
    def best(self) -> float:
        return min(self.each, default=math.nan)

    def add(self, function: Callable[[], object], budget: float) -> None:
        """One more round, unless the budget is spent."""
        if self.spent > budget:
            return
        calls, start, processor = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < BLOCK:
            function()
            calls += 1
        self.each.append((time.process_time() - processor) / calls)
        self.spent += time.perf_counter() - start


@dataclass
class Record:
    """One package on one case. Errors are relative.

    Attributes:
        error: the largest of the rows not reported as failed.
        gradient_error: likewise, over all arguments wanted.
        failed: rows that the package reports, or NaN.
        wrong: rows reported as solved whose value, and whose gradient with respect to p, is off by more than WRONG.
        note: why there are no numbers.
    """

    name: str
    forward: Times = field(default_factory=Times)
    both: Times = field(default_factory=Times)
    error: float = math.nan
    gradient_error: float = math.nan
    failed: int = 0
    wrong: int = 0
    wrong_gradients: int = 0
    note: str = ""


@dataclass
class Result:
    case: str
    records: list[Record]
    reference: reference.Reference
    moved: reference.Reference

    @property
    def residual(self) -> float:
        """Of the references, for the programme and for the one that follows it."""
        return max(self.reference.residual, self.moved.residual)

    def record(self, name: str) -> Record | None:
        return next((record for record in self.records if record.name == name), None)


def run(case: str, among: Sequence[type[AbstractPeer]] | None = None, budget: float = BUDGET) -> Result:
    """Measure a case. ``among``: the packages, all installed ones by default."""
    spec = CASES[case]
    arguments = spec.arguments()
    exact = reference.solve(arguments, spec.wanted)
    moved = reference.solve(perturbed(arguments), spec.wanted)
    runners: list[tuple[Record, AbstractPeer]] = []
    records = []
    for peer in peers.installed() if among is None else among:
        if not peer.takes(case):
            continue
        record = Record(peer.name)
        records.append(record)
        truth = moved if issubclass(peer, peers.OursWarm) else exact
        try:
            with quiet():
                runner = peer(arguments, spec.wanted, truth.smooth.double())
                answer = runner.answer()  # also compiles what has to be compiled
        except Exception as error:  # whatever another package raises is its result
            record.note = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            record.failed = len(exact.value)
            continue
        _judge(record, answer, truth)
        runners.append((record, runner))
    for _ in range(spec.rounds):
        for record, runner in runners:
            with quiet():
                record.forward.add(runner.forward, budget)
                if runner.differentiates:
                    record.both.add(runner.both, budget)
    return Result(case, records, exact, moved)


def _judge(record: Record, answer: Answer, truth: reference.Reference) -> None:
    value = answer.value.cpu()
    failed = answer.failed | ~torch.isfinite(value).all(-1)
    error = _differences(value, truth.value) / truth.value.abs().amax(-1).clamp(min=1.0)
    record.failed = int(failed.sum())
    solved = ~failed
    record.error = float(error[solved].max()) if bool(solved.any()) else math.nan
    record.wrong = int((solved & (error > WRONG)).sum())
    judged = solved & truth.smooth
    errors = []
    for name, gradient in answer.grads.items():
        expected = truth.grads[name]
        found = gradient.detach().cpu()
        if name == "G":  # without its rows that are bounds
            found = found[..., : expected.shape[-2], :]
        if found.dim() == (2 if name == "p" else 3):  # a row each; where the gradient vanishes, the mean row's size
            size = expected.flatten(1).abs().amax(-1)
            row_errors = (_differences(found, expected) / size.clamp(min=float(size.mean())))[judged]
            errors += [float(row_errors.nan_to_num(math.inf).max())] if bool(judged.any()) else []
            if name == "p":
                record.wrong_gradients = int((~(row_errors <= WRONG)).sum())
        else:
            errors.append(float(_differences(found[None], expected[None]) / expected.abs().max()))
    record.gradient_error = max(errors, default=math.nan)


def _differences(found: Tensor, expected: Tensor) -> Tensor:
    """(B,) the largest in a row."""
    return (found - expected).flatten(1).abs().amax(-1)
