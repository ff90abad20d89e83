"""One name for every module: icnn_rl.agents and icnn_rl.envs, never the bare folders."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["agents", "envs"])
def test_the_checkout_holds_the_links(name):
    link = ROOT / "icnn_rl" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["agents", "envs"])
def test_the_bare_name_is_refused_with_the_right_one(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=rf"imported as '{name}'. Import it as icnn_rl.{name}: .*pip install -e"):
        importlib.import_module(name)
    assert name not in sys.modules


def _modules():
    import icnn_rl

    return ["icnn_rl", *(module.name for module in pkgutil.walk_packages(icnn_rl.__path__, "icnn_rl."))]


def test_every_module_imports_and_keeps_its_promises():
    names = _modules()
    assert {"icnn_rl.agents.icnn_q.algorithm", "icnn_rl.envs", "icnn_rl.runs.config", "icnn_rl.cli.main"} <= set(names)
    for name in names:
        module = importlib.import_module(name)
        for promised in getattr(module, "__all__", ()):
            assert hasattr(module, promised), f"{name}.__all__ names {promised}, which is not there"


def test_no_module_was_loaded_under_a_second_name():
    for name in _modules():
        importlib.import_module(name)
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if (
            file
            and Path(file).resolve().is_relative_to(ROOT)
            and name.partition(".")[0] in ("icnn_rl", "agents", "envs")
        ):
            files.setdefault(Path(file).resolve(), []).append(name)
    assert {path: names for path, names in files.items() if len(names) > 1} == {}
