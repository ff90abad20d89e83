"""One programme after the other, as a controller meets them: wall-clock time of each call, by package.

Every matrix and vector changes smoothly from call to call. "Warm" goes on from the solution, or in the solver, of the
programme before; the others start anew. What a package wants its arguments to be is prepared before the clock starts;
Python's share of a call is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.qp import engines, reference
from benchmarks.qp.adapter import available, quiet
from benchmarks.qp.cases import DTYPE, Arguments, Random
from benchmarks.qp.engines import Array, Engine, changing
from benchmarks.qp.loops import problems
from benchmarks.qp.peers import Moreau, Qpax, Qpth
from icnn_rl.qp import solve_qp

CALLS = 1000
#: Calls before the clock starts.
UNTIMED = 20
#: The packages take turns after so many calls.
BLOCK = 100
#: The answer to every so-manieth call is compared with the reference.
CHECKED = 25


def smooth(random: Random, *shape: int) -> Callable[[float], Tensor]:
    """A function of time with values of size 1: two waves of about a second an entry."""
    waves, rate, phase = random.normal(2, *shape), 6.0 * random.uniform(2, *shape), 7.0 * random.uniform(2, *shape)
    return lambda t: (waves * torch.sin(rate * t + phase)).sum(0)


def inverse_kinematics(n: int, rows: int, tasks: int) -> Iterator[Arguments]:
    """Joint velocities z that follow ``tasks`` wanted ones, J z = v, damped, with limits; 1 kHz.

    The rows keep distances: they depend on where the joints are, and always allow to stand still. So do the bounds.
    """
    random = Random(20 + n)
    J, v, G = smooth(random, tasks, n), smooth(random, tasks), smooth(random, rows, n)
    distance, low, high = smooth(random, rows), smooth(random, n), smooth(random, n)
    damping = 1e-2 * torch.eye(n, dtype=DTYPE)
    for step in range(CALLS + UNTIMED):
        t = 1e-3 * step
        jacobian = J(t)
        yield {
            "Q": jacobian.mT @ jacobian + damping,
            "p": -jacobian.mT @ v(t),
            "G": G(t),
            "h": 0.02 + distance(t).square(),
            "lb": -1.0 - low(t).square(),
            "ub": 1.0 + high(t).square(),
        }


def optnet() -> Iterator[Arguments]:
    """OptNet's benchmark, 100 variables and 100 rows, all moving a little."""
    random = Random(1)
    root, G, inside = random.normal(100, 100), random.normal(100, 100), random.normal(100)
    slack, p = random.uniform(100), random.normal(100)
    moves = [smooth(random, *shape) for shape in ((100, 100), (100, 100), (100,), (100,))]
    for step in range(CALLS + UNTIMED):
        d_root, d_G, d_p, d_h = (0.1 * move(1e-3 * step) for move in moves)
        square = (root + d_root) @ (root + d_root).mT
        yield {
            "Q": square + 1e-3 * torch.eye(100, dtype=DTYPE),
            "p": p + d_p,
            "G": G + d_G,
            "h": (G + d_G) @ inside + slack + d_h.square(),
        }


SEQUENCES: dict[str, tuple[str, Callable[[], Iterator[Arguments]]]] = {
    "ik7": ("inverse kinematics, 7 joints, 20 rows and bounds", lambda: inverse_kinematics(7, 20, 6)),
    "ik16": ("inverse kinematics, 16 joints, 32 rows and bounds", lambda: inverse_kinematics(16, 32, 12)),
    "ik50": ("inverse kinematics, 50 joints, 100 rows and bounds", lambda: inverse_kinematics(50, 100, 30)),
    "b1": ("OptNet's benchmark, 100 variables, 100 rows", optnet),
}


class Package(Protocol):
    """``convert`` is not timed, ``call`` is: z, and whether the package calls it solved."""

    def convert(self, arguments: Arguments) -> Any: ...

    def call(self, data: Any) -> tuple[Any, bool]: ...


class Ours:
    def __init__(self, warm: bool) -> None:
        self.warm, self.start = warm, None

    def convert(self, arguments: Arguments) -> Arguments:
        return arguments

    def call(self, data: Arguments) -> tuple[Tensor, bool]:
        solution = solve_qp(**data, warm_start=self.start, throw=False)
        if self.warm:
            self.start = solution.warm_start
        return solution.value, bool(solution.success)


