"""``icnn-rl sweep``: every combination of agents, environments and seeds, one job each."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icnn_rl.cli.options import add_backend, add_retries, add_surroundings
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.errors import UserError, warn
from icnn_rl.runs.values import positive_int

if TYPE_CHECKING:
    from icnn_rl.runs.run_jobs import JobState

__all__ = ["register", "run"]

_OPTIONS = (
    "agents",
    "envs",
    "seeds",
    "timesteps",
    "warm_up",
    "settings",
    "n_envs",
    "device",
    "constraint",
    "env_kwargs",
    "wrappers",
    "vec_normalize",
    "eval_freq",
    "eval_episodes",
    "checkpoint_freq",
    "final_episodes",
)


def register(commands: SubParsers) -> None:
    # No defaults for what a file may set: None leaves it to the file, then to the sweep's own defaults.
    parser = commands.add_parser(
        "sweep",
        help="train many agents, environments and seeds",
        description="Every agent on every environment with every seed, one job each, into OUT/ENV-AGENT-sSEED. Run "
        "the same command\nagain to resume what is not finished. Options given here override those of the file.",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="SWEEP.yml", help="options as a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--agents", help="such as icnn,td3,sac")
    parser.add_argument("--envs", help="such as HalfCheetah-v5,Hopper-v5")
    parser.add_argument("--seeds", help="such as 0-9 or 0,3,5-7")
    parser.add_argument("--timesteps", nargs="+", metavar="N", help="for all; ENV=N for one: 100000 Walker2d-v5=200000")
    parser.add_argument(
        "--warm-up",
        metavar="STEPS",
        help="random steps before an off-policy agent's first update: tenth: a tenth of the run, at most 10000, "
        "for all agents; own: each agent's default; or a number. --set learning_starts overrides it (default: tenth)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        metavar="[AGENT:]KEY=VALUE",
        help="constructor argument of all agents, or of one: td3:learning_rate=3e-4",
    )
    parser.add_argument("--n-envs", type=positive_int, help="copies of the environment per job (default: 1)")
    parser.add_argument("--device", help="cpu, cuda, auto (default: cpu)")
    parser.add_argument("--constraint", action="append", metavar="NAME:KEY=VALUE,...", help="as for icnn-rl rl")
    add_surroundings(parser)
    parser.add_argument(
        "--eval-freq", type=positive_int, help="steps between evaluations (default: a tenth of the run)"
    )
    parser.add_argument(
        "--eval-episodes",
        type=positive_int,
        help="episodes per evaluation during training (default: as for icnn-rl rl)",
    )
    parser.add_argument(
        "--checkpoint-freq", type=positive_int, help="steps between checkpoints (default: a tenth of the run)"
    )
    parser.add_argument(
        "--final-episodes", type=positive_int, help="episodes of the final evaluation (default: as for icnn-rl rl)"
    )
    add_retries(parser)
    add_backend(parser)


def run(args: argparse.Namespace) -> None:
    from icnn_rl.cli.pool import open_pool, run_shown
    from icnn_rl.runs.config.record import learns_nothing
    from icnn_rl.runs.folder import write_text
    from icnn_rl.runs.jobs import check_folder
    from icnn_rl.runs.sweep import make_jobs, merge_options, read_sweep, read_sweep_file

    options = read_sweep_file(args.file) if args.file else {}
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    sweep = read_sweep(merge_options(options, given))
    jobs = make_jobs(sweep, args.out)
    for job in jobs:
        check_folder(job)
    for text in dict.fromkeys(learns_nothing(job.config) for job in jobs):
        warn(text)
    pool = open_pool(args)
    write_text(args.out / "sweep.yml", sweep.to_yaml())
    with pool as submit:
        states = run_shown(jobs, submit, args.retries)
    _report_failures(states, args.out)


def _report_failures(states: Sequence[JobState], out: Path) -> None:
    failed = [state for state in states if state.state == "failed"]
    report = shlex.join(["icnn-rl", "report", str(out), "--out", f"{out}-report"])
    print(f"{len(states) - len(failed)} of {len(states)} jobs are done. A report of them: {report}")
    if failed:
        names = ", ".join(state.job.name for state in failed)
        raise UserError(
            f"{len(failed)} of {len(states)} jobs failed: {names}. Their logs are in {out / 'jobs'}; the same command "
            "tries them again."
        )
