"""The examples run, here with fewer points and steps, and what they print is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = {
    "optimal_transport.py": ("--points", "200", "--steps", "250"),
    "surrogate_mpc.py": ("--carts", "4", "--seconds", "3", "--steps", "300"),
}


def _run(name: str, folder: Path) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *SHORT[name]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_every_example_is_here() -> None:
    own_test = {"icnnq_single_file.py"}
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == set(SHORT) | own_test


def test_optimal_transport(tmp_path: Path) -> None:
    printed = _run("optimal_transport.py", tmp_path)
    learned, exact = map(float, re.findall(r"([\d.]+) from the", printed))
    assert 0.93 * exact < learned <= exact + 1e-3  # the dual is below the distance, for every potential
    assert (tmp_path / "optimal_transport.png").stat().st_size > 10_000


def test_surrogate_mpc(tmp_path: Path) -> None:
    printed = _run("surrogate_mpc.py", tmp_path)
    true, learned = map(float, re.findall(r"paid ([\d.]+) a cart", printed))
    assert learned == pytest.approx(true, rel=0.05)
    gaps = [float(gap) for gap in re.findall(r"further than (\S+) from", printed)]
    assert max(gaps) < 1e-2
