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


def test_two_processes_compile_for_different_types_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba itself gives both the file number 1: what is then loaded for float32 is the code for float64."""
    one, other = (compiling._Files(str(tmp_path), "kernel.py311", "stamp") for _ in range(2))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(other, "_load_index", dict)  # it looked before the first was done
        one.save("float32", "code for float32")
        other.save("float64", "code for float64")
    assert one.load("float64") == "code for float64"
    assert one.load("float32") is None
    one.save("float32", "code for float32")
    assert [one.load(kind) for kind in ("float32", "float64")] == ["code for float32", "code for float64"]


def test_machine_code_of_an_earlier_version_goes(tmp_path: Path) -> None:
    for version in ("one", "two"):
        compiling._Files(str(tmp_path), "kernel.py311", version).save("float32", version)
    assert len(list(tmp_path.glob("*.nbc"))) == 1
    assert compiling._Files(str(tmp_path), "kernel.py311", "one").load("float32") is None


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
