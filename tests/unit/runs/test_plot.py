"""Pictures of learning curves."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow, write_evaluations
from icnn_rl.runs.plot import _band, plot_runs


@pytest.fixture
def make_run(make_config, tmp_path):
    """make_run("a", {10: -1.0}): a run folder with these means at these steps."""

    def make(name, means, **given):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yml").write_text(make_config(**given).to_yaml({}))
        write_evaluations(folder / "eval.csv", [EvalRow(step, mean, 0.5, 5, 10.0) for step, mean in means.items()])
        return folder

    return make


def _png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_a_png_of_one_panel(make_run, tmp_path):
    out = tmp_path / "new" / "curve.png"
    plot_runs([make_run("a", {10: -1.0, 20: 3.0})], out)
    assert _png_size(out) == (768, 528)
    assert [path.name for path in out.parent.iterdir()] == ["curve.png"]


def test_one_panel_an_environment(make_run, tmp_path):
    runs = [make_run("a", {10: 1.0}), make_run("b", {10: 2.0}, env="Pendulum-v1"), make_run("c", {10: 2.0})]
    plot_runs(runs, tmp_path / "curve.png")
    assert _png_size(tmp_path / "curve.png") == (2 * 768, 528)


def test_the_ending_chooses_the_format(make_run, tmp_path):
    plot_runs([make_run("a", {10: 1.0})], tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert "<svg" in text


@pytest.mark.parametrize("name", ["curve.xyz", "curve"])
def test_an_unknown_ending_is_named(make_run, tmp_path, name):
    with pytest.raises(UserError, match=rf"--out .*{name}: expected a name ending in .png"):
        plot_runs([make_run("a", {10: 1.0})], tmp_path / name)
    assert not (tmp_path / name).exists()


def _rows(means, std=0.5):
    return [EvalRow(step, mean, std, 5, 10.0) for step, mean in means.items()]


def test_several_runs_become_mean_and_range():
    steps, middle, low, high = _band([_rows({10: 1.0, 20: 4.0}), _rows({10: 3.0, 20: 0.0}), _rows({10: 2.0, 20: 2.0})])
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_allclose(middle, [2.0, 2.0])
    np.testing.assert_allclose(low, [1.0, 0.0])
    np.testing.assert_allclose(high, [3.0, 4.0])


def test_runs_of_different_length_meet_at_their_common_steps():
    steps, middle, _, _ = _band([_rows({10: 1.0, 20: 4.0, 30: 9.0}), _rows({10: 3.0, 30: 1.0})])
    np.testing.assert_array_equal(steps, [10, 30])
    np.testing.assert_allclose(middle, [2.0, 5.0])


def test_one_run_gets_the_deviation_over_episodes():
    _, middle, low, high = _band([_rows({10: 1.0, 20: 4.0})])
    np.testing.assert_allclose(middle - low, 0.5)
    np.testing.assert_allclose(high - middle, 0.5)


def test_runs_without_a_common_step_are_refused(make_run, tmp_path):
    runs = [make_run("a", {10: 1.0}), make_run("b", {15: 1.0}, seed=4)]
    with pytest.raises(UserError, match=r"icnn on InvertedPendulum-v5: no step at which all 2 runs were evaluated"):
        plot_runs(runs, tmp_path / "curve.png")


def test_unlike_runs_have_a_line_each_with_their_names(make_run, tmp_path):
    same = [make_run("one", {10: 1.0}), make_run("two", {10: 3.0}, seed=4)]
    other = [
        make_run("other_gamma", {10: 5.0}, gamma=0.5),
        make_run("shorter", {10: 5.0}, timesteps=40),
        make_run("again", {10: 5.0}),
    ]
    plot_runs([*same, *other, same[0]], tmp_path / "curve.svg")
    labels = re.findall(r"<!-- (icnn.*?) -->", (tmp_path / "curve.svg").read_text())
    alone = [f"icnn, {name} (1 run, ± std over episodes)" for name in ("other_gamma", "shorter", "again")]
    assert labels == ["icnn, one, two (2 runs, lowest to highest)", *alone]
    plot_runs([*same, same[0]], tmp_path / "curve.svg")
    labels = re.findall(r"<!-- (icnn.*?) -->", (tmp_path / "curve.svg").read_text())
    assert labels == ["icnn (2 runs, lowest to highest)"]


def test_a_missing_folder_is_named(make_run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config.yml: no such file. Expected a run folder"):
        plot_runs([make_run("a", {10: 1.0}), tmp_path / "nowhere"], tmp_path / "curve.png")


def test_a_run_without_evaluations_is_named(make_run, tmp_path):
    folder = make_run("a", {10: 1.0})
    (folder / "eval.csv").unlink()
    with pytest.raises(UserError, match=r"eval.csv: no such file. The run has not been evaluated yet"):
        plot_runs([folder], tmp_path / "curve.png")


def test_an_old_picture_survives_a_failed_plot(make_run, tmp_path):
    out = tmp_path / "curve.png"
    plot_runs([make_run("a", {10: 1.0})], out)
    before = out.read_bytes()
    with pytest.raises(UserError):
        plot_runs([tmp_path / "nowhere"], out)
    assert out.read_bytes() == before
