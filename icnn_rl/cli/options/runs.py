"""Options of the commands that train an agent and look at what became of it."""

from __future__ import annotations

import sys
from argparse import BooleanOptionalAction
from pathlib import Path

from icnn_rl.cli.options.parser import Parser, SubParsers
from icnn_rl.runs.values import non_negative_int, positive_int

__all__ = ["AGENT_NAMES", "DEMO_ENV", "DEMO_TIMESTEPS", "add_surroundings", "register"]

DEMO_ENV, DEMO_TIMESTEPS = "InvertedPendulum-v5", 10_000

#: The keys of :data:`icnn_rl.runs.config.AGENTS`.
AGENT_NAMES = ("ddpg", "icnn", "naf", "ppo", "sac", "td3")


def register(commands: SubParsers) -> None:
    """Add the commands."""
    _add_rl(commands.add_parser("rl", help="train an agent"))

    evaluation = commands.add_parser("eval", help="evaluate a run's model")
    evaluation.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    evaluation.add_argument("--episodes", type=positive_int, default=20, help="deterministic episodes")
    _add_model(evaluation)

    video = commands.add_parser("video", help="film a run's model")
    video.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    video.add_argument("--out", type=Path, default=None, help="mp4 or gif; None: RUN/video.mp4")
    video.add_argument("--steps", type=positive_int, default=1000, help="frames at most")
    _add_model(video)

    plot = commands.add_parser("plot", help="draw learning curves")
    plot.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders")
    plot.add_argument("--out", type=Path, default=Path("learning_curve.png"), help="picture")


def add_surroundings(parser: Parser) -> None:
    """What is done to the environment."""
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        action="extend",
        default=None,
        metavar="KEY=VALUE",
        help="arguments of the environment's constructor, e.g. max_power=20; None: its defaults",
    )
    parser.add_argument(
        "--wrapper",
        dest="wrappers",
        action="append",
        default=None,
        metavar="NAME:KEY=VALUE,...",
        help="wrapper around the environment, of gymnasium.wrappers or module.Class, e.g. "
        "TimeLimit:max_episode_steps=100; may be repeated, the innermost first; None: no other than its own",
    )
    parser.add_argument(
        "--vec-normalize",
        nargs="*",
        default=None,
        metavar="KEY=VALUE",
        help="normalise observations and rewards with Stable-Baselines3's VecNormalize, whose arguments follow, e.g. "
        "norm_reward=false; None: do not",
    )


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", choices=("model", "best_model"), default="model", help="last or best model")


def _add_rl(rl: Parser) -> None:
    rl.add_argument("--agent", choices=AGENT_NAMES, default="icnn", help="algorithm")
    rl.add_argument("--env", default=DEMO_ENV, help="gymnasium environment id")
    rl.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="constraint on the actions, e.g. power_limit:velocity_index=8:11,max_power=20, one of a module of yours, "
        "MODULE:OBJECT, or a YAML file with some; several hold together; none: do not tell the agent of the "
        "environment's own",
    )
    add_surroundings(rl)
    rl.add_argument(
        "--timesteps", type=positive_int, default=DEMO_TIMESTEPS, help="environment steps, all copies together"
    )
    rl.add_argument("--seed", type=non_negative_int, default=0, help="seed of nets, environments and exploration")
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
    rl.add_argument("--n-envs", type=positive_int, default=1, help="copies of the environment")
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
        "--eval-freq", type=positive_int, default=None, help="steps between evaluations; None: a tenth of the run"
    )
    rl.add_argument(
        "--eval-episodes",
        type=positive_int,
        default=None,
        help="episodes of an evaluation while training; None: 5, one for every 2000 steps of runs below 10000",
    )
    rl.add_argument(
        "--final-episodes",
        type=positive_int,
        default=None,
        help="episodes of the evaluation at the end; None: 20, one for every 500 steps of runs below 10000, at least 2",
    )
    rl.add_argument(
        "--checkpoint-freq", type=positive_int, default=None, help="steps between checkpoints; None: a tenth of the run"
    )
    rl.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with a run from its last checkpoint; its settings are its own, but for --final-episodes, and for "
        "--timesteps, which may make it longer",
    )
    rl.add_argument("--verbose", action=BooleanOptionalAction, default=False, help="print the training log")
    rl.add_argument(
        "--progress-bar", action=BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
