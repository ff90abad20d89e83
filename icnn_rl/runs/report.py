"""Reports on finished runs: tables with intervals, learning curves, every evaluation as CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

import numpy as np
import yaml
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from icnn_rl.runs.config import Config, differences, read_record, supervised_command
from icnn_rl.runs.environments import NO_CONSTRAINT
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow, read_evaluations
from icnn_rl.runs.folder import name_of, write_file, write_text
from icnn_rl.runs.plot import draw_band, label_curves, shared_steps

__all__ = [
    "FinishedRun",
    "find_runs",
    "improvement",
    "interquartile_mean",
    "interval",
    "read_reported",
    "read_runs",
    "write_report",
]

Key = TypeVar("Key", bound=tuple[Any, ...])
Array: TypeAlias = NDArray[np.float64]

_LEVEL = 0.95
_BOOTSTRAP_SEED = 0
_TRIMMED = 4  # runs of which an interquartile mean cuts something off
_COLUMNS = ("env", "constraint", "agent", "seed", "kind", *EvalRow._fields)


class Task(NamedTuple):
    """What runs must share to be compared. Steps are those asked for: PPO ends with a rollout, up to one beyond."""

    env: str
    constraint: str  # of --constraint; "": none but the environment's own
    steps: int
    episodes: int  # of the final evaluation

    @property
    def place(self) -> str:
        return f"{self.env} under {self.constraint}" if self.constraint else self.env


@dataclass(frozen=True)
class FinishedRun:
    """A run with its configuration, all that its config.yml tells, its evaluations while training, and that of its last
    model."""

    folder: Path
    config: Config
    record: Mapping[str, Any]
    evaluations: list[EvalRow]
    final: EvalRow

    @property
    def task(self) -> Task:
        config = self.config
        return Task(config.task, _constraint(config.constraint), config.timesteps, self.final.episodes)


def _constraint(given: Any) -> str:
    """As --constraint takes it. An agent that is told of none acts under the same limits as one that is told."""
    if given is None or given == NO_CONSTRAINT:
        return ""
    parts = given if isinstance(given, list) else [given]
    return " and ".join(part if isinstance(part, str) else json.dumps(part) for part in parts)


# reading


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below ``paths``, each once; those of supervised commands below a path are passed over.

    Raises:
        UserError: a path holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if (path / "config.yml").is_file():
            folders = [path]
        else:
            folders = [file.parent for file in path.rglob("config.yml") if supervised_command(file) is None]
        if not folders:
            raise UserError(f"{path}: no run folder there. Expected runs of icnn-rl rl, or the folder of a sweep.")
        for folder in sorted(folders):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """The finished runs, and the folders of those without a final evaluation.

    Raises:
        UserError: a folder is not a run, or a file of it is damaged.
    """
    finished, unfinished = [], []
    for folder in folders:
        record = read_record(folder / "config.yml")
        path = folder / "evaluation_model.json"
        if not path.is_file():
            unfinished.append(folder)
            continue
        try:
            summary = json.loads(path.read_text())
            final = EvalRow(**{name: summary[name] for name in EvalRow._fields})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a final evaluation ({error!r}). Write it anew: icnn-rl eval {folder}."
            ) from error
        table = folder / "eval.csv"  # a run that is shorter than the time to its first evaluation has none
        evaluations = read_evaluations(table) if table.is_file() else []
        finished.append(FinishedRun(folder, Config.of(record), record, evaluations, final))
    return finished, unfinished


def read_reported(path: Path) -> dict[str, dict[str, float]]:
    """Returns that others have reported, by source and environment.

    Args:
        path: YAML, ``source: {environment: return}``, or CSV with the columns source, env, return.

    Raises:
        UserError: the file is missing or has another form.
    """
    try:
        if path.suffix == ".csv":
            table: dict[str, dict[str, float]] = defaultdict(dict)
            with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a mark first
                for row in csv.DictReader(stream):
                    table[row["source"]][row["env"]] = float(row["return"])
            return dict(table)
        data = yaml.safe_load(path.read_text())
        return {str(source): {str(env): float(value) for env, value in row.items()} for source, row in data.items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--reported {path}: expected YAML, source: {{environment: return}}, or CSV with the columns source, env, "
            f"return ({error!r})."
        ) from error


# numbers


def interquartile_mean(scores: Array) -> float:
    """Mean of the middle half of (n,) scores, by rliable; the mean where n < 4, since nothing is cut off then.

    References:
        Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
    """
    from rliable import metrics

    return float(metrics.aggregate_iqm(scores[:, None]))


def improvement(x: Sequence[Array], y: Sequence[Array]) -> float:
    """Probability that a run of X is better than one of Y, mean over tasks, by rliable; ties count half.

    Args:
        x, y: for every task the scores (n,) of the runs; n may differ.
    """
    from rliable import metrics

    return float(
        np.mean([metrics.probability_of_improvement(a[:, None], b[:, None]) for a, b in zip(x, y, strict=True)])
    )


def interval(samples: Sequence[Array], statistic: Callable[..., Array], resamples: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval, every sample drawn from itself (stratified); None where a sample is single.

    rliable's own bootstrap, the same in substance, needs pandas < 3 and calls the statistic once a draw: 30 s for
    a probability of improvement.

    Args:
        samples: (n_i,) scores each.
        statistic: of ``len(samples)`` arrays (..., n_i) and ``axis=-1``, giving (...,).
        resamples: draws.
    """
    if min(len(sample) for sample in samples) < 2:
        return None
    from scipy.stats import bootstrap

    found = bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(_BOOTSTRAP_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def trimmed(scores: Array, axis: int = -1) -> Array:
    """:func:`interquartile_mean` along an axis."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(scores, 0.25, axis=axis))


def wins(*samples: Array, axis: int = -1) -> Array:
    """:func:`improvement` of the first half of the samples over the second, along the last axis."""
    half = len(samples) // 2
    shares = [
        (1.0 + np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1))) / 2.0
        for x, y in zip(samples[:half], samples[half:], strict=True)
    ]
    return np.asarray(np.mean(shares, axis=0))


# the report


def write_report(
    runs: Sequence[FinishedRun],
    unfinished: Sequence[Path],
    out: Path,
    reported: Mapping[str, Mapping[str, float]],
    resamples: int = 2000,
    command: str | None = None,
) -> str:
    """Write report.md, evaluations.csv, and curves-ENV-STEPS.png and .svg; returns the text of the report.

    Args:
        runs: finished; those of one agent on one task are a group.
        unfinished: named in the report.
        out: folder for all of it; or, NAME.md, the report itself, the rest going into the folder NAME beside it.
        reported: figures from elsewhere, by source and environment.
        resamples: draws of a bootstrap.
        command: what wrote the report, to be named in it.

    Raises:
        UserError: no finished run; runs of a group differ in settings.
        ModuleNotFoundError: rliable or SciPy is not installed.
    """
    if not runs:
        raise UserError(f"none of {len(unfinished)} runs is finished: there is nothing to report yet.")
    groups = _grouped(runs, lambda run: run.task)
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
    write_text(folder / "evaluations.csv", _evaluations(runs))
    write_text(page, text)
    return text


def _grouped(runs: Sequence[FinishedRun], key: Callable[[FinishedRun], Key]) -> dict[Key, dict[str, list[FinishedRun]]]:
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
                middle = [_with_interval(interquartile_mean(scores), interval([scores], trimmed, resamples))]
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
            value = improvement(first, second)
            found = interval([*first, *second], wins, resamples)
            counts = "; ".join(f"{len(a)}, {len(b)}" for a, b in zip(first, second, strict=True))
            rows.append([f"{x} > {y}", name, counts, _with_interval(value, found, ".2f")])
    if not rows:
        return ""
    note = "Probability that a run of the first agent ends higher than one of the second, ties counted half, mean over "
    note += "tasks, with its 95 % bootstrap interval; none where an agent has a single run, and too narrow for a few."
    return "\n".join(
        ["## Probability of improvement\n", note, "", _markdown(["agents", "task", "runs", "probability"], rows)]
    )


def _with_interval(value: float, found: tuple[float, float] | None, form: str = ".1f") -> str:
    return f"{value:{form}}" + ("" if found is None else f" [{found[0]:{form}}, {found[1]:{form}}]")


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _versions(runs: Sequence[FinishedRun]) -> str:
    """Which versions the runs were made with, as far as their configurations tell."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for name, version in {**run.record.get("versions", {}), "revision": run.record.get("revision")}.items():
            if version is not None:
                found[name][_short(version) if name == "revision" else str(version)] = None
    lines = [f"{name} {', '.join(versions)}" for name, versions in found.items()]
    return f"## Versions\n\n{'; '.join(lines)}.\n" if lines else ""


def _short(revision: str) -> str:
    """Seven digits, and the mark of sources that were changed."""
    commit, plus, changes = revision.partition("+")
    return commit[:7] + plus + changes


def _unfinished(folders: Sequence[Path]) -> str:
    names = "".join(f"- {folder.name}\n" for folder in folders)
    return f"## Not finished, left out\n\n{names}" if folders else ""


def _evaluations(runs: Sequence[FinishedRun]) -> str:
    """Every evaluation of every run: those while training, and the final one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for run in sorted(runs, key=lambda run: (run.config.env, run.config.agent, run.config.seed)):
        who = (run.task.env, run.task.constraint, run.config.agent, run.config.seed)
        writer.writerows((*who, "training", *row) for row in run.evaluations)
        writer.writerow((*who, "final", *run.final))
    return text.getvalue()


# learning curves


def _curves(runs: Sequence[FinishedRun], folder: Path, beside: Path, resamples: int) -> str:
    """A picture for every task, whatever the number of its final episodes, as PNG and SVG in ``folder``; returns the
    section that shows them on a page in the folder ``beside``."""
    lines = [
        "## Learning curves\n",
        "Mean over runs of the evaluations while training, with its 95 % bootstrap band.\n",
    ]
    for task, agents in _grouped(runs, lambda run: run.task._replace(episodes=0)).items():
        figure = _figure(task.place, agents, resamples)
        limited = f"-{hashlib.sha256(task.constraint.encode()).hexdigest()[:8]}" if task.constraint else ""
        name = f"curves-{name_of(task.env)}{limited}-{task.steps}"
        for ending in ("png", "svg"):
            _save(figure, folder / f"{name}.{ending}")
        lines.append(f"![{task.place}]({quote((folder / name).relative_to(beside).as_posix())}.png)\n")
    return "\n".join(lines)


def _figure(title: str, agents: Mapping[str, Sequence[FinishedRun]], resamples: int) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for agent, group in agents.items():
        steps, means = shared_steps([run.evaluations for run in group])
        label = f"{agent} ({len(group)} runs)" if len(group) > 1 else f"{agent} (1 run, no band)"
        if not len(steps):
            label += ": no step at which all were evaluated"
        bounds = [interval([column], np.mean, resamples) for column in means.T] if len(group) > 1 else []
        low, high = np.array(bounds, dtype=float).T if bounds else (None, None)
        draw_band(axis, steps, means.mean(0), low, high, label)
    label_curves(axis, title)
    return figure


def _save(figure: Figure, path: Path) -> None:
    ending = path.suffix[1:]
    metadata = {"Date": None} if ending == "svg" else {}
    with rc_context({"svg.hashsalt": "icnn_rl"}):  # the same runs, the same file
        write_file(path, lambda temporary: figure.savefig(temporary, dpi=120, format=ending, metadata=metadata))