class OneByOne:
    """A solver of its own for each programme, or one that is updated."""

    def __init__(self, engine: Callable[[], Engine], warm: bool) -> None:
        self.engine, self.warm = engine, warm
        self.current = engine()
        self.last: dict[str, Any] | None = None

    def convert(self, arguments: Arguments) -> dict[str, Any]:
        """All, or what has changed since the last time."""
        data = self.current.convert(problems(_batch_of_one(arguments))[0])
        if self.last is None:
            self.current.setup(data)
            self.current.solve()  # ProxQP crashes when it starts from a solution that there is not
        last, self.last = self.last or data, data
        return changing([last, data])[1] if self.warm else data

    def call(self, data: dict[str, Any]) -> tuple[Array, bool]:
        if self.warm:
            self.current.update(data)
        else:
            self.current = self.engine()
            self.current.setup(data)
        return self.current.solve()


class Layer:
    """A layer of the other tables, with a batch of one."""

    def __init__(self, peer: type[Qpth | Moreau | Qpax]) -> None:
        self.peer = peer
        self.layer: Any = None

    def convert(self, arguments: Arguments) -> Any:
        made = self.layer or self.peer(_batch_of_one(arguments), ("p",), torch.ones(1, dtype=DTYPE))
        self.layer = made
        return made.converted(_batch_of_one(arguments))

    def call(self, data: Any) -> tuple[Any, bool]:
        self.layer.parts = data
        if isinstance(self.layer, Qpax):
            return self.layer.forward()[0], True
        with torch.no_grad():
            value, failed = self.layer.solve()
        return value[0], failed is None or not bool(failed)


def _batch_of_one(arguments: Arguments) -> Arguments:
    return {**arguments, "p": arguments["p"][None]}


PACKAGES: dict[str, tuple[tuple[str, ...], Callable[[], Package]]] = {
    "solve_qp": ((), lambda: Ours(False)),
    "solve_qp, warm": ((), lambda: Ours(True)),
    "PIQP": (("piqp",), lambda: OneByOne(engines.PiqpDense, False)),
    "PIQP, updated": (("piqp",), lambda: OneByOne(engines.PiqpDense, True)),
    "DAQP": (("daqp",), lambda: OneByOne(engines.Daqp, False)),
    "DAQP, warm": (("daqp",), lambda: OneByOne(engines.Daqp, True)),
    "ProxQP": (("proxsuite",), lambda: OneByOne(engines.Proxqp, False)),
    "ProxQP, warm": (("proxsuite",), lambda: OneByOne(engines.Proxqp, True)),
    "qpth": (Qpth.modules, lambda: Layer(Qpth)),
    "moreau": (Moreau.modules, lambda: Layer(Moreau)),
    "qpax": (Qpax.modules, lambda: Layer(Qpax)),
}


@dataclass
class Record:
    """Seconds of each call; largest relative error of the answers that are compared and not reported as failed."""

    package: Package
    seconds: list[float] = field(default_factory=list)
    error: float = 0.0
    failed: int = 0


def run(sequence: str, names: Iterable[str]) -> dict[str, Record]:
    """The packages in turns, each for a block of calls."""
    records = {name: Record(PACKAGES[name][1]()) for name in names}
    steps = SEQUENCES[sequence][1]()
    for block in [UNTIMED] + [BLOCK] * (CALLS // BLOCK):
        programmes = [next(steps) for _ in range(block)]
        exact = {step: reference.solve(_batch_of_one(programmes[step]), ("p",)) for step in range(0, block, CHECKED)}
        for record in records.values():
            with quiet():
                _block(record, programmes, {step: one.value[0] for step, one in exact.items()}, block != UNTIMED)
    return records


def _block(record: Record, programmes: list[Arguments], exact: dict[int, Tensor], timed: bool) -> None:
    data = [record.package.convert(programme) for programme in programmes]
    for step, given in enumerate(data):
        start = time.perf_counter()
        value, solved = record.package.call(given)
        seconds = time.perf_counter() - start
        if timed:
            record.seconds.append(seconds)
            record.failed += not solved
        if step in exact and solved:
            off = (torch.as_tensor(np.array(value)) - exact[step]).abs().max() / exact[step].abs().max().clamp(min=1.0)
            record.error = max(record.error, float(off))


def table(sequence: str, records: dict[str, Record]) -> str:
    lines = [
        f"\n### {sequence}: {SEQUENCES[sequence][0]}\n",
        f"Wall-clock time of {CALLS} calls one after the other; every {CHECKED}th answer is compared.\n",
        "| package | median, µs | 99th percentile, µs | error | failed |",
        "|---|---|---|---|---|",
    ]
    for name, record in records.items():
        median, slow = 1e6 * np.quantile(record.seconds, [0.5, 0.99])
        lines.append(f"| {name} | {median:.0f} | {slow:.0f} | {record.error:.0e} | {record.failed} |")
    return "\n".join(lines)


def installed() -> list[str]:
    return [name for name, (modules, _) in PACKAGES.items() if available(modules)]
