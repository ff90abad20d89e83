"""Imputation and Sudoku as scikit-learn estimators."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from icnn_rl.supervised.imputation import ImputationModule
from icnn_rl.supervised.imputation.estimator import ICNNImputer
from icnn_rl.supervised.sudoku import SudokuDataset, SudokuModule
from icnn_rl.supervised.sudoku.estimator import SudokuOptNet

TINY = {"hidden": (4,), "context": (8,), "epochs": 2}


@parametrize_with_checks([ICNNImputer(**TINY)])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def _table(rows=400, seed=0):
    """Four columns on unlike scales; the first two determine the others."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, rows))
    return np.stack([a, 100.0 * b, 1e-3 * (a + b), 5.0 - 7.0 * a], 1)


def _holes(X, fraction=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < fraction, np.nan, X)


@pytest.mark.parametrize("loss", ["mse", "energy"])
def test_what_is_filled_in_is_nearer_than_the_mean(loss):
    X, holes = _table(), _holes(_table())
    imputer = ICNNImputer((4,) if loss == "mse" else None, (16,), (32, 32), loss=loss, epochs=30).fit(holes)
    test = _table(200, seed=2)
    holed = _holes(test, seed=3)
    hidden = np.isnan(holed)
    filled = imputer.transform(holed)
    np.testing.assert_array_equal(filled[~hidden], test[~hidden])
    mean = SimpleImputer().fit(holes).transform(holed)
    error = [np.square((one - test) / X.std(0))[hidden].mean() for one in (filled, mean)]
    assert error[0] < 0.35 * error[1]


def test_the_verbs_of_an_imputer():
    X = _holes(_table(60))
    imputer = ICNNImputer(**TINY).fit(X)
    again = clone(imputer).fit(X)
    filled = imputer.transform(X)
    np.testing.assert_array_equal(again.transform(X), filled)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(X), filled)
    assert filled.dtype == np.float64
    assert clone(imputer).fit_transform(X.astype(np.float32)).dtype == np.float32
    low, high = np.nanmin(X, 0), np.nanmax(X, 0)
    assert (filled >= low - 1e-9 * abs(low)).all()
    assert (filled <= high + 1e-9 * abs(high)).all()
    assert -1.0 < imputer.score(X) == imputer.score(X) < 0.0
    beyond = np.array([[50.0, np.nan, -3.0, 5.0]])  # outside of what it has seen
    assert np.isfinite(imputer.transform(beyond)).all()
    np.testing.assert_array_equal(imputer.transform(beyond)[0, [0, 2, 3]], beyond[0, [0, 2, 3]])


def test_its_score_is_that_of_hidden_entries():
    X = _table(80)
    imputer = ICNNImputer(**TINY, fraction=0.5).fit(X)
    seen = (torch.rand(80, 4, generator=torch.Generator().manual_seed(0)) >= 0.5).numpy()
    filled = imputer.transform(np.where(seen, X, np.nan))
    expected = -np.sqrt(np.square((filled - X) / np.ptp(X, axis=0))[~seen].mean())
    assert imputer.score(X) == pytest.approx(expected, rel=1e-4)


def test_it_goes_into_pipelines_and_searches():
    data = load_wine()
    X, y = _holes(data.data[:, :5]), data.data[:, 5]
    pipeline = make_pipeline(ICNNImputer(**TINY), Ridge())
    search = GridSearchCV(pipeline, {"icnnimputer__hidden": [(4,), (8,)]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.predict(X).shape == y.shape
    alone = GridSearchCV(ICNNImputer(**TINY), {"epochs": [1, 25]}, cv=2, refit=False).fit(_table(160))
    assert alone.best_params_ == {"epochs": 25}


def test_images_have_one_scale():
    images = 255.0 * np.random.default_rng(0).random((12, 64))
    images[:, 0] = 0.0  # a border
    imputer = ICNNImputer((1, 8, 8), (4,), (4, 4), epochs=1, batch_size=6).fit(images)
    assert np.ptp(imputer.low_) == np.ptp(imputer.width_) == 0.0
    assert isinstance(imputer.module_, ImputationModule)
    holes = _holes(images, 0.5)
    filled = imputer.transform(holes)
    np.testing.assert_array_equal(filled[~np.isnan(holes)], images[~np.isnan(holes)])
    assert ((filled >= 0.0) & (filled <= 255.0)).all()


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({"shape": (1, 3, 3)}, _table(10), r"shape: \(1, 3, 3\) are 9 entries, X has 4 a row"),
        ({"fraction": 0.0}, _table(10), "fraction: expected a number in"),
        ({"epochs": 0}, _table(10), "epochs"),
        ({}, np.where([True, False, True, True], _table(10), np.nan), "X: column 1 is NaN in every row"),
        ({}, np.where(_table(10) > 50.0, np.inf, 1.0), "infinity"),
    ],
)
def test_what_an_imputer_refuses(settings, X, message):
    with pytest.raises(ValueError, match=message):
        ICNNImputer(**{**TINY, **settings}).fit(X)


