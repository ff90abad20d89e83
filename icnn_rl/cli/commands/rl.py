"""``icnn-rl rl``: train an agent, or resume a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from argparse import BooleanOptionalAction
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icnn_rl.cli.options import add_surroundings, refuse_beside_resume
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.values import non_negative_int, positive_int

if TYPE_CHECKING:
    from icnn_rl.runs.config.record import Config

__all__ = ["register", "run"]

DEMO_ENV, DEMO_TIMESTEPS = "InvertedPendulum-v5", 10_000

#: The keys of :data:`icnn_rl.runs.config.agents.AGENTS`.
AGENT_NAMES = ("ddpg", "icnn", "naf", "ppo", "sac", "td3")

#: Options that are not named after what they set.
_AS_OPTION = {"overrides": "--set", "wrappers": "--wrapper"}

#: Settings that may accompany --resume.
_MAY_CHANGE = {"timesteps", "final_episodes"}


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("rl", help="train an agent")
    parser.add_argument("--agent", choices=AGENT_NAMES, default="icnn", help="algorithm")
    parser.add_argument("--env", default=DEMO_ENV, help="gymnasium environment id")
    parser.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="constraint on the actions, e.g. power_limit:velocity_index=8:11,max_power=20, one from your own module, "
        "MODULE:OBJECT, or a YAML file with some; several hold together; none: do not tell the agent about the "
        "environment's own",
    )
    add_surroundings(parser)
    parser.add_argument(
        "--timesteps", type=positive_int, default=DEMO_TIMESTEPS, help="environment steps, summed over all copies"
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="seed for networks, environments and exploration"
    )
    parser.add_argument(
        "--seeds",
        default=None,
        metavar="0-9",
        help="several seeds instead of --seed, e.g. 0-9 or 0,3,7-9, each into its own folder",
    )
    parser.add_argument(
        "--stacked",
        action="store_true",
        help="train the --seeds together, as one batch; otherwise one after the other",
    )
    parser.add_argument("--n-envs", type=positive_int, default=1, help="copies of the environment")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, auto")
    parser.add_argument(
        "--out", type=Path, default=None, help="run folder; None: runs/AGENT-ENV-sSEED, numbered if taken"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="constructor argument, e.g. policy_kwargs.hidden=[64,64]",
    )
    parser.add_argument(
        "--eval-freq", type=positive_int, default=None, help="steps between evaluations; None: a tenth of the run"
    )
    parser.add_argument(
        "--eval-episodes",
        type=positive_int,
        default=None,
        help="episodes per evaluation during training; None: 5, or one per 2000 steps for runs below 10000",
    )
    parser.add_argument(
        "--final-episodes",
        type=positive_int,
        default=None,
        help="episodes of the final evaluation; None: 20, or one per 500 steps for runs below 10000, at least 2",
    )
    parser.add_argument(
        "--checkpoint-freq", type=positive_int, default=None, help="steps between checkpoints; None: a tenth of the run"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="resume a run from its last checkpoint, with its own settings; only --final-episodes and a larger "
        "--timesteps may be given",
    )
    parser.add_argument("--verbose", action=BooleanOptionalAction, default=False, help="print the training log")
    parser.add_argument(
        "--progress-bar", action=BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )


def run(args: argparse.Namespace) -> None:
    from icnn_rl.cli.evaluation import report
    from icnn_rl.runs.config.record import Config
    from icnn_rl.runs.plot import plot_runs
    from icnn_rl.runs.train import resume_run

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
    """Train every seed; returns the run folders and the number of final episodes."""
    from icnn_rl.runs.arguments import parse_seeds
    from icnn_rl.runs.config.record import learns_nothing
    from icnn_rl.runs.train import train_run
    from icnn_rl.runs.train_stacked import train_stacked

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
    for config in configs:  # folders are made one by one: an error in the first run leaves no empty ones behind
        folders.append(_folder(args, config))
        with _resumable(folders[-1]):
            train_run(config, folders[-1], **options)
    return folders, configs[0].final_episodes


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say on Ctrl-C how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on from its last checkpoint with: icnn-rl rl --resume {folder}") from None


def _config(args: argparse.Namespace, seed: int) -> Config:
    from icnn_rl.runs.arguments import parse_overrides
    from icnn_rl.runs.config.defaults import default_episodes, resolve_settings
    from icnn_rl.runs.config.record import Config
    from icnn_rl.runs.environments import read_constraints, read_vec_normalize
    from icnn_rl.runs.wrappers import read_wrappers

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
    """--out, with the seed appended if there are several; a new one if not given. Printed."""
    from icnn_rl.runs.folder import claim_folder, name_of

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
    """No setting of the run may accompany --resume."""
    from icnn_rl.runs.config.record import Config

    settings = {f.name for f in dataclasses.fields(Config)} | {"out", "overrides", "seeds", "stacked"}
    refuse_beside_resume(args, settings - _MAY_CHANGE, _AS_OPTION)
