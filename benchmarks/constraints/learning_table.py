"""Markdown table of runs under constraints: `python benchmarks/constraints/learning_table.py RUN [RUN ...]`.

Groups run folders by environment, agent and settings; returns are those of the last model's final evaluation. "active":
the share of training steps whose executed action lay on the constraint's border; "beyond 1e-6": training steps whose
action violated it by more; "crossed": steps in which a limit on the state was crossed.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml


def label(folder: Path) -> tuple[str, int, str]:
    config = yaml.safe_load((folder / "config.yml").read_text())
    policy = config["settings"].get("policy_kwargs", {})
    extra = "".join(f", {name} {policy[name]}" for name in ("head", "projection_penalty") if name in policy)
    return config["env"], config["timesteps"], config["agent"] + extra


def main(folders: list[str]) -> None:
    groups: dict[tuple[str, int, str], list[tuple[dict[str, Any], dict[str, float]]]] = defaultdict(list)
    for name in folders:
        folder = Path(name)
        summary = json.loads((folder / "evaluation_model.json").read_text())
        groups[label(folder)].append((summary, json.loads((folder / "constraint.json").read_text())))
    columns = "environment | steps | agent | mean | seed: mean ± std over episodes | active | beyond 1e-6 | crossed"
    print(f"| {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    for (env, steps, agent), runs in sorted(groups.items()):
        runs.sort(key=lambda run: run[0]["seed"])
        each = "; ".join(f"{s['seed']}: {s['mean']:.2f} ± {s['std']:.2f}" for s, _ in runs)
        active = " / ".join(f"{100 * c['active'] / c['steps']:.0f} %" for _, c in runs)
        beyond, crossed = (int(sum(c[key] for _, c in runs)) for key in ("violations", "state_violations"))
        mean = np.mean([s["mean"] for s, _ in runs])
        print(f"| {env} | {steps} | {agent} | {mean:.2f} | {each} | {active} | {beyond} | {crossed} |")


if __name__ == "__main__":
    main(sys.argv[1:])
