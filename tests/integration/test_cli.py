"""The program as its user meets it: mostly in a process of its own, tiny runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
_SMALL = ["policy_kwargs.net_arch=[8]", "learning_starts=20", "batch_size=8"]
_SETTINGS = {
    "icnn": [*_SMALL, "policy_kwargs.hidden=[4]"],
    "naf": _SMALL,
    "ddpg": _SMALL,
    "td3": _SMALL,
    "sac": _SMALL,
    "ppo": ["policy_kwargs.net_arch=[8]", "n_steps=32", "batch_size=16", "n_epochs=2"],
}

_ODD = """
import gymnasium as gym
import numpy as np


class Odd(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, high=1.0, reward=0.0, render_mode=None):
        self.action_space = gym.spaces.Box(-high, high, (1,), np.float32)
        self.reward, self.render_mode = reward, render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.reward, False, False, {}


for name, options in (("Plain", {}), ("Unbounded", {"high": np.inf}), ("Sick", {"reward": np.nan})):
    gym.register(f"{name}-v0", Odd, max_episode_steps=5, kwargs=options)
"""


def rl(agent, out, *more, env="InvertedPendulum-v5", timesteps=60):
    """The arguments of a tiny training run."""
    settings = [word for setting in _SETTINGS[agent] for word in ("--set", setting)]
    episodes = ["--eval-episodes", "1", "--final-episodes", "2"]
    where = ["--agent", agent, "--env", env, "--timesteps", str(timesteps), "--out", str(out), "--device", "cpu"]
    return ["rl", *where, *settings, *episodes, *more]


def start(arguments, cwd, **options):
    """The program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has them, and so their children, ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def finish(process):
    """Its output, once it has ended well and silently on stderr."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert without_announcements(err) == ""
    return out


def without_announcements(text):
    """Whether numba compiles depends on who was here before."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("icnn_rl: compiling "))


def run(arguments, capsys):
    """The program in this process: exit code, standard output, standard error."""
    from icnn_rl.cli.main import main

    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, without_announcements(err)


def fails(arguments, capsys):
    """The message of a run that must fail: one error, exit code 1, no traceback."""
    code, _, err = run(arguments, capsys)
    assert code == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


def evaluation_steps(folder):
    with (folder / "eval.csv").open(newline="") as stream:
        return [int(row["timesteps"]) for row in csv.DictReader(stream)]


