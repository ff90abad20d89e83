"""Sweeps: what they consist of, and jobs that are killed, fail, are done or belong to another sweep."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from icnn_rl.cli.main import main
from icnn_rl.cli.pool import cpus
from icnn_rl.runs.config.defaults import constructor_defaults, resolve_settings
from icnn_rl.runs.config.record import read_record
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import read_evaluations
from icnn_rl.runs.jobs import JobError, Progress, check_folder, is_finished, read_progress, run_job
from icnn_rl.runs.pools import local_pool
from icnn_rl.runs.run_jobs import JobState, draw, run_jobs
from icnn_rl.runs.sweep import make_jobs, merge_options, read_sweep, read_sweep_file

ROOT = Path(__file__).resolve().parents[3]
_PLAIN = {"agents": "icnn,td3", "envs": "Pendulum-v1,InvertedPendulum-v5", "seeds": "0-2", "timesteps": 1000}


def _jobs(**options):
    return {job.name: job for job in make_jobs(read_sweep({**_PLAIN, **options}), Path("out"))}


# what a sweep consists of


def test_every_combination_is_a_job_and_first_seeds_come_first():
    names = list(_jobs())
    assert len(names) == len(set(names)) == 2 * 2 * 3
    assert names[:4] == [
        f"{env}-{agent}-s0" for env in ("Pendulum-v1", "InvertedPendulum-v5") for agent in ("icnn", "td3")
    ]
    config = _jobs()["Pendulum-v1-td3-s2"].config
    assert (config.agent, config.env, config.seed, config.timesteps) == ("td3", "Pendulum-v1", 2, 1000)
    assert (config.eval_freq, config.checkpoint_freq, config.device) == (100, 100, "cpu")


@pytest.mark.parametrize(
    ("given", "seeds"), [("3", [3]), (7, [7]), ("0-3", [0, 1, 2, 3]), ("5,0-1,1", [5, 0, 1]), ([2, "4-5"], [2, 4, 5])]
)
def test_seeds(given, seeds):
    assert read_sweep({**_PLAIN, "seeds": given}).seeds == seeds


def test_an_environment_of_ones_own_is_found_in_its_module(tmp_path, monkeypatch):
    (tmp_path / "a_task_of_ones_own.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('OnesOwn-v0', 'gymnasium.envs.classic_control.pendulum:PendulumEnv', max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = _jobs(envs="a_task_of_ones_own:OnesOwn-v0", agents="td3", seeds="0", timesteps=10)
    assert name == "a_task_of_ones_own_OnesOwn-v0-td3-s0"
    with pytest.raises(UserError, match="--envs no_such_module:OnesOwn-v0: No module named 'no_such_module'"):
        _jobs(envs="no_such_module:OnesOwn-v0")


@pytest.mark.parametrize("given", [["1000", "InvertedPendulum-v5=300"], {"default": 1000, "InvertedPendulum-v5": 300}])
def test_steps_by_environment(given):
    jobs = _jobs(timesteps=given)
    assert jobs["Pendulum-v1-icnn-s0"].config.timesteps == 1000
    assert jobs["InvertedPendulum-v5-icnn-s0"].config.timesteps == 300


@pytest.mark.parametrize(
    ("warm_up", "timesteps", "icnn", "td3"),
    [("tenth", 2000, 200, 200), ("tenth", 300_000, 10_000, 10_000), ("own", 2000, None, 1000), ("70", 2000, 70, 70)],
)
def test_warm_up_is_the_same_for_all_unless_said(warm_up, timesteps, icnn, td3):
    jobs = _jobs(warm_up=warm_up, timesteps=timesteps, agents="icnn,td3,ppo")
    assert jobs["Pendulum-v1-icnn-s0"].config.settings.get("learning_starts") == icnn
    assert jobs["Pendulum-v1-td3-s0"].config.settings["learning_starts"] == td3
    assert "learning_starts" not in jobs["Pendulum-v1-ppo-s0"].config.settings


def test_the_explicit_tenth_is_the_agents_own_rule():
    from icnn_rl.agents import ICNNQ

    agent = ICNNQ("MlpPolicy", "Pendulum-v1")
    agent._setup_learn(2000, None)
    assert agent.learning_starts == _jobs(timesteps=2000)["Pendulum-v1-icnn-s0"].config.settings["learning_starts"]


def test_settings_of_all_agents_and_of_one_win_over_the_warm_up():
    jobs = _jobs(settings=["learning_starts=50", "td3:learning_starts=60", "td3:learning_rate=3e-4", "tau=0.01"])
    icnn, td3 = (jobs[f"Pendulum-v1-{agent}-s0"].config.settings for agent in ("icnn", "td3"))
    assert icnn == {"learning_starts": 50, "tau": 0.01}
    assert (td3["learning_starts"], td3["learning_rate"], td3["tau"]) == (60, 3e-4, 0.01)


def test_a_file_says_the_same_and_what_is_written_is_read_again(tmp_path):
    sweep = read_sweep({**_PLAIN, "settings": ["td3:tau=0.01"], "warm_up": 70})
    (tmp_path / "a.yml").write_text(sweep.to_yaml())
    assert read_sweep(read_sweep_file(tmp_path / "a.yml")) == sweep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": "icnn,td4"}, "agent 'td4': unknown; expected some of ddpg, icnn"),
        ({"envs": "Pendulum-v9"}, "--envs Pendulum-v9: "),
        ({"seeds": "3-1"}, "--seeds 3-1: expected integers"),
        ({"seeds": None}, "--seeds: missing"),
        ({"timesteps": {"Pendulum-v1": 10}}, "--timesteps: none for InvertedPendulum-v5"),
        ({"timesteps": "many"}, "timesteps: expected an integer >= 1, got 'many'"),
        ({"warm_up": "half"}, "--warm-up: expected tenth, own or a number"),
        ({"settings": {"tau": 1}}, "settings: expected agent: {key: value}"),
        ({"eval_freq": 0}, "eval_freq: expected an integer >= 1, got 0"),
        ({"n_envs": None}, "n_envs: expected an integer >= 1, got None"),
        ({"agents": 3}, "--agents: expected names, a list or with commas between, got 3"),
        ({"seeds": "²"}, "--seeds ²: expected integers"),
        ({"timesteps": ["1000", "Pendulum=50"]}, "--timesteps Pendulum: "),
        ({"timesteps": ["1000", "2000"]}, "--timesteps: a number for all twice, 1000 and 2000"),
        ({"constraint": ["none", "l1:radius=1"]}, "--constraint none: together with others"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError) as caught:
        read_sweep({**_PLAIN, **options})
    assert message in str(caught.value)


def test_numbers_may_be_texts_and_a_file_may_tell_of_more_tasks():
    sweep = read_sweep({**_PLAIN, "n_envs": "2", "timesteps": {"default": 1000, "Walker2d-v5": 2000}})
    assert (sweep.n_envs, sweep.eval_freq) == (2, None)


@pytest.mark.parametrize("given", ["none", ["none"]])
def test_a_constraint_of_a_file_is_read_as_on_the_command_line(given, tmp_path):
    assert read_sweep({**_PLAIN, "constraint": given}).constraint == "none"
    (tmp_path / "limits.yml").write_text("{l2: {radius: 0.5}}")
    limits = read_sweep({**_PLAIN, "constraint": str(tmp_path / "limits.yml")}).constraint
    assert limits == [{"l2": {"radius": 0.5}}]
    assert read_sweep({**_PLAIN, "constraint": limits}).constraint == limits


def test_options_given_win_one_by_one():
    """For all agents, over what the file says of one, too."""
    file = {"settings": {"td3": {"gamma": 0.9, "learning_rate": 5e-4, "policy_kwargs": {"net_arch": [8]}}}, "n_envs": 2}
    given = {"settings": ["gamma=0.8", "td3:policy_kwargs.n_critics=3", "icnn:tau=0.1"]}
    merged = merge_options({**_PLAIN, **file}, given)
    assert read_sweep(merged).settings == {
        "all": {"gamma": 0.8},
        "td3": {"gamma": 0.8, "learning_rate": 5e-4, "policy_kwargs": {"net_arch": [8], "n_critics": 3}},
        "icnn": {"gamma": 0.8, "tau": 0.1},
    }
    assert merged["n_envs"] == 2
    assert read_sweep(merge_options({**_PLAIN, **file}, {})).settings == file["settings"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray-address", "10.0.0.1:6379"], "--ray-address 10.0.0.1:6379: means nothing to --backend local"),
        (["--gpus", "0.25"], "--gpus 0.25: means nothing to --backend local. Leave it out, or choose --backend ray"),
        (["--backend", "ray", "--workers", "3"], "--workers 3: means nothing to --backend ray"),
    ],
)
def test_options_of_the_other_backend_are_refused(words, message, tmp_path, capsys):
    command = ["sweep", "--agents", "td3", "--envs", "Pendulum-v1", "--seeds", "0", "--timesteps", "10", *words]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_of_a_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / "a.yml").write_text("agent: icnn\n")
    with pytest.raises(UserError, match=r"a.yml: agent is no option of a sweep. Did you mean 'agents'"):
        read_sweep_file(tmp_path / "a.yml")


# running


def _job(folder, agent="td3", timesteps=300, **settings):
    small = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 20, "batch_size": 8, **settings}
    given = {"envs": "Pendulum-v1", "agents": agent, "seeds": 0, "timesteps": timesteps, "eval_episodes": 1}
    (job,) = make_jobs(read_sweep({**given, "checkpoint_freq": 50, "final_episodes": 1}), folder)
    settings = resolve_settings(agent, "Pendulum-v1", small)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, settings=settings))


def _steps(job):
    return [row.timesteps for row in read_evaluations(job.folder / "eval.csv")]


def test_a_killed_job_is_resumed_and_a_failing_one_stops_nobody(tmp_path):
    killed, fine = _job(tmp_path, timesteps=1500), _job(tmp_path, "ddpg")
    wrong = _job(tmp_path, "sac", ent_coef="nonsense")
    seen = []

    def show(states):
        Console(quiet=True).print(draw(states))
        seen.extend(state.state for state in states)
        checkpoints = list((killed.folder / "checkpoints").glob("step_*"))
        (child,) = [p for p in multiprocessing.active_children() if p.name == killed.name] or [None]
        if checkpoints and child and not victims:
            victims.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    victims = []
    with local_pool(2) as submit:
        states = run_jobs([killed, wrong, fine], submit, 2, show)
    assert [state.state for state in states] == ["done", "failed", "done"]
    assert victims
    assert [state.attempts for state in states] == [1, 0, 0]
    assert "nonsense" in states[1].reason
    assert {"waiting", "running"} <= set(seen)
    assert _steps(killed) == list(range(150, 1501, 150))
    assert "going on from step" in killed.beside("log").read_text()
    assert read_progress(killed).timesteps == 1500

    before = {path: path.read_bytes() for job in (killed, fine) for path in job.folder.rglob("*") if path.is_file()}
    again = run_jobs([killed, fine], _never, 2, lambda states: None)
    assert [state.state for state in again] == ["done", "done"]
    assert all(path.read_bytes() == contents for path, contents in before.items())


def _never(job):
    raise AssertionError(f"{job.name} was started")


def test_the_table_shows_those_at_work_first_and_the_time_left(tmp_path):
    jobs = [_job(tmp_path, agent, timesteps=1000) for agent in ("td3", "sac", "ddpg")]
    states = [
        JobState(jobs[0], "done", Progress(1000, 0.0, 5.0), final=6.0),
        JobState(jobs[1], "running", Progress(400, 10.0, 5.0), attempts=1),
        JobState(jobs[2], "waiting", Progress(0, 0.0, None)),
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw(states, rows=2))
    _, running, waiting, counts = (line.split() for line in console.export_text().splitlines())
    assert running == [
        *["Pendulum-v1-sac-s0", "running", "(try", "2)", "400", "/", "1000", "10", "5.0", "so", "far", "0:01:00"]
    ]
    assert waiting == ["Pendulum-v1-ddpg-s0", "waiting", "0", "/", "1000"]
    assert counts == ["3", "jobs:", "1", "running,", "0", "failed,", "1", "waiting,", "1", "done;", "0:02:40", "left"]


def test_a_finished_job_tells_the_return_that_reports_have(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--agents", "ppo", "--envs", "Pendulum-v1", "--seeds", "0", "--timesteps", "100", "--workers", "1"]
    small = ["--set", "n_steps=50", "--set", "batch_size=10", "--eval-episodes", "1", "--final-episodes", "3"]
    assert main(["sweep", *options, *small, "--out", str(out)]) == 0
    folder = out / "Pendulum-v1-ppo-s0"
    final = json.loads((folder / "evaluation_model.json").read_text())["mean"]
    assert f"done, final return {final:.1f} over 3 episodes" in capsys.readouterr().out
    assert f"{final:.1f}" != f"{read_evaluations(folder / 'eval.csv')[-1].mean:.1f}"
    state = JobState(_job(tmp_path, timesteps=100), "done", Progress(100, 0.0, 5.0), final=final)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw([state]))
    assert f"{final:.1f} final" in console.export_text()


def test_a_job_that_breaks_off_is_tried_again_so_often_and_no_more(tmp_path):
    starts = []

    def submit(job):
        starts.append(job.name)
        future = Future()
        future.set_exception(JobError("no luck") if "td3" in job.name else UserError("never"))
        return future

    states = run_jobs([_job(tmp_path), _job(tmp_path, "sac")], submit, 2, lambda states: None)
    assert sorted(starts) == ["Pendulum-v1-sac-s0"] + ["Pendulum-v1-td3-s0"] * 3
    assert [(state.state, state.reason) for state in states] == [("failed", "no luck"), ("failed", "never")]


def test_the_reason_is_the_error_that_ray_wraps(tmp_path):
    class TaskError(UserError):
        cause = UserError("never")

        def __str__(self):
            return "ray::run_job() ... Traceback"

    def submit(job):
        future = Future()
        future.set_exception(TaskError())
        return future

    (state,) = run_jobs([_job(tmp_path)], submit, 2, lambda states: None)
    assert (state.state, state.reason) == ("failed", "never")


def test_workers_are_as_many_as_cpus_where_the_system_does_not_tell_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cpus() == os.cpu_count()


def test_a_job_in_this_process_takes_up_what_it_finds(tmp_path):
    whole, parts = _job(tmp_path / "a"), _job(tmp_path / "b")
    run_job(whole)
    assert is_finished(whole)
    run_job(parts)
    (parts.folder / "evaluation_model.json").unlink()  # killed before the last evaluation
    (parts.folder / ".config-x.yml").touch()
    run_job(parts)
    assert (parts.folder / "evaluation_model.json").read_text() == (whole.folder / "evaluation_model.json").read_text()
    assert _steps(whole) == list(range(30, 301, 30))
    log = whole.beside("log").read_text()
    run_job(whole)
    assert whole.beside("log").read_text() == log


def test_a_folder_with_other_settings_is_refused_before_anything_starts(tmp_path):
    job = _job(tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "config.yml").write_text(job.config.to_yaml({"started": "now"}))
    check_folder(job)
    other = dataclasses.replace(job, config=dataclasses.replace(job.config, timesteps=200))
    with pytest.raises(UserError, match="holds a run with other settings: timesteps 300 there, 200 wanted"):
        run_jobs([other], _never, 0, lambda states: None)
    defaults = constructor_defaults(job.config.agent) | {"tau": 0.5}  # as a version with another default leaves it
    (job.folder / "config.yml").write_text(job.config.to_yaml({"defaults": defaults}))
    with pytest.raises(UserError, match=r"holds a run with other settings: tau 0\.5 there, 0\.005 wanted"):
        run_jobs([job], _never, 0, lambda states: None)


def test_an_exception_is_kept_with_its_traceback(tmp_path, monkeypatch):
    from icnn_rl.runs import jobs

    def fail(*args, **options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(jobs, "train_run", fail)
    job = _job(tmp_path)
    with pytest.raises(JobError, match=r"ZeroDivisionError: by zero. Its log: .*td3-s0.log"):
        run_job(job)
    assert "Traceback" in job.beside("log").read_text()


def test_two_processes_never_train_into_one_folder(tmp_path, monkeypatch):
    from filelock import FileLock

    from icnn_rl.runs import jobs

    monkeypatch.setattr(jobs, "_LOCK_PATIENCE", 0.05)
    job = _job(tmp_path)
    job.folder.mkdir(parents=True)
    with FileLock(job.folder / ".lock"), pytest.raises(JobError, match="another process is at work in it"):
        run_job(job)
    assert [path.name for path in job.folder.iterdir()] == [".lock"]


def test_a_sweep_of_more_steps_makes_its_runs_longer(tmp_path, monkeypatch):
    from icnn_rl.runs import jobs

    given = {"envs": "Pendulum-v1", "agents": "td3,ppo", "seeds": 0, "eval_episodes": 1, "final_episodes": 1}
    given["settings"] = {"td3": {"batch_size": 8}, "ppo": {"n_steps": 50, "batch_size": 10}}
    for timesteps in (100, 200, 400):
        for job in make_jobs(read_sweep({**given, "timesteps": timesteps}), tmp_path):
            assert not is_finished(job)
            run_job(job)
            assert is_finished(job)
    again = make_jobs(read_sweep({**given, "timesteps": 400}), tmp_path)
    assert all(is_finished(job) for job in again)
    for job in again:
        check_folder(job)
        assert _steps(job) == list(range(10, 401, 10)) if job.config.agent == "td3" else _steps(job)[-1] == 400
        assert read_record(job.folder / "config.yml")["lengths"] == [100, 200, 400]
    (td3,) = (job for job in again if job.config.agent == "td3")
    assert td3.config.settings["learning_starts"] == 10
    monkeypatch.setattr(jobs, "train_run", None)
    shorter = make_jobs(read_sweep({**given, "timesteps": 200}), tmp_path)[0]
    with pytest.raises(UserError, match="timesteps 400 there, 200 wanted"):
        check_folder(shorter)


def test_more_episodes_wanted_are_evaluated_without_training(tmp_path, monkeypatch):
    from icnn_rl.runs import jobs

    job = _job(tmp_path)
    run_job(job)
    for name in ("train_run", "resume_run"):
        monkeypatch.setattr(jobs, name, None)
    more = dataclasses.replace(job, config=dataclasses.replace(job.config, final_episodes=2))
    assert not is_finished(more)
    run_job(more)
    assert is_finished(more)
    assert not is_finished(job)
    assert json.loads((job.folder / "evaluation_model.json").read_text())["episodes"] == 2


def test_a_last_rollout_beyond_the_end_leaves_no_time(tmp_path):
    state = JobState(_job(tmp_path), "running", Progress(2048, 10.0, None))
    assert (state.steps_left, state.seconds_left) == (0, 0.0)


def test_the_command_names_a_report_that_works(tmp_path, capsys):
    out = tmp_path / "my runs"
    settings = yaml.safe_dump({"settings": {"td3": _job(tmp_path).config.settings}})
    (tmp_path / "sweep.yml").write_text(settings)
    command = ["sweep", str(tmp_path / "sweep.yml"), "--agents", "td3", "--envs", "Pendulum-v1", "--seeds", "0"]
    assert main([*command, "--timesteps", "40", "--final-episodes", "1", "--workers", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    words = shlex.split(printed.partition("A report of them: ")[2])
    assert words == ["icnn-rl", "report", str(out), "--out", f"{out}-report"]
    pytest.importorskip("scipy", reason="needs the extra report")
    assert main([*words[1:], "--resamples", "50"]) == 0


def test_the_command_is_interrupted_and_goes_on(tmp_path):
    given = _job(tmp_path, timesteps=100_000)
    sweep = {
        "agents": "td3",
        "envs": "Pendulum-v1",
        "seeds": [0, 1],
        "timesteps": 100_000,
        "settings": {"td3": given.config.settings},
        "checkpoint_freq": 50,
        "eval_episodes": 1,
    }
    (tmp_path / "sweep.yml").write_text(yaml.safe_dump(sweep))
    command = [sys.executable, str(ROOT / "train.py"), "sweep", "sweep.yml", "--out", "out", "--workers", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoints = tmp_path / "out" / "Pendulum-v1-td3-s0" / "checkpoints"
    while not list(checkpoints.glob("step_*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # to the parent only: it must end its children itself
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "stopped; the same command goes on from the last checkpoints.\n")
    done = sorted(checkpoints.iterdir())
    time.sleep(0.5)
    assert sorted(checkpoints.iterdir()) == done
    assert not (tmp_path / "out" / "Pendulum-v1-td3-s1").exists()
