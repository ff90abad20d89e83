"""``icnn-rl tune``: search for an agent's settings on an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icnn_rl.cli.options import add_backend, add_retries, add_surroundings
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.values import non_negative_int, positive_int

if TYPE_CHECKING:
    from icnn_rl.runs.jobs import Job
    from icnn_rl.runs.run_jobs import JobState

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = commands.add_parser(
        "tune",
        help="search for an agent's settings",
        description="Try settings from a search space, with Optuna; run the same command again to resume. The best "
        "settings, with\nthose of --set, go to OUT/best.yml, which icnn-rl sweep reads.",
    )
    parser.add_argument("space", type=Path, metavar="SPACE.yml", help="key: {low, high, log} or {choices}, by setting")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study and its runs")
    parser.add_argument("--agent", default="icnn", help="algorithm")
    parser.add_argument("--env", required=True, help="gymnasium environment id")
    parser.add_argument("--timesteps", type=positive_int, required=True, help="environment steps of a run")
    parser.add_argument("--seeds", default="0", help="seeds of a trial's runs, such as 0-2; their mean counts")
    parser.add_argument("--trials", type=positive_int, default=50, help="trials in the whole study")
    parser.add_argument("--batch", type=positive_int, default=2, help="trials at a time")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="constructor argument in all trials",
    )
    parser.add_argument("--warm-up", default="tenth", help="as for icnn-rl sweep")
    add_surroundings(parser)
    parser.add_argument(
        "--final-episodes",
        type=positive_int,
        default=None,
        help="episodes that give a run's return; None: as for icnn-rl rl",
    )
    add_retries(parser)
    parser.add_argument("--sampler-seed", type=non_negative_int, default=0, help="seed of the search")
    add_backend(parser)


def run(args: argparse.Namespace) -> None:
    import yaml

    from icnn_rl.cli.pool import open_pool, run_shown
    from icnn_rl.runs.config.record import learns_nothing
    from icnn_rl.runs.folder import sole_user, write_text
    from icnn_rl.runs.sweep import read_sweep
    from icnn_rl.runs.tune import (
        SURROUNDINGS,
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

    space = read_space(args.space)
    options = {"agents": args.agent, "envs": args.env, "seeds": args.seeds, "timesteps": args.timesteps}
    options |= {"settings": args.settings, "warm_up": args.warm_up, "final_episodes": args.final_episodes}
    options |= {name: getattr(args, name) for name in SURROUNDINGS}
    sweep = read_sweep(options)
    if len(sweep.agents) > 1 or len(sweep.envs) > 1:
        raise UserError(f"--agent {args.agent} --env {args.env}: expected one of each.")
    space = integer_ranges(space, args.agent)
    # first: names settings that the agent does not have
    tried = [job for settings in corners(space) for job in make_trial_jobs(sweep, settings, args.out)]
    for text in dict.fromkeys(learns_nothing(job.config) for job in tried):
        warn(text)
    pool = open_pool(args)
    with sole_user(args.out):
        study = open_study(args.out / "study.log", args.sampler_seed)
        check_study(study, sweep, space)
        with pool as submit:

            def train(jobs: Sequence[Job]) -> list[JobState]:
                return run_shown(jobs, submit, args.retries)

            search(
                study,
                space,
                lambda settings: make_trial_jobs(sweep, settings, args.out),
                train,
                trials=args.trials,
                batch=args.batch,
            )
    good = [trial for trial in study.get_trials() if trial.value is not None]
    if not good:
        raise UserError(f"all {args.trials} trials failed. The logs are in {args.out / 'trials'}.")
    from optuna.trial import FixedTrial

    settings = suggest(FixedTrial(study.best_params), space)
    write_text(args.out / "best.yml", yaml.safe_dump(sweep_of(sweep, settings)))
    print(
        f"best of {len(good)} trials: final return {study.best_value:.1f} with {settings}, in {args.out / 'best.yml'}"
    )
