"""The multi-label estimator: learns, behaves as scikit-learn's estimators do, and refuses what it cannot use."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from icnn_rl.solvers import BundleEntropy, ProjectedGradient
from icnn_rl.supervised.multilabel import LOSSES, MultiLabelModule, load_bibtex
from icnn_rl.supervised.multilabel.bibtex import read_sparse_arff
from icnn_rl.supervised.multilabel.estimator import MultiLabelICNN, best_threshold

SMALL = {
    "context": (16,),
    "hidden": (6,),
    "epochs": 12,
    "batch_size": 32,
    "learning_rate": 2e-2,
    "dropout": 0.0,
    "input_dropout": 0.0,
    "solver": BundleEntropy(max_steps=4, tol=1e-3),
}


@parametrize_with_checks(
    [MultiLabelICNN(**{**SMALL, "context": (16,), "hidden": (4,), "epochs": 5, "learning_rate": 3e-2})]
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def _problem(n=240, seed=0):
    """Three labels: a feature, its opposite with another, and an exclusive or."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 6)) < 0.5
    y = np.stack([x[:, 0], ~x[:, 0] & x[:, 1], x[:, 2] ^ x[:, 3]], 1)
    return x.astype(np.float32), y


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(loss):
    X, Y = _problem()
    clf = MultiLabelICNN(**SMALL, loss=loss).fit(X, Y)
    X_test, Y_test = _problem(200, seed=1)
    assert clf.score(X_test, Y_test) > 0.85  # a constant guess comes to 0.62
    assert clf.module_.net.is_convex()
    assert clf.history_[-1]["loss"] < 0.5 * clf.history_[0]["loss"]


def test_the_verbs():
    X, Y = _problem()
    clf = MultiLabelICNN(**SMALL).fit(X, Y)
    p, on = clf.predict_proba(X), clf.predict(X)
    assert p.shape == on.shape == (240, 3)
    assert on.dtype == bool
    assert ((p >= 0) & (p <= 1)).all()
    assert np.array_equal(on, p >= clf.threshold_)
    assert clf.score(X, Y) == pytest.approx(f1_score(Y, on, average="samples", zero_division=0.0))
    again = clone(clf)
    assert not hasattr(again, "module_")
    again.fit(sparse.csr_matrix(X), Y)
    assert np.array_equal(again.predict_proba(sparse.csr_matrix(X)), p)
    other = clone(clf).set_params(average="macro", threshold=0.4).fit(X, Y)
    assert other.threshold_ == 0.4
    assert other.score(X, Y) == pytest.approx(f1_score(Y, other.predict(X), average="macro", zero_division=0.0))


def test_without_a_convex_path_it_is_a_feedforward_net():
    X, Y = _problem(60)
    clf = MultiLabelICNN(**{**SMALL, "hidden": (), "epochs": 3}).fit(X, Y)
    linear = clf.module_.net.bind(torch.from_numpy(X)).linear[0]
    np.testing.assert_allclose(clf.predict_proba(X), torch.sigmoid(-linear).detach().numpy(), atol=1e-5)


def test_columns_go_by_their_names():
    X, Y = _problem(60)
    table = pytest.importorskip("pandas").DataFrame(X, columns=list("abcdef"))
    clf = MultiLabelICNN(**{**SMALL, "epochs": 1}).fit(table, Y)
    assert list(clf.feature_names_in_) == list("abcdef")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.predict(table)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(table[list("fedcba")])


def test_sparse_labels_are_refused():
    X, Y = _problem(60)
    clf, labels = MultiLabelICNN(**{**SMALL, "epochs": 1}).fit(X, Y), sparse.csr_matrix(Y)
    for verb in (clf.fit, clf.score):
        with pytest.raises(ValueError, match=r"y: expected a dense array .* got csr_matrix. Pass y.toarray"):
            verb(X, labels)


def test_classes_that_are_not_0_and_1():
    X, Y = _problem(120)
    names = np.where(Y, "yes", "no").astype(object)
    names[:, 1] = "no"  # a label that never occurs
    clf = MultiLabelICNN(**SMALL).fit(X, names)
    assert set(np.unique(clf.predict(X)[:, 0])) <= {"yes", "no"}
    assert set(clf.predict(X)[:, 1]) == {"no"}
    assert clf.score(X, names) > 0.3


