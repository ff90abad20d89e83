"""What the supervised commands share: run folder, training with checkpoints, learning curves."""

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
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icnn_rl.atomic_io import write_text
from icnn_rl.cli.options import refuse_beside_resume
from icnn_rl.figures import new_figure, save_figure, whole_numbers
from icnn_rl.runs.config.provenance import revision, versions
from icnn_rl.runs.device import check_device, device_of
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import check_free, claim_folder
from icnn_rl.supervised import SavedModule, fit
from icnn_rl.supervised.training.batches import Data
from icnn_rl.supervised.training.fit import Metric

__all__ = ["Run", "learning_curve", "options_of", "user_errors"]

_CONFIG = "config.yml"
#: Learning curves of up to so many epochs mark each.
_MARKED = 60
#: Options that are not settings of the run.
_NOT_SETTINGS = {"given", "out", "resume", "progress_bar", "command", "epochs"}
#: Options that may accompany --resume.
_MAY_CHANGE = {"resume", "progress_bar", "epochs"}


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn the library's errors about data and settings into messages without a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        raise UserError(str(error)) from error


def options_of(args: argparse.Namespace) -> argparse.Namespace:
    """The options; with ``--resume`` those of the resumed run.

    Raises:
        UserError: no such run, or one of another command; options that the run has fixed; fewer epochs.
    """
    check_device(args.device)
    if args.resume is None:
        return args
    path = args.resume / _CONFIG
    if not path.is_file():
        raise UserError(f"--resume: {path} is missing. Name the folder of the run to go on with.")
    stored = yaml.safe_load(path.read_text())
    if not isinstance(stored, dict) or stored.get("command") != args.command:
        raise UserError(f"--resume: {path} is not of a run of icnn-rl {args.command}.")
    refuse_beside_resume(args, args.given - _MAY_CHANGE)
    epochs = args.epochs if "epochs" in args.given else stored["epochs"]
    if epochs < stored["epochs"]:
        raise UserError(
            f"--epochs {epochs}: the run in {args.resume} trains to {stored['epochs']}. Give as many, or more."
        )
    settings = {key: stored[key] for key in vars(args).keys() & stored.keys() - _NOT_SETTINGS}
    return argparse.Namespace(**{**vars(args), **settings, "epochs": epochs})


class Run:
    """A run folder: config.yml, history.csv, checkpoint.pt, tb/, model.safetensors, evaluation.json, pictures.

    Args:
        args: from :func:`options_of`.

    Raises:
        UserError: ``--out`` holds something.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        if args.resume is not None:
            self.folder: Path = args.resume
            stored = yaml.safe_load((self.folder / _CONFIG).read_text())
            if stored["epochs"] != args.epochs:
                self._write_config({**stored, "epochs": args.epochs})
        else:
            self.folder = args.out or claim_folder(Path("runs") / f"{args.command}-s{args.seed}")
            check_free(self.folder)
            settings = {key: _plain(value) for key, value in vars(args).items() if key not in _NOT_SETTINGS}
            content = {"command": args.command, "epochs": args.epochs, **settings}
            self._write_config({**content, "versions": versions(), "revision": revision()})
        torch.manual_seed(args.seed)

    def _write_config(self, content: Mapping[str, Any]) -> None:
        write_text(self.folder / _CONFIG, yaml.safe_dump(dict(content), sort_keys=False))

    def keeping(self, part: str = "") -> dict[str, Any]:
        """Arguments of ``fit`` for checkpoint.pt and tb/, of the run or one part of it, and for resuming."""
        return {
            "log_dir": self.folder / "tb" / part,
            "checkpoint": self.folder / f"{_joined('checkpoint', part)}.pt",
            "resume": self.args.resume is not None,
            "on_epoch": lambda history: self._write_history(history, part),
        }

    def train(
        self,
        model: SavedModule,
        data: Data,
        validation: Data | None,
        metrics: Mapping[str, Metric] | None = None,
        units: Mapping[str, str] | None = None,
        part: str = "",
        **options: Any,
    ) -> list[dict[str, float]]:
        """``fit`` on the chosen device, and save what a run leaves behind; the model ends up on the CPU.

        Args:
            model, data, validation, metrics, options: as for ``fit``.
            units: of the loss and the metrics, for the picture.
            part: part of the files' names, if a run trains several models.
        """
        history = fit(
            model.to(device_of(self.args.device)),
            data,
            validation=validation,
            epochs=self.args.epochs,
            batch_size=self.args.batch_size,
            seed=self.args.seed,
            metrics=metrics,
            progress_bar=self.args.progress_bar,
            **{**self.keeping(part), "lr": self.args.lr, **options},
        )
        model.to("cpu")
        self.write_table(_joined("history", part), history)
        self.save_model(model, part)
        self.plot_history(history, units or {}, part)
        return history

    def save_model(self, model: SavedModule, part: str = "") -> None:
        """model.safetensors in the run folder."""
        model.save(self.folder / f"{_joined('model', part)}.safetensors")

    def _write_history(self, history: Sequence[Mapping[str, float]], part: str) -> None:
        self.write_table(_joined("history", part), history)
        if not self.args.progress_bar:
            row = history[-1]
            shown = {key: value for key, value in row.items() if key == "loss" or key.startswith("val/")}
            told = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
            print(f"{part} epoch {row['epoch']}: {told}".lstrip(), flush=True)

    def write_table(self, name: str, rows: Sequence[Mapping[str, float]]) -> None:
        """NAME.csv in the run folder."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / f"{name}.csv", text.getvalue())

    def plot_history(
        self, history: Sequence[Mapping[str, float]], units: Mapping[str, str] | None = None, part: str = ""
    ) -> None:
        """learning_curve.png."""
        self.save_figure(_joined("learning_curve", part), learning_curve(history, units or {}))

    def save_figure(self, name: str, figure: Figure) -> None:
        """A picture in the run folder."""
        save_figure(self.folder / f"{name}.png", figure)

    def report(self, result: Mapping[str, Any]) -> None:
        """Print the results and write evaluation.json, with null for numbers that are not finite."""
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        write_text(self.folder / "evaluation.json", json.dumps(known, indent=1, allow_nan=False) + "\n")
        for key, value in result.items():
            print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
        print(f"run folder: {self.folder}")


def _joined(name: str, part: str) -> str:
    return f"{name}-{part}" if part else name


def _plain(value: Any) -> Any:
    """As plain data for YAML."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def learning_curve(history: Sequence[Mapping[str, float]], units: Mapping[str, str]) -> Figure:
    """The losses on the left, other validation metrics on the right, epoch by epoch."""
    others = [key for key in history[0] if key.startswith("val/") and key != "val/loss"]
    figure, axes = new_figure(1, 2 if others else 1)
    losses = {"loss": "training, mean over the epoch", "val/loss": "validation, after the epoch"}
    _draw_epochs(axes[0], history, losses, f"loss{_in(units, 'loss')}")
    drawn = [row[key] for row in history for key in losses if key in row]
    if min(drawn) > 0.0 and max(drawn) > 5.0 * min(drawn):  # a narrower range may hold no power of ten
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
    """A line per key of the history; a single epoch is drawn as points, with values in the legend."""
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
