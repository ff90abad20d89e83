"""Search for constructor arguments with Optuna; a trial is one job per seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from icnn_rl.runs.arguments import merge_settings, parse_overrides
from icnn_rl.runs.config.check import is_integer
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.jobs import Job, read_final
from icnn_rl.runs.run_jobs import JobState
from icnn_rl.runs.sweep import ALL, Sweep, make_jobs

__all__ = [
    "SURROUNDINGS",
    "check_study",
    "corners",
    "integer_ranges",
    "make_trial_jobs",
    "open_study",
    "read_space",
    "search",
    "suggest",
    "sweep_of",
]

#: Options of the environment that a search passes on to its sweeps.
SURROUNDINGS = ("env_kwargs", "wrappers", "vec_normalize")

_AGAIN = "again"  # marks the second attempt at an interrupted trial; the first counts as failed
_REASON, _TASK = "reason", "task"


def read_space(path: Path) -> dict[str, dict[str, Any]]:
    """A search space from YAML: key of a setting to ``{low, high, log}`` or ``{choices}``.

    A range is one of integers if both ends are. Choices may be anything YAML can hold.

    Raises:
        UserError: the file is missing or has another form; names the key.
    """
    try:
        space = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a YAML file of a search space ({error}).") from error
    if not isinstance(space, dict) or not space:
        raise UserError(f"{path}: expected a search space, key: {{low: .., high: ..}}, got {space!r}.")
    return {str(key): _range(key, given) for key, given in space.items()}


def _range(key: str, given: Any) -> dict[str, Any]:
    wrong = UserError(
        f"{key}: expected {{low: a, high: b}} with a < b, log: true if wanted, or {{choices: [..]}}, got {given!r}."
    )
    if not isinstance(given, Mapping):
        raise wrong
    if set(given) == {"choices"} and isinstance(given["choices"], list) and given["choices"]:
        return dict(given)
    if not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise wrong
    try:  # YAML reads 1e-4 as a string
        low, high = (value if isinstance(value, int) else float(value) for value in (given["low"], given["high"]))
    except (TypeError, ValueError):
        raise wrong from None
    if not -math.inf < low < high < math.inf or (given.get("log") and low <= 0):
        raise wrong
    return {"low": low, "high": high, "log": bool(given.get("log"))}


def open_study(path: Path, seed: int) -> Any:
    """The optuna.Study in a journal file, new or as it was left; interrupted trials are repeated first.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
        study_name="icnn-rl tune",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed + _count(path)),
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: True})
    return study


def check_study(study: Any, sweep: Sweep, space: Mapping[str, Mapping[str, Any]]) -> None:
    """Record in a new study what is searched; an existing study must be about the same.

    Raises:
        UserError: it is not; names what differs.
    """
    # as the journal returns it
    wanted = json.loads(json.dumps({**dataclasses.asdict(sweep), "space": space}))
    there = study.user_attrs.get(_TASK)
    if there is None:
        study.set_user_attr(_TASK, wanted)
        return
    differ = [
        f"{key} {there.get(key)!r} there, {wanted[key]!r} wanted"
        for key in wanted
        if json.dumps(there.get(key)) != json.dumps(wanted[key])  # 1 and 1.0 mean different ranges
    ]
    if differ:
        raise UserError(
            f"the study in this folder is about something else: {'; '.join(differ)}. Choose another --out, or give it "
            "the options of that study."
        )


def _count(path: Path) -> int:
    """Lines in the journal: part of the seed, so that a resumed search does not repeat its first draws."""
    return len(path.read_text().splitlines()) if path.is_file() else 0


