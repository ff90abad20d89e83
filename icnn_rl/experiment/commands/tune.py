"""``icnn-rl tune``: search for an agent's settings on an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from icnn_rl.experiment.commands.run import _non_negative_int, _positive_int
from icnn_rl.experiment.commands.sweep import add_backend, open_pool, run_shown
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.files import sole_user, write_text
from icnn_rl.experiment.jobs import Job
from icnn_rl.experiment.running import JobState
from icnn_rl.experiment.sweep import read_sweep
from icnn_rl.experiment.tune import (
    check_study,
    corners,
    integer_ranges,
    make_trial_jobs,
    open_study,
    read_space,
    search,
    suggest,
    sweep_of,
)

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="search for an agent's settings",
        description="Trials of settings from a search space, with Optuna; the same command again goes on. The best "
        "settings, with those of --set, end up in OUT/best.yml, which icnn-rl sweep reads.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("space", type=Path, metavar="SPACE.yml", help="key: {low, high, log} or {choices}, by setting")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study and its runs")
    parser.add_argument("--agent", default="icnn", help="algorithm")
    parser.add_argument("--env", required=True, help="gymnasium environment id")
    parser.add_argument("--timesteps", type=_positive_int, required=True, help="environment steps of a run")
    parser.add_argument("--seeds", default="0", help="runs of a trial, such as 0-2; their mean counts")
    parser.add_argument("--trials", type=_positive_int, default=50, help="of the whole study")
    parser.add_argument("--batch", type=_positive_int, default=2, help="trials at a time")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="in all trials"
    )
    parser.add_argument("--warm-up", default="tenth", help="as of icnn-rl sweep")
    parser.add_argument("--final-episodes", type=_positive_int, default=20, help="episodes that give a run's return")
    parser.add_argument(
        "--retries", type=_non_negative_int, default=2, help="how often a job that broke off starts again"
    )
    parser.add_argument("--sampler-seed", type=_non_negative_int, default=0, help="seed of the search")
    add_backend(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    space = read_space(args.space)
    options = {"agents": args.agent, "envs": args.env, "seeds": args.seeds, "timesteps": args.timesteps}
    options |= {"settings": args.settings, "warm_up": args.warm_up, "final_episodes": args.final_episodes}
    sweep = read_sweep(options)
    if len(sweep.agents) > 1 or len(sweep.envs) > 1:
        raise UserError(f"--agent {args.agent} --env {args.env}: expected one of each.")
    space = integer_ranges(space, args.agent)
    for settings in corners(space):  # names what the agent does not take, before all else
        make_trial_jobs(sweep, settings, args.out)
    pool = open_pool(args)
    with sole_user(args.out):
        study = open_study(args.out / "study.log", args.sampler_seed)
        check_study(study, sweep, space)
        with pool as submit:

            def run(jobs: Sequence[Job]) -> list[JobState]:
                return run_shown(jobs, submit, args.retries)

            search(
                study,
                space,
                lambda settings: make_trial_jobs(sweep, settings, args.out),
                run,
                trials=args.trials,
                batch=args.batch,
            )
    good = [trial for trial in study.get_trials() if trial.value is not None]
    if not good:
        raise UserError(f"all {args.trials} trials failed. The logs are in {args.out / 'trials'}.")
    from optuna.trial import FixedTrial

    settings = suggest(FixedTrial(study.best_params), space)
    write_text(args.out / "best.yml", yaml.safe_dump(sweep_of(sweep, settings)))
    print(f"best of {len(good)} trials: return {study.best_value:.1f} with {settings}, in {args.out / 'best.yml'}")
