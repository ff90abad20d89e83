"""``icnn-rl tune``: search for an agent's settings on an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import yaml

from icnn_rl.cli.commands.sweep import open_pool, run_shown
from icnn_rl.runs.config.record import learns_nothing
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.folder import sole_user, write_text
from icnn_rl.runs.jobs import Job
from icnn_rl.runs.run_jobs import JobState
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

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    space = read_space(args.space)
    options = {"agents": args.agent, "envs": args.env, "seeds": args.seeds, "timesteps": args.timesteps}
    options |= {"settings": args.settings, "warm_up": args.warm_up, "final_episodes": args.final_episodes}
    options |= {name: getattr(args, name) for name in SURROUNDINGS}
    sweep = read_sweep(options)
    if len(sweep.agents) > 1 or len(sweep.envs) > 1:
        raise UserError(f"--agent {args.agent} --env {args.env}: expected one of each.")
    space = integer_ranges(space, args.agent)
    # names what the agent does not take, before all else
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
