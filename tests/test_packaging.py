"""What is shipped: the package list, the wheel's members, the wheel at work."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def _package_folders():
    """Dotted names of the folders that hold an __init__.py."""
    for top, name in (("icnn_rl", "icnn_rl"), ("agents", "icnn_rl.agents"), ("envs", "icnn_rl.envs")):
        for init in (ROOT / top).rglob("__init__.py"):  # does not follow the links
            inner = init.parent.relative_to(ROOT / top).parts
            if top == "icnn_rl" and inner[:1] in (("agents",), ("envs",)):
                continue
            yield ".".join((name, *inner))


def test_the_package_list_is_complete():
    assert sorted(SETUP["packages"]) == sorted(_package_folders())


def test_every_module_lies_in_a_listed_package():
    folders = {ROOT / "icnn_rl", ROOT / "agents", ROOT / "envs"}
    for top in list(folders):
        for module in top.rglob("*.py"):
            if not any((top / link) in module.parents for link in ("agents", "envs")):
                assert (module.parent / "__init__.py").is_file(), f"{module} lies in a folder without __init__.py"


def test_the_console_script_points_at_the_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"icnn-rl": "icnn_rl.cli:main"}
    assert "icnn_rl.cli" in (ROOT / "train.py").read_text()


def _newest_setuptools_needed():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return int(re.search(r"setuptools>=(\d+)", " ".join(wanted)).group(1))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout, so that the checkout stays clean."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs the package build")
    try:
        found = int(metadata.version("setuptools").partition(".")[0])
    except metadata.PackageNotFoundError:
        found = 0
    if found < _newest_setuptools_needed():
        pytest.skip(f"needs setuptools >= {_newest_setuptools_needed()} in this environment, found {found or 'none'}")
    source = tmp_path_factory.mktemp("source") / "checkout"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in ("icnn_rl", "agents", "envs", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages(wheel):
    members = set(zipfile.ZipFile(wheel).namelist())
    expected = {"icnn_rl/__init__.py", "icnn_rl/py.typed", "icnn_rl/cli.py", "icnn_rl/agents/icnn_q.py"}
    expected |= {f"{name.replace('.', '/')}/__init__.py" for name in _package_folders()}
    expected |= {f"icnn_rl/agents/configs/{path.name}" for path in (ROOT / "agents" / "configs").glob("*.yml")}
    assert len([name for name in expected if name.endswith(".yml")]) >= 6
    assert expected <= members


def test_the_wheel_holds_every_module_once(wheel):
    members = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    assert len(members) == len(set(members))
    on_disk = {f"icnn_rl/{path.relative_to(ROOT / 'icnn_rl')}" for path in (ROOT / "icnn_rl").rglob("*.py")}
    on_disk |= {
        f"icnn_rl/{top}/{path.relative_to(ROOT / top)}"
        for top in ("agents", "envs")
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(members) == on_disk


def test_the_wheel_holds_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"icnn_rl"}  # no tests, no bare agents, envs
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if re.search(r"(^|/)(tests?/|test_|conftest)", name)]


def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import icnn_rl.agents, icnn_rl.envs, icnn_rl.cli\n"
        "from icnn_rl.experiment.config import resolve_settings\n"
        "print(icnn_rl.__file__, icnn_rl.agents.__file__, resolve_settings('td3', 'Pendulum-v1', {}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    own, agents, settings = done.stdout.split(maxsplit=2)
    assert Path(own) == site / "icnn_rl" / "__init__.py"
    assert Path(agents) == site / "icnn_rl" / "agents" / "__init__.py"
    assert "exploration_noise" in settings  # read from configs/td3.yml


def test_commands_that_install_work_from_a_checkout():
    """There is no such name in a public index: "pip install icnn-rl[x]" would fetch nothing, or something else."""
    told = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    told += [path for top in ("icnn_rl", "agents", "envs") for path in (ROOT / top).rglob("*.py")]
    wrong = [str(path) for path in told if re.search(r"pip\s+install[^`\n]*\s['\"]?icnn-rl\b", path.read_text())]
    assert wrong == []
