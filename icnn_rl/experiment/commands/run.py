"""What the supervised commands share: the run folder, training with checkpoints, pictures of it."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from icnn_rl._files import write_file, write_text
from icnn_rl.experiment.config import revision, versions
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.files import check_free, claim_folder
from icnn_rl.supervised import SavedModule, fit
from icnn_rl.supervised.batches import Data
from icnn_rl.supervised.fit import Metric

__all__ = ["Run", "new_figure", "save_figure", "user_errors"]

_CONFIG, _MODEL = "config.yml", "model.safetensors"
#: Options that are no setting of the run.
_NOT_SETTINGS = {"given", "out", "resume", "progress_bar", "command", "epochs"}


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """What the library says about data and settings, as a message without a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        raise UserError(str(error)) from error


class Run:
    """A run folder: config.yml, history.csv, checkpoint.pt, tb/, model.safetensors, evaluation.json, pictures.

    Raises:
        UserError: ``--out`` holds something, or, with ``--resume``, a run with other settings or none.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        settings = {
            key: [str(v) if isinstance(v, Path) else v for v in value] if isinstance(value, list | tuple) else value
            for key, value in vars(args).items()
            if key not in _NOT_SETTINGS
        }
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        if args.resume:
            self.folder = _resumed(args.out, settings, args.epochs)
        else:
            self.folder = args.out or claim_folder(Path("runs") / f"{args.command}-s{args.seed}")
            check_free(self.folder)
            content = {"command": args.command, "epochs": args.epochs, **settings}
            content |= {"versions": versions(), "revision": revision()}
            write_text(self.folder / _CONFIG, yaml.safe_dump(content, sort_keys=False))
        torch.manual_seed(args.seed)

    def train(
        self,
        model: SavedModule,
        data: Data,
        validation: Data | None,
        metrics: Mapping[str, Metric] | None = None,
        **options: Any,
    ) -> list[dict[str, float]]:
        """``fit`` with everything a run leaves behind."""
        history = fit(
            model,
            data,
            validation=validation,
            epochs=self.args.epochs,
            batch_size=self.args.batch_size,
            seed=self.args.seed,
            metrics=metrics,
            log_dir=self.folder / "tb",
            checkpoint=self.folder / "checkpoint.pt",
            resume=self.args.resume,
            progress_bar=self.args.progress_bar,
            on_epoch=self._write_history,
            **{"lr": self.args.lr, **options},
        )
        self.write_table("history", history)
        self.save_model(model)
        self.plot_history(history)
        return history

    def save_model(self, model: SavedModule) -> None:
        """model.safetensors in the run folder."""
        model.save(self.folder / _MODEL)

    def _write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        self.write_table("history", history)
        if not self.args.progress_bar:
            row = history[-1]
            shown = {key: value for key, value in row.items() if key == "loss" or key.startswith("val/")}
            print(
                f"epoch {row['epoch']}: " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items()), flush=True
            )

    def write_table(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        """NAME.csv in the run folder."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / f"{name}.csv", text.getvalue())

    def plot_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """learning_curve.png: the losses on the left, other validation metrics on the right."""
        others = [key for key in history[0] if key.startswith("val/") and key != "val/loss"]
        figure, axes = new_figure(1, 2 if others else 1)
        epochs = [row["epoch"] for row in history]
        for axis, keys in zip(axes, (["loss", "val/loss"], others), strict=False):
            for key in keys:
                if key in history[0]:
                    axis.plot(epochs, [row[key] for row in history], marker=".", label=key)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")
        if any(row.get(key, 0.0) > 0.0 for row in history for key in ("loss", "val/loss")):
            axes[0].set_yscale("log")
        self.save_figure("learning_curve", figure)

    def save_figure(self, name: str, figure: Figure) -> None:
        """A picture in the run folder."""
        save_figure(self.folder / f"{name}.png", figure)

    def report(self, result: Mapping[str, Any]) -> None:
        """Print, and write evaluation.json: null for what is no finite number, which JSON does not know."""
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        write_text(self.folder / "evaluation.json", json.dumps(known, indent=1, allow_nan=False) + "\n")
        for key, value in result.items():
            print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
        print(f"run folder: {self.folder}")


def _resumed(folder: Path | None, settings: Mapping[str, Any], epochs: int) -> Path:
    """The folder of the run to go on with, which has these settings; its configuration tells the epochs from now on."""
    if folder is None:
        raise UserError("--resume: name the folder of the run to go on with: --out RUN.")
    path = folder / _CONFIG
    if not path.is_file():
        raise UserError(f"--resume: {path} is missing. Name the folder of the run to go on with: --out RUN.")
    stored = yaml.safe_load(path.read_text())
    for key, value in settings.items():
        if stored.get(key) != value:
            raise UserError(
                f"--resume: the run in {folder} has {key} = {stored.get(key)}, not {value}. Give the same "
                "options; only --epochs may be larger."
            )
    if epochs < stored["epochs"]:
        raise UserError(f"--epochs {epochs}: the run in {folder} trains to {stored['epochs']}. Give as many, or more.")
    write_text(path, yaml.safe_dump({**stored, "epochs": epochs}, sort_keys=False))
    return folder


def new_figure(rows: int, columns: int, size: tuple[float, float] = (4.8, 3.6)) -> tuple[Figure, list[Any]]:
    """A figure and its axes in one list."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture, whole or not at all."""
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110))
