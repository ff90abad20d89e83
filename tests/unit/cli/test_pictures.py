"""Pictures say what they show: axes, legends, whole epochs, and nothing hidden under something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from icnn_rl.cli.main import main
from icnn_rl.cli.supervised_run import Run, learning_curve
from icnn_rl.runs.plot import draw_band, label_curves
from icnn_rl.supervised.denoising import DenoisingDataset, TotalVariationLayer
from icnn_rl.supervised.denoising.pictures import signals
from icnn_rl.supervised.digits import DigitsDataset
from icnn_rl.supervised.digits.pictures import wrong_digits
from icnn_rl.supervised.imputation import ImputationModule, mask_left
from icnn_rl.supervised.imputation.pictures import picture
from icnn_rl.supervised.sudoku import SudokuDataset
from icnn_rl.supervised.sudoku.pictures import wrong_boards


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that commands save, by name."""
    found: dict[str, Figure] = {}
    save = Run.save_figure

    def spy(self: Run, name: str, figure: Figure) -> None:
        found[name] = figure
        save(self, name, figure)

    monkeypatch.setattr(Run, "save_figure", spy)
    return found


def check_axes(figure: Figure) -> None:
    """Every axis says what is along it, or is switched off, or has a title and no scale."""
    for axis in figure.axes:
        if axis.axison and (len(axis.get_xticks()) or len(axis.get_yticks())):
            assert axis.get_ylabel()
            assert axis.get_xlabel() or axis.get_label() == "<colorbar>"
        if len(axis.get_legend_handles_labels()[1]) > 1:
            assert axis.get_legend() or figure.legends


def ticks(axis: Any) -> list[float]:
    axis.figure.canvas.draw()
    low, high = axis.get_xlim()
    return [float(tick) for tick in axis.get_xticks() if low <= tick <= high]


@pytest.mark.parametrize("epochs", [1, 2, 3, 12])
def test_epochs_are_whole_numbers_and_all_is_named(epochs: int) -> None:
    history = [
        {"epoch": k + 1, "loss": 1.0 / (k + 1), "val/loss": 0.5, "val/boards": 0.1 * k, "val/cells": 0.2}
        for k in range(epochs)
    ]
    figure = learning_curve(history, {"loss": "mean squared error", "boards": "share"})
    check_axes(figure)
    for axis in figure.axes:
        assert all(tick == round(tick) for tick in ticks(axis))
        assert 1.0 in ticks(axis) or epochs > 3
    left, right = figure.axes
    assert left.get_ylabel() == "loss, mean squared error"
    names = [text.get_text() for text in right.get_legend().get_texts()]
    assert [name.split(":")[0] for name in names] == ["boards, share", "cells"]
    if epochs == 1:  # points alone: the numbers stand beside them
        assert names[1] == "cells: 0.2"


