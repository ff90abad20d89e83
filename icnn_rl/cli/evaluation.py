"""Evaluate a run's model and print the result."""

from __future__ import annotations

from pathlib import Path

from icnn_rl.runs.evaluate import plural
from icnn_rl.runs.train import final_evaluation

__all__ = ["report"]


def report(folder: Path, which: str, episodes: int) -> None:
    """Evaluate, save the numbers and print them."""
    found = final_evaluation(folder, which, episodes)
    print(
        f"{which} after {found['timesteps']} steps: return {found['mean']:.1f} ± {found['std']:.1f} over "
        f"{plural(episodes, 'episode')} "
        f"(lowest {found['min']:.1f}, highest {found['max']:.1f}, length {found['mean_length']:.0f})"
    )
