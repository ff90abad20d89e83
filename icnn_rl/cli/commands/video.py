"""``icnn-rl video``: film a run's model."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

from icnn_rl.cli.options import add_model
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.values import positive_int

__all__ = ["register", "run"]


def register(commands: SubParsers) -> None:
    parser = commands.add_parser("video", help="film a run's model")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, default=None, help="mp4 or gif; None: RUN/video.mp4")
    parser.add_argument("--steps", type=positive_int, default=1000, help="frames at most")
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from icnn_rl.runs.checkpoint import statistics_of
    from icnn_rl.runs.train import load_model
    from icnn_rl.runs.video import record

    config, model = load_model(args.folder, args.model)
    out = args.out or args.folder / "video.mp4"
    surroundings = config.surroundings
    if surroundings.pop("vec_normalize") is not None:
        statistics = statistics_of(args.folder / f"{args.model}.zip")
        surroundings["normalize"] = pickle.loads(statistics.read_bytes()).normalize_obs
    total = record(model, config.env, out, args.steps, **surroundings)
    print(f"video: {out} (return {total:.1f})")
