"""The commands imputation, multilabel, synthetic and tables: what they leave behind, and what they say."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # makes the next import work
from sklearn.impute import IterativeImputer

from icnn_rl.cli.main import main
from icnn_rl.cli.supervised_run import Run
from icnn_rl.supervised.imputation import IMPUTERS, ImputationModule, RandomlyMasked, impute, load_table, split_table
from icnn_rl.supervised.multilabel import MultiLabelData

FACES = "icnn_rl.supervised.imputation.load_faces"


@pytest.mark.parametrize("model", ["bundle", "gradient", "twin", "regression"])
def test_imputation(model, tmp_path, monkeypatch, capsys):
    right = torch.rand(400, 1, 16, 8)
    monkeypatch.setattr(FACES, lambda path: torch.cat((right.flip(-1), right), -1))
    out = tmp_path / "run"
    options = ["--model", model, "--epochs", "1", "--batch-size", "175", "--rank", "20", "--steps", "2"]
    sizes = ["--hidden", "2", "--context", "3", "3", "--latent", "4"]
    assert main(["imputation", *options, *sizes, "--no-progress-bar", "--out", str(out)]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert 0 < result["test_mse"] < 2e4
    for name in ("completions.png", "learning_curve.png", "history.csv", "config.yml"):
        assert (out / name).stat().st_size > 0
    if model != "regression":
        assert ImputationModule.load(out / "model.safetensors").convex == (model != "twin")
    assert "test_mse" in capsys.readouterr().out


def test_the_curve_of_a_random_mask_ends_at_the_test_error(tmp_path, monkeypatch):
    monkeypatch.setattr(FACES, lambda path: torch.rand(400, 1, 16, 8, generator=torch.Generator().manual_seed(0)))
    out = tmp_path / "run"
    options = ["--model", "regression", "--mask", "random", "--fraction", "0.02", "--epochs", "1", "--batch-size", "3"]
    sizes = ["--hidden", "2", "--context", "3", "--latent", "4"]
    assert main(["imputation", *options, *sizes, "--no-progress-bar", "--out", str(out)]) == 0
    (row,) = csv.DictReader((out / "history.csv").read_text().splitlines())
    result = json.loads((out / "evaluation.json").read_text())
    assert float(row["val/mse"]) == pytest.approx(result["test_mse"], rel=1e-4)


SYNTHETIC = ["synthetic", "--epochs", "2", "--points", "20", "--hidden", "4", "--no-progress-bar"]


def test_synthetic(tmp_path):
    out = tmp_path / "run"
    assert main([*SYNTHETIC, "--limit", "15", "--out", str(out)]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert 0.0 <= result["moons_picnn_test_accuracy"] <= 1.0
    assert (out / "regions.png").stat().st_size > 0
    for part in ("moons-picnn", "linear-ficnn"):
        for name in ("checkpoint-{}.pt", "history-{}.csv", "model-{}.safetensors", "learning_curve-{}.png"):
            assert (out / name.format(part)).stat().st_size > 0
        assert list((out / "tb" / part).glob("events.out.tfevents.*"))


@pytest.fixture
def few_entries(monkeypatch):
    """60 entries to train on, 40 to test, of 8 features and 3 labels."""
    rng = np.random.default_rng(0)
    X = (rng.random((100, 8)) < 0.4).astype(np.float32)
    Y = np.stack([X[:, 0], X[:, 1], 1 - X[:, 0]], 1)
    data = MultiLabelData(X[:60], Y[:60], X[60:], Y[60:])
    monkeypatch.setattr("icnn_rl.supervised.multilabel.load_bibtex", lambda path: data)


MULTILABEL = [
    "multilabel",
    "--epochs",
    "2",
    "--hidden",
    "3",
    "--context",
    "5",
    "--batch-size",
    "20",
    "--no-progress-bar",
]


def test_multilabel(few_entries, tmp_path):
    out = tmp_path / "run"
    assert main([*MULTILABEL, "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names >= {"checkpoint.pt", "tb", "history.csv", "config.yml", "learning_curve.png", "model.safetensors"}
    assert 0.0 <= json.loads((out / "evaluation.json").read_text())["test_f1_samples"] <= 1.0
    limited = tmp_path / "limited"
    assert main([*MULTILABEL, "--limit", "9", "--out", str(limited)]) == 0
    assert yaml.safe_load((limited / "config.yml").read_text())["limit"] == 9


@pytest.mark.parametrize(("command", "killed"), [(SYNTHETIC, 5), (MULTILABEL, 1)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(command, killed, few_entries, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*command, "--out", str(whole)]) == 0
    epochs = []
    written = Run._write_history

    def kill(self, history, part):
        written(self, history, part)
        epochs.append(part)
        if len(epochs) == killed:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write_history", kill)
        assert main([*command, "--out", str(parts)]) == 130
    assert not (parts / "evaluation.json").exists()
    assert main([command[0], "--resume", str(parts), "--no-progress-bar"]) == 0
    first, second = (json.loads((folder / "evaluation.json").read_text()) for folder in (whole, parts))
    assert {key: value for key, value in first.items() if "seconds" not in key} == {
        key: value for key, value in second.items() if "seconds" not in key
    }


def test_tables(tmp_path):
    options = ["--table", "iris", "--epochs", "2", "--hidden", "4", "--context", "8"]
    assert main(["tables", *options, "--no-progress-bar", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["rmse_iterative"] < result["rmse_mean"]
    assert 0 < result["rmse_icnn"] < 2


def test_an_error_of_nothing_is_null(tmp_path, capsys):
    options = ["--table", "iris", "--fraction", "0", "--epochs", "1", "--hidden", "4", "--context", "8"]
    assert main(["tables", *options, "--no-progress-bar", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert result["rmse_icnn"] is result["rmse_knn"] is None
    assert "rmse_icnn: nan" in capsys.readouterr().out


def test_the_iterative_imputer_makes_all_its_rounds():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    rows += 0.05 * torch.randn(300, 8, generator=generator)
    mask = torch.rand(100, 8, generator=generator) >= 0.3
    train, test = rows[100:], rows[:100]
    once = IterativeImputer(random_state=0).fit(train.numpy())
    assert once.n_iter_ == 1  # what transform would make of it
    errors = [
        float((filled - test)[~mask].square().mean().sqrt())
        for filled in (
            torch.tensor(once.transform(np.where(mask, test, np.nan))),
            impute("iterative", train, test, mask),
        )
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("command", ["imputation", "multilabel"])
def test_a_missing_file_is_named(command, tmp_path, capsys):
    assert main([command, "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 1
    assert "nowhere: no such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rows_to_test_on_do_not_set_the_scale(monkeypatch):
    rows = torch.arange(40.0).reshape(20, 2)
    monkeypatch.setattr("icnn_rl.supervised.imputation.tables.load_table", lambda name, data: rows)
    train, test = split_table("wine", seed=3)
    assert train.shape == (14, 2)
    assert torch.equal(train.amin(0), torch.zeros(2))
    assert torch.equal(train.amax(0), torch.ones(2))
    both = torch.cat((train, test))
    assert float(both.min()) < 0.0 or float(both.max()) > 1.0  # an extreme row is among those to test on
    steps = both[:, 0].sort().values.diff()
    torch.testing.assert_close(steps, steps[:1].expand(19))


def test_imputers_keep_what_is_seen():
    rows = load_table("iris")
    assert rows.shape == (150, 4)
    mask = torch.rand(30, 4) >= 0.3
    for name in IMPUTERS:
        filled = impute(name, rows[30:], rows[:30], mask)
        assert torch.equal(filled[mask], rows[:30][mask])
        assert np.isfinite(filled.numpy()).all()
    with pytest.raises(ValueError, match="name: expected one of"):
        load_table("titanic")
    assert RandomlyMasked(rows, 0.5)[3][1].shape == (4,)
