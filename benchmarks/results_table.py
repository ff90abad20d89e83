"""Markdown table of finished runs: `python benchmarks/results_table.py RUN [RUN ...]`.

Groups run folders by environment, agent and number of steps; mean and spread are over runs, each run's number the mean
return of its last model's final evaluation.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np


def main(folders: list[str]) -> None:
    groups: dict[tuple[str, str, int, int], list[tuple[int, float, float]]] = defaultdict(list)
    for folder in folders:
        summary = json.loads((Path(folder) / "evaluation_model.json").read_text())
        key = (summary["env"], summary["agent"], summary["timesteps"], summary["episodes"])
        groups[key].append((summary["seed"], summary["mean"], summary["std"]))
    print("| environment | agent | steps | episodes | runs | mean | std over runs | seed: mean ± std over episodes |")
    print("|---|---|---|---|---|---|---|---|")
    for (env, agent, steps, episodes), runs in sorted(groups.items()):
        means = np.array([mean for _, mean, _ in runs])
        each = "; ".join(f"{seed}: {mean:.1f} ± {std:.1f}" for seed, mean, std in sorted(runs))
        spread = f"{means.std(ddof=1):.1f}" if len(runs) > 1 else "-"
        print(f"| {env} | {agent} | {steps} | {episodes} | {len(runs)} | {means.mean():.1f} | {spread} | {each} |")


if __name__ == "__main__":
    main(sys.argv[1:])
