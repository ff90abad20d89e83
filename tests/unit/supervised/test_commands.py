"""The commands, on tiny data: what a run leaves, how it goes on, what is refused."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from icnn_rl.cli.main import main
from icnn_rl.supervised.denoising import DenoisingModule
from icnn_rl.supervised.sudoku import SudokuModule

SUDOKU = ["sudoku", "--boards", "30", "--clues", "7", "10", "--batch-size", "12", "--no-progress-bar"]
ALWAYS = {
    "config.yml",
    "history.csv",
    "checkpoint.pt",
    "tb",
    "model.safetensors",
    "evaluation.json",
    "learning_curve.png",
}


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_sudoku_leaves_a_run_and_goes_on(tmp_path, capsys):
    out = tmp_path / "s0"
    assert main([*SUDOKU, "--epochs", "1", "--out", str(out)]) == 0
    assert files(out) >= ALWAYS | {"rules.png"}
    config = yaml.safe_load((out / "config.yml").read_text())
    assert (config["command"], config["boards"], config["seed"]) == ("sudoku", 30, 0)
    assert "torch" in config["versions"]
    assert 0.0 <= json.loads((out / "evaluation.json").read_text())["boards_solved"] <= 1.0
    SudokuModule.load(out / "model.safetensors")
    again = ["sudoku", "--resume", str(out), "--no-progress-bar"]
    assert main([*again, "--epochs", "2"]) == 0
    assert [row["epoch"] for row in csv.DictReader((out / "history.csv").read_text().splitlines())] == ["1", "2"]
    assert yaml.safe_load((out / "config.yml").read_text()) == {**config, "epochs": 2}
    history = (out / "history.csv").read_text()
    assert main(again) == 0  # there is nothing to train
    assert (out / "history.csv").read_text() == history
    assert main([*again, "--epochs", "1"]) == 1
    assert "--epochs 1: the run in" in (captured := capsys.readouterr()).err
    assert "boards_solved" in captured.out
    assert main([*SUDOKU, "--epochs", "2", "--out", str(out)]) == 1
    assert "s0: not empty. Choose another folder" in capsys.readouterr().err
    assert main([*again, "--lr", "0.001", "--out", "elsewhere", "--batch-size", "12"]) == 1
    assert (
        "goes on with the settings in its config.yml. Leave out --batch-size, --lr, --out." in capsys.readouterr().err
    )
    assert main(["denoising", "--resume", str(out)]) == 1
    assert "config.yml is not of a run of icnn-rl denoising" in capsys.readouterr().err


def test_too_few_boards_for_the_hull_leave_nothing_behind(tmp_path, capsys):
    out = tmp_path / "s0"
    assert main([*SUDOKU, "--model", "hull", "--out", str(out)]) == 1
    assert "give more boards" in capsys.readouterr().err
    assert not out.exists()


def test_the_rules_of_the_hull_are_kept(tmp_path):
    out = tmp_path / "hull"
    assert main([*SUDOKU, "--boards", "100", "--model", "hull", "--out", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text())["boards_solved"] == 1.0
    model = SudokuModule.load(out / "model.safetensors")
    assert model.A.abs().max() > 0


def test_sudoku_with_the_true_rules(tmp_path):
    out = tmp_path / "rules"
    options = ["--box", "3", "--boards", "5", "--clues", "44", "50", "--split", "0.2", "--resolves", "1"]
    assert main([*SUDOKU, *options, "--model", "true-rules", "--out", str(out)]) == 0
    assert files(out) == {"config.yml", "evaluation.json", "clues.csv", "clues.png", "model.safetensors"}
    assert json.loads((out / "evaluation.json").read_text())["boards_solved"] == 1.0


def test_denoising(tmp_path):
    out = tmp_path / "d0"
    out.mkdir()  # an empty folder is as good as none
    options = ["--signals", "60", "--length", "20", "--epochs", "1", "--batch-size", "18", "--no-progress-bar"]
    assert main(["denoising", *options, "--out", str(out)]) == 0
    assert files(out) == ALWAYS | {"signals.png", "matrix.png"}
    assert json.loads((out / "evaluation.json").read_text())["test_mse"] > 0.0
    DenoisingModule.load(out / "model.safetensors")


def test_a_trial_takes_a_few_samples(tmp_path, monkeypatch):
    from icnn_rl import supervised

    seen = []
    monkeypatch.setattr(supervised, "evaluate", lambda model, data, size: seen.append(len(data)) or {"loss": 1.0})
    options = ["--signals", "60", "--length", "20", "--epochs", "1", "--limit", "5", "--no-progress-bar"]
    assert main(["denoising", *options, "--out", str(tmp_path / "d0")]) == 0
    assert set(seen) == {5}
    history = (tmp_path / "d0" / "history.csv").read_text()
    assert history.count("\n") == 2


@pytest.mark.parametrize("name", ["cpu", "auto", "cuda"])
def test_the_model_trains_on_the_device_that_is_named(name, tmp_path, monkeypatch):
    import torch

    from icnn_rl.cli import supervised_run as shared

    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "cuda")
    monkeypatch.setattr(shared, "check_device", found.append)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: found.append(str(device)) or self)
    options = ["--signals", "30", "--length", "20", "--epochs", "1", "--device", name, "--no-progress-bar"]
    assert main(["denoising", *options, "--out", str(tmp_path / "d0")]) == 0
    assert found == [name, "cuda" if name == "cuda" else "cpu", "cpu"]


def test_digits(tmp_path, data_folder, monkeypatch):
    from icnn_rl.supervised.digits import DigitsDataset

    load = DigitsDataset.load
    monkeypatch.setattr(DigitsDataset, "load", lambda part, path: digits_slice(load(part, path)))
    out = tmp_path / "m0"
    options = ["--hidden", "16", "--epochs", "1", "--batch-size", "50", "--no-progress-bar", "--data", str(data_folder)]
    assert main(["digits", *options, "--out", str(out)]) == 0
    assert files(out) == ALWAYS | {"wrong_digits.png"}


def digits_slice(data):
    return type(data)(data.images[:200], data.labels[:200])


@pytest.mark.parametrize("option", ["--resolves", "--seed"])
def test_a_count_below_0_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["sudoku", option, "-1"])
    assert f"argument {option}: expected an integer >= 0, got -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sudoku", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (["sudoku", "--boards", "10", "--clues", "1", "2"], "clues: "),
        (["sudoku", "--boards", "10", "--model", "conv", "--resolves", "1"], "--resolves 1: --model conv cannot"),
        (["digits", "--data", "nowhere"], "nowhere: no such file, and no folder"),
        (["denoising", "--length", "5"], "pieces: expected"),
        (["sudoku", "--resume", "nowhere"], "--resume: nowhere/config.yml is missing"),
        (["denoising", "--device", "gpu"], "--device gpu: no such device. Expected cpu"),
    ],
)
def test_what_is_wrong_is_said(arguments, text, tmp_path, monkeypatch, capsys):
    from icnn_rl.supervised.sudoku import boards as sudoku_boards

    monkeypatch.setattr(sudoku_boards, "_TRIES", 20)
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--no-progress-bar"]) == 1
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
