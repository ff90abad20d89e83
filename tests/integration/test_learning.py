"""Learning from end to end, through the command line: minutes a task, run on purpose with `pytest -m slow`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icnn_rl.cli.main import main

TASKS = {
    "Pendulum-v1": (10_000, 100, -170.0),
    "InvertedPendulum-v5": (10_000, 20, 950.0),
    "InvertedDoublePendulum-v5": (20_000, 20, 9000.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("env", TASKS)
def test_reaches_the_return_of_the_results_page(env: str, tmp_path: Path) -> None:
    timesteps, episodes, expected = TASKS[env]
    out = tmp_path / "run"
    options = ["--env", env, "--timesteps", str(timesteps), "--final-episodes", str(episodes), "--device", "cpu"]
    assert main(["rl", *options, "--out", str(out), "--no-progress-bar"]) == 0
    assert json.loads((out / "evaluation_model.json").read_text())["mean"] >= expected
