"""What a run was made with: package versions and source revision."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

__all__ = ["revision", "versions"]


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    names = ("icnn-rl", "torch", "gymnasium", "mujoco", "stable-baselines3", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["torch"] = str(torch.__version__)
    return found


def revision() -> str:
    """The git revision of the source, with "+changes" where files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described + ("+changes" if changed.strip() else "")
