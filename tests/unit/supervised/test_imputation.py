"""Imputation: observed entries untouched, gradients through the argmin, learning, files, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from icnn_rl.solvers import BundleEntropy, ProjectedGradient
from icnn_rl.supervised import fit
from icnn_rl.supervised.imputation import ConvRegression, ImputationModule, mask_left, mask_random

BUNDLE = BundleEntropy(max_steps=5, tol=1e-4)
GRADIENT = ProjectedGradient("momentum", lr=0.3, momentum=0.5, max_steps=8, tol=1e-4)


def _symmetric(count, size=12):
    """Images whose left half mirrors the right one: what is hidden can be known."""
    right = F.interpolate(torch.rand(count, 1, size // 4, size // 4), size=(size, size // 2), mode="bilinear")
    return torch.cat((right.flip(-1), right), -1)


def _small(**settings):
    return ImputationModule((1, 12, 12), (4,), **{"context": (6, 6), "latent": 8, "solver": BUNDLE, **settings})


@pytest.mark.parametrize("solver", [BUNDLE, GRADIENT], ids=["bundle", "gradient"])
@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_observed_entries_come_back_and_gradients_flow(solver, activation):
    if solver is GRADIENT and activation == "relu":
        pytest.skip("the implicit gradient needs a smooth energy")
    images = _symmetric(5)
    mask = mask_random(images, 0.4, seed=1)
    model = _small(solver=solver, activation=activation)
    filled, solution = model(images, mask, return_solution=True)
    assert torch.equal(filled[mask], images[mask])
    assert ((filled >= 0) & (filled <= 1)).all()
    assert solution.value.shape == (5, 144)
    F.mse_loss(filled[~mask], images[~mask]).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.net.passthrough[0].grad.abs().max() > 0


def test_hidden_entries_do_not_matter():
    images = _symmetric(3)
    mask = mask_left(images)
    model = _small(mirror=True).eval()
    spoiled = torch.where(mask, images, float("nan"))
    assert torch.equal(model(spoiled, mask), model(images, mask))
    assert model(images, torch.ones_like(mask)).equal(images)


@pytest.mark.parametrize("loss", ["mse", "energy"])
def test_it_learns_from_the_other_half(loss):
    data = _symmetric(64)
    mask = mask_left(data[0])
    model = _small(mirror=True, loss=loss)
    model.fit_start_(data)
    test = _symmetric(16)
    masks = mask.expand(test.shape)

    def error():
        with torch.no_grad():
            return float((model.eval()(test, masks) - test)[~masks].square().mean())

    variance = float(test.var())  # what a constant, or a net without a gradient, comes to
    fit(model, [(i, mask) for i in data], epochs=6, batch_size=16, lr=1e-2, seed=0, progress_bar=False)
    assert error() < 0.5 * variance
    assert model.net.is_convex()


def test_the_twin_trains_through_its_steps():
    data = _symmetric(16)
    model = _small(solver=GRADIENT, convex=False)
    history = fit(model, [(i, mask_left(i)) for i in data], epochs=2, batch_size=8, lr=1e-2, progress_bar=False)
    assert history[-1]["loss"] < history[0]["loss"] < 1.0


def test_rows_of_a_table():
    x = torch.rand(64, 2)
    rows = torch.cat((x, 1 - x, (x[:, :1] + x[:, 1:]) / 2), 1) * 4 - 2
    model = ImputationModule((5,), (8,), context=(32,), bounds=(-2.0, 2.0))
    samples = [(row, mask_random(row, 0.3, seed=i)) for i, row in enumerate(rows)]
    history = fit(model, samples, epochs=10, batch_size=16, lr=2e-2, progress_bar=False)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    mask = mask_random(rows, 0.3)
    filled = model(rows, mask)
    assert torch.equal(filled[mask], rows[mask])


def test_entries_nobody_knows_are_no_part_of_the_loss():
    images = _symmetric(4)
    mask = mask_left(images)
    unknown = images.clone()
    unknown[:, :, :3] = torch.where(mask[:, :, :3], unknown[:, :, :3], float("nan"))
    for loss in ("mse", "energy"):
        model = _small(loss=loss)
        model.loss((unknown, mask)).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        _small,
        lambda: _small(loss="energy"),
        lambda: _small(solver=GRADIENT),
        lambda: ConvRegression((1, 12, 12), (4, 4)),
    ],
    ids=["mse", "energy", "gradient", "regression"],
)
def test_a_batch_with_nothing_hidden_is_no_loss(make):
    samples = [(image, torch.ones(1, 12, 12, dtype=torch.bool)) for image in _symmetric(4)]
    model = make()
    history = fit(model, samples, epochs=1, batch_size=2, lr=1e-2, progress_bar=False)
    assert history[0]["loss"] == pytest.approx(0.0, abs=1e-7)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("solver", [BUNDLE, GRADIENT], ids=["bundle", "gradient"])
def test_regression_inside(solver):
    data, mask = _symmetric(200), mask_left(torch.zeros(1, 12, 12))
    model = _small(solver=solver, regression_rank=20)
    model.fit_regression_(data, mask, penalty=0.1)
    test = _symmetric(8)
    masks = mask.expand(test.shape)
    guess = model.regression(torch.where(masks, test, 0.0).flatten(1)).view_as(test)
    assert (guess - test)[~masks].square().mean() < 0.05 * test.var()
    # the same as the normal equations
    x, y = (data * mask).flatten(1).double(), data.flatten(1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    weights = torch.linalg.solve(x.mT @ x + 0.1 * torch.eye(144, dtype=torch.float64), x.mT @ y)
    exact = (
        y.new_tensor(data.flatten(1).mean(0).tolist())
        + ((test * masks).flatten(1).double() - (data * mask).flatten(1).double().mean(0)) @ weights
    )
    full = _small(regression_rank=144)
    full.fit_regression_(data, mask, penalty=0.1)
    torch.testing.assert_close(
        full.regression((test * masks).flatten(1)), exact.clamp(0.02, 0.98).float(), rtol=0, atol=2e-3
    )


def test_files(tmp_path):
    images = _symmetric(3)
    mask = mask_left(images)
    for model in (
        _small(mirror=True, regression_rank=4),
        ConvRegression((1, 12, 12), (4, 4), latent=8, regression_rank=4),
    ):
        model.fit_regression_(images, mask[0], 1.0)
        path = tmp_path / f"{type(model).__name__}.safetensors"
        model.eval().save(path)
        again = type(model).load(path)
        assert torch.equal(again(images, mask), model(images, mask))
    with pytest.raises(ValueError, match="holds a ConvRegression, not a ImputationModule"):
        ImputationModule.load(path)


def test_the_plain_regression_learns():
    data = _symmetric(64)
    model = ConvRegression((1, 12, 12), (6, 6), latent=8, mirror=True)
    history = fit(model, [(i, mask_left(i)) for i in data], epochs=10, batch_size=16, lr=1e-2, progress_bar=False)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


def test_masks():
    images = torch.rand(50, 1, 12, 12)
    mask = mask_random(images, 0.25, seed=3)
    assert mask.dtype == torch.bool
    assert mask.shape == images.shape
    assert abs(float((~mask).float().mean()) - 0.25) < 0.03
    assert torch.equal(mask, mask_random(images, 0.25, seed=3))
    assert not mask_left(images)[..., :6].any()
    assert mask_left(images)[..., 6:].all()


def test_what_is_refused():
    model, images = _small(), _symmetric(2)
    mask = mask_left(images)
    nan = images.clone()
    nan[1, 0, 0, 11] = float("nan")
    for wrong, message in (
        ((images[0], mask[0]), r"images: expected shape \(B, 1, 12, 12\), got \(1, 12, 12\)"),
        ((images, mask[:, :, :6]), r"mask: expected images' shape \(2, 1, 12, 12\), got \(2, 1, 6, 12\)"),
        ((images, mask.float()), r"mask: expected a bool tensor, true where observed, got torch.float32"),
        ((nan, mask), r"images: row 1 has NaN or infinite entries"),
        ((images * 255, mask), r"images: observed entries run from .* expected \[0, 1\]"),
        ((images.to(torch.int64), mask), r"images: expected dtype float32 or float64"),
    ):
        with pytest.raises(ValueError, match=message):
            model(*wrong)
    with pytest.raises(ValueError, match="shape: expected"):
        ImputationModule((12, 12))
    with pytest.raises(ValueError, match="bounds: expected low < high"):
        _small(bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="regression_rank: 0"):
        model.fit_regression_(images, mask[0], 1.0)
    with pytest.raises(ValueError, match="fraction"):
        mask_random(images, 1.5)
