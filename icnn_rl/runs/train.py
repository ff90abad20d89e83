"""Train an agent into a run folder, or resume from its last checkpoint."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

from icnn_rl.runs.checkpoint import (
    CheckpointCallback,
    discard_unfinished,
    grow_buffer,
    latest_checkpoint,
    list_checkpoints,
    load_agent,
    restore,
    restore_best,
    save_agent,
    save_checkpoint,
    statistics_of,
)
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.build import buffer_size, build_agent
from icnn_rl.runs.config.defaults import constructor_defaults
from icnn_rl.runs.config.provenance import revision, versions
from icnn_rl.runs.config.record import Config, read_record
from icnn_rl.runs.constraint_record import ConstraintCallback
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvaluationCallback, evaluate
from icnn_rl.runs.folder import check_free, sole_user, write_text

__all__ = ["final_evaluation", "load_model", "resume_run", "train_run"]


def train_run(
    config: Config,
    folder: Path,
    *,
    verbose: int = 0,
    progress_bar: bool = False,
    callbacks: Sequence[BaseCallback] = (),
) -> BaseAlgorithm:
    """Train from the start into ``folder``, which must not hold a run; ``callbacks`` come after the run's own.

    Leaves: config.yml, progress.csv, tb/ (TensorBoard), eval.csv, checkpoints/, best_model.zip, model.zip.

    Raises:
        UserError: the folder holds something, the environment or a setting is wrong.
        FolderBusyError: another process is using the folder.
    """
    with fresh_folder(folder):
        env = make_env(config.env, config.n_envs, config.seed, **config.surroundings)
        try:
            model = build_agent(config, env, None)
            write_config(config, folder)
            return _learn(model, config, folder, verbose, progress_bar, callbacks)
        finally:
            env.close()


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[None]:
    """An empty run folder that no other process uses.

    Raises:
        UserError: it holds something, or is a file.
        FolderBusyError: another process is using it.
    """
    check_free(folder)  # before the lock file is put there
    with sole_user(folder):
        check_free(folder)  # again: another process may have filled it meanwhile
        yield


def write_config(config: Config, folder: Path, **more: Any) -> None:
    """Write the run's config.yml: settings, the defaults of all others, versions, revision, time, and ``more``."""
    extra = {
        "defaults": constructor_defaults(config.agent),
        "versions": versions(),
        "revision": revision(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **more,
    }
    write_text(folder / "config.yml", config.to_yaml(extra))


def _change(config: Config, folder: Path, timesteps: int, final_episodes: int) -> Config:
    """The configuration with another length and number of final episodes; config.yml is updated."""
    if (timesteps, final_episodes) == (config.timesteps, config.final_episodes):
        return config
    path = folder / "config.yml"
    record = read_record(path)
    if timesteps != config.timesteps:
        record["lengths"] = [*record.get("lengths", [config.timesteps]), timesteps]
        print(
            f"{folder}: {config.timesteps} steps become {timesteps}; what falls over the run, such as "
            "learning_rate=lin_3e-4, falls over all of them"
        )
    changed = {"timesteps": timesteps, "final_episodes": final_episodes}
    write_text(path, yaml.safe_dump({**record, **changed}, sort_keys=False))
    return dataclasses.replace(config, timesteps=timesteps, final_episodes=final_episodes)


def resume_run(
    folder: Path,
    *,
    timesteps: int | None = None,
    final_episodes: int | None = None,
    verbose: int = 0,
    progress_bar: bool = False,
    callbacks: Sequence[BaseCallback] = (),
) -> BaseAlgorithm:
    """Resume from the last checkpoint, or from the start if there is none, up to the run's number of steps.

    A run that is extended keeps its settings, including the steps between evaluations. Schedules (lin_3e-4) see the new
    length: a learning rate that had fallen to 0 is back at half its start if the length doubles. The replay buffer
    grows with the run. config.yml lists all lengths in ``lengths``.

    Args:
        folder: of the run.
        timesteps: the run's new length, no shorter than before; None: as before.
        final_episodes: new number for the evaluation at the end; None: as before.
        verbose, progress_bar, callbacks: as for :func:`train_run`.

    Raises:
        UserError: no run, a damaged checkpoint, a finished run without its checkpoints, or fewer ``timesteps``.
        FolderBusyError: another process is using the folder.
    """
    config = Config.load(folder / "config.yml")
    if timesteps is not None and timesteps < config.timesteps:
        raise UserError(f"--timesteps {timesteps}: the run in {folder} has {config.timesteps}. Give as many, or more.")
    with sole_user(folder):
        return _resume(
            config,
            config.timesteps if timesteps is None else timesteps,
            config.final_episodes if final_episodes is None else final_episodes,
            folder,
            verbose,
            progress_bar,
            callbacks,
        )


def _resume(
    config: Config,
    timesteps: int,
    final_episodes: int,
    folder: Path,
    verbose: int,
    progress_bar: bool,
    callbacks: Sequence[BaseCallback],
) -> BaseAlgorithm:
    discard_unfinished(folder / "checkpoints")
    if not list_checkpoints(folder / "checkpoints") and (folder / "model.zip").exists():
        raise UserError(
            f"{folder / 'checkpoints'}: no checkpoint, but {folder / 'model.zip'} exists and would be overwritten. "
            "Train anew into another folder."
        )
    env = make_env(config.env, config.n_envs, config.seed, **config.surroundings)
    try:
        if list_checkpoints(folder / "checkpoints"):
            checkpoint = latest_checkpoint(folder / "checkpoints")
            model = restore(AGENTS[config.agent], checkpoint, env, config.device)
            config = _change(config, folder, timesteps, final_episodes)
            grow_buffer(model, buffer_size(config) or 0)
            if model.num_timesteps >= config.timesteps and (folder / "model.zip").is_file():
                print(f"{folder}: nothing to do, all {config.timesteps} steps are done")
                return model
            restore_best(checkpoint, folder)
            print(f"{folder}: going on from step {model.num_timesteps} of {config.timesteps}")
        else:
            config = dataclasses.replace(config, timesteps=timesteps, final_episodes=final_episodes)
            model = build_agent(config, env, None)
            write_config(config, folder)  # with the current versions and defaults
            print(f"{folder}: stopped before its first checkpoint, starting again from step 0")
        return _learn(model, config, folder, verbose, progress_bar, callbacks)
    finally:
        env.close()


def _learn(
    model: BaseAlgorithm,
    config: Config,
    folder: Path,
    verbose: int,
    progress_bar: bool,
    further: Sequence[BaseCallback],
) -> BaseAlgorithm:
    open_log(model, folder, verbose)
    try:
        remaining = config.timesteps - model.num_timesteps
        if remaining > 0:
            with run_callbacks(config, folder) as own, quiet_progress_bar():
                callbacks = CallbackList([*own, *further])
                try:
                    model.learn(remaining, callback=callbacks, progress_bar=progress_bar, reset_num_timesteps=False)
                except (ValueError, FloatingPointError) as error:
                    raise UserError(f"{folder}: training stopped at step {model.num_timesteps}. {error}") from error
            save_checkpoint(model, folder / "checkpoints")
        save_model(model, folder)
    finally:
        model.logger.close()
    return model


def open_log(model: BaseAlgorithm, folder: Path, verbose: int) -> None:
    """Log into progress.csv and tb/ of the run folder."""
    model.set_logger(Logger(str(folder), _log_writers(folder, model.num_timesteps, verbose)))


@contextlib.contextmanager
def run_callbacks(
    config: Config, folder: Path, save: Callable[[BaseAlgorithm, Path], object] = save_checkpoint
) -> Iterator[list[BaseCallback]]:
    """What a run does besides learning: evaluate, write checkpoints with ``save``, count violations."""
    evaluations = EvaluationCallback(folder, config.env, config.eval_freq, config.eval_episodes, **config.surroundings)
    try:
        yield [
            evaluations,
            CheckpointCallback(folder / "checkpoints", config.checkpoint_freq, save),
            ConstraintCallback(folder, config.checkpoint_freq),
        ]
    finally:
        evaluations.close()


def save_model(model: BaseAlgorithm, folder: Path) -> None:
    """model.zip, and the last row of the log."""
    save_agent(model, folder / "model.zip")
    model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
    model.logger.dump(model.num_timesteps)


@contextlib.contextmanager
def quiet_progress_bar() -> Iterator[None]:
    """Silence the warning that tqdm.rich is experimental."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*experimental.*")
        yield


def _log_writers(folder: Path, done: int, verbose: int) -> list[KVWriter]:
    """CSV, TensorBoard and, if ``verbose``, the terminal. A resumed run keeps the rows up to its checkpoint."""
    table = folder / "progress.csv"
    kept = _sound_rows(table, done) if done and table.is_file() else []
    temporary = folder / ".progress.csv"  # renamed once it holds the old rows: a kill loses none
    writer = CSVOutputFormat(str(temporary))
    for row in kept:
        writer.write(row, dict.fromkeys(row, ()))
    temporary.replace(table)
    writers: list[KVWriter] = [writer, TensorBoardOutputFormat(str(folder / "tb"))]
    if verbose:
        writers.append(HumanOutputFormat(sys.stdout))
    return writers


def _sound_rows(table: Path, done: int) -> list[dict[str, float]]:
    """The rows up to step ``done``, or up to the first damaged one: resuming does not need the log."""
    rows: list[dict[str, float]] = []
    steps = 0.0
    with table.open(newline="", errors="replace") as stream:
        for row in csv.DictReader(stream):
            try:
                numbers = {key: float(value) for key, value in row.items() if value}
                before, steps = steps, numbers["time/total_timesteps"]
            except (KeyError, TypeError, ValueError):
                break
            if not before <= steps <= done:
                break
            rows.append(numbers)
    return rows


def load_model(folder: Path, which: str = "model") -> tuple[Config, BaseAlgorithm]:
    """The last ("model") or best ("best_model") agent of a run, on the CPU.

    Raises:
        UserError: no run, or the model is missing or damaged.
    """
    config = Config.load(folder / "config.yml")
    path = folder / f"{which}.zip"
    if not path.is_file():
        reason = "The run has not finished" if which == "model" else "The run has not been evaluated yet"
        best = (folder / "best_model.zip").is_file()
        raise UserError(
            f"{path}: no such file. {reason}: go on with `icnn-rl rl --resume {folder}`"
            f"{', or use its best model so far: --model best_model' if best else ''}."
        )
    try:
        model = load_agent(AGENTS[config.agent], path, device="cpu")
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). It is damaged or from an incompatible version."
        ) from error
    return config, model


def final_evaluation(folder: Path, which: str, episodes: int) -> dict[str, Any]:
    """Evaluate a run's model over ``episodes`` deterministic episodes; also written to RUN/evaluation_MODEL.json.

    Returns:
        agent, env, seed, timesteps of the model, episodes, mean_length, and of the returns: mean, std, min, max and
        all of them.

    Raises:
        UserError: as :func:`load_model`.
    """
    config, model = load_model(folder, which)
    returns, lengths = evaluate(
        model, config.env, episodes, statistics_of(folder / f"{which}.zip"), **config.surroundings
    )
    summary = {
        "agent": config.agent,
        "env": config.env,
        "seed": config.seed,
        "timesteps": model.num_timesteps,
        "episodes": episodes,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": float(lengths.mean()),
        "returns": [float(value) for value in returns],
    }
    write_text(folder / f"evaluation_{which}.json", json.dumps(summary, indent=1) + "\n")
    return summary
