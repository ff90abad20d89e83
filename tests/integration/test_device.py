"""The script for a machine with a GPU, in small on a CPU, and how its tables are kept."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.rows import Rows

ROOT = Path(__file__).resolve().parents[2]
#: Table -> the columns that hold what was measured.
MEASURED = {
    "updates.csv": ["per second", "least", "most"],
    "updates-best.csv": ["per second", "least", "most"],
    "steps.csv": ["steps/s", "ms a step of all", "acting, ms", "update, ms", "environments, ms", "hours"],
    "argmax.csv": ["per second", "certified, %", "share of peak, %"],
    "wide.csv": ["per second", "least", "most"],
    "qp.csv": ["forward, rows/s", "both, rows/s"],
}


def run(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, **settings}
    return subprocess.run(
        ["bash", "benchmarks/device.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )


def test_everything_runs_in_small_on_a_cpu(tmp_path: Path) -> None:
    done = run(tmp_path, QUICK="1", DEVICE="cpu")
    assert done.returncode == 0, done.stdout
    assert "stopped after" not in done.stdout
    for name, columns in MEASURED.items():
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows, name
        assert all(float(row[column]) > 0 for row in rows for column in columns), name
    assert (tmp_path / "device.png").stat().st_size > 0
    assert (tmp_path / "device.log").read_text() == done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "No Python here has a torch for DEVICE=cuda" in done.stdout


def test_a_benchmark_that_is_stopped_leaves_what_it_has_measured(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("of an earlier run")
    rows = Rows(path)
    rows.add(batch=1, seconds=1 / 3)
    assert path.read_text().splitlines() == ["batch,seconds", "1,0.3333"]
    rows.add(batch=2, seconds=float("nan"))
    assert path.read_text().splitlines()[1:] == ["1,0.3333", "2,nan"]
