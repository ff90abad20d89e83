"""The search: against a known optimum, without training; what it does after a kill."""

from __future__ import annotations

import json

import pytest
import yaml
from filelock import FileLock

from icnn_rl.cli.main import main
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.jobs import Progress
from icnn_rl.runs.run_jobs import JobState
from icnn_rl.runs.sweep import read_sweep, read_sweep_file
from icnn_rl.runs.tune import corners, integer_ranges, make_trial_jobs, open_study, read_space, search, suggest

optuna = pytest.importorskip("optuna", reason="needs the extra tune")

_SPACE = (
    "tau: {low: 1e-3, high: 1, log: true}\nn_steps: {low: 1, high: 3}\npolicy_kwargs.hidden: {choices: [[4], [4, 4]]}\n"
)


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.yml").write_text(_SPACE)
    return read_space(tmp_path / "space.yml")


@pytest.fixture
def make(tmp_path):
    options = {"agents": "icnn", "envs": "Pendulum-v1", "seeds": "0-1", "timesteps": 100}
    sweep = read_sweep({**options, "settings": ["gamma=0.9", "icnn:policy_kwargs.context=[8]"]})
    return lambda settings: make_trial_jobs(sweep, settings, tmp_path)


def _score(settings, seed):
    """Best at tau = 0.1 and two layers; n_steps = 3 always fails."""
    return -abs(settings["tau"] - 0.1) + len(settings["policy_kwargs"]["hidden"]) + 0.1 * seed


def _train(jobs):
    """In place of training: writes the return."""
    states = []
    for job in jobs:
        failed = job.config.settings["n_steps"] == 3
        states.append(JobState(job, "failed" if failed else "done", Progress(100, 0.0, None), reason="three steps"))
        if not failed:
            job.folder.mkdir(parents=True, exist_ok=True)
            mean = _score(job.config.settings, job.config.seed)
            written = {"mean": mean, "episodes": job.config.final_episodes, "timesteps": 100}
            (job.folder / "evaluation_model.json").write_text(json.dumps(written))
    return states


def test_the_search_finds_the_best_and_counts_failures(space, make, tmp_path):
    study = open_study(tmp_path / "study.log", 0)
    search(study, space, make, _train, trials=30, batch=4)
    trials = study.get_trials()
    assert len(trials) == 30
    for trial in trials:
        settings = suggest(optuna.trial.FixedTrial(trial.params), space)
        if settings["n_steps"] == 3:
            assert (trial.value, trial.user_attrs["reason"]) == (None, "three steps")
        else:
            assert trial.value == pytest.approx(_score(settings, 0.5))
    assert study.best_value == max(trial.value for trial in trials if trial.value is not None)
    assert study.best_value > 1.9


def test_a_killed_search_tries_what_was_running_again_and_does_no_more_than_asked(space, make, tmp_path):
    search(open_study(tmp_path / "study.log", 0), space, make, _train, trials=4, batch=2)

    def die(jobs):
        running.extend(jobs)
        raise KeyboardInterrupt

    running = []
    with pytest.raises(KeyboardInterrupt):
        search(open_study(tmp_path / "study.log", 0), space, make, die, trials=8, batch=2)
    seen = []
    study = open_study(tmp_path / "study.log", 0)
    search(study, space, make, lambda jobs: seen.extend(jobs) or _train(jobs), trials=8, batch=2)
    assert [job.folder for job in seen[:4]] == [job.folder for job in running]  # two trials of two seeds
    assert len(study.get_trials()) == 4 + 2 + 4
    before = len(seen)
    search(study, space, make, lambda jobs: seen.extend(jobs) or _train(jobs), trials=8, batch=2)
    assert len(seen) == before


def test_a_trial_keeps_the_settings_that_are_not_searched(make):
    jobs = make({"tau": 0.5, "policy_kwargs": {"hidden": [4]}})
    assert [job.config.seed for job in jobs] == [0, 1]
    settings = jobs[0].config.settings
    assert (settings["tau"], settings["gamma"]) == (0.5, 0.9)
    assert settings["policy_kwargs"] == {"context": [8], "hidden": [4]}
    assert make({"tau": 0.5, "policy_kwargs": {"hidden": [4]}}) == jobs
    assert make({"tau": 0.4, "policy_kwargs": {"hidden": [4]}})[0].folder != jobs[0].folder


def _tune(tmp_path, *more, env="Pendulum-v1", space="gamma: {choices: [0.9]}\n"):
    (tmp_path / "space.yml").write_text(space)
    small = ["--set", "policy_kwargs.net_arch=[8]", "--set", "td3:batch_size=8", "--warm-up", "20"]
    command = ["tune", tmp_path / "space.yml", "--agent", "td3", "--env", env, "--timesteps", "40", "--trials", "1"]
    command += ["--final-episodes", "1", "--workers", "1", "--out", tmp_path / "tune", *small, *more]
    return main([str(word) for word in command])


