"""``icnn-rl rl``: train an agent, or go on with a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icnn_rl.cli.commands.eval import report
from icnn_rl.runs.arguments import parse_overrides, parse_seeds
from icnn_rl.runs.config.defaults import default_episodes, resolve_settings
from icnn_rl.runs.config.record import Config, learns_nothing
from icnn_rl.runs.environments import read_constraints, read_vec_normalize
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.folder import claim_folder, name_of
from icnn_rl.runs.plot import plot_runs
from icnn_rl.runs.train import resume_run, train_run
from icnn_rl.runs.train_stacked import train_stacked
from icnn_rl.runs.wrappers import read_wrappers

__all__ = ["run"]

#: Options that have another name than what they set.
_AS_OPTION = {"overrides": "--set", "wrappers": "--wrapper"}

#: Settings that may be given beside --resume.
_MAY_CHANGE = {"timesteps", "final_episodes"}


def run(args: argparse.Namespace) -> None:
    options = {"verbose": int(args.verbose), "progress_bar": args.progress_bar}
    if args.resume is not None:
        _refuse_settings(args)
        with _resumable(args.resume):
            resume_run(
                args.resume,
                timesteps=args.timesteps if "timesteps" in args.given else None,
                final_episodes=args.final_episodes,
                **options,
            )
        folders, episodes = [args.resume], Config.load(args.resume / "config.yml").final_episodes
    else:
        folders, episodes = _train_anew(args, options)
    for folder in folders:
        report(folder, "model", episodes)
        picture = folder / "learning_curve.png"
        if (folder / "eval.csv").is_file():
            plot_runs([folder], picture)
            print(f"learning curve: {picture}")


def _train_anew(args: argparse.Namespace, options: dict[str, Any]) -> tuple[list[Path], int]:
    """Train every seed that was asked for; the run folders, and the episodes of the evaluations at the end."""
    if args.seeds is None and args.stacked:
        raise UserError("--stacked: trains several seeds together; give them with --seeds, for instance --seeds 0-9.")
    if args.seeds is not None and args.seed != 0:
        raise UserError("--seed and --seeds: give one of them.")
    seeds = [args.seed] if args.seeds is None else parse_seeds(args.seeds)
    configs = [_config(args, seed) for seed in seeds]
    warn(learns_nothing(configs[0]))
    if args.stacked:
        folders = [_folder(args, config) for config in configs]
        train_stacked(configs, folders, **options)
        return folders, configs[0].final_episodes
    folders = []
    for config in configs:  # a folder is taken when its run begins: an error in the first one leaves no others behind
        folders.append(_folder(args, config))
        with _resumable(folders[-1]):
            train_run(config, folders[-1], **options)
    return folders, configs[0].final_episodes


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C tells how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on from its last checkpoint with: icnn-rl rl --resume {folder}") from None


def _config(args: argparse.Namespace, seed: int) -> Config:
    eval_episodes, final_episodes = default_episodes(args.timesteps)
    return Config(
        agent=args.agent,
        env=args.env,
        timesteps=args.timesteps,
        seed=seed,
        n_envs=args.n_envs,
        device=args.device,
        eval_freq=args.eval_freq or max(args.timesteps // 10, 1),
        eval_episodes=args.eval_episodes or eval_episodes,
        checkpoint_freq=args.checkpoint_freq or max(args.timesteps // 10, 1),
        settings=resolve_settings(args.agent, args.env, parse_overrides(args.overrides)),
        constraint=read_constraints(args.constraint),
        env_kwargs=parse_overrides(args.env_kwargs or [], "--env-kwargs") or None,
        wrappers=read_wrappers(args.wrappers or []),
        vec_normalize=read_vec_normalize(args.vec_normalize),
        final_episodes=args.final_episodes or final_episodes,
    )


def _folder(args: argparse.Namespace, config: Config) -> Path:
    """--out, with the seed where there are several; a free one where it is not given. Told to the user."""
    if args.out is None:
        folder = claim_folder(Path("runs") / f"{args.agent}-{name_of(args.env)}-s{config.seed}")
    else:
        out: Path = args.out
        if args.seeds is not None and not out.name:
            raise UserError(f"--out {out}: has no name that the seeds could be added to. Give another folder.")
        folder = out if args.seeds is None else out.with_name(f"{out.name}-s{config.seed}")
    print(f"{config.agent} on {config.env}: {config.timesteps} steps, seed {config.seed}, into {folder}")
    return folder


def _refuse_settings(args: argparse.Namespace) -> None:
    """A resumed run keeps its settings; one given beside --resume would be ignored in silence."""
    settings = {f.name for f in dataclasses.fields(Config)} | {"out", "overrides", "seeds", "stacked"}
    refused = sorted(settings - _MAY_CHANGE & args.given)
    if refused:
        options = ", ".join(_AS_OPTION.get(name, "--" + name.replace("_", "-")) for name in refused)
        raise UserError(f"--resume {args.resume}: goes on with the settings in its config.yml. Leave out {options}.")
