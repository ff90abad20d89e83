"""``icnn-rl video``: film a run's model."""

from __future__ import annotations

import argparse
import pickle

from icnn_rl.runs.checkpoint import statistics_of
from icnn_rl.runs.train import load_model
from icnn_rl.runs.video import record

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    config, model = load_model(args.folder, args.model)
    out = args.out or args.folder / "video.mp4"
    surroundings = config.surroundings
    if surroundings.pop("vec_normalize") is not None:
        statistics = statistics_of(args.folder / f"{args.model}.zip")
        surroundings["normalize"] = pickle.loads(statistics.read_bytes()).normalize_obs
    total = record(model, config.env, out, args.steps, **surroundings)
    print(f"video: {out} (return {total:.1f})")
