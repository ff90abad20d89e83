"""Without compiled parts, for whatever reason, the answers are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

#: What has a compiled twin: two kernels for quadratic programmes, the argmax, a context layer. Prints the answers, the
#: warnings, and whether numba was imported.
PROGRAM = """
import json, sys, warnings
import torch
from icnn_rl import Box, minimize
from icnn_rl.nn import PICNN
from icnn_rl.qp import solve_qp
from icnn_rl.solvers import ProjectedNewton

torch.manual_seed(0)
net = PICNN(3, 2, (8,), (8,), context_norm=True, activation="squareplus").double()
x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = torch.ones(1, 3, dtype=torch.float64)
    answers = [solve_qp(1.0, part, rows, -rows[:, 0], lb=-0.5).value for part in (x, x[:1])]
    answers.append(solve_qp(torch.eye(3).double(), x, A=rows, b=rows[:, 0], lb=-2.0).value)
    answers.append(minimize(net.bind(x), ProjectedNewton(tol=1e-12), x[:, :2], domain=Box(-1.0, 1.0)).value)
told = [str(warning.message) for warning in caught if "icnn_rl" in str(warning.message)]
numba = sys.modules.get("numba")
print(json.dumps([[a.tolist() for a in answers], told, numba is not None]))
"""


def _run(**variables: str) -> tuple[list[Any], list[str], bool]:
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers, told, imported = json.loads(done.stdout.splitlines()[-1])
    return answers, told, imported


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    answers, told, _ = _run()
    assert not told
    return answers


def _same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-6, atol=1e-6)


def test_one_switch_for_all(expected: list[Any]) -> None:
    answers, told, imported = _run(ICNN_RL_COMPILED="0")
    _same(answers, expected)
    assert not told
    assert not imported


def test_the_switch_of_numba(expected: list[Any]) -> None:
    pytest.importorskip("numba")
    answers, told, _ = _run(NUMBA_DISABLE_JIT="1")
    _same(answers, expected)
    assert not told


def test_a_broken_installation_is_told_once(expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    answers, told, imported = _run(PYTHONPATH=path)
    _same(answers, expected)
    assert not imported
    assert len(told) == 1
    assert "numba is installed, but cannot be imported (ImportError: Numba needs NumPy 1.0 or less)" in told[0]


def test_another_value_of_the_switch_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from icnn_rl.numba_support import available; available()"],
        env={**os.environ, "ICNN_RL_COMPILED": "no"},
        capture_output=True,
        text=True,
    )
    assert "ICNN_RL_COMPILED: expected 0 or 1 in the environment, got 'no'" in done.stderr


def test_compiling_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    numba, jit = pytest.importorskip("numba"), pytest.importorskip("icnn_rl.compiling")
    monkeypatch.setitem(jit._WHAT, "icnn_rl.of_this_test", "what this test adds up")

    def one(x: float) -> float:
        return x + 1.0

    def other(x: float) -> float:
        return x + 2.0

    for function in (one, other):
        function.__module__ = "icnn_rl.of_this_test"
        compiled = numba.njit(function)
        assert compiled(1.0) > compiled(1) - 1.0  # compiles twice
    assert numba.njit(lambda x: x)(1.0) == 1.0  # somebody else's
    assert capsys.readouterr().err == "icnn_rl: compiling what this test adds up, once\n"
