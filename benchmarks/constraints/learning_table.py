"""Markdown table of runs under constraints: `python -m benchmarks.constraints.learning_table RUN [RUN ...]`.

A RUN is a run folder, a folder that holds some, or a table that benchmarks/keep.py wrote. Groups runs by environment,
steps, agent and settings, which are named where they are not those of today; returns are those of the last model's
final evaluation. "active": the share of training steps whose executed action lay on the constraint's border; "beyond
1e-6": training steps whose action violated it by more; "crossed": steps in which a limit on the state was crossed.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from icnn_rl.runs.config.defaults import resolve_settings
from icnn_rl.runs.config.record import differences
from icnn_rl.runs.report import FinishedRun, find_runs, read_runs

HEADS = ("environment", "steps", "agent", "mean", "seed: mean ± std over episodes", "active", "beyond 1e-6", "crossed")


def label(run: FinishedRun) -> str:
    """The agent, and its settings as far as it would not have them today."""
    record, agent = run.record, run.config.agent
    if agent == "icnn" and "defaults" not in record:  # the first version of config.yml
        return "icnn, early defaults"
    today = {"settings": resolve_settings(agent, run.config.env)}
    if "defaults" in record:
        today["defaults"] = record["defaults"]
    others = {key: then for key, (then, _) in differences(record, today, ()).items() if key != "learning_starts"}
    return ", ".join([agent, *(f"{key.rpartition('.')[2]} {json.dumps(value)}" for key, value in others.items())])


def table(runs: Sequence[FinishedRun]) -> str:
    groups: dict[tuple[str, int, str], list[FinishedRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.config.seed):
        groups[run.config.env, run.config.timesteps, label(run)].append(run)
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for (env, steps, agent), group in sorted(groups.items()):
        totals = [run.totals for run in group if run.totals is not None]
        mean = np.mean([run.final.mean for run in group])
        each = "; ".join(f"{run.config.seed}: {run.final.mean:.2f} ± {run.final.std:.2f}" for run in group)
        active = " / ".join(f"{100 * one['active'] / one['steps']:.0f} %" for one in totals)
        beyond, crossed = (int(sum(one[key] for one in totals)) for key in ("violations", "state_violations"))
        lines.append(f"| {env} | {steps} | {agent} | {mean:.2f} | {each} | {active} | {beyond} | {crossed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(read_runs(find_runs(map(Path, sys.argv[1:])))[0]))
