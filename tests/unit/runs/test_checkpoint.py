"""Same seed, same run; and everything that a checkpoint must bring back."""

from __future__ import annotations

import csv
import dataclasses
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback

from icnn_rl.runs import checkpoint as checkpoint_module
from icnn_rl.runs import evaluate as evaluation
from icnn_rl.runs.checkpoint import (
    discard_unfinished,
    grow_buffer,
    latest_checkpoint,
    list_checkpoints,
    restore,
    save_checkpoint,
)
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.build import build_agent
from icnn_rl.runs.config.record import read_record
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import read_evaluations
from icnn_rl.runs.folder import read_manifest
from icnn_rl.runs.train import load_model, resume_run, train_run, write_config

_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones")


def assert_same(a, b, where="", *, but=()):
    """Equality through nested dicts, lists, tensors and arrays; names the place that differs."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - set(but):
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b, where


def generators(model):
    """The state of every random generator that a run draws from."""
    envs = [env.np_random.bit_generator.state for env in model.env.get_attr("unwrapped")]
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  (SB3 draws from the global generator)
        "torch": torch.get_rng_state(),
        "warm-up actions": model.action_space.np_random.bit_generator.state,
        "envs": envs,
    }


@pytest.fixture
def open_env():
    """open_env(config): the run's environments, closed after the test."""
    opened = []

    def make(config):
        opened.append(make_env(config.env, config.n_envs, config.seed))
        return opened[-1]

    yield make
    for env in opened:
        env.close()


def learn(config, env):
    return build_agent(config, env, None).learn(config.timesteps)


# the same seed


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_the_same_seed_gives_the_same_run(agent, make_config, tmp_path):
    first = train_run(make_config(agent), tmp_path / "a")
    second = train_run(make_config(agent), tmp_path / "b")
    assert first._n_updates > 0
    assert_same(first.get_parameters(), second.get_parameters())
    assert read_evaluations(tmp_path / "a" / "eval.csv") == read_evaluations(tmp_path / "b" / "eval.csv")


def test_another_seed_gives_another_run(make_config, tmp_path):
    first = train_run(make_config(timesteps=30), tmp_path / "a")
    second = train_run(make_config(timesteps=30, seed=4), tmp_path / "b")
    assert not np.array_equal(first.replay_buffer.actions, second.replay_buffer.actions)


@pytest.mark.parametrize("other", [{"eval_freq": 7, "eval_episodes": 2}, {"checkpoint_freq": 9}])
def test_looking_on_does_not_change_the_run(other, make_config, tmp_path):
    plain = train_run(make_config(), tmp_path / "a")
    watched = train_run(make_config(**other), tmp_path / "b")
    assert_same(plain.get_parameters(), watched.get_parameters())


# what is restored


@pytest.mark.parametrize("agent", sorted(AGENTS))
@pytest.mark.parametrize("n_envs", [1, 2])
def test_everything_is_restored(agent, n_envs, make_config, open_env, tmp_path):
    config = make_config(agent, n_envs=n_envs)
    model = learn(config, open_env(config))
    path = save_checkpoint(model, tmp_path)
    assert path.name == f"step_{model.num_timesteps:09d}"
    saved = generators(model)
    for draw in (random.random, np.random.rand, lambda: torch.rand(1)):  # another process has other states
        draw()

    restored = restore(AGENTS[agent], path, open_env(config), "cpu")
    assert_same(saved, generators(restored))
    assert_same(model.get_parameters(), restored.get_parameters())  # nets, targets, optimisers
    for name in ("num_timesteps", "_n_updates", "_episode_num", "seed", "n_envs", "gamma", "tau"):
        assert getattr(model, name, None) == getattr(restored, name, None), name
    assert_same(list(model.ep_info_buffer), list(restored.ep_info_buffer))
    if agent == "sac":
        assert torch.equal(model.log_ent_coef, restored.log_ent_coef)
    if agent != "ppo":
        old, new = model.replay_buffer, restored.replay_buffer
        assert type(old) is type(new)
        assert (old.pos, old.full, old.buffer_size) == (new.pos, new.full, new.buffer_size)
        for name in _BUFFER:
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name), err_msg=name)
        np.testing.assert_array_equal(np.delete(old.timeouts, old.pos - 1, 0), np.delete(new.timeouts, new.pos - 1, 0))
    # the next episode starts where it would have, not where the first one did
    np.testing.assert_array_equal(model.env.reset(), restored.env.reset())


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_an_agent_restored_in_another_place_predicts_the_same(agent, make_config, open_env, tmp_path):
    config = make_config(agent, timesteps=40)
    model = learn(config, open_env(config))
    restored = restore(AGENTS[agent], save_checkpoint(model, tmp_path), open_env(config), "cpu")
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(obs, deterministic=True)[0], restored.predict(obs, deterministic=True)[0]
    )


