"""Points of the plane: both networks learn, shapes of regions, files, bad input."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from icnn_rl.solvers import BundleEntropy
from icnn_rl.supervised import fit
from icnn_rl.supervised.synthetic import PROBLEMS, SyntheticModule, make_problem
from icnn_rl.testing.convexity import midpoint_excess

SOLVER = BundleEntropy(max_steps=5, tol=1e-4)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems(problem):
    x, label = make_problem(problem, 60, seed=1)
    assert x.shape == (60, 2)
    assert set(label.tolist()) == {0.0, 1.0}
    assert torch.equal(make_problem(problem, 60, seed=1)[0], x)


@pytest.mark.parametrize(("problem", "network"), [("circles", "picnn"), ("linear", "ficnn")])
def test_it_learns(problem, network):
    x, label = make_problem(problem, 100)
    torch.manual_seed(0)
    model = SyntheticModule(network, (24,), SOLVER)
    fit(model, TensorDataset(x, label), epochs=20, batch_size=25, lr=2e-2, progress_bar=False)
    with torch.no_grad():
        p = model(x)
    assert p.shape == (100,)
    assert ((p >= 0.5) == (label > 0.5)).float().mean() > 0.85  # a line through the circles comes to about 0.6
    assert model.net.is_convex()


def test_the_full_network_is_convex_in_points_too():
    model = SyntheticModule("ficnn", (16, 16)).double()
    energy = model.net.bind()
    a, b = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    with torch.no_grad():
        assert midpoint_excess(energy, a, b) <= 1e-12


def test_files(tmp_path):
    for network in ("picnn", "ficnn"):
        model = SyntheticModule(network, (8,), SOLVER)
        model.save(tmp_path / "m.safetensors")
        x = torch.randn(5, 2)
        with torch.no_grad():
            assert torch.equal(SyntheticModule.load(tmp_path / "m.safetensors")(x), model(x))


def test_bad_input_is_named():
    model = SyntheticModule("picnn", (8,), SOLVER)
    with pytest.raises(ValueError, match="network: expected one of"):
        SyntheticModule("mlp")
    with pytest.raises(ValueError, match="name: expected one of"):
        make_problem("spirals")
    with pytest.raises(ValueError, match="x: has NaN"):
        model(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"x: expected shape"):
        model(torch.rand(3, 3))
    with pytest.raises(ValueError, match="label: expected 0 or 1"):
        model.loss((torch.rand(2, 2), torch.tensor([0.0, 2.0])))