def test_the_best_settings_bring_the_fixed_ones_along_and_a_study_keeps_to_its_task(tmp_path, capsys):
    assert _tune(tmp_path) == 0
    best = read_sweep_file(tmp_path / "tune" / "best.yml")
    settings = {"gamma": 0.9, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    assert best == {"warm_up": 20, "settings": {"td3": settings}}
    written = (tmp_path / "tune" / "best.yml").read_bytes()
    capsys.readouterr()
    assert _tune(tmp_path, env="InvertedPendulum-v5") == 1
    assert "envs ['Pendulum-v1'] there, ['InvertedPendulum-v5'] wanted" in capsys.readouterr().err
    assert _tune(tmp_path, "--seeds", "0-1") == 1
    assert "seeds [0] there, [0, 1] wanted" in capsys.readouterr().err
    assert (tmp_path / "tune" / "best.yml").read_bytes() == written
    assert _tune(tmp_path) == 0


def test_a_search_may_set_the_environment_too(tmp_path):
    given = ["--env-kwargs", "g=5", "--wrapper", "TimeLimit:max_episode_steps=20", "--vec-normalize"]
    assert _tune(tmp_path, *given) == 0
    best = read_sweep_file(tmp_path / "tune" / "best.yml")
    around = {"env_kwargs": {"g": 5}, "wrappers": [{"TimeLimit": {"max_episode_steps": 20}}], "vec_normalize": {}}
    assert best.items() >= around.items()
    (config,) = (tmp_path / "tune" / "trials").rglob("config.yml")
    assert yaml.safe_load(config.read_text()).items() >= around.items()


def test_a_misspelt_setting_leaves_no_study_behind(tmp_path, capsys):
    assert _tune(tmp_path, "--set", "ta=0.1") == 1
    assert "ta" in capsys.readouterr().err
    assert _tune(tmp_path, "--gpus", "0.5") == 1
    assert "--gpus 0.5: means nothing" in capsys.readouterr().err
    assert not (tmp_path / "tune").exists()
    assert _tune(tmp_path, "--set", "tau=0.1") == 0


def test_one_search_at_a_time(tmp_path, capsys):
    (tmp_path / "tune").mkdir()
    with FileLock(tmp_path / "tune" / ".lock"):
        assert _tune(tmp_path) == 1
    assert "another process is at work in it" in capsys.readouterr().err


def test_a_space_can_be_checked_by_its_corners(space):
    found = corners(space)
    assert found[0] == {"tau": 0.001, "n_steps": 1, "policy_kwargs": {"hidden": [4]}}
    assert [settings["tau"] for settings in found].count(1.0) == 1
    assert [settings["n_steps"] for settings in found].count(3) == 1
    assert [settings["policy_kwargs"]["hidden"] for settings in found].count([4, 4]) == 1


@pytest.mark.parametrize("text", ["train_freq: {choices: [1, two]}", "batch_size: {choices: [8, 2.5]}"])
def test_a_value_that_the_agent_does_not_take_is_named_before_the_study_begins(text, tmp_path, capsys):
    assert _tune(tmp_path, space=text) == 1
    assert capsys.readouterr().err.startswith(f"error: {text.partition(':')[0]}: expected")
    assert not (tmp_path / "tune").exists()


def test_integers_may_be_written_as_powers_of_ten(tmp_path):
    (tmp_path / "space.yml").write_text("learning_starts: {low: 1e1, high: 3e1}\ntau: {low: 1e-3, high: 1}\n")
    space = integer_ranges(read_space(tmp_path / "space.yml"), "icnn")
    ends = [space["learning_starts"][end] for end in ("low", "high")]
    assert ends == [10, 30]
    assert all(type(end) is int for end in ends)
    assert space["tau"]["low"] == 1e-3
    (tmp_path / "space.yml").write_text("learning_starts: {low: 1, high: 2.5}")
    with pytest.raises(UserError, match=r"learning_starts: expected integers at both ends, got 1 and 2.5"):
        integer_ranges(read_space(tmp_path / "space.yml"), "icnn")


def test_a_range_of_integers_is_another_than_one_of_numbers(tmp_path, capsys):
    assert _tune(tmp_path, space="gamma: {low: 0, high: 1}") == 0
    assert _tune(tmp_path, space="gamma: {low: 0.0, high: 1.0}") == 1
    assert "the study in this folder is about something else: space" in capsys.readouterr().err


def test_the_kinds_of_ranges(space):
    settings = suggest(optuna.trial.FixedTrial({"tau": 0.01, "n_steps": 2, "policy_kwargs.hidden": "[4, 4]"}), space)
    assert settings == {"tau": 0.01, "n_steps": 2, "policy_kwargs": {"hidden": [4, 4]}}


@pytest.mark.parametrize(
    "text",
    [
        "tau: 3",
        "tau: {low: 1}",
        "tau: {low: 2, high: 1}",
        "tau: {low: 0, high: 1, log: true}",
        "tau: {low: a, high: b}",
        "tau: {low: 1, high: 2, step: 1}",
        "tau: {choices: []}",
        "tau: {low: 1, high: .inf}",
        "tau: {low: .nan, high: 1}",
    ],
)
def test_a_wrong_range_is_named(text, tmp_path):
    (tmp_path / "space.yml").write_text(text)
    with pytest.raises(UserError, match=r"^tau: expected \{low: a, high: b\} with a < b"):
        read_space(tmp_path / "space.yml")


def test_a_wrong_file_is_named(tmp_path):
    (tmp_path / "space.yml").write_text("[1]")
    with pytest.raises(UserError, match=r"space.yml: expected a search space"):
        read_space(tmp_path / "space.yml")
    with pytest.raises(UserError, match=r"none.yml: cannot be read"):
        read_space(tmp_path / "none.yml")