def test_thresholds():
    p = np.array([[0.1, 0.3], [0.4, 0.05], [0.35, 0.6]])
    assert best_threshold(p, np.array([[0, 1], [1, 0], [1, 1]])) == pytest.approx(0.12)
    assert best_threshold(p, np.zeros((3, 2))) == 0.5  # no positives: all score 0
    X, Y = _problem(30)
    assert MultiLabelICNN(**{**SMALL, "epochs": 1}).fit(X, Y).threshold_ == 0.5  # too few rows to choose one


def test_files(tmp_path):
    torch.manual_seed(0)
    module = MultiLabelModule(6, 3, (8,), (4,), loss="max_margin", dropout=0.2).eval()
    module.save(tmp_path / "m.safetensors")
    again = MultiLabelModule.load(tmp_path / "m.safetensors")
    x = torch.rand(4, 6)
    assert torch.equal(again(x), module(x))
    assert again.arguments() == module.arguments()


def test_gradient_inference():
    X, Y = _problem(60)
    solver = ProjectedGradient("momentum", lr=0.05, max_steps=10)
    p = MultiLabelICNN(**{**SMALL, "solver": solver, "epochs": 2, "loss": "energy"}).fit(X, Y).predict_proba(X)
    assert np.isfinite(p).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, Y: (np.where(X > 2, X, np.nan), Y), "NaN"),
        (lambda X, Y: (X, Y[:-1]), "inconsistent numbers of samples"),
        (lambda X, Y: (X, Y.astype(int) + np.arange(len(Y))[:, None] % 3), r"column 0 has \d+ classes"),
    ],
    ids=["nan", "rows", "labels"],
)
def test_bad_data_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelICNN(**SMALL).fit(*change(*_problem(40)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"loss": "hinge"}, "loss: expected one of"), ({"epochs": 0}, "epochs"), ({"average": "weighted"}, "average")],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelICNN(**{**SMALL, **setting}).fit(*_problem(40))


def test_bibtex(data_folder):
    data = load_bibtex(data_folder)
    assert data.X_train.shape == (4880, 1836)
    assert data.Y_test.shape == (2515, 159)
    assert set(np.unique(data.X_train)) == {0.0, 1.0}
    clf = MultiLabelICNN(context=(64,), hidden=(8,), epochs=4, learning_rate=5e-3, input_dropout=0.0, dropout=0.0)
    clf.fit(data.X_train[:1500], data.Y_train[:1500])
    assert clf.score(data.X_test[:500], data.Y_test[:500]) > 0.2  # labels at their shares come to 0.12


def test_data_files_that_are_wrong(tmp_path, monkeypatch):
    monkeypatch.delenv("ICNN_RL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"bibtex.npz.*github.com/tsoumakas/mulan"):
        load_bibtex()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_bibtex(tmp_path / "nowhere")
    (tmp_path / "bibtex.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"bibtex.npz: not a usable .npz file"):
        load_bibtex(tmp_path)
    np.savez(tmp_path / "bibtex.npz", X_train_indptr=np.arange(3))
    with pytest.raises(ValueError, match="lacks the arrays"):
        load_bibtex(tmp_path)
    arff = tmp_path / "bibtex-train.arff"
    arff.write_text("@attribute a {0,1}\n@data\n{0 1}\n")
    with pytest.raises(ValueError, match="expected 1995 attributes"):
        read_sparse_arff(arff)
    head = "".join(f"@attribute a{i} {{0,1}}\n" for i in range(1995)) + "@data\n"
    arff.write_text(head + "{0 1,1994 1}\n{}\n")
    matrix = read_sparse_arff(arff)
    assert matrix.shape == (2, 1995)
    assert matrix.sum() == matrix[0, 0] + matrix[0, 1994] == 2
    arff.write_text(head + "{0 1,x}\n")
    with pytest.raises(ValueError, match="line 1997"):
        read_sparse_arff(arff)