# going on


@pytest.fixture
def interrupted(make_config, tmp_path):
    """interrupted("icnn", timesteps=120): a run folder as a kill leaves it, the last checkpoint before the end."""

    def make(agent="icnn", **given):
        config = make_config(agent, **{"timesteps": 120, **given})
        folder = tmp_path / "run"
        train_run(config, folder)
        shutil.rmtree(list_checkpoints(folder / "checkpoints")[-1])
        (folder / "model.zip").unlink()
        return config, folder

    return make


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_resuming_twice_gives_the_same_weights(agent, interrupted, tmp_path):
    config, folder = interrupted(agent)
    start = list_checkpoints(folder / "checkpoints")[-1]
    copy = shutil.copytree(folder, tmp_path / "copy")
    first = resume_run(folder)
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    second = resume_run(copy)
    assert int(start.name.removeprefix("step_")) < first.num_timesteps
    assert config.timesteps <= first.num_timesteps < config.timesteps + 32
    assert_same(first.get_parameters(), second.get_parameters())
    _, loaded = load_model(folder)
    assert_same(first.get_parameters(), loaded.get_parameters())


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_resumed_run_reaches_the_end_with_whole_tables(n_envs, interrupted):
    config, folder = interrupted(n_envs=n_envs, eval_freq=25)
    model = resume_run(folder)
    expected = [-(-step // n_envs) * n_envs for step in (25, 50, 75, 100)]
    assert [row.timesteps for row in read_evaluations(folder / "eval.csv")] == expected
    assert model.num_timesteps == config.timesteps
    assert model.replay_buffer.pos * n_envs == config.timesteps
    learning_starts = config.settings["learning_starts"]
    assert model._n_updates == sum(step > learning_starts for step in range(n_envs, config.timesteps + 1, n_envs))
    assert not (folder / ".progress.csv").exists()


@pytest.mark.parametrize("lost", ["2.0,80,7,9,9,9,9,9,9\n", "\0\0,\0\0\n", "3"])
def test_a_damaged_log_does_not_keep_a_run_from_going_on(lost, interrupted):
    _, folder = interrupted()
    table = folder / "progress.csv"
    whole = table.read_text().splitlines(keepends=True)
    table.write_text("".join(whole[:2]) + lost)
    model = resume_run(folder)
    assert model.num_timesteps == 120
    with table.open(newline="") as stream:
        steps = [float(row["time/total_timesteps"]) for row in csv.DictReader(stream)]
    assert steps == sorted(steps)
    assert steps[-1] == 120


def test_the_best_model_is_not_of_steps_that_are_lost(make_config, tmp_path, monkeypatch):
    returns = iter([1.0, 2.0, 3.0, 0.0, 0.0])  # the third after the last checkpoint, and done again after it
    monkeypatch.setattr(evaluation, "run_episodes", lambda *_: (np.array([next(returns)]), np.array([1.0])))
    config, folder = make_config(timesteps=120, checkpoint_freq=60, eval_freq=30), tmp_path / "run"
    train_run(dataclasses.replace(config, timesteps=90), folder)  # evaluated after 30, 60 and 90 steps
    shutil.rmtree(list_checkpoints(folder / "checkpoints")[-1])
    assert load_model(folder, "best_model")[1].num_timesteps == 90
    (folder / "model.zip").unlink()
    write_config(config, folder)
    resume_run(folder)
    assert [row.mean for row in read_evaluations(folder / "eval.csv")] == [1.0, 2.0, 0.0, 0.0]
    assert load_model(folder, "best_model")[1].num_timesteps == 60


class RateOf(BaseCallback):
    """The learning rate of the update before each step."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def _on_step(self):
        self.rates.append(self.model.critic.optimizer.param_groups[0]["lr"])
        return True


def test_a_falling_learning_rate_goes_on_falling_after_a_kill(interrupted):
    _, folder = interrupted(learning_rate="lin_1e-3", timesteps=120)
    callback = RateOf()
    resume_run(folder, callbacks=[callback])
    assert callback.rates == pytest.approx([1e-3 * (120 - step) / 120 for step in range(80, 120)])


def test_warm_up_actions_are_not_drawn_twice(interrupted):
    _, folder = interrupted(learning_starts=1000, exploration_noise=0)
    actions = resume_run(folder).replay_buffer.actions[:, 0, 0]
    assert len(np.unique(actions[:120])) == 120


# made longer


@pytest.mark.parametrize(("agent", "n_envs"), [("icnn", 1), ("td3", 3), ("ppo", 1)])
def test_a_run_made_longer_is_the_long_run_that_was_stopped_there(agent, n_envs, make_config, tmp_path, capsys):
    short = make_config(agent, timesteps=60, n_envs=n_envs)
    long = dataclasses.replace(short, timesteps=120)
    train_run(short, tmp_path / "longer")
    train_run(long, tmp_path / "stopped")
    for folder in list_checkpoints(tmp_path / "stopped" / "checkpoints"):
        shutil.rmtree(folder)
    (tmp_path / "stopped" / "model.zip").unlink()
    last = list_checkpoints(tmp_path / "longer" / "checkpoints")[-1]
    shutil.copytree(last, tmp_path / "stopped" / "checkpoints" / last.name)
    longer = resume_run(tmp_path / "longer", timesteps=120)
    assert "60 steps become 120; what falls over the run" in capsys.readouterr().out
    stopped = resume_run(tmp_path / "stopped")
    assert_same(longer.get_parameters(), stopped.get_parameters())
    if agent != "ppo":
        assert longer.replay_buffer.size() * n_envs == 120
        assert longer.replay_buffer.buffer_size == longer.buffer_size // n_envs == (120 + n_envs) // n_envs
    record = read_record(tmp_path / "longer" / "config.yml")
    assert (record["timesteps"], record["lengths"]) == (120, [60, 120])
    rows = read_evaluations(tmp_path / "longer" / "eval.csv")
    assert [row.timesteps for row in rows][:2] == [-(-40 // n_envs) * n_envs, -(-80 // n_envs) * n_envs]


def test_the_learning_rate_of_a_run_made_longer_falls_over_all_of_it(make_config, tmp_path):
    train_run(make_config(learning_rate="lin_1e-3", timesteps=60), tmp_path)
    callback = RateOf()
    resume_run(tmp_path, timesteps=120, callbacks=[callback])
    assert callback.rates[1:] == pytest.approx([1e-3 * (120 - step) / 120 for step in range(61, 120)])


def test_a_run_is_not_made_shorter(make_config, tmp_path):
    train_run(make_config(timesteps=60), tmp_path)
    before = (tmp_path / "config.yml").read_text()
    with pytest.raises(UserError, match=r"--timesteps 50: the run in .* has 60. Give as many, or more."):
        resume_run(tmp_path, timesteps=50)
    assert (tmp_path / "config.yml").read_text() == before


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("stored", [5, 8, 11])  # of 8 places: some empty, full, round again
def test_a_buffer_that_grows_keeps_its_newest_transitions(stored, slim, open_env, make_config):
    options = {"optimize_memory_usage": slim, "replay_buffer_kwargs": {"handle_timeout_termination": not slim}}
    model = TD3("MlpPolicy", open_env(make_config("td3", n_envs=2)), buffer_size=16, **options)
    buffer = model.replay_buffer

    def state(i):
        return np.full((2, 4), i, np.float32)

    for i in range(stored):
        buffer.add(state(i), state(i + 1), np.full((2, 1), i / 100, np.float32), np.full(2, i), np.zeros(2), [{}, {}])
    grow_buffer(model, 40)
    assert (buffer.buffer_size, model.buffer_size, buffer.full) == (20, 40, False)
    held = range(max(0, stored - (7 if slim else 8)), stored) if stored >= 8 else range(stored)
    for row, i in enumerate(held):
        assert buffer.observations[row, 0, 0] == buffer.rewards[row, 1] == i
        following = buffer.observations[row + 1] if slim else buffer.next_observations[row]
        assert following[0, 0] == i + 1
    assert buffer.pos == len(held)


def test_a_finished_run_is_left_as_it_is(make_config, tmp_path, capsys):
    folder = tmp_path / "run"
    train_run(make_config(), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = resume_run(folder)
    assert model.num_timesteps == 80
    assert "nothing to do, all 80 steps are done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_killed_before_its_last_file_gets_it(make_config, tmp_path):
    train_run(make_config(), tmp_path)
    weights = load_model(tmp_path)[1].get_parameters()
    table = (tmp_path / "eval.csv").read_text()
    (tmp_path / "model.zip").unlink()
    resume_run(tmp_path)
    assert_same(weights, load_model(tmp_path)[1].get_parameters())
    assert (tmp_path / "eval.csv").read_text() == table


def test_a_run_killed_before_its_first_checkpoint_starts_again(make_config, tmp_path, capsys):
    config = make_config()
    whole = train_run(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(tmp_path / "whole" / "config.yml", folder)
    again = resume_run(folder)
    assert "starting again from step 0" in capsys.readouterr().out
    assert_same(whole.get_parameters(), again.get_parameters())


def test_a_finished_run_without_checkpoints_is_not_overwritten(make_config, tmp_path):
    train_run(make_config(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    before = (tmp_path / "model.zip").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint, but .*model.zip exists and would be overwritten"):
        resume_run(tmp_path)
    assert (tmp_path / "model.zip").read_bytes() == before


# the interrupted episode


def test_the_interrupted_episode_is_closed_in_the_buffer(make_config, open_env, tmp_path):
    config = make_config(timesteps=60, n_envs=2)
    model = learn(config, open_env(config))
    buffer = model.replay_buffer
    last = buffer.pos - 1
    buffer.dones[last], buffer.timeouts[last] = (1, 0), (0, 0)  # one copy ended just there, the other did not
    restored = restore(AGENTS["icnn"], save_checkpoint(model, tmp_path), open_env(config), "cpu").replay_buffer
    np.testing.assert_array_equal(restored.timeouts[last], (0, 1))
    np.testing.assert_array_equal(restored.dones[last], (1, 0))  # a time-out is no termination


@pytest.mark.parametrize("wrapped", [False, True])
def test_n_step_returns_do_not_cross_the_interruption(wrapped, make_config, open_env, tmp_path):
    config = make_config(timesteps=60, n_steps=3, buffer_size=40 if wrapped else 1000)
    model = learn(config, open_env(config))
    restored = restore(AGENTS["icnn"], save_checkpoint(model, tmp_path), open_env(config), "cpu")
    buffer = restored.replay_buffer
    assert buffer.full is wrapped
    last = (buffer.pos - 1) % buffer.buffer_size
    for _ in range(5):  # the next episode
        obs = np.zeros((1, 4), np.float32)
        buffer.add(obs, obs, np.zeros((1, 1), np.float32), np.full(1, 1e6), np.zeros(1), [{}])
    before = buffer._get_samples(np.arange(last - 5, last + 1))
    assert before.rewards.max() < 1e3
    assert buffer._get_samples(np.array([(last + 1) % buffer.buffer_size])).rewards.item() > 1e6


# damage


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer.pkl", "random.pkl", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_newest_checkpoint_is_named(name, damage, interrupted):
    _, folder = interrupted()
    newest = latest_checkpoint(folder / "checkpoints")
    file = newest / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"{newest.name}/{name}: .*[Dd]elete .*{newest.name}.* earlier"):
        resume_run(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_deleting_the_damaged_one_goes_on_from_the_one_before(make_config, tmp_path):
    train_run(make_config(timesteps=120), tmp_path)
    (tmp_path / "model.zip").unlink()
    older, newer = list_checkpoints(tmp_path / "checkpoints")
    (newer / "model.zip").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        resume_run(tmp_path)
    shutil.rmtree(newer)
    assert latest_checkpoint(tmp_path / "checkpoints") == older
    assert resume_run(tmp_path).num_timesteps == 120
    assert [row.timesteps for row in read_evaluations(tmp_path / "eval.csv")] == [40, 80, 120]


@pytest.mark.parametrize("which", ["model", "best_model"])
def test_a_damaged_model_is_named(which, make_config, tmp_path):
    train_run(make_config(timesteps=40), tmp_path)
    path = tmp_path / f"{which}.zip"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"nonsense" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{which}.zip: cannot be read"):
            load_model(tmp_path, which)


def test_only_two_checkpoints_are_kept(make_config, tmp_path):
    train_run(make_config(timesteps=100, checkpoint_freq=20), tmp_path)
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step_000000080", "step_000000100"]
    for path in kept:
        read_manifest(path)


def test_saving_that_fails_half_way_keeps_the_checkpoints_there_were(make_config, open_env, tmp_path, monkeypatch):
    config = make_config(timesteps=40)
    model = learn(config, open_env(config))
    first = save_checkpoint(model, tmp_path)
    model.num_timesteps += 1

    def fail(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(model, "save_replay_buffer", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(model, tmp_path)
    assert list(tmp_path.iterdir()) == [first]
    assert latest_checkpoint(tmp_path) == first


def test_what_a_kill_left_half_written_is_never_read(interrupted):
    _, folder = interrupted()
    newest = latest_checkpoint(folder / "checkpoints")
    half = shutil.copytree(newest, newest.with_name(".step_000000119-abcdef"))
    (half / "manifest.json").unlink()
    assert latest_checkpoint(folder / "checkpoints") == newest
    discard_unfinished(folder / "checkpoints")
    assert not half.exists()
    assert newest.exists()


def test_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no checkpoint"):
        latest_checkpoint(tmp_path)


def test_checkpoints_hold_plain_states(make_config, open_env, tmp_path):
    config = make_config(timesteps=40)
    path = save_checkpoint(learn(config, open_env(config)), tmp_path)
    states = pickle.loads((path / "random.pkl").read_bytes())
    assert set(states) == {"python", "numpy", "torch", "cuda", "envs", "action_space"}
    assert checkpoint_module._KEEP == 2