@pytest.mark.parametrize(
    ("last", "scale"), [(0.9, "linear"), (0.01, "log"), (-1.0, "linear"), (float("nan"), "linear")]
)
def test_losses_of_many_sizes_have_a_logarithmic_axis(last: float, scale: str) -> None:
    history = [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": last}]
    assert learning_curve(history, {}).axes[0].get_yscale() == scale


def test_a_single_evaluation_has_a_bar() -> None:
    figure = Figure()
    axis = figure.subplots()
    draw_band(axis, np.array([1000.0]), np.array([3.0]), np.array([1.0]), np.array([4.0]), "one")
    label_curves(axis, "Env-v0")
    (bar,) = [one for one in axis.collections if hasattr(one, "get_segments")]
    np.testing.assert_allclose(bar.get_segments()[0], [[1000.0, 1.0], [1000.0, 4.0]])
    check_axes(figure)


def test_environment_steps_are_whole_numbers(tmp_path: Path) -> None:
    figure = Figure()
    axis = figure.subplots()
    steps = np.array([1.0, 2.0])
    draw_band(axis, steps, steps, steps - 1, steps + 1, "two")
    label_curves(axis, "Env-v0")
    assert all(tick == round(tick) for tick in ticks(axis))


def test_total_variation_is_seen_where_the_model_starts_there() -> None:
    data = DenoisingDataset.generate(4, 20, noise=1.0, seed=0)
    start = TotalVariationLayer(20, 2.0)
    figure = signals(data, "optnet", start, start, 2.0)
    check_axes(figure)
    lines = {str(line.get_label()).split(",")[0]: line for line in figure.axes[0].get_lines()}
    below, above = lines["total variation"], lines["optnet"]
    np.testing.assert_array_equal(below.get_ydata(), above.get_ydata())
    assert below.get_zorder() <= above.get_zorder()
    assert below.get_linewidth() >= 2 * above.get_linewidth()
    assert figure.axes[0].get_lines().index(below) < figure.axes[0].get_lines().index(above)
    assert len(figure.legends[0].get_texts()) == 4


@pytest.mark.parametrize("wrong", [1, 2, 6])
def test_the_colours_of_wrong_boards_are_explained(wrong: int) -> None:
    data = SudokuDataset.generate(6, box=2, clues=(8, 10), seed=0)
    solved = data.solutions.clone()
    blanks = (data.puzzles == 0).flatten(1).float().argmax(1)
    solved.flatten(1)[torch.arange(wrong), blanks[:wrong]] %= 4
    solved.flatten(1)[torch.arange(wrong), blanks[:wrong]] += 1
    figure = wrong_boards(data, solved, (solved == data.solutions).flatten(1).all(1))
    (legend,) = figure.legends
    pairs = zip(legend.get_patches(), legend.get_texts(), strict=True)
    explained = {to_rgb(patch.get_facecolor()): text.get_text() for patch, text in pairs}
    used = {to_rgb(str(text.get_color())) for axis in figure.axes for text in axis.texts}
    assert used <= explained.keys()
    assert explained[to_rgb("tab:red")] == "filled in, wrong (the truth)"


def test_hidden_pixels_do_not_look_like_any_grey() -> None:
    images = torch.rand(2, 1, 16, 16)
    images[:, :, :, 8:] = 1.0  # white where it is seen
    model = ImputationModule((1, 16, 16), (2,), context=(3, 3), latent=4)
    figure = picture(model, images, mask_left(images))
    (title, axis) = next((one.get_title(), one) for one in figure.axes if "seen" in one.get_title())
    assert title == "seen, hidden blue"
    (image,) = axis.get_images()
    shown = image.to_rgba(image.get_array())[..., :3]
    np.testing.assert_allclose(shown[:, :8], np.broadcast_to(to_rgb("tab:blue"), (16, 8, 3)), atol=1e-2)
    np.testing.assert_allclose(shown[:, 8:], 1.0)


def test_wrong_digits_say_which_number_is_which() -> None:
    data = DigitsDataset(torch.rand(30, 784), torch.arange(30) % 10)
    figure = wrong_digits(data, (data.labels + 1) % 10)
    assert "taken for" in figure.get_suptitle()
    assert figure.axes[0].get_title() == "1, not 0"


def test_pictures_of_commands_name_their_axes(drawn: dict[str, Figure], tmp_path: Path) -> None:
    small = ["--epochs", "1", "--no-progress-bar"]
    sudoku = ["sudoku", "--boards", "30", "--clues", "7", "10", "--batch-size", "12"]
    denoising = ["denoising", "--signals", "60", "--length", "20", "--batch-size", "18"]
    clues = ["sudoku", "--box", "3", "--boards", "4", "--clues", "44", "50", "--split", "0.5", "--model", "true-rules"]
    for i, command in enumerate((sudoku, denoising, clues, ["synthetic", "--points", "20", "--hidden", "4"])):
        assert main([*command, *small, "--out", str(tmp_path / str(i))]) == 0
    kinds = {name.partition("-")[0] for name in drawn}
    assert kinds == {"learning_curve", "rules", "wrong_boards", "signals", "matrix", "clues", "regions"}
    for figure in drawn.values():
        check_axes(figure)
