"""What the supervised commands share: options, the run folder, training with checkpoints, pictures of it."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from icnn_rl._files import write_file, write_text
from icnn_rl.experiment.config import revision, versions
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.files import claim_folder
from icnn_rl.experiment.plotting import whole_numbers
from icnn_rl.supervised import SavedModule, fit
from icnn_rl.supervised.batches import Data
from icnn_rl.supervised.fit import Metric

__all__ = ["Run", "add_command", "learning_curve", "new_figure", "save_figure", "user_errors"]

_CONFIG, _MODEL = "config.yml", "model.safetensors"
#: Epochs up to which each has a marker in the learning curve.
_MARKED = 60
#: Options that are no setting of the run.
_NOT_SETTINGS = {"run", "out", "resume", "progress_bar", "command", "epochs"}


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    parser = commands.add_parser(name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=_positive_int, default=epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=_positive_int, default=batch_size)
    parser.add_argument("--lr", type=_positive_float, default=lr, help="learning rate of Adam")
    parser.add_argument("--seed", type=_non_negative_int, default=0, help="seed of data, model and order")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"run folder; None: runs/{name}-sSEED, numbered if taken"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out from its last epoch")
    parser.add_argument(
        "--progress-bar", action=argparse.BooleanOptionalAction, default=sys.stderr.isatty(), help="show a progress bar"
    )
    parser.set_defaults(run=run, command=name)
    return parser


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return int(text)


def _non_negative_int(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text}")
    return int(text)


def _positive_float(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")


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
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise UserError(f"--out {self.folder}: exists. Choose another folder, or go on with its run: --resume.")
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
        units: Mapping[str, str] | None = None,
        **options: Any,
    ) -> list[dict[str, float]]:
        """``fit`` with everything a run leaves behind. ``units`` of the loss and the metrics, for the picture."""
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
        self.plot_history(history, units or {})
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

    def plot_history(self, history: Sequence[Mapping[str, float]], units: Mapping[str, str] | None = None) -> None:
        """learning_curve.png."""
        self.save_figure("learning_curve", learning_curve(history, units or {}))

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


def learning_curve(history: Sequence[Mapping[str, float]], units: Mapping[str, str]) -> Figure:
    """The losses on the left, other validation metrics on the right, epoch by epoch."""
    others = [key for key in history[0] if key.startswith("val/") and key != "val/loss"]
    figure, axes = new_figure(1, 2 if others else 1)
    losses = {"loss": "training, mean over the epoch", "val/loss": "validation, after the epoch"}
    _draw_epochs(axes[0], history, losses, f"loss{_in(units, 'loss')}")
    drawn = [row[key] for row in history for key in losses if key in row]
    if min(drawn) > 0.0 and max(drawn) > 5.0 * min(drawn):  # a narrower range would have no power of ten in it
        axes[0].set_yscale("log")
    if others:
        names = {key: key.removeprefix("val/") for key in others}
        same = len(names) == 1
        _draw_epochs(
            axes[1],
            history,
            {key: "validation" if same else name + _in(units, name) for key, name in names.items()},
            f"{names[others[0]]}{_in(units, names[others[0]])}" if same else "validation, after the epoch",
        )
    return figure


def _in(units: Mapping[str, str], name: str) -> str:
    return f", {units[name]}" if name in units else ""


def _draw_epochs(axis: Axes, history: Sequence[Mapping[str, float]], labels: Mapping[str, str], what: str) -> None:
    """A line a key of the history; of a single epoch points, with their values beside the names."""
    epochs = [row["epoch"] for row in history]
    for key, label in labels.items():
        if key in history[0]:
            numbers = [row[key] for row in history]
            name = f"{label}: {numbers[0]:.4g}" if len(history) == 1 else label
            marker = "o" if len(history) == 1 else "." if len(history) <= _MARKED else ""
            axis.plot(epochs, numbers, marker=marker, label=name)
    axis.set(xlabel="epoch", ylabel=what, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
    whole_numbers(axis)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def new_figure(rows: int, columns: int, size: tuple[float, float] = (4.8, 3.6)) -> tuple[Figure, list[Any]]:
    """A figure and its axes in one list."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture, whole or not at all."""
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110))
