"""The commands, one file each: ``register`` declares the options, ``run`` does the work. Heavy imports are inside
functions, so that help does not wait for torch."""

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
    """Add a parser for every file here, under the file's name."""
    for module in pkgutil.iter_modules(__path__):
        find(module.name).register(parsers)
        parsers.choices[module.name].set_defaults(command=module.name)
