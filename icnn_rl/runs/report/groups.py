"""Group the runs that a report averages: one agent, one task, the same settings, different seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from icnn_rl.runs.config.record import differences
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.report.run import FinishedRun

__all__ = ["grouped"]

Key = TypeVar("Key", bound=tuple[Any, ...])


def grouped(runs: Sequence[FinishedRun], key: Callable[[FinishedRun], Key]) -> dict[Key, dict[str, list[FinishedRun]]]:
    """By key, then agent; runs in the order of their seeds.

    Raises:
        UserError: runs of a group differ in settings, or two have one seed.
    """
    groups: dict[Key, dict[str, list[FinishedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: (key(run), run.config.agent, run.config.seed)):
        group = groups[key(run)][run.config.agent]
        if group:
            _check_alike(group[0], run)
            _check_new_seed(group[-1], run)
        group.append(run)
    return groups


def _check_alike(first: FinishedRun, run: FinishedRun) -> None:
    differ = differences(run.record, first.record, ("constraint", "vec_normalize", "n_envs", "lengths"))
    if differ:
        listed = "; ".join(f"{key} {here!r}, there {there!r}" for key, (here, there) in differ.items())
        raise UserError(
            f"{run.folder}: differs from {first.folder}, the same agent on the same task: {listed}. "
            "Their mean would say nothing; report them apart."
        )


def _check_new_seed(before: FinishedRun, run: FinishedRun) -> None:
    if run.config.seed == before.config.seed:
        raise UserError(f"{run.folder} and {before.folder}: the same seed twice. Leave one of them out.")
