"""Options of the commands for many runs: sweeps, reports, searches, RL Baselines3 Zoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from icnn_rl.cli.options.parser import Parser, SubParsers
from icnn_rl.cli.options.runs import add_surroundings
from icnn_rl.runs.values import non_negative_int, positive_int

__all__ = ["ZOO_SCRIPTS", "register"]

#: The keys of :data:`icnn_rl.runs.zoo.SCRIPTS`.
ZOO_SCRIPTS = ("train", "enjoy", "plot_train", "plot_from_file", "all_plots")


def register(commands: SubParsers) -> None:
    """Add the commands."""
    _add_sweep(
        commands.add_parser(
            "sweep",
            help="train many agents, environments and seeds",
            description="Every agent on every environment with every seed, a job each, into OUT/ENV-AGENT-sSEED. The "
            "same command\nagain goes on with what is not finished. Options given here win over those of the file.",
        )
    )
    _add_report(commands.add_parser("report", help="tables and learning curves of finished runs"))
    _add_tune(
        commands.add_parser(
            "tune",
            help="search for an agent's settings",
            description="Trials of settings from a search space, with Optuna; the same command again goes on. The "
            "best settings, with\nthose of --set, end up in OUT/best.yml, which icnn-rl sweep reads.",
        )
    )
    zoo = commands.add_parser("zoo", help="scripts of RL Baselines3 Zoo, which know icnn and naf here")
    zoo.add_argument("script", choices=ZOO_SCRIPTS, help="of the zoo")
    zoo.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script, such as --algo icnn --env Hopper-v5")


def _add_sweep(parser: Parser) -> None:
    """What a file may tell has no default here: None leaves it to the file, then to the sweep's own defaults."""
    parser.add_argument("file", type=Path, nargs="?", metavar="SWEEP.yml", help="options as a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--agents", help="such as icnn,td3,sac")
    parser.add_argument("--envs", help="such as HalfCheetah-v5,Hopper-v5")
    parser.add_argument("--seeds", help="such as 0-9 or 0,3,5-7")
    parser.add_argument("--timesteps", nargs="+", metavar="N", help="for all; ENV=N for one: 100000 Walker2d-v5=200000")
    parser.add_argument(
        "--warm-up",
        metavar="STEPS",
        help="random steps before the first update of an off-policy agent: tenth: a tenth of the run, at most 10000, "
        "for all agents alike; own: each agent's default; or a number. --set learning_starts wins (default: tenth)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        metavar="[AGENT:]KEY=VALUE",
        help="constructor argument of all agents, or of one: td3:learning_rate=3e-4",
    )
    parser.add_argument("--n-envs", type=positive_int, help="copies of the environment in a job (default: 1)")
    parser.add_argument("--device", help="cpu, cuda, auto (default: cpu)")
    parser.add_argument("--constraint", action="append", metavar="NAME:KEY=VALUE,...", help="as of icnn-rl rl")
    add_surroundings(parser)
    parser.add_argument(
        "--eval-freq", type=positive_int, help="steps between evaluations (default: a tenth of the run)"
    )
    parser.add_argument(
        "--eval-episodes",
        type=positive_int,
        help="episodes of an evaluation while training (default: as of icnn-rl rl)",
    )
    parser.add_argument(
        "--checkpoint-freq", type=positive_int, help="steps between checkpoints (default: a tenth of the run)"
    )
    parser.add_argument(
        "--final-episodes", type=positive_int, help="episodes of the evaluation at the end (default: as of icnn-rl rl)"
    )
    _add_retries(parser)
    _add_backend(parser)


def _add_report(parser: Parser) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, folders that hold some, or the evaluations.csv of a report",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for report.md, evaluations.csv and pictures; or NAME.md, the rest going into the folder NAME",
    )
    parser.add_argument(
        "--reported",
        type=Path,
        default=None,
        help="returns from elsewhere: YAML, source: {environment: return}, or CSV; None: none",
    )
    parser.add_argument("--resamples", type=positive_int, default=2000, help="draws of a bootstrap")


def _add_tune(parser: Parser) -> None:
    parser.add_argument("space", type=Path, metavar="SPACE.yml", help="key: {low, high, log} or {choices}, by setting")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study and its runs")
    parser.add_argument("--agent", default="icnn", help="algorithm")
    parser.add_argument("--env", required=True, help="gymnasium environment id")
    parser.add_argument("--timesteps", type=positive_int, required=True, help="environment steps of a run")
    parser.add_argument("--seeds", default="0", help="runs of a trial, such as 0-2; their mean counts")
    parser.add_argument("--trials", type=positive_int, default=50, help="of the whole study")
    parser.add_argument("--batch", type=positive_int, default=2, help="trials at a time")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="in all trials"
    )
    parser.add_argument("--warm-up", default="tenth", help="as of icnn-rl sweep")
    add_surroundings(parser)
    parser.add_argument(
        "--final-episodes",
        type=positive_int,
        default=None,
        help="episodes that give a run's return; None: as of icnn-rl rl",
    )
    _add_retries(parser)
    parser.add_argument("--sampler-seed", type=non_negative_int, default=0, help="seed of the search")
    _add_backend(parser)


def _add_retries(parser: Parser) -> None:
    parser.add_argument(
        "--retries", type=non_negative_int, default=2, help="how often a job that broke off starts again"
    )


def _add_backend(parser: Parser) -> None:
    """Where jobs run."""
    parser.add_argument("--backend", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    parser.add_argument(
        "--workers", type=positive_int, default=None, help="local: jobs at a time; None: the number of CPUs"
    )
    parser.add_argument(
        "--ray-address", default=None, help="ray: the cluster's head, or auto; None: RAY_ADDRESS, else one of its own"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="ray: share of a GPU for a job, such as 0.25")
