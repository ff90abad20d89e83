"""What each of ICNNQ's choices brings: one setting changed at a time, two seeds, 30 000 steps, three tasks.

    python -m benchmarks.ablation --out runs/ablation [--variants defaults one-critic ...] [--workers 2]
    python -m benchmarks.ablation --out runs/ablation --table

10 000 random steps first, then an update a step, as in the first 30 000 steps of a run of 100 000. The same command
goes on with what is not finished; ``--table`` prints what is, and takes a table of benchmarks/keep.py for ``--out``,
such as docs/results/ablations/one-at-a-time.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icnn_rl.cli.pool import run_shown
from icnn_rl.runs.jobs import Job
from icnn_rl.runs.pools import local_pool
from icnn_rl.runs.report import find_runs, read_runs
from icnn_rl.runs.sweep import make_jobs, read_sweep

ENVS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "raw-observations": {"policy_kwargs": {"normalize_observations": False}},
    "exploration-0.1": {"exploration_noise": 0.1},
    "exploration-0.3": {"exploration_noise": 0.3},
    "two-updates": {"gradient_steps": 2},
    "3-step-returns": {"n_steps": 3},
    "tau-0.01": {"tau": 0.01},
    "no-target-noise": {"target_policy_noise": 0.0},
    "smoothed-actions": {"action_smoothing": 0.3},
    "one-critic": {"policy_kwargs": {"n_critics": 1}},
    "four-critics": {"policy_kwargs": {"n_critics": 4}},
    "curvature-floor-1": {"policy_kwargs": {"picnn_kwargs": {"strong_convexity": 1.0}}},
    "averaged-weights": {"policy_kwargs": {"average_weights": True}},
    "no-layer-norm": {"policy_kwargs": {"layer_norm": False}},
    "two-convex-layers": {"policy_kwargs": {"hidden": [64, 64]}},
    "rate-3e-4": {"learning_rate": 3e-4},
    "batch-512": {"batch_size": 512},
}


def jobs(out: Path, variants: Sequence[str], envs: Sequence[str], seeds: str, timesteps: int) -> list[Job]:
    """The runs of every variant, into ``out``/VARIANT; one seed of everything comes first."""
    found = []
    for variant in variants:
        options = {"agents": ["icnn"], "envs": list(envs), "seeds": seeds, "timesteps": timesteps, "warm_up": 10_000}
        found += make_jobs(read_sweep({**options, "settings": {"icnn": VARIANTS[variant]}}), out / variant)
    return sorted(found, key=lambda job: job.config.seed)


def table(out: Path, variants: Sequence[str], envs: Sequence[str]) -> str:
    """Mean over seeds of the last model's return, each seed's in brackets; variants without a finished run are left
    out."""
    finished, _ = read_runs(find_runs([out]))
    lines = ["| | " + " | ".join(envs) + " |", "|---" * (len(envs) + 1) + "|"]
    for variant in variants:
        runs = [run for run in finished if run.folder.parent.name == variant]
        if not runs:
            continue
        cells = []
        for env in envs:
            returns = [run.final.mean for run in runs if run.config.env == env]
            each = ", ".join(f"{one:.0f}" for one in returns)
            cells.append(f"{np.mean(returns):.0f} ({each})" if returns else "")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--timesteps", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time")
    parser.add_argument("--table", action="store_true", help="print the table of what is finished, train nothing")
    args = parser.parse_args()
    failed: list[str] = []
    if not args.table:
        with local_pool(args.workers) as submit:
            states = run_shown(jobs(args.out, args.variants, args.envs, args.seeds, args.timesteps), submit, retries=2)
        failed = [f"{state.job.folder}: {state.reason}" for state in states if state.state == "failed"]
    print(table(args.out, args.variants, args.envs))
    if failed:
        sys.exit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
