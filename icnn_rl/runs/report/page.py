"""The page of a report: final returns, probabilities of improvement, pictures, versions."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from icnn_rl.runs.config.record import Config
from icnn_rl.runs.environments import NO_CONSTRAINT
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import write_text
from icnn_rl.runs.report.curves import draw_curves
from icnn_rl.runs.report.groups import grouped
from icnn_rl.runs.report.run import FinishedRun, Task
from icnn_rl.runs.report.statistics import Array, improvement, interquartile_mean, interval
from icnn_rl.runs.report.table import write_table

__all__ = ["write_report"]

_TRIMMED = 4  # from so many runs on, an interquartile mean cuts something off


def write_report(
    runs: Sequence[FinishedRun],
    unfinished: Sequence[Path],
    out: Path,
    reported: Mapping[str, Mapping[str, float]],
    resamples: int = 2000,
    command: str | None = None,
) -> str:
    """Write report.md, evaluations.csv with evaluations.yml, and curves-ENV-STEPS.svg; returns the text of the report.

    Args:
        runs: finished ones; runs of one agent on one task form a group.
        unfinished: folders to list in the report.
        out: folder for everything; or NAME.md for the report itself, with the rest in the folder NAME beside it.
        reported: figures of others, by source and environment.
        resamples: bootstrap resamples.
        command: the command line to name in the report.

    Raises:
        UserError: no finished run; runs of a group differ in settings.
    """
    if not runs:
        raise UserError(f"none of {len(unfinished)} runs is finished: there is nothing to report yet.")
    groups = grouped(runs, lambda run: run.task)
    page, folder = (out, out.with_suffix("")) if out.suffix == ".md" else (out / "report.md", out)
    sections = [
        "# Results\n",
        f"Written by `{command}`.\n" if command else "",
        _final_table(groups, reported, resamples),
        _improvement_table(groups, resamples),
        _curves(runs, folder, page.parent, resamples),
        _versions(runs),
        _unfinished(unfinished),
    ]
    text = "\n".join(section for section in sections if section)
    write_table(folder / "evaluations.csv", runs)
    write_text(page, text)
    return text


def _scores(group: Sequence[FinishedRun]) -> Array:
    return np.array([run.final.mean for run in group])


def _final_table(
    groups: Mapping[Task, Mapping[str, Sequence[FinishedRun]]],
    reported: Mapping[str, Mapping[str, float]],
    resamples: int,
) -> str:
    sizes = [len(group) for agents in groups.values() for group in agents.values()]
    trim = max(sizes) >= _TRIMMED  # nothing is cut off from fewer runs
    heads = ["environment", "agent", "steps", "episodes", "runs", "mean"] + ["interquartile mean"] * trim
    heads += ["seed: mean ± std over episodes", "settings", *(f"reported: {source}" for source in reported)]
    rows = []
    for task, agents in groups.items():
        for agent, group in agents.items():
            scores = _scores(group)
            each = "; ".join(f"{run.config.seed}: {run.final.mean:.1f} ± {run.final.std:.1f}" for run in group)
            mean = _with_interval(scores.mean(), interval([scores], np.mean, resamples))
            middle = ["-"] * trim
            if len(group) >= _TRIMMED:
                middle = [
                    _with_interval(float(interquartile_mean(scores)), interval([scores], interquartile_mean, resamples))
                ]
            figures = [f"{source[task.place]:g}" if task.place in source else "-" for source in reported.values()]
            told = [agent, task.steps, task.episodes, len(scores), mean, *middle, each, _settings(group[0].config)]
            rows.append([task.place, *told, *figures])
    notes = [
        "Return of the last model, deterministic episodes from fixed starts; mean over runs with its "
        f"95 % bootstrap interval ({resamples} resamples of runs).",
        "A run: `icnn-rl rl --agent AGENT --env ENVIRONMENT --timesteps STEPS --seed SEED --final-episodes EPISODES`, "
        "with `--set` for those of its settings that are not the command's own for the environment.",
    ]
    if any(task.constraint for task in groups):
        notes.append("What stands after `under` is the run's `--constraint`.")
    if min(sizes) == 1:
        notes.append("A single run has no interval.")
    if trim and min(sizes) < _TRIMMED:
        notes.append(f"Fewer than {_TRIMMED} runs have no interquartile mean: nothing would be cut off.")
    if any(1 < size < 5 for size in sizes):
        notes.append(
            "Intervals from fewer than five runs are too narrow: a bootstrap cannot go beyond what it has seen."
        )
    if reported:
        notes.append("Columns marked reported are figures from elsewhere, not measured here.")
    return "\n".join(["## Return after training\n", *notes, "", _markdown(heads, rows)])


def _settings(config: Config) -> str:
    options = ["--constraint none"] * (config.constraint == NO_CONSTRAINT)
    options += [f"--n-envs {config.n_envs}"] * (config.n_envs > 1)
    return ", ".join([f"{name}={value}" for name, value in config.settings.items()] + options) or "defaults"


def _improvement_table(groups: Mapping[Task, Mapping[str, Sequence[FinishedRun]]], resamples: int) -> str:
    agents = sorted({agent for group in groups.values() for agent in group})
    rows = []
    for x, y in itertools.combinations(agents, 2):
        tasks = [task for task, group in groups.items() if x in group and y in group]
        for name, chosen in [(f"{t.place}, {t.steps} steps", [t]) for t in tasks] + [("all tasks", tasks)]:
            if not chosen or (name == "all tasks" and len(tasks) == 1):
                continue
            first, second = ([_scores(groups[task][agent]) for task in chosen] for agent in (x, y))
            value = float(improvement(first, second))
            found = interval([*first, *second], _improvement_of_halves, resamples)
            counts = "; ".join(f"{len(a)}, {len(b)}" for a, b in zip(first, second, strict=True))
            rows.append([f"{x} > {y}", name, counts, _with_interval(value, found, ".2f")])
    if not rows:
        return ""
    note = "Probability that a run of the first agent ends higher than one of the second, ties counted half, mean over "
    note += "tasks, with its 95 % bootstrap interval; none where an agent has a single run, and too narrow for a few."
    return "\n".join(
        ["## Probability of improvement\n", note, "", _markdown(["agents", "task", "runs", "probability"], rows)]
    )


def _improvement_of_halves(*samples: Array, axis: int = -1) -> Array:
    """The first half of the samples over the second, as the bootstrap passes them."""
    half = len(samples) // 2
    return improvement(samples[:half], samples[half:])


def _with_interval(value: float, found: tuple[float, float] | None, form: str = ".1f") -> str:
    return f"{value:{form}}" + ("" if found is None else f" [{found[0]:{form}}, {found[1]:{form}}]")


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _versions(runs: Sequence[FinishedRun]) -> str:
    """Versions the runs were made with, as far as recorded."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for name, version in {**run.record.get("versions", {}), "revision": run.record.get("revision")}.items():
            if version is not None:
                found[name][_short(version) if name == "revision" else str(version)] = None
    lines = [f"{name} {', '.join(versions)}" for name, versions in found.items()]
    return f"## Versions\n\n{'; '.join(lines)}.\n" if lines else ""


def _short(revision: str) -> str:
    """Seven digits, and the mark of changed sources."""
    commit, plus, changes = revision.partition("+")
    return commit[:7] + plus + changes


def _unfinished(folders: Sequence[Path]) -> str:
    names = "".join(f"- {folder.name}\n" for folder in folders)
    return f"## Not finished, left out\n\n{names}" if folders else ""


def _curves(runs: Sequence[FinishedRun], folder: Path, beside: Path, resamples: int) -> str:
    """The section that shows the learning curves, drawn into ``folder``, on a page in the folder ``beside``."""
    lines = [
        "## Learning curves\n",
        "Mean over runs of the evaluations while training, with its 95 % bootstrap band.\n",
    ]
    for place, picture in draw_curves(runs, folder, resamples):
        lines.append(f"![{place}]({quote(picture.relative_to(beside).as_posix())})\n")
    return "\n".join(lines)
