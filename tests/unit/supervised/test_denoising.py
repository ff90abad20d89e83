"""Total variation and the layer that starts there, on few signals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import mse_loss

from icnn_rl.qp import total_variation
from icnn_rl.supervised import evaluate, fit
from icnn_rl.supervised.denoising import (
    DenoisingDataset,
    DenoisingModule,
    DenseDenoiser,
    TotalVariationLayer,
    best_penalty,
)

SIGNALS = DenoisingDataset.generate(240, length=40, seed=0)


class TestDataset:
    def test_the_law_of_the_signals(self):
        data = DenoisingDataset.generate(500, seed=1)
        assert data.noisy.shape == (500, 100)
        pieces = (data.clean.diff(dim=1) != 0).sum(1) + 1  # neighbours of equal height count as one
        assert int(pieces.min()) == 1
        assert int(pieces.max()) <= 9
        assert torch.equal(data.clean, data.clean.round())
        assert 10 <= float(data.clean.min()) <= float(data.clean.max()) <= 99
        noise = data.noisy - data.clean
        assert float(noise.std()) == pytest.approx(10.0, abs=0.15)
        assert not bool((data.clean[:, 0] != data.clean[:, -1])[pieces == 1].any())

    def test_it_is_seeded_and_splits(self):
        first, again, other = (DenoisingDataset.generate(5, seed=s).noisy for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        train, test = SIGNALS.split(0.75)
        assert (len(train), len(test)) == (180, 60)
        assert torch.equal(test[0][1], SIGNALS.clean[180])

    def test_bad_signals_are_named(self):
        noisy = torch.zeros(3, 4)
        noisy[2, 1] = float("nan")
        with pytest.raises(ValueError, match="noisy: signal 2 holds NaN"):
            DenoisingDataset(noisy, torch.zeros(3, 4))
        with pytest.raises(ValueError, match="noisy, clean: expected one shape"):
            DenoisingDataset(torch.zeros(3, 4), torch.zeros(3, 5))
        with pytest.raises(ValueError, match="pieces: expected 1 <= fewest"):
            DenoisingDataset.generate(3, length=5, pieces=(1, 9))


class TestTotalVariation:
    def test_against_an_independent_method(self):
        """SciPy's L-BFGS-B on the dual, min_{|u| <= lam} |D^T u - y|^2 / 2, knows nothing of pieces."""
        y, lam = SIGNALS.noisy[0].double().numpy(), 15.0
        D = np.diff(np.eye(len(y)), axis=0)
        dual = minimize(
            lambda u: (0.5 * ((D.T @ u - y) ** 2).sum(), D @ (D.T @ u - y)),
            np.zeros(len(D)),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-lam, lam)] * len(D),
            options={"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-16, "gtol": 1e-9},
        )
        ours = TotalVariationLayer(40, lam).double()(torch.tensor(y))
        assert float((ours.detach() - torch.tensor(y - D.T @ dual.x)).abs().max()) < 1e-4

    def test_the_penalty_is_learned(self):
        train, _ = SIGNALS.split(0.9)
        best, errors = best_penalty(train, torch.arange(2.0, 40.0, 2.0))
        model = TotalVariationLayer(40, lam=3.0)
        fit(model, train, epochs=8, batch_size=24, lr=0.05, progress_bar=False)
        assert model.lam.item() == pytest.approx(best, rel=0.2)
        assert evaluate(model, train, 100)["loss"] < 1.03 * float(errors.min())

    def test_per_edge(self, tmp_path):
        model = TotalVariationLayer(40, per_edge=True)
        assert model.lam.shape == (39,)
        model.save(tmp_path / "tv.safetensors")
        assert torch.equal(TotalVariationLayer.load(tmp_path / "tv.safetensors")(SIGNALS.noisy), model(SIGNALS.noisy))


