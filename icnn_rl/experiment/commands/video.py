"""``icnn-rl video``: film a run's model."""

from __future__ import annotations

import argparse

from icnn_rl.experiment.training import load_model
from icnn_rl.experiment.video import record

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    config, model = load_model(args.folder, args.model)
    out = args.out or args.folder / "video.mp4"
    total = record(model, config.env, out, args.steps, config.constraint)
    print(f"video: {out} (return {total:.1f})")
