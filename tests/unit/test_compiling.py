"""Machine code that is kept is made anew when a number or a function that it took from another file has changed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from icnn_rl import compiling, kernel_algebra  # need numba

KERNEL = """
from icnn_rl.compiling import kept
from numbers_of_a_test import NUMBER

@kept
def times(x):
    return NUMBER * x
"""


def test_a_number_from_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its dates would hide a change within a second
    (tmp_path / "kernel_of_a_test.py").write_text(KERNEL)
    hits = []
    for number in (2.0, 3.0, 2.0):
        (tmp_path / "numbers_of_a_test.py").write_text(f"NUMBER = {number}\n")
        importlib.invalidate_caches()
        for name in ("numbers_of_a_test", "kernel_of_a_test"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        kernel = importlib.import_module("kernel_of_a_test")
        assert kernel.times(5.0) == 5.0 * number
        hits.append(sum(kernel.times.stats.cache_hits.values()))
    assert hits == [0, 0, 1]


def test_functions_from_another_file() -> None:
    assert compiling.imported_by({"dot": kernel_algebra.dot}) != compiling.imported_by({})


def test_what_was_kept_under_names_that_are_gone_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for kind in ("Before", "After"):
        source = f"""
from typing import NamedTuple
from icnn_rl.compiling import kept

class {kind}(NamedTuple):
    x: float

@kept
def first(point):
    return point.x

def call():
    return first({kind}(2.0))
"""
        (tmp_path / "renamed_of_a_test.py").write_text(source)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "renamed_of_a_test", raising=False)
        assert importlib.import_module("renamed_of_a_test").call() == 2.0