class TestDenoisingModule:
    def test_it_starts_at_total_variation(self):
        model = DenoisingModule(40, "total_variation", lam=15.0)
        y = SIGNALS.noisy[:6]
        torch.testing.assert_close(model(y), total_variation(y, 15.0).value, atol=1e-3, rtol=0)
        assert model(y[0]).shape == (40,)
        assert model(y.reshape(2, 3, 40)).shape == (2, 3, 40)

    def test_the_answer_is_the_minimiser(self):
        """No feasible direction goes down: the objective at the answer is below that of points nearby."""
        model = DenoisingModule(10, "random", rows=14, lam=2.0).double()
        with torch.no_grad():
            model.L.add_(0.1 * torch.randn(10, 10))
            model.W.add_(0.1 * torch.randn(10, 10))
        y = SIGNALS.noisy[0, :10].double()
        L = model.L.tril()

        def objective(z):
            x, t = z - y.mean(), y - y.mean()
            return 0.5 * ((x @ L) ** 2).sum(-1) - (x * (model.W @ t)).sum(-1) + ((x @ model.D.T).abs() @ model.lam)

        with torch.no_grad():
            z = model(y)
            near = (
                z
                + 10.0 ** -torch.arange(1.0, 6.0, dtype=torch.float64)[:, None, None] * torch.randn(5, 200, 10).double()
            )
            assert bool((objective(near) >= objective(z)).all())

    def test_learning_beats_where_it_started(self):
        train, test = SIGNALS.split(0.75)
        lam, _ = best_penalty(train, torch.arange(2.0, 40.0, 2.0))
        model = DenoisingModule(40, "total_variation", lam=lam)
        start = evaluate(model, train, 60)["loss"]
        history = fit(model, train, validation=test, epochs=8, batch_size=20, lr=1e-3, progress_bar=False)
        assert evaluate(model, train, 60)["loss"] < 0.93 * start
        assert history[-1]["solver/failed_fraction"] == 0.0

    def test_warm_starts_change_nothing(self):
        torch.manual_seed(0)
        model = DenoisingModule(40).double()
        y = SIGNALS.noisy[:8].double()
        cold = model.eval()(y)
        first, second = model.train()(y), model(y)
        torch.testing.assert_close(first, cold, atol=1e-9, rtol=0)
        torch.testing.assert_close(second, cold, atol=1e-9, rtol=0)
        assert model.warm.get(y) is not None

    @pytest.mark.parametrize("init", ["total_variation", "random"])
    def test_the_gradient(self, init):
        model = DenoisingModule(6, init, rows=7, lam=4.0).double()
        y, clean = SIGNALS.noisy[:2, :6].double(), SIGNALS.clean[:2, :6].double()
        names = ("B", "log_lam", "L", "W")

        def loss(*values):
            return mse_loss(torch.func.functional_call(model, dict(zip(names, values, strict=True)), (y,)), clean)

        values = [getattr(model, name).detach().clone().requires_grad_() for name in names]
        assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-4)

    def test_rows_with_nan_fail_alone(self):
        model = DenoisingModule(40)
        y = SIGNALS.noisy[:3].clone()
        y[1, 5] = float("nan")
        z = model(y)
        assert torch.isnan(z[1]).all()
        assert model.solves.take() == (1, 3)
        torch.testing.assert_close(z[[0, 2]], model(SIGNALS.noisy[[0, 2]]))

    def test_save_load_and_wrong_arguments(self, tmp_path):
        model = DenoisingModule(12, "random", rows=15, lam=3.0, learn_metric=False)
        model.save(tmp_path / "d.safetensors")
        again = DenoisingModule.load(tmp_path / "d.safetensors")
        assert torch.equal(again(SIGNALS.noisy[:2, :12]), model(SIGNALS.noisy[:2, :12]))
        with pytest.raises(ValueError, match="holds a DenoisingModule, not a TotalVariationLayer"):
            TotalVariationLayer.load(tmp_path / "d.safetensors")
        with pytest.raises(ValueError, match=r"y: expected shape \(..., 12\), got \(2, 11\)"):
            model(torch.zeros(2, 11))
        with pytest.raises(ValueError, match="init: expected one of 'total_variation', 'random'"):
            DenoisingModule(12, "tv")
        with pytest.raises(ValueError, match="rows: total variation of 12 samples has 11 rows, got 3"):
            DenoisingModule(12, rows=3)


def test_the_dense_baseline():
    torch.manual_seed(0)
    model = DenseDenoiser(40, hidden=(30,))
    history = fit(model, SIGNALS, epochs=5, batch_size=24, lr=1e-3, progress_bar=False)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
