"""Options of the commands, apart from what the commands do: help comes without waiting for torch."""

from __future__ import annotations

from icnn_rl.cli.options import runs, supervised, sweeps
from icnn_rl.cli.options.parser import Parser, SubParsers, given

__all__ = ["Parser", "SubParsers", "given", "register"]


def register(commands: SubParsers) -> None:
    """Add every command. Its name, ``command`` of what is parsed, is that of the module in
    :mod:`icnn_rl.cli.commands` whose function ``run`` takes the options."""
    for module in (runs, sweeps, supervised):
        module.register(commands)
    for name in commands.choices:
        commands.choices[name].set_defaults(command=name)