def suggest(trial: Any, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of an optuna.Trial, nested: "policy_kwargs.hidden" becomes {"policy_kwargs": {"hidden": ..}}."""
    values = {}
    for key, given in space.items():
        if "choices" in given:
            value = json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in given["choices"]]))
        elif isinstance(given["low"], int) and isinstance(given["high"], int):
            value = trial.suggest_int(key, given["low"], given["high"], log=given["log"])
        else:
            value = trial.suggest_float(key, given["low"], given["high"], log=given["log"])
        values[key] = value
    return _nested(values)


def corners(space: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings that cover every choice and both ends of every range, nested as in :func:`suggest`: they let a space be
    checked before the first trial."""
    values = {key: given.get("choices") or [given["low"], given["high"]] for key, given in space.items()}
    firsts = {key: options[0] for key, options in values.items()}
    return [_nested({**firsts, key: value}) for key, options in values.items() for value in options]


def integer_ranges(space: Mapping[str, dict[str, Any]], agent: str) -> dict[str, dict[str, Any]]:
    """The space with integer ends where the agent's default is an integer: YAML reads 1e2 as a float.

    Raises:
        UserError: an end is not an integer.
    """
    found = dict(space)
    for key, given in space.items():
        if "low" in given and is_integer(agent, key):
            if not all(float(given[end]).is_integer() for end in ("low", "high")):
                raise UserError(f"{key}: expected integers at both ends, got {given['low']} and {given['high']}.")
            found[key] = {**given, "low": int(given["low"]), "high": int(given["high"])}
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    return parse_overrides(f"{key}={json.dumps(value)}" for key, value in values.items())


def sweep_of(sweep: Sweep, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep of one agent with these settings needs besides agents, environments, seeds and steps."""
    (agent,) = sweep.agents
    fixed = merge_settings(sweep.settings.get(ALL, {}), sweep.settings.get(agent, {}))
    around = {name: getattr(sweep, name) for name in SURROUNDINGS if getattr(sweep, name) is not None}
    return {"warm_up": sweep.warm_up, "settings": {agent: merge_settings(fixed, settings)}, **around}


def make_trial_jobs(sweep: Sweep, settings: Mapping[str, Any], out: Path) -> list[Job]:
    """The jobs of a sweep with these settings, in a folder named after them: equal settings share their runs."""
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return make_jobs(dataclasses.replace(sweep, **sweep_of(sweep, settings)), out / "trials" / name)


def search(
    study: Any,
    space: Mapping[str, Mapping[str, Any]],
    make: Callable[[Mapping[str, Any]], list[Job]],
    run: Callable[[Sequence[Job]], Sequence[JobState]],
    *,
    trials: int,
    batch: int,
) -> None:
    """Ask for ``batch`` trials, run their jobs, report the mean of their final returns; until ``trials`` have ended.

    Args:
        study: from :func:`open_study`.
        space: from :func:`read_space`.
        make: settings to jobs.
        run: jobs to their states, each done or failed. One failed job fails its trial.
        trials: in the whole study, earlier ones included.
        batch: trials at a time.
    """
    while (left := trials - _ended(study)) > 0:
        asked = [study.ask() for _ in range(min(batch, left))]
        wanted = [make(suggest(trial, space)) for trial in asked]
        found = {
            state.job.folder: state
            for state in run(list({job.folder: job for jobs in wanted for job in jobs}.values()))
        }
        for trial, jobs in zip(asked, wanted, strict=True):
            _tell(study, trial, [found[job.folder] for job in jobs])


def _ended(study: Any) -> int:
    """Trials that have ended, not counting interrupted ones that were queued again."""
    trials = study.get_trials()
    broken_off = sum(_AGAIN in trial.user_attrs for trial in trials)
    return sum(bool(trial.state.is_finished()) for trial in trials) - broken_off


def _tell(study: Any, trial: Any, states: Sequence[JobState]) -> None:
    from optuna.trial import TrialState

    returns: list[float] = []
    for state in states:
        final = None if state.state == "failed" else read_final(state.job)
        if final is None:
            trial.set_user_attr(_REASON, state.reason or f"{state.job.folder}: without its final evaluation")
            study.tell(trial, state=TrialState.FAIL)
            return
        returns.append(final)
    study.tell(trial, float(np.mean(returns)))
