"""Hard problems, family by family: ``python -m benchmarks.qp.hard [--count 500] [--seed 0] [--family NAME ...]``.

Each problem is one call of ``solve_qp``, judged as in tests/unit/qp/test_hard.py, beside Clarabel at 1e-12 (its set-up
included). Milliseconds, median and largest; the error is that of the objective over max(1, |optimum|), the largest.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from icnn_rl.testing import qp_judge as judge
from icnn_rl.testing.qp_hard import FAMILIES, HardProblem, problems
from icnn_rl.testing.qp_judge import Kind

COUNTS = ("family", "n", "count", "right", "failed, and says so", "wrong", "nan")
HEADINGS = (*COUNTS, "ms", "max", "clarabel", "max", "error")


@dataclass
class Tally:
    """The verdicts of a family."""

    sizes: list[int] = field(default_factory=list)
    kinds: Counter[Kind] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, problem: HardProblem) -> judge.Verdict:
        optimum = judge.optimum(problem)
        given = judge.answer(problem)
        verdict = judge.judge(problem, given, optimum)
        self.sizes.append(problem.n)
        self.kinds[verdict.kind] += 1
        self.times.append(1e3 * given.seconds)
        if verdict.kind is Kind.HONEST:
            self.said[given.said.lower()] += 1
        if verdict.kind is Kind.SOLVED:
            self.errors.append(verdict.error)
        if optimum is not None:
            self.peer.append(1e3 * optimum.seconds)
        return verdict

    def cells(self) -> list[str]:
        """A row of the table after the family's name."""
        said = ", ".join(f"{count} {name}" for name, count in self.said.most_common()) or "-"
        right = self.kinds[Kind.SOLVED] + self.kinds[Kind.PROVEN]
        counts = [str(self.kinds.total()), str(right), said, str(self.kinds[Kind.WRONG]), str(self.kinds[Kind.NAN])]
        peer = [f"{np.median(self.peer):.1f}", f"{max(self.peer):.0f}"] if self.peer else ["-", "-"]
        error = f"{max(self.errors):.0e}" if self.errors else "-"
        sizes = f"{min(self.sizes)}-{max(self.sizes)}"
        return [sizes, *counts, f"{np.median(self.times):.1f}", f"{max(self.times):.0f}", *peer, error]


def together(tallies: list[Tally]) -> Tally:
    """All families in one."""
    whole = Tally()
    for tally in tallies:
        for mine, theirs in zip(vars(whole).values(), vars(tally).values(), strict=True):
            mine.update(theirs) if isinstance(mine, Counter) else mine.extend(theirs)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="problems in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=[], help="these alone")
    parser.add_argument("--list", action="store_true", help="name every problem that was not solved, and say why")
    arguments = parser.parse_args()
    judge.answer(problems(1, names=("isotonic",))[0])  # what the first call compiles is not measured
    tallies: dict[str, Tally] = {}
    for problem in problems(arguments.count, arguments.seed, tuple(arguments.family)):
        verdict = tallies.setdefault(problem.family, Tally()).add(problem)
        if arguments.list and verdict.kind not in (Kind.SOLVED, Kind.PROVEN):
            print(f"{problem.name} (n = {problem.n}): {verdict}")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name, tally in [*tallies.items(), ("all", together(list(tallies.values())))]:
        print(f"| {' | '.join([name, *tally.cells()])} |")


if __name__ == "__main__":
    main()