# Sudoku


@pytest.fixture(scope="module")
def boards():
    data = SudokuDataset.generate(400, box=2, clues=(8, 12), seed=0)
    return data.puzzles.numpy(), data.solutions.numpy()


def test_rules_in_closed_form_solve_new_boards(boards):
    puzzles, solutions = boards
    flat, wanted = puzzles.reshape(len(puzzles), -1), solutions.reshape(len(puzzles), -1)
    model = SudokuOptNet("hull").fit(flat[:350], wanted[:350])
    found = model.predict(flat[350:])
    assert found.shape == (50, 16)
    assert model.score(flat[350:], wanted[350:]) == (found == wanted[350:]).all(1).mean() > 0.8
    cube = clone(model).fit(puzzles[:350], solutions[:350])
    np.testing.assert_array_equal(cube.predict(puzzles[350:]), found.reshape(-1, 4, 4))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(flat[350:]), found)
    given = flat[350:] > 0
    np.testing.assert_array_equal(found[given], flat[350:][given])


def test_training_is_that_of_the_module_and_repeats(boards):
    puzzles, solutions = (part[:60] for part in boards)
    one, other = (SudokuOptNet(epochs=2, batch_size=30, learning_rate=1e-2).fit(puzzles, solutions) for _ in range(2))
    assert isinstance(one.module_, SudokuModule)
    assert torch.equal(one.module_.A, other.module_.A)
    assert one.history_[1]["loss"] < one.history_[0]["loss"]
    assert not torch.equal(clone(one).set_params(seed=1).fit(puzzles, solutions).module_.A, one.module_.A)


def test_sudoku_in_pipelines_and_searches(boards):
    flat, wanted = (part[:200].reshape(200, -1).astype(float) for part in boards)
    pipeline = make_pipeline(FunctionTransformer(), SudokuOptNet("hull"))
    search = GridSearchCV(pipeline, {"sudokuoptnet__resolves": [0, 1]}, cv=2, refit=False).fit(flat, wanted)
    assert (search.cv_results_["mean_test_score"] > 0.5).all()


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"method": "guess"}, lambda X, y: (X, y), "method: expected one of 'gradient', 'hull'"),
        ({}, lambda X, y: (X[:, :3], y), r"X: expected boards .* got shape \(4, 3, 4\)"),
        ({}, lambda X, y: (X, y + 0.5), "y: expected boards .* of whole numbers"),
        ({}, lambda X, y: (X + 9, y), "puzzles"),
        ({}, lambda X, y: (X, y[::-1]), "does not solve its puzzle"),
        ({"method": "hull"}, lambda X, y: (X, y), "4 boards leave"),
    ],
)
def test_what_it_refuses(boards, settings, change, message):
    X, y = change(*(part[:4] for part in boards))
    with pytest.raises(ValueError, match=message):
        SudokuOptNet(**settings).fit(X, y)


def test_boards_of_another_size_are_refused(boards):
    model = SudokuOptNet("hull").fit(boards[0][:350], boards[1][:350])
    with pytest.raises(ValueError, match="X: boards of 81 cells, SudokuOptNet was trained on 16"):
        model.predict(np.zeros((1, 81), int))
