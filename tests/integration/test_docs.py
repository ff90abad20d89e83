"""The examples of the pages run: all blocks of a page in turn, as one script; training shortened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rows import renewed

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHORTER = ((r"\.learn\([\d_]+(, progress_bar=True)?\)", ".learn(150)"), (r"n_eval_episodes=\d+", "n_eval_episodes=1"))


def script(page: str) -> str:
    text = "\n".join(BLOCK.findall((ROOT / page).read_text()))
    for pattern, replacement in SHORTER:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search((ROOT / page).read_text())])
def test_the_examples_run(page, tmp_path):
    (tmp_path / "page.py").write_text(script(page))  # a file: functions defined in it can be pickled
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    found = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr


LINK = re.compile(r"]\(([^)#:]+)(?:#[^)]*)?\)")
MARKDOWN = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_tables_are_those_of_their_files(page):
    assert renewed(page) == page.read_text()
