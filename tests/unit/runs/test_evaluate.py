"""Evaluations: the table, the best model, the same starts for everyone."""

from __future__ import annotations

import numpy as np
import pytest

from icnn_rl.runs import evaluate as evaluation
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import (
    EvalRow,
    evaluate,
    read_evaluations,
    write_evaluations,
)
from icnn_rl.runs.train import load_model, train_run


def test_a_table_survives_its_file(tmp_path):
    rows = [EvalRow(10, -1.25, 0.5, 5, 200.0), EvalRow(20, 1e-7, 0.0, 5, 3.2)]
    write_evaluations(tmp_path / "eval.csv", rows)
    assert read_evaluations(tmp_path / "eval.csv") == rows
    header = (tmp_path / "eval.csv").read_text().splitlines()[0]
    assert header == "timesteps,mean,std,episodes,mean_length"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"eval.csv: no such file. The run has not been evaluated yet"):
        read_evaluations(tmp_path / "eval.csv")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "timesteps,mean,std,episodes,mean_length\n10,-1.2\n", "timesteps\nx\n"])
def test_something_else_than_a_table_is_named(tmp_path, text):
    (tmp_path / "eval.csv").write_text(text)
    with pytest.raises(UserError, match=r"eval.csv: not an evaluation table with the columns timesteps, mean"):
        read_evaluations(tmp_path / "eval.csv")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Pendulam-v1", "--env Pendulam-v1: .*Did you mean: `Pendulum`"),
        ("Pendulum-v99", "--env Pendulum-v99: "),
        ("no_such_module:Pendulum-v1", "--env no_such_module:Pendulum-v1: .*no_such_module"),
    ],
)
def test_an_unknown_environment_is_named(env, message):
    with pytest.raises(UserError, match=message):
        make_env(env, 1, 0)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_rows_at_the_asked_steps(n_envs, make_config, tmp_path):
    train_run(make_config(n_envs=n_envs, timesteps=90, eval_freq=20, eval_episodes=2), tmp_path)
    rows = read_evaluations(tmp_path / "eval.csv")
    assert [row.timesteps for row in rows] == [-(-step // n_envs) * n_envs for step in (20, 40, 60, 80)]
    assert {row.episodes for row in rows} == {2}


def test_the_best_model_is_the_one_with_the_highest_return(make_config, tmp_path):
    train_run(make_config(timesteps=90, eval_freq=15), tmp_path)
    rows = read_evaluations(tmp_path / "eval.csv")
    best = max(rows, key=lambda row: row.mean)  # the first of equals
    _, model = load_model(tmp_path, "best_model")
    assert model.num_timesteps == best.timesteps
    returns, _ = evaluate(model, "InvertedPendulum-v5", 1)
    assert returns[0] == pytest.approx(best.mean)


def test_a_run_killed_while_it_writes_its_table_has_the_model_of_every_row(make_config, tmp_path, monkeypatch):
    def killed(path, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "write_evaluations", killed)
    with pytest.raises(KeyboardInterrupt):
        train_run(make_config(timesteps=90, eval_freq=15), tmp_path)
    assert (tmp_path / "best_model.zip").is_file()


def test_evaluating_again_gives_the_same_numbers(make_config, tmp_path):
    model = train_run(make_config(timesteps=40), tmp_path)
    first, lengths = evaluate(model, "InvertedPendulum-v5", 3)
    np.random.rand()  # noqa: NPY002  (whatever the global generator did in between)
    second, _ = evaluate(model, "InvertedPendulum-v5", 3)
    np.testing.assert_array_equal(first, second)
    assert first.shape == lengths.shape == (3,)
    np.testing.assert_array_equal(first, lengths - 1)  # this task pays 1 a step, but for the last


def test_one_environment_serves_all_evaluations_of_a_run(make_config, tmp_path, monkeypatch):
    made = []
    original = evaluation.make_env
    monkeypatch.setattr(evaluation, "make_env", lambda *args, **more: made.append(original(*args, **more)) or made[-1])
    model = train_run(make_config(timesteps=80, eval_freq=20, eval_episodes=2, learning_starts=79), tmp_path)
    assert len(made) == 1
    rows = read_evaluations(tmp_path / "eval.csv")
    assert len(rows) == 4
    assert len({row[1:] for row in rows[:3]}) == 1  # no update between them: the same starts, the same returns
    returns, _ = evaluate(model, "InvertedPendulum-v5", 2)  # in an environment of its own
    assert rows[-1].mean == returns.mean()


def test_a_task_of_its_own_generator_starts_alike_every_time(make_config, tmp_path):
    model = train_run(make_config(env="Pendulum-v1", timesteps=30), tmp_path)
    env = evaluation.make_evaluation_env("Pendulum-v1", 3)
    first = evaluation.run_episodes(model, env, 3)
    env.step(np.zeros((3, 1)))  # whatever happened to it in between
    again = evaluation.run_episodes(model, env, 3)
    env.close()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], evaluate(model, "Pendulum-v1", 3)[0])


def test_mujoco_says_everything_once(capfd):
    from icnn_rl.runs import environments

    environments._hear_mujoco_once.cache_clear()
    make_env("HalfCheetah-v5", 3, 0).close()
    make_env("HalfCheetah-v5", 1, 0).close()
    assert "".join(capfd.readouterr()).count("settotalmass") <= 1


@pytest.mark.parametrize(
    ("timesteps", "episodes"), [(600, (1, 2)), (4000, (2, 8)), (10_000, (5, 20)), (10**6, (5, 20))]
)
def test_short_runs_are_evaluated_over_fewer_episodes(timesteps, episodes):
    from icnn_rl.runs.config.defaults import default_episodes

    assert default_episodes(timesteps) == episodes


def test_a_model_that_is_not_there_yet_says_what_to_do(make_config, tmp_path):
    train_run(make_config(timesteps=30, eval_freq=20), tmp_path)
    (tmp_path / "model.zip").unlink()
    with pytest.raises(UserError, match=r"model.zip: no such file. .*--resume .*--model best_model"):
        load_model(tmp_path)
    (tmp_path / "best_model.zip").unlink()
    for which in ("model", "best_model"):
        with pytest.raises(UserError, match=rf"{which}.zip: no such file. .*--resume") as caught:
            load_model(tmp_path, which)
        assert "--model" not in str(caught.value)  # there is none either
