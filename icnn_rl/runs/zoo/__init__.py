"""RL Baselines3 Zoo with ICNNQ and NAF among its algorithms, under the names icnn and naf."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import icnn_rl.envs  # noqa: F401  (registers the environments of the package)
from icnn_rl.agents import ICNNQ, NAF
from icnn_rl.runs.errors import UserError, how_to_install

__all__ = ["SCRIPTS", "hyperparameters", "register", "run"]

_AGENTS = {"icnn": ICNNQ, "naf": NAF}

#: Scripts of the zoo and the modules of rl_zoo3 that hold them, as functions of the same name.
SCRIPTS = {
    "train": "train",
    "enjoy": "enjoy",
    "plot_train": "plots.plot_train",
    "plot_from_file": "plots.plot_from_file",
    "all_plots": "plots.all_plots",
}


def hyperparameters(agent: str) -> Path:
    """The zoo's YAML file of an agent of ours: by environment, "default" for the others."""
    return Path(__file__).with_name(f"{agent}.yml")


def register() -> None:
    """Make the zoo's ``--algo`` know icnn and naf.

    Raises:
        UserError: rl_zoo3 is missing or does not import.
    """
    _import("utils").ALGOS.update(_AGENTS)


def run(script: str, arguments: Sequence[str]) -> None:
    """Run a script of the zoo. Training one of our agents without a ``--conf-file`` takes :func:`hyperparameters`.

    Args:
        script: one of :data:`SCRIPTS`.
        arguments: of the script, as the zoo's own command line takes them.

    Raises:
        UserError: an unknown script; rl_zoo3 is missing or does not import.
    """
    if script not in SCRIPTS:
        raise UserError(f"icnn-rl zoo {script}: unknown; expected one of {', '.join(SCRIPTS)}.")
    register()
    function = getattr(_import(SCRIPTS[script]), script)
    given = list(arguments)
    before = sys.argv
    ours = _own_file(given) if script == "train" else []  # first, so that a --conf-file of the user's wins
    sys.argv = [f"rl_zoo3 {script}", *ours, *given]
    try:
        function()
    finally:
        sys.argv = before


def _own_file(arguments: Sequence[str]) -> list[str]:
    words = [part for argument in arguments for part in argument.split("=")]
    agent = words[words.index("--algo") + 1] if "--algo" in words[:-1] else ""
    return ["--conf-file", str(hyperparameters(agent))] if agent in _AGENTS else []


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"rl_zoo3.{module}")
    except (ImportError, TypeError) as error:  # TypeError: of its plots beside pandas 3
        raise UserError(
            f"rl_zoo3.{module} does not import ({error}). The zoo comes with: {how_to_install('zoo')}; its plots "
            "need pandas < 3."
        ) from error
