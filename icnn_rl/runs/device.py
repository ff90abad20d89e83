"""Devices by name."""

from __future__ import annotations

import torch

from icnn_rl.runs.errors import UserError

__all__ = ["check_device", "device_of"]


def check_device(device: str) -> None:
    """Whether torch has a device of this name.

    Raises:
        UserError: it has not.
    """
    if device == "auto":
        return
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device {device}: no such device. Expected cpu, cuda, cuda:1 or auto.") from error
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise UserError(f"--device {device}: torch finds {count} CUDA devices here. Use --device cpu or auto.")


def device_of(name: str) -> torch.device:
    """The device of a name; auto: a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
