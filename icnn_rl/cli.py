"""The command line: `icnn-rl` and `python train.py` are the same program."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from icnn_rl.experiment import commands as further_commands
from icnn_rl.experiment.config import AGENTS, Config, parse_overrides, parse_seeds, resolve_settings
from icnn_rl.experiment.environments import read_constraints
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.files import claim_folder
from icnn_rl.experiment.plotting import plot_runs
from icnn_rl.experiment.stacking import train_stacked
from icnn_rl.experiment.training import final_evaluation, load_model, resume_run, train_run
from icnn_rl.experiment.video import record

__all__ = ["main"]

_DEMO_ENV, _DEMO_TIMESTEPS = "InvertedPendulum-v5", 10_000

_DESCRIPTION = f"""\
Train, evaluate, film and plot agents.

Without arguments: trains the input-convex agent on {_DEMO_ENV} for {_DEMO_TIMESTEPS} steps (a few minutes),
evaluates it and leaves a picture of the learning curve in runs/.
"""

#: Packages that only some commands need, and the extra that brings each.
_EXTRAS = {"optuna": "tune", "ray": "ray", "rliable": "report", "scipy": "report", "sklearn": "supervised"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0 on success, 1 where a UserError explains what is wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    args = parser.parse_args(arguments or ["rl"])
    if args.run is _run_rl:
        args.argv = arguments
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f'error: {error.name} is not installed. Install it with: pip install "icnn-rl[{extra}]".', file=sys.stderr
        )
        return 1
    except OSError as error:  # no space, no permission: the text names the file
        print(f"error: {error}. What was saved before is untouched.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        how = str(interrupt) or "a run goes on from its last checkpoint with: icnn-rl rl --resume RUN"
        print(f"stopped; {how}", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser, with one function a command in ``run``."""
    parser = argparse.ArgumentParser(
        prog="icnn-rl", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_rl(commands)

    evaluation = commands.add_parser(
        "eval", help="evaluate a run's model", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    evaluation.add_argument("folder", type=Path, metavar="RUN")
    evaluation.add_argument("--episodes", type=_positive, default=20, help="deterministic episodes")
    evaluation.add_argument("--model", choices=("model", "best_model"), default="model", help="last or best model")
    evaluation.set_defaults(run=_run_eval)

    video = commands.add_parser(
        "video", help="film a run's model", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    video.add_argument("folder", type=Path, metavar="RUN")
    video.add_argument("--out", type=Path, default=None, help="mp4 or gif; None: RUN/video.mp4")
    video.add_argument("--steps", type=_positive, default=1000, help="frames at most")
    video.add_argument("--model", choices=("model", "best_model"), default="model", help="last or best model")
    video.set_defaults(run=_run_video)

    plot = commands.add_parser(
        "plot", help="draw learning curves", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    plot.add_argument("folders", type=Path, nargs="+", metavar="RUN")
    plot.add_argument("--out", type=Path, default=Path("learning_curve.png"), help="picture")
    plot.set_defaults(run=_run_plot)
    further_commands.register(commands)
    return parser


def _add_rl(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    rl = commands.add_parser("rl", help="train an agent", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    rl.add_argument("--agent", choices=sorted(AGENTS), default="icnn", help="algorithm")
    rl.add_argument("--env", default=_DEMO_ENV, help="gymnasium environment id")
    rl.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="constraint on the actions, e.g. power_limit:velocity_index=8:11,max_power=20, one of a module of yours, "
        "MODULE:OBJECT, or a YAML file with some; "
        "several hold together; none: do not tell the agent of the environment's own",
    )
    rl.add_argument(
        "--timesteps", type=_positive, default=_DEMO_TIMESTEPS, help="environment steps, all copies together"
    )
    rl.add_argument("--seed", type=_non_negative, default=0, help="seed of nets, environments and exploration")
    rl.add_argument(
        "--seeds",
        default=None,
        metavar="0-9",
        help="instead of --seed: several, e.g. 0-9 or 0,3,7-9, each into a folder of its own",
    )
    rl.add_argument(
        "--stacked",
        action="store_true",
        help="train the --seeds together, as one batch; otherwise one after the other",
    )
    rl.add_argument("--n-envs", type=_positive, default=1, help="copies of the environment")
    rl.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, auto")
    rl.add_argument("--out", type=Path, default=None, help="run folder; None: runs/AGENT-ENV-sSEED, numbered if taken")
    rl.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="constructor argument, e.g. policy_kwargs.hidden=[64,64]",
    )
    rl.add_argument(
        "--eval-freq", type=_positive, default=None, help="steps between evaluations; None: a tenth of the run"
    )
    rl.add_argument("--eval-episodes", type=_positive, default=5, help="episodes of an evaluation while training")
    rl.add_argument("--final-episodes", type=_positive, default=20, help="episodes of the evaluation at the end")
    rl.add_argument(
        "--checkpoint-freq", type=_positive, default=None, help="steps between checkpoints; None: a tenth of the run"
    )
    rl.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with a run from its last checkpoint; other settings are the run's own",
    )
    rl.add_argument("--verbose", action=argparse.BooleanOptionalAction, default=False, help="print the training log")
    rl.add_argument(
        "--progress-bar", action=argparse.BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
    rl.set_defaults(run=_run_rl)
    return rl


def _positive(text: str) -> int:
    return _at_least(1, text)


def _non_negative(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text}")
    return value


def _run_rl(args: argparse.Namespace) -> None:
    options = {"verbose": int(args.verbose), "progress_bar": args.progress_bar}
    if args.resume is not None:
        _refuse_settings(args)
        with _resumable(args.resume):
            resume_run(args.resume, **options)
        folders = [args.resume]
    else:
        folders = _train_anew(args, options)
    for folder in folders:
        _report(folder, "model", args.final_episodes)
        picture = folder / "learning_curve.png"
        if (folder / "eval.csv").is_file():
            plot_runs([folder], picture)
            print(f"learning curve: {picture}")


def _train_anew(args: argparse.Namespace, options: dict[str, Any]) -> list[Path]:
    """Train every seed that was asked for; the run folders."""
    if args.seeds is None and args.stacked:
        raise UserError("--stacked: trains several seeds together; give them with --seeds, for instance --seeds 0-9.")
    if args.seeds is not None and args.seed != 0:
        raise UserError("--seed and --seeds: give one of them.")
    seeds = [args.seed] if args.seeds is None else parse_seeds(args.seeds)
    configs = [_config(args, seed) for seed in seeds]
    if args.stacked:
        folders = [_folder(args, config) for config in configs]
        train_stacked(configs, folders, **options)
        return folders
    folders = []
    for config in configs:  # a folder is taken when its run begins: an error in the first one leaves no others behind
        folders.append(_folder(args, config))
        with _resumable(folders[-1]):
            train_run(config, folders[-1], **options)
    return folders


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C tells how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on from its last checkpoint with: icnn-rl rl --resume {folder}") from None


def _config(args: argparse.Namespace, seed: int) -> Config:
    return Config(
        agent=args.agent,
        env=args.env,
        timesteps=args.timesteps,
        seed=seed,
        n_envs=args.n_envs,
        device=args.device,
        eval_freq=args.eval_freq or max(args.timesteps // 10, 1),
        eval_episodes=args.eval_episodes,
        checkpoint_freq=args.checkpoint_freq or max(args.timesteps // 10, 1),
        settings=resolve_settings(args.agent, args.env, parse_overrides(args.overrides)),
        constraint=read_constraints(args.constraint),
    )


def _folder(args: argparse.Namespace, config: Config) -> Path:
    """--out, with the seed where there are several; a free one where it is not given. Told to the user."""
    if args.out is None:
        folder = claim_folder(Path("runs") / f"{args.agent}-{args.env.replace('/', '_')}-s{config.seed}")
    else:
        out: Path = args.out
        folder = out if args.seeds is None else out.with_name(f"{out.name}-s{config.seed}")
    print(f"{config.agent} on {config.env}: {config.timesteps} steps, seed {config.seed}, into {folder}")
    return folder


def _refuse_settings(args: argparse.Namespace) -> None:
    """A resumed run keeps its settings; one given beside --resume would be ignored in silence."""
    settings = {f.name for f in dataclasses.fields(Config)} - {"settings"} | {"out", "overrides", "seeds", "stacked"}
    parser = argparse.ArgumentParser()
    rl = _add_rl(parser.add_subparsers())
    rl.set_defaults(**dict.fromkeys(settings))  # None where it was not given, the default where that was
    parsed = vars(parser.parse_args(args.argv))
    given = sorted(name for name in settings if parsed[name] is not None)
    if given:
        options = ", ".join("--set" if name == "overrides" else "--" + name.replace("_", "-") for name in given)
        raise UserError(f"--resume {args.resume}: goes on with the settings in its config.yml. Leave out {options}.")


def _report(folder: Path, which: str, episodes: int) -> None:
    """Evaluate, keep the numbers and print them."""
    found = final_evaluation(folder, which, episodes)
    print(
        f"{which} after {found['timesteps']} steps: return {found['mean']:.1f} ± {found['std']:.1f} over "
        f"{episodes} episodes "
        f"(lowest {found['min']:.1f}, highest {found['max']:.1f}, length {found['mean_length']:.0f})"
    )


def _run_eval(args: argparse.Namespace) -> None:
    _report(args.folder, args.model, args.episodes)


def _run_video(args: argparse.Namespace) -> None:
    config, model = load_model(args.folder, args.model)
    out = args.out or args.folder / "video.mp4"
    total = record(model, config.env, out, args.steps, config.constraint)
    print(f"video: {out} (return {total:.1f})")


def _run_plot(args: argparse.Namespace) -> None:
    plot_runs(args.folders, args.out)
    print(f"learning curves: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
