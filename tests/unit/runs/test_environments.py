"""What a run does to its environment: arguments, wrappers, normalisation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3.common.vec_env import VecNormalize

from icnn_rl.cli.main import main
from icnn_rl.constraints import parse_constraint
from icnn_rl.runs import environments
from icnn_rl.runs.checkpoint import list_checkpoints, statistics_of
from icnn_rl.runs.environments import constraint_of, make_env, make_single_env, read_vec_normalize
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EVAL_SEED
from icnn_rl.runs.report import read_runs
from icnn_rl.runs.sweep import make_jobs, read_sweep
from icnn_rl.runs.train import final_evaluation, load_model, resume_run, train_run
from icnn_rl.runs.wrappers import read_wrappers

LIMIT = {"TimeLimit": {"max_episode_steps": 30}}


def test_arguments_reach_the_environment():
    assert make_single_env("Pendulum-v1", None, env_kwargs={"g": 5.0}).unwrapped.g == 5.0
    assert make_single_env("HalfCheetah-v5", None, env_kwargs={"frame_skip": 2}).unwrapped.frame_skip == 2
    env = make_env(
        "icnn_rl/Reacher-O03-v0", 1, 0, parse_constraint("box:lower=-0.5,upper=0.5"), env_kwargs={"max_power": 0.1}
    )
    tightest = make_env("icnn_rl/Reacher-O03-v0", 1, 0, env_kwargs={"max_power": 0.1})
    obs = torch.ones(1, 10)
    for some in (env, tightest):
        assert constraint_of(some).violation(obs, torch.full((1, 2), 0.06))[0] > 0  # |0.06| + |0.06| > 0.1
        some.close()


@pytest.mark.parametrize(
    ("env", "given", "message"),
    [
        ("Pendulum-v1", {"gg": 5}, "gg: not an argument of environment Pendulum-v1. Did you mean 'g"),
        (
            "HalfCheetah-v5",
            {"frame_skp": 2},
            "frame_skp: not an argument of environment HalfCheetah-v5. Did you mean 'fr",
        ),
        ("icnn_rl/Reacher-O03-v0", {"max_powr": 1}, "--env-kwargs: icnn_rl/Reacher-O03-v0 does not take .*max_powr"),
        ("HalfCheetah-v5", {"render_mode": "human"}, "render_mode: not an argument"),
    ],
)
def test_a_wrong_argument_is_named(env, given, message):
    with pytest.raises(UserError, match=message):
        make_single_env(env, None, env_kwargs=given)


def test_wrappers_lie_around_the_projection_in_their_order():
    wrappers = read_wrappers(["TimeLimit:max_episode_steps=7", {"gymnasium.wrappers.ClipAction": None}])
    assert wrappers == [{"TimeLimit": {"max_episode_steps": 7}}, {"gymnasium.wrappers.ClipAction": {}}]
    env = make_single_env("Pendulum-v1", parse_constraint("box:lower=-1,upper=1"), wrappers=wrappers)
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    assert names[:3] == ["ClipAction", "TimeLimit", "ProjectAction"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("TimeLimt:max_episode_steps=7", "--wrapper TimeLimt: .*Did you mean 'TimeLimit"),
        ("TimeLimit:max_steps=7", "max_steps: not an argument of wrapper TimeLimit. Did you mean 'max_episode_steps"),
        ("TimeLimit:7", "expected NAME or NAME:KEY=VALUE"),
        ("TimeLimit:max_episode_steps=[7", "expected NAME or NAME:KEY=VALUE"),
        ("no_such_module.Wrapper", "--wrapper no_such_module.Wrapper: No module named 'no_such_module'"),
    ],
)
def test_a_wrong_wrapper_is_named(given, message):
    with pytest.raises(UserError, match=message):
        read_wrappers([given])


def test_a_wrapper_that_refuses_the_environment_is_named():
    with pytest.raises(UserError, match="--wrapper TimeLimit: "):
        make_single_env("Pendulum-v1", None, wrappers=[{"TimeLimit": {"max_episode_steps": -1}}])
    with pytest.raises(UserError, match=r"--wrapper TimeLimit: .*max_episode_steps"):
        make_single_env("Pendulum-v1", None, wrappers=[{"TimeLimit": {}}])


def test_normalisation_is_checked():
    assert read_vec_normalize(None) is None
    assert read_vec_normalize(True) == read_vec_normalize([]) == {}
    assert read_vec_normalize(["clip_obs=5", "norm_reward=false"]) == {"clip_obs": 5, "norm_reward": False}
    with pytest.raises(UserError, match=r"clip_ob: not an argument of VecNormalize. Did you mean 'clip_obs"):
        read_vec_normalize({"clip_ob": 5})
    with pytest.raises(UserError, match="training: not an argument of VecNormalize"):
        read_vec_normalize({"training": False})


@pytest.fixture
def normalized(make_config, tmp_path):
    """normalized(folder, ...): a run in VecNormalize, and its agent."""

    def make(name="run", agent="td3", **fields):
        config = make_config(agent, timesteps=90, env="Pendulum-v1", checkpoint_freq=40, eval_freq=40)
        config = dataclasses.replace(config, wrappers=[LIMIT], vec_normalize={}, **fields)
        return tmp_path / name, train_run(config, tmp_path / name)

    return make


@pytest.mark.parametrize("agent", ["td3", "ppo"])
def test_a_saved_model_sees_observations_as_it_learned_to(agent, normalized):
    folder, model = normalized(agent=agent)
    found = final_evaluation(folder, "model", 1)
    rms = model.get_vec_normalize_env().obs_rms
    assert rms.count > 90
    env = gym.wrappers.TimeLimit(gym.make("Pendulum-v1").unwrapped, 30)
    obs, _ = env.reset(seed=EVAL_SEED)
    total, over = 0.0, False
    loaded = load_model(folder)[1]
    while not over:
        seen = np.clip((obs - rms.mean) / np.sqrt(rms.var + 1e-8), -10, 10)
        obs, reward, _, over, _ = env.step(loaded.predict(seen.astype(np.float32), deterministic=True)[0])
        total += reward
    assert found["mean"] == pytest.approx(total, rel=1e-5)


def test_evaluations_do_not_count_for_the_statistics(normalized):
    often, seldom = (normalized(name, eval_freq=freq)[1] for name, freq in (("a", 20), ("b", 90)))
    one, other = (model.get_vec_normalize_env().obs_rms for model in (often, seldom))
    assert one.count == other.count
    np.testing.assert_array_equal(one.mean, other.mean)


def test_rewards_are_scaled_with_the_agents_discount(normalized):
    assert normalized()[1].get_vec_normalize_env().gamma == 0.99
    given = make_env("Pendulum-v1", 1, 0, vec_normalize={"gamma": 0.5})
    assert isinstance(given, VecNormalize)
    assert given.gamma == 0.5
    given.close()


def test_a_resumed_run_goes_on_with_the_statistics_of_its_checkpoint(normalized, tmp_path):
    folder, whole = normalized()
    count = whole.get_vec_normalize_env().obs_rms.count
    shutil.rmtree(list_checkpoints(folder / "checkpoints")[-1])
    (folder / "model.zip").unlink()
    copy = shutil.copytree(folder, tmp_path / "copy")
    first, second = resume_run(folder), resume_run(copy)
    for model in (first, second):
        rms = model.get_vec_normalize_env().obs_rms
        assert rms.count == count + 1  # the episode that began anew
    one, other = (model.get_vec_normalize_env().obs_rms for model in (first, second))
    np.testing.assert_array_equal(one.mean, other.mean)
    assert statistics_of(folder / "best_model.zip").is_file()


def test_a_constraint_is_not_read_from_normalised_observations(tmp_path, capsys):
    power = ["--constraint", "power_limit:velocity_index=[2],max_power=1", "--env", "Pendulum-v1", "--timesteps", "30"]
    small = ["--set", "learning_starts=10", "--set", "batch_size=4", "--final-episodes", "1"]
    command = ["rl", "--agent", "td3", *power, *small, "--out", str(tmp_path / "run"), "--vec-normalize"]
    assert main(command) == 1
    assert "it would read observations that VecNormalize has normalised" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "norm_obs=false"]) == 0


def test_the_command_line_takes_it_all_and_later_commands_know(tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--env-kwargs", "g=5", "--wrapper", "TimeLimit:max_episode_steps=20", "--vec-normalize", "clip_obs=5"]
    small = ["--set", "learning_starts=10", "--set", "batch_size=4", "--timesteps", "40", "--final-episodes", "1"]
    assert main(["rl", "--agent", "td3", "--env", "Pendulum-v1", *given, *small, "--out", str(out)]) == 0
    config = yaml.safe_load((out / "config.yml").read_text())
    assert config["env_kwargs"] == {"g": 5}
    assert config["wrappers"] == [{"TimeLimit": {"max_episode_steps": 20}}]
    assert config["vec_normalize"] == {"clip_obs": 5}
    assert json.loads((out / "evaluation_model.json").read_text())["mean_length"] == 20
    assert main(["eval", str(out), "--episodes", "1", "--model", "best_model"]) == 0
    assert "length 20)" in capsys.readouterr().out
    assert main(["video", str(out), "--steps", "3", "--out", str(tmp_path / "film.gif")]) == 0
    assert main(["rl", "--resume", str(out), "--wrapper", "ClipAction", "--env-kwargs", "g=1"]) == 1
    assert "Leave out --env-kwargs, --wrapper." in capsys.readouterr().err
    ((run,), _) = read_runs([out])
    assert run.task.env == "Pendulum-v1(g=5) in TimeLimit(max_episode_steps=20)"


def test_a_sweep_takes_it_from_a_file():
    options = {"agents": "td3", "envs": "Pendulum-v1", "seeds": 0, "timesteps": 100}
    given = {"env_kwargs": {"g": 5}, "wrappers": "TimeLimit:max_episode_steps=20", "vec_normalize": True}
    sweep = read_sweep({**options, **given})
    assert read_sweep(yaml.safe_load(sweep.to_yaml())) == sweep
    (job,) = make_jobs(sweep, Path("nowhere"))
    config = job.config
    assert (config.env_kwargs, config.vec_normalize) == ({"g": 5}, {})
    assert config.wrappers == [{"TimeLimit": {"max_episode_steps": 20}}]


def test_a_constraint_is_read_once_a_run(make_config, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(environments, "parse_constraint", lambda given: read.append(given) or parse_constraint(given))
    config = dataclasses.replace(make_config("td3", n_envs=2), constraint=["l1_ball:radius=0.5"])
    train_run(config, tmp_path / "run")
    assert read == [["l1_ball:radius=0.5"]]
