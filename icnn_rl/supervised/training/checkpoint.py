"""What a run of ``fit`` goes on from."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from icnn_rl.atomic_io import write_file

__all__ = ["Progress"]

_FORMAT = "icnn_rl.supervised.fit 1"

Row = dict[str, float]


@dataclass
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        settings: what has to be the same when the run goes on.
        history: a row for each epoch.
        best: lowest value of the monitored quantity; ``best_epoch`` and ``best_state`` when that was.
    """

    settings: Mapping[str, Any]
    history: list[Row] = field(default_factory=list)
    best: float = float("inf")
    best_epoch: int = 0
    best_state: dict[str, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def note(self, value: float, model: nn.Module) -> None:
        """Keep the model's state if ``value`` is the lowest so far."""
        if value < self.best:
            self.best, self.best_epoch = value, self.epoch
            self.best_state = copy.deepcopy(model.state_dict())

    def save(self, path: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {
            "format": _FORMAT,
            "settings": dict(self.settings),
            "history": self.history,
            "best": (self.best, self.best_epoch, self.best_state),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        write_file(path, lambda temporary: torch.save(content, temporary))

    def restore(self, path: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Read a checkpoint into everything.

        Raises:
            ValueError: not a checkpoint, damaged, or of another run; names the file.
        """
        content = _read(path)
        for name, value in self.settings.items():
            if content["settings"].get(name) != value:
                raise ValueError(
                    f"{path}: its run had {name} = {content['settings'].get(name)!r}, this one has {value!r}. Go on "
                    "with the same settings, or start anew with another checkpoint."
                )
        try:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"{path}: does not fit this model and optimizer. {error}") from error
        self.history = content["history"]
        self.best, self.best_epoch, self.best_state = content["best"]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # tensors and plain data, no code
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a checkpoint, or damaged ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a checkpoint of icnn_rl.supervised.training.fit.")
    return content
