"""The commands, a file each: ``register`` declares the options, ``run`` does the work. What is heavy is imported in
functions, so that help comes without waiting for torch."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from icnn_rl.cli.parser import SubParsers

__all__ = ["find", "register"]


def find(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"{__name__}.{name}")


def register(parsers: SubParsers) -> None:
    """Add every command that has a file here, under the file's name."""
    for module in pkgutil.iter_modules(__path__):
        find(module.name).register(parsers)
        parsers.choices[module.name].set_defaults(command=module.name)
