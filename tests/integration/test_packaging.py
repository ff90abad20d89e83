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

ROOT = Path(__file__).resolve().parents[2]
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
    assert scripts == {"icnn-rl": "icnn_rl.cli.main:main"}
    assert "icnn_rl.cli.main" in (ROOT / "train.py").read_text()


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
    expected = {"icnn_rl/__init__.py", "icnn_rl/py.typed", "icnn_rl/cli/main.py", "icnn_rl/agents/icnn_q/algorithm.py"}
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
        "import icnn_rl.agents, icnn_rl.envs, icnn_rl.cli.main\n"
        "from icnn_rl.runs.config.defaults import resolve_settings\n"
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


#: Packages of the extra train and of others.
_BEYOND_THE_CORE = (
    *("mujoco", "tensorboard", "imageio", "imageio_ffmpeg", "PIL", "yaml", "rich", "tqdm", "filelock", "safetensors"),
    *("matplotlib", "pandas", "pygame", "numba", "scipy", "sklearn"),
)

_ON_THE_ROBOT = """
import sys
for name in {blocked}:
    sys.modules[name] = None  # as where it is not installed
import numpy as np
from icnn_rl.agents import ICNNQ
from stable_baselines3 import TD3
import icnn_rl.envs, icnn_rl.supervised.denoising.module, icnn_rl.supervised.imputation.module
obs = np.array([0.5, 0.5, 3.0], np.float32)
for algorithm, file in ((ICNNQ, "icnn.zip"), (ICNNQ, "limited.zip"), (TD3, "td3.zip")):
    model = algorithm.load(file, device="cpu")
    print(float(model.predict(obs, deterministic=True)[0][0]))
"""


def test_a_policy_acts_with_the_core_alone(tmp_path):
    import gymnasium as gym
    import numpy as np
    from stable_baselines3 import TD3

    from icnn_rl.agents import ICNNQ, ConstrainedTD3Policy, ExecutedActionReplayBuffer
    from icnn_rl.constraints import power_limit
    from icnn_rl.envs import ProjectAction

    limit = power_limit(velocity_index=[2], max_power=1.0)
    env = ProjectAction(gym.make("Pendulum-v1"), limit)
    buffer = {"buffer_size": 100, "device": "cpu", "seed": 0}
    models = {
        "icnn.zip": ICNNQ("MlpPolicy", gym.make("Pendulum-v1"), **buffer),
        "limited.zip": ICNNQ("MlpPolicy", env, policy_kwargs={"constraint": limit}, **buffer),
        "td3.zip": TD3(
            ConstrainedTD3Policy,
            env,
            policy_kwargs={"constraint": limit},
            replay_buffer_class=ExecutedActionReplayBuffer,
            **buffer,
        ),
    }
    obs = np.array([0.5, 0.5, 3.0], np.float32)
    for name, model in models.items():
        model.save(tmp_path / name)
    wanted = [float(model.predict(obs, deterministic=True)[0][0]) for model in models.values()]
    code = _ON_THE_ROBOT.format(blocked=_BEYOND_THE_CORE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [float(word) for word in done.stdout.split()] == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted[1]) * 3.0 <= 1.0 + 1e-5


def test_a_command_names_the_extra_that_it_needs(tmp_path):
    blocked = f"import sys\nfor name in {_BEYOND_THE_CORE}:\n    sys.modules[name] = None\n"
    code = blocked + "from icnn_rl.cli.main import main\nsys.exit(main(['eval', 'nowhere']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: \w+ is not installed. It comes with: pip install -e '.\[train\]' .*\n", done.stderr)


def test_the_extras_that_train_bring_what_the_commands_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[\[>=]", name)[0] for name in project["dependencies"]}
    assert core == {"gymnasium", "numpy", "stable-baselines3", "torch"}
    for extra in ("report", "supervised", "tune", "ray", "zoo"):
        assert "icnn-rl[train]" in project["optional-dependencies"][extra]
    assert any(name.startswith("icnn-rl[train,") for name in project["optional-dependencies"]["test"])