def progress(folder):
    with (folder / "progress.csv").open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, made by the program in a process of its own: its folder and what it printed."""
    cwd = tmp_path_factory.mktemp("finished")
    out = finish(start(rl("icnn", "run", timesteps=100), cwd))
    return cwd / "run", out


@pytest.fixture
def odd_env(tmp_path, monkeypatch):
    """odd_envs:Plain-v0, Unbounded-v0 and Sick-v0 can be imported."""
    import gymnasium as gym

    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "odd_envs.py").write_text(_ODD)
    monkeypatch.syspath_prepend(str(tmp_path / "module"))
    yield "odd_envs"
    sys.modules.pop("odd_envs", None)
    for name in ("Plain-v0", "Unbounded-v0", "Sick-v0"):
        gym.registry.pop(name, None)


# a whole run


def test_a_run_leaves_a_whole_folder(finished):
    folder, out = finished
    assert out.startswith("icnn on InvertedPendulum-v5: 100 steps, seed 0, into run\n")
    assert "model after 100 steps: return " in out
    assert "over 2 episodes" in out
    assert out.endswith("learning curve: run/learning_curve.png\n")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "config.yml",
        "progress.csv",
        "eval.csv",
        "tb",
        "checkpoints",
        "model.zip",
        "best_model.zip",
        "evaluation_model.json",
        "learning_curve.png",
    }
    assert evaluation_steps(folder) == list(range(10, 101, 10))
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step_000000090", "step_000000100"]
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert progress(folder)[-1]["time/total_timesteps"] == 100
    assert next((folder / "tb").glob("events.out.tfevents.*")).stat().st_size > 0
    summary = json.loads((folder / "evaluation_model.json").read_text())
    assert (summary["timesteps"], summary["episodes"], len(summary["returns"])) == (100, 2, 2)


def test_the_configuration_names_versions_seed_and_settings(finished):
    import yaml

    config = yaml.safe_load((finished[0] / "config.yml").read_text())
    assert (config["agent"], config["env"], config["seed"], config["timesteps"]) == (
        "icnn",
        "InvertedPendulum-v5",
        0,
        100,
    )
    assert config["settings"]["policy_kwargs"] == {"net_arch": [8], "hidden": [4]}
    assert {"python", "torch", "gymnasium", "stable-baselines3"} <= set(config["versions"])
    assert {"revision", "started"} <= set(config)


def test_without_arguments_the_program_trains_on_mujoco(tmp_path, monkeypatch, capsys):
    from icnn_rl.cli import evaluation
    from icnn_rl.cli.main import main
    from icnn_rl.runs import train

    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["icnn-rl"])
    monkeypatch.setattr(train, "train_run", lambda config, folder, **options: seen.append((config, folder)))
    monkeypatch.setattr(evaluation, "report", lambda folder, which, episodes: seen.append((folder, which)))
    assert main() == 0
    (config, folder), report = seen
    assert (config.agent, config.env) == ("icnn", "InvertedPendulum-v5")
    assert folder == Path("runs/icnn-InvertedPendulum-v5-s0")
    assert report == (folder, "model")


@pytest.mark.parametrize("agent", sorted(_SETTINGS))
def test_every_agent(agent, tmp_path, capsys):
    code, out, err = run(rl(agent, tmp_path / "run", "--seed", "5", "--n-envs", "2"), capsys)
    assert (code, err) == (0, "")
    assert f"{agent} on InvertedPendulum-v5: 60 steps, seed 5" in out
    assert "return " in out
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    assert "model after 6" in run(["eval", tmp_path / "run", "--episodes", 1], capsys)[1]


def test_pendulum(tmp_path, capsys):
    """No early end of an episode, observations and actions in other units."""
    arguments = rl("icnn", tmp_path / "run", "--eval-freq", "40", env="Pendulum-v1")
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    assert "model after 60 steps: return -" in out
    assert "length 200" in out


# killed and resumed


def test_killed_twice_and_resumed_to_the_end(tmp_path):
    folder = tmp_path / "run"
    frequencies = ["--eval-freq", "50", "--checkpoint-freq", "40"]
    process = start(rl("icnn", "run", *frequencies, timesteps=1000), tmp_path)
    kept = []
    for wanted in (120, 480):
        _kill_after_checkpoint(process, folder, wanted)
        assert not (folder / "model.zip").exists()
        done = int(max((folder / "checkpoints").glob("step_*")).name.removeprefix("step_"))
        assert wanted <= done < 1000
        kept = [row for row in progress(folder) if row["time/total_timesteps"] <= done]
        assert kept
        process = start(["rl", "--resume", "run", "--final-episodes", "1"], tmp_path)
    out = finish(process)
    assert f"run: going on from step {done} of 1000" in out
    assert "model after 1000 steps: return " in out
    assert evaluation_steps(folder) == list(range(50, 1001, 50))
    rows = progress(folder)
    assert rows[: len(kept)] == kept
    steps = [row["time/total_timesteps"] for row in rows]
    assert steps[:-1] == sorted(set(steps[:-1]))
    assert steps[-1] == 1000  # once more, with what was logged since, where an episode has ended there
    assert not list((folder / "checkpoints").glob(".*"))
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step_000000960", "step_000001000"]

    from icnn_rl.runs.config.agents import AGENTS

    model = AGENTS["icnn"].load(folder / "model.zip", device="cpu")
    model.load_replay_buffer(folder / "checkpoints" / "step_000001000" / "replay_buffer.pkl")
    assert (model.num_timesteps, model._n_updates, model.replay_buffer.pos) == (1000, 980, 1000)


def _kill_after_checkpoint(process, folder, step):
    """SIGKILL a moment after a checkpoint of at least this step has appeared."""
    deadline = time.monotonic() + 200
    while not any(int(path.name[5:]) >= step for path in (folder / "checkpoints").glob("step_*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_interrupting_says_how_to_go_on(tmp_path):
    process = start(rl("icnn", "run", "--checkpoint-freq", "50", timesteps=100_000), tmp_path)
    while not list((tmp_path / "run" / "checkpoints").glob("step_*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert without_announcements(err) == "stopped; go on from its last checkpoint with: icnn-rl rl --resume run\n"


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = contents(folder)
    code, out, _ = run(["rl", "--resume", folder, "--final-episodes", 2], capsys)
    assert code == 0
    assert "nothing to do, all 100 steps are done" in out
    after = contents(folder)
    for path in before.keys() - {folder / "learning_curve.png"}:
        assert after[path] == before[path], path


def test_resuming_keeps_the_episodes_of_the_final_evaluation(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(rl("td3", folder, "--final-episodes", "3"), capsys)[0] == 0
    (folder / "model.zip").unlink()
    shutil.rmtree(folder / "checkpoints" / "step_000000060")
    code, out, _ = run(["rl", "--resume", folder], capsys)
    assert (code, "over 3 episodes" in out) == (0, True)
    code, out, _ = run(["rl", "--resume", folder, "--final-episodes", "1"], capsys)
    assert (code, "over 1 episode" in out) == (0, True)
    assert yaml.safe_load((folder / "config.yml").read_text())["final_episodes"] == 1


def test_an_empty_folder_may_be_the_run_folder(tmp_path, capsys):
    for name in ("run", "report"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / ".model-abc.zip").touch()  # left by a kill
    assert run(rl("td3", tmp_path / "run"), capsys)[0] == 0


# eval, video, plot


def test_eval_prints_and_keeps_the_numbers(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    code, out, err = run(["eval", folder, "--episodes", 3, "--model", "best_model"], capsys)
    assert (code, err) == (0, "")
    assert out.startswith("best_model after ")
    summary = json.loads((folder / "evaluation_best_model.json").read_text())
    assert len(summary["returns"]) == 3
    assert f"return {summary['mean']:.1f} ± {summary['std']:.1f} over 3 episodes" in out


def test_eval_twice_gives_the_same_numbers(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    assert run(["eval", folder, "--episodes", 3], capsys) == run(["eval", folder, "--episodes", 3], capsys)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's reader does not close its pipes
@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_video_without_a_screen(ending, finished, tmp_path):
    import imageio.v2 as imageio

    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    film = tmp_path / "new" / f"film.{ending}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "video", str(finished[0]), "--out", str(film), "--steps", "12"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode and any(word in done.stderr for word in ("EGL", "OpenGL", "GLContext")):
        pytest.skip(f"no off-screen rendering on this machine: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"video: {film} (return ")
    with imageio.get_reader(film) as reader:
        frames = [frame for frame in reader]  # noqa: C416  (list() would ask for the length, which is infinite)
    assert 1 <= len(frames) <= 12
    assert frames[0].shape[:2] == (480, 480)
    assert frames[0][..., :3].std() > 1  # something is to be seen


def test_plot_of_several_runs(finished, tmp_path, capsys):
    again = shutil.copytree(finished[0], tmp_path / "again")
    picture = tmp_path / "both.png"
    code, out, err = run(["plot", finished[0], again, "--out", picture], capsys)
    assert (code, out, err) == (0, f"learning curves: {picture}\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")


# several seeds


def test_stacked_seeds_leave_the_folders_of_lone_runs_and_are_resumed_alone(tmp_path, capsys):
    settings = ["--eval-freq", "25", "--checkpoint-freq", "30"]
    stacked, lone = tmp_path / "stacked", tmp_path / "lone"
    code, out, err = run(rl("icnn", stacked, *settings, "--seeds", "1-2", "--stacked", env="Pendulum-v1"), capsys)
    assert (code, err) == (0, "")
    assert f"icnn on Pendulum-v1: 60 steps, seed 2, into {stacked}-s2\n" in out
    assert run(rl("icnn", lone, *settings, "--seeds", "2", env="Pendulum-v1"), capsys)[0] == 0
    both = [Path(f"{folder}-s2") for folder in (stacked, lone)]

    def means():
        return [json.loads((folder / "evaluation_model.json").read_text())["mean"] for folder in both]

    names = [{path.name for path in folder.rglob("*") if "tfevents" not in path.name} for folder in both]
    assert names[0] == names[1]
    assert means()[0] == pytest.approx(means()[1], rel=1e-3)
    assert [evaluation_steps(folder) for folder in both] == [[25, 50], [25, 50]]
    rows = [progress(folder)[-1] for folder in both]
    assert rows[0].keys() == rows[1].keys()
    configs = [yaml.safe_load((folder / "config.yml").read_text()) for folder in both]
    assert configs[0].pop("stacked_seeds") == [1, 2]
    assert {**configs[0], "started": None} == {**configs[1], "started": None}

    finished_means = means()
    for folder in both:
        shutil.rmtree(folder / "checkpoints" / "step_000000060")
        (folder / "model.zip").unlink()
        code, text, _ = run(["rl", "--resume", folder, "--final-episodes", 2], capsys)
        assert code == 0
        assert "going on from step 30 of 60" in text
    assert means()[0] == pytest.approx(means()[1], rel=1e-3)
    assert means()[0] != finished_means[0]  # the interrupted episode is dropped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stacked"], "--stacked: trains several seeds together; give them with --seeds"),
        (["--seeds", "3-1"], "--seeds 3-1: expected integers >= 0 and ranges such as 0-9, got '3-1'."),
        (["--seeds", "0-1", "--out", "."], "--out .: has no name that the seeds could be added to."),
        (["--seeds", "0-1", "--seed", "3"], "--seed and --seeds: give one of them."),
        (["--seeds", "0-1", "--stacked", "--agent", "td3"], "--stacked: agent 'td3' cannot be stacked; only icnn can."),
        (["--seeds", "0-1", "--stacked"], "--stacked: n_steps: stacked learning needs 1-step returns, agent 0 has 3."),
        (
            ["--seeds", "0-1", "--stacked", "--env", "Pendulum-v1", "--n-envs", "2"],
            "--stacked: n_envs: stacked learning needs one environment for each agent, agent 0 has 2.",
        ),
        (
            ["--seeds", "0-1", "--stacked", "--env", "Pendulum-v1", "--constraint", "box:lower=-0.5,upper=0.5"],
            "--stacked: constraint: stacked learning needs none",
        ),
    ],
)
def test_what_cannot_be_stacked_is_named_and_leaves_no_folder(arguments, message, tmp_path, capsys):
    err = fails(["rl", "--out", tmp_path / "run", *arguments], capsys)
    assert err.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_stacking_leaves_occupied_folders_alone(tmp_path, capsys):
    (tmp_path / "run-s1").mkdir()
    (tmp_path / "run-s1" / "notes.txt").write_text("mine")
    err = fails(rl("icnn", tmp_path / "run", "--seeds", "0-1", "--stacked", env="Pendulum-v1"), capsys)
    assert err.startswith(f"error: --out {tmp_path / 'run-s1'}: not empty.")
    assert [path.name for path in tmp_path.iterdir()] == ["run-s1"]


# what goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "learning_rat=1"], "learning_rat: not an argument of agent 'icnn'. Did you mean 'learning_rate'"),
        (
            ["--set", "policy_kwargs.hiden=[8]"],
            "hiden: not an argument of policy_kwargs of 'icnn'. Did you mean 'hidden'",
        ),
        (["--set", "learning_rate"], "--set learning_rate: expected key=value"),
        (["--set", "learning_rate=[1"], "--set learning_rate=[1: the value is not valid YAML"),
        (["--env", "Pendulam-v1"], "--env Pendulam-v1: Environment `Pendulam` doesn't exist. Did you mean: `Pendulum`"),
        (["--env", "CartPole-v1"], "agent 'icnn' on CartPole-v1: "),
        (["--env", "odd_envs:Unbounded-v0"], "--env odd_envs:Unbounded-v0: the action space is unbounded"),
        (["--device", "gpu"], "--device gpu: no such device. Expected cpu"),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(arguments, message, odd_env, tmp_path, capsys):
    code, _, err = run(["rl", "--out", tmp_path / "run", *arguments], capsys)
    assert code == 1
    assert err.startswith(f"error: {message}")
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_an_error_has_no_traceback_in_a_process_of_its_own(tmp_path):
    process = start(["rl", "--env", "Pendulam-v1"], tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err == "error: --env Pendulam-v1: Environment `Pendulam` doesn't exist. Did you mean: `Pendulum`?\n"
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("agent", "starts"), [("td3", 1000), ("sac", 1000), ("icnn", None), ("ppo", None)])
def test_a_run_that_ends_before_the_first_update_is_told_so(agent, starts, tmp_path, capsys, monkeypatch):
    from icnn_rl.cli import evaluation
    from icnn_rl.runs import train

    monkeypatch.setattr(train, "train_run", lambda *args, **options: None)
    monkeypatch.setattr(evaluation, "report", lambda *args: None)
    arguments = ["rl", "--agent", agent, "--timesteps", "600", "--out", tmp_path / "run"]
    told = f"warning: {agent} learns nothing in 600 steps: its first update comes after {starts}, all random. "
    hint = "For a trial so short: --set learning_starts=60.\n"
    assert run(arguments, capsys)[2] == ("" if starts is None else told + hint)
    if agent != "ppo":
        assert run([*arguments, "--set", "learning_starts=599"], capsys)[2] == ""


def test_an_occupied_folder_is_left_alone(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = contents(folder)
    err = fails(rl("icnn", folder), capsys)
    assert f"--out {folder}: not empty. Choose another folder, or go on with its run: --resume {folder}." in err
    assert contents(folder) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert fails(rl("icnn", tmp_path), capsys) == f"error: --out {tmp_path}: not empty. Choose another folder.\n"
    file = tmp_path / "notes.txt"
    assert fails(rl("icnn", file), capsys).startswith(f"error: --out {file}: is a file.")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", [["eval"], ["video"], ["plot"], ["rl", "--resume"]])
def test_a_missing_run_is_named(command, tmp_path, capsys):
    err = fails([*command, tmp_path / "nowhere"], capsys)
    assert f"{tmp_path}/nowhere/config.yml: no such file. Expected a run folder made by `icnn-rl rl" in err


@pytest.mark.parametrize("command", ["eval", "video"])
def test_a_truncated_model_is_named(command, finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "model.zip").write_bytes((folder / "model.zip").read_bytes()[:500])
    assert f"{folder}/model.zip: cannot be read" in fails([command, folder], capsys)


def test_a_truncated_checkpoint_is_named(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "model.zip").unlink()
    broken = folder / "checkpoints" / "step_000000100" / "replay_buffer.pkl"
    broken.write_bytes(broken.read_bytes()[:500])
    before = contents(folder)
    err = fails(["rl", "--resume", folder], capsys)
    assert f"{broken}: damaged (500 bytes, " in err
    assert f"Delete {broken.parent} to use an earlier checkpoint." in err
    assert contents(folder) == before
    shutil.rmtree(broken.parent)
    code, out, _ = run(["rl", "--resume", folder, "--final-episodes", 1], capsys)
    assert code == 0
    assert "going on from step 90 of 100" in out
    assert evaluation_steps(folder) == list(range(10, 101, 10))


def test_settings_beside_resume_are_not_ignored_in_silence(finished, capsys):
    given = ["--eval-freq", 5000, "--set", "gamma=0.9", "--n-envs", 2]
    err = fails(["rl", "--resume", finished[0], *given], capsys)
    assert "goes on with the settings in its config.yml. Leave out --eval-freq, --n-envs, --set." in err
    err = fails(["rl", "--resume", finished[0], "--dev", "auto", "--agent=icnn", "--seed", 0], capsys)  # the defaults
    assert "Leave out --agent, --device, --seed." in err


def test_a_finished_run_is_made_longer(finished, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    assert "--timesteps 99: the run in" in fails(["rl", "--resume", folder, "--timesteps", 99], capsys)
    code, out, err = run(["rl", "--resume", folder, "--timesteps", 150], capsys)
    assert (code, err) == (0, "")
    assert f"{folder}: 100 steps become 150; what falls over the run" in out
    assert f"{folder}: going on from step 100 of 150" in out
    assert "model after 150 steps: return " in out
    assert evaluation_steps(folder) == list(range(10, 151, 10))


def test_a_default_run_folder_has_a_name_for_every_system(odd_env, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = rl("td3", "x", env=f"{odd_env}:Plain-v0", timesteps=30)
    at = arguments.index("--out")
    del arguments[at : at + 2]
    assert run(arguments, capsys)[0] == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["td3-odd_envs_Plain-v0-s0"]


@pytest.mark.parametrize("stacked", [[], ["--stacked"]])
def test_a_run_that_cannot_begin_leaves_no_folders_of_the_others(stacked, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Nope" in fails(["rl", "--env", "Nope-v0", "--seeds", "0-2", *stacked], capsys)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.filterwarnings("ignore:.*reward is a NaN")  # gymnasium's own word on it
def test_rewards_that_are_not_numbers_end_the_run_with_a_reason(odd_env, tmp_path, capsys):
    arguments = rl("icnn", tmp_path / "run", env=f"{odd_env}:Sick-v0")
    code, _, err = run(arguments, capsys)
    assert code == 1
    assert f"error: {tmp_path / 'run'}: training stopped at step 1. reward: the environment returned [nan]" in err


def test_an_environment_that_cannot_be_filmed_is_named(odd_env, tmp_path, capsys):
    code, _, err = run(rl("icnn", tmp_path / "run", env=f"{odd_env}:Plain-v0", timesteps=30), capsys)
    assert code == 0, err
    code, _, err = run(["video", tmp_path / "run"], capsys)
    assert code == 1
    assert "odd_envs:Plain-v0: cannot be filmed" in err
    assert not (tmp_path / "run" / "video.mp4").exists()


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        ("video", "film.avi", "expected a name ending in .mp4 or .gif"),
        ("plot", "curve.xyz", "expected a name ending in"),
    ],
)
def test_an_unknown_ending_is_named(command, name, message, finished, tmp_path, capsys):
    assert f"--out {tmp_path / name}: {message}" in fails([command, finished[0], "--out", tmp_path / name], capsys)


def test_a_full_disk_is_an_error_and_no_traceback(finished, tmp_path, monkeypatch, capsys):
    from icnn_rl.runs import plot

    def full(folders, out):
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(plot, "plot_runs", full)
    err = fails(["plot", finished[0], "--out", tmp_path / "curve.png"], capsys)
    assert f"No space left on device: '{tmp_path / 'curve.png'}'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rl", "--timesteps", "0"], "argument --timesteps: expected an integer >= 1, got 0"),
        (["rl", "--timesteps", "many"], "argument --timesteps: expected an integer >= 1, got many"),
        (["rl", "--seed", "-1"], "argument --seed: expected an integer >= 0, got -1"),
        (["rl", "--agent", "dqn"], "argument --agent: invalid choice: 'dqn' (choose from"),
        (["sudoku", "--box", "5"], "argument --box: invalid choice: 5 (choose from"),
        (["rl", "--timesteps", "1.5"], "argument --timesteps: expected an integer >= 1, got 1.5"),
        (["rl", "--agnt", "icnn"], "unrecognized arguments: --agnt icnn. Did you mean '--agent'?"),
        (["rl", "--total-timesteps", "9"], "unrecognized arguments: --total-timesteps 9. Did you mean '--timesteps'?"),
        (["rl", "--total_timesteps=9"], "unrecognized arguments: --total_timesteps=9. Did you mean '--timesteps'?"),
        (["rl", "--algo", "td3"], "unrecognized arguments: --algo td3. Did you mean '--agent'?"),
        (["sudoku", "--epoch-count", "3"], "unrecognized arguments: --epoch-count 3. Did you mean '--epochs'?"),
        (["plot"], "the following arguments are required: RUN"),
    ],
)
def test_wrong_usage_is_argparses_business(arguments, message, capsys):
    from icnn_rl.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def commands():
    from icnn_rl.cli.main import _build_parser

    return _build_parser()[1].choices


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_option_is_explained_with_its_default(command):
    for action in commands()[command]._actions:
        assert action.help, action.dest
        text = commands()[command]._get_formatter()._expand_help(action)
        if action.option_strings and action.default not in (None, [], "==SUPPRESS=="):
            assert f"(default: {action.default})" in text
        elif action.option_strings and action.default is None and not action.required and "-h" not in text:
            assert "default: " in text or "such as" in text or action.dest in NO_DEFAULT, text


#: Options that are off unless they are given.
NO_DEFAULT = {"seeds", "resume", "settings", "constraint", "timesteps"}


def test_the_options_know_what_the_package_has():
    from icnn_rl.cli.commands import multilabel, rl, tables, zoo
    from icnn_rl.runs.config.agents import AGENTS
    from icnn_rl.runs.zoo import SCRIPTS
    from icnn_rl.supervised.imputation import TABLES
    from icnn_rl.supervised.multilabel import LOSSES

    assert sorted(AGENTS) == sorted(rl.AGENT_NAMES)
    assert (tuple(SCRIPTS), LOSSES, TABLES) == (zoo.ZOO_SCRIPTS, multilabel.MULTILABEL_LOSSES, tables.TABLE_NAMES)


@pytest.mark.parametrize("command", [[], ["rl"], ["sudoku"]])
def test_help_does_not_wait_for_torch(command):
    code = (
        "import sys\nfrom icnn_rl.cli.main import main\n"
        f"try:\n    main({[*command, '--help']})\nexcept SystemExit:\n"
        "    assert not {'torch', 'numpy', 'gymnasium', 'matplotlib', 'stable_baselines3'} & set(sys.modules)\n"
        "else:\n    raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_is_the_program_and_tells_its_version(tmp_path):
    import icnn_rl

    done = subprocess.run(
        [sys.executable, "-m", "icnn_rl", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"icnn-rl {icnn_rl.__version__}\n"


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("20", 20),
        ("1e5", 100_000),
        ("1_000", 1000),
        (3, 3),
        (2e3, 2000),
        ("1.5", None),
        (True, None),
        ("inf", None),
        ("many", None),
        ("", None),
    ],
)
def test_whole_numbers(given, number):
    from icnn_rl.runs.values import whole_number

    assert whole_number(given) == number


def test_an_environment_in_the_working_folder(tmp_path):
    (tmp_path / "my_envs.py").write_text(_ODD)
    process = start(rl("td3", "run", env="my_envs:Plain-v0", timesteps="3e1"), tmp_path)
    assert "td3 on my_envs:Plain-v0: 30 steps" in finish(process)
    assert "model after 30 steps" in finish(start(["eval", "run", "--episodes", "1"], tmp_path))
    jobs = ["--seeds", "0", "--timesteps", "3e1", "--final-episodes", "1", "--workers", "1", "--set", "batch_size=8"]
    process = start(["sweep", "--agents", "td3", "--envs", "my_envs:Plain-v0", *jobs, "--out", "sweep"], tmp_path)
    assert "1 of 1 jobs are done" in finish(process)
    other = tmp_path / "elsewhere"
    other.mkdir()
    process = start(["eval", "../run"], other)
    assert (
        "--env my_envs:Plain-v0: No module named 'my_envs'. Run the command in the folder that holds the module"
        in (process.communicate(timeout=120)[1])
    )


@pytest.mark.parametrize("command", [[], ["rl"], ["eval"], ["video"], ["plot"]])
def test_help(command, capsys):
    from icnn_rl.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: icnn-rl" in capsys.readouterr().out


def test_two_at_once_without_a_name_get_a_folder_each(tmp_path):
    command = [sys.executable, "-m", "icnn_rl.cli.main", *map(str, rl("td3", "x", timesteps=30))]
    at = command.index("--out")
    del command[at : at + 2]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == ["td3-InvertedPendulum-v5-s0", "td3-InvertedPendulum-v5-s0-2"]
    assert all((folder / "evaluation_model.json").is_file() for folder in folders)


def test_a_run_that_is_being_trained_is_not_resumed(tmp_path, capsys):
    folder = tmp_path / "run"
    run(rl("td3", folder, timesteps=40), capsys)
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    try:
        assert f"{folder}: another process is at work in it." in fails(["rl", "--resume", folder], capsys)
    finally:
        held.communicate("\n")
    assert run(["rl", "--resume", folder, "--final-episodes", "1"], capsys)[0] == 0


_HOLD = """
import sys
from pathlib import Path
from icnn_rl.runs.folder import sole_user
with sole_user(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


# constraints


def constrained(agent, out, *more, constraint="box:lower=-0.5,upper=0.5", env="Pendulum-v1", timesteps=60):
    given = ["--constraint", constraint] if constraint else []
    return rl(agent, out, *given, *more, env=env, timesteps=timesteps)


def counts(folder):
    return json.loads((folder / "constraint.json").read_text())


@pytest.mark.parametrize("agent", sorted(_SETTINGS))
def test_every_agent_under_a_constraint(agent, tmp_path, capsys):
    power = "power_limit:velocity_index=[2],max_power=1"
    code, _, err = run(constrained(agent, tmp_path / "run", constraint=power, timesteps=64), capsys)
    assert (code, err) == (0, "")
    found = counts(tmp_path / "run")
    assert found["steps"] == 64
    assert found["violations"] == 0
    assert found["largest_violation"] <= 1e-6
    assert found["active"] > 5
    assert yaml.safe_load((tmp_path / "run" / "config.yml").read_text())["constraint"] == [power]


def test_the_constraint_holds_in_evaluation_and_video_too(tmp_path, capsys, monkeypatch):
    from icnn_rl.runs import video

    folder = tmp_path / "run"
    run(constrained("icnn", folder), capsys)
    told = []
    original = video.annotate
    monkeypatch.setattr(video, "annotate", lambda frame, info: told.append(info) or original(frame, info))
    code, out, err = run(["video", folder, "--steps", "5", "--out", tmp_path / "video.gif"], capsys)
    assert (code, err) == (0, "")
    assert len(told) == 5
    assert all(info["constraint/violation"] <= 1e-6 for info in told)
    code, out, _ = run(["eval", folder, "--episodes", "2"], capsys)
    assert code == 0
    assert "return" in out


def test_an_environment_with_its_own_constraint(tmp_path, capsys):
    from icnn_rl.runs.train import load_model

    task = "icnn_rl/Point-Discs-v0"
    assert run(constrained("icnn", tmp_path / "told", constraint=None, env=task), capsys)[0] == 0
    assert run(constrained("icnn", tmp_path / "untold", constraint="none", env=task), capsys)[0] == 0
    for name in ("told", "untold"):
        found = counts(tmp_path / name)
        assert found["violations"] == found["state_violations"] == 0
        assert (load_model(tmp_path / name)[1].policy.constraint is None) == (name == "untold")
    assert counts(tmp_path / "untold")["moved"] > 5  # by the environment's wrapper alone


@pytest.mark.parametrize("project", [True, False])
def test_crossed_limits_of_the_state_are_counted_projected_or_not(project, tmp_path):
    import gymnasium as gym
    from stable_baselines3 import PPO

    import icnn_rl.envs  # noqa: F401
    from icnn_rl.runs.constraint_record import ConstraintCallback

    env = gym.make("icnn_rl/Point-Discs-v0", project=project)
    PPO("MlpPolicy", env, n_steps=200, batch_size=50, seed=0).learn(600, callback=ConstraintCallback(tmp_path, 100))
    found = counts(tmp_path)
    assert found["steps"] == (600 if project else 0)
    assert (found["state_violations"] > 0) == (not project)


def test_a_constraint_joins_the_environments_own():
    import gymnasium as gym
    import numpy as np

    from icnn_rl.constraints import parse_constraint
    from icnn_rl.runs.environments import make_single_env

    env = make_single_env("icnn_rl/Reacher-O03-v0", parse_constraint(["linear:G=[[-1,1]],h=[0]"]))
    env.action_space.seed(0)
    layers, layer = [], env
    while isinstance(layer, gym.Wrapper):
        layers.append(type(layer).__name__)
        layer = layer.env
    assert layers.count("ProjectAction") == 1
    obs, _ = env.reset(seed=0)
    for _ in range(60):
        velocity = obs[6:8]
        obs, _, _, _, info = env.step(env.action_space.sample())
        sent = info["action/executed"].astype(float)
        assert sent[1] - sent[0] <= 1e-6 * np.sqrt(2)
        assert np.abs(velocity * sent).sum() <= 0.3 + 1e-6 * np.linalg.norm(velocity)


def test_constraints_from_a_file_hold_together_with_others(tmp_path, capsys):
    file = tmp_path / "limits.yml"
    file.write_text("power_limit: {velocity_index: [2], max_power: 1}\nbox: {lower: -1, upper: 1}\n")
    code, _, err = run(
        constrained("td3", tmp_path / "run", "--constraint", "rate_limit:max_change=0.25", constraint=str(file)), capsys
    )
    assert (code, err) == (0, "")
    found = counts(tmp_path / "run")
    assert found["violations"] == 0
    assert found["active"] > 30
    assert run(["eval", tmp_path / "run", "--episodes", "1"], capsys)[0] == 0


def test_a_resumed_run_keeps_its_constraint_and_its_counts(tmp_path, capsys, monkeypatch):
    from icnn_rl.runs.constraint_record import ConstraintCallback

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:  # as if killed: nothing is written at the end
        patch.setattr(ConstraintCallback, "_on_training_end", lambda self: None)
        run(constrained("icnn", folder, "--checkpoint-freq", "20", timesteps=40), capsys)
    assert counts(folder)["steps"] == 20  # the last checkpoint during training
    config = (folder / "config.yml").read_text()
    (folder / "config.yml").write_text(config.replace("timesteps: 40", "timesteps: 60"))
    for lost in (1, 2):  # checkpoints: each holds the counts of its own steps
        (folder / "model.zip").unlink()
        for checkpoint in sorted((folder / "checkpoints").iterdir())[-lost:]:
            shutil.rmtree(checkpoint)
        code, _, err = run(["rl", "--resume", folder, "--final-episodes", "1"], capsys)
        assert (code, err) == (0, "")
        assert counts(folder)["steps"] == 60
        assert counts(folder)["violations"] == 0
    assert "Leave out --constraint" in fails(["rl", "--resume", folder, "--constraint", "box:lower=-1"], capsys)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (["power_limt:max_power=1"], "--constraint: unknown name 'power_limt'. Did you mean 'power_limit'"),
        (["box:lowr=1"], "lower"),
        (["missing.yml"], "missing.yml: no such file"),
        (["none", "box:lower=-1"], "none: together with others"),
        (["linear:G=[[1,1]],h=[1]"], "linear.G: expected rows of 1 number"),
        (["power_limit:velocity_index=[9],max_power=1"], "velocity_index: expected indices below 3"),
    ],
)
def test_a_wrong_constraint_is_named_and_leaves_no_folder(constraint, message, tmp_path, capsys):
    given = [word for text in constraint for word in ("--constraint", text)]
    code, _, err = run(["rl", "--env", "Pendulum-v1", "--out", tmp_path / "run", *given], capsys)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


SWEEP = ("--agents", "td3", "--envs", "Pendulum-v1", "--seeds", "0", "--timesteps", "100")


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [
        ("sklearn", "supervised", ("tables", "--epochs", "1")),
        ("sklearn", "supervised", ("multilabel",)),
        ("ray", "ray", ("sweep", *SWEEP, "--backend", "ray")),
        ("optuna", "tune", ("tune", "space.yml", "--env", "Pendulum-v1", "--timesteps", "100")),
        ("scipy", "report", ("report", ROOT / "docs/results/evaluations.csv")),
    ],
)
def test_a_missing_extra_is_named(module, extra, command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("space.yml").write_text("tau: {low: 0.001, high: 0.01}\n")
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    err = fails([*command, "--out", "run"], capsys)
    assert f"error: {module} is not installed. It comes with: pip install -e '.[{extra}]' (in a checkout" in err
