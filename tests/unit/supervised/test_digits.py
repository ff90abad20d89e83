"""The classifier of digits, on made-up images and a slice of the real ones."""

from __future__ import annotations

import gzip

import pytest
import torch

from icnn_rl.supervised import evaluate, fit
from icnn_rl.supervised.digits import DigitsDataset, DigitsModule, accuracy


def images(n=200, seed=0):
    """Ten random patterns in noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 784, generator=torch.Generator().manual_seed(99)) ** 4
    labels = torch.randint(0, 10, (n,), generator=generator)
    return DigitsDataset((patterns[labels] + 0.2 * torch.rand(n, 784, generator=generator)).clamp(0, 1), labels)


@pytest.mark.parametrize("head", ["optnet", "linear"])
def test_it_learns(head):
    torch.manual_seed(0)
    model = DigitsModule(head, hidden=32)
    metrics = {"accuracy": accuracy}
    history = fit(
        model,
        images(),
        validation=images(seed=1),
        epochs=15,
        batch_size=20,
        lr=3e-3,
        metrics=metrics,
        progress_bar=False,
    )
    assert history[-1]["val/accuracy"] > 0.7
    assert history[-1].get("solver/failed_fraction", 0.0) == 0.0


def test_every_part_of_the_programme_gets_a_gradient():
    model = DigitsModule(hidden=16, n_ineq=20)
    pictures, labels = images(50).tensors
    model.loss((20.0 * pictures, labels)).backward()  # far enough for the inequalities to count
    assert {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())} <= {"body.0.bias"}


def test_shapes_and_files(tmp_path):
    model = DigitsModule(hidden=8, n_ineq=5)
    log_probabilities = model(torch.rand(3, 1, 28, 28))
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(3))
    assert model.predict(torch.rand(3, 784)).dtype == torch.int64
    model.save(tmp_path / "d.safetensors")
    x = torch.rand(3, 784)
    assert torch.equal(DigitsModule.load(tmp_path / "d.safetensors")(x), model(x))


def _first(count, data):
    return DigitsDataset(data.images[:count], data.labels[:count])


def test_a_slice_of_the_real_digits(data_folder):
    train = _first(1000, DigitsDataset.load("train", data_folder))
    test = _first(500, DigitsDataset.load("test"))
    assert (len(train), len(test)) == (1000, 500)
    torch.manual_seed(0)
    model = DigitsModule(hidden=64)
    fit(model, train, epochs=6, batch_size=50, lr=3e-3, progress_bar=False)
    assert evaluate(model, test, 500, metrics={"accuracy": accuracy})["accuracy"] > 0.6


class TestBadData:
    def test_labels_and_images(self):
        good = torch.rand(3, 784)
        with pytest.raises(ValueError, match="labels: expected 0 to 9, but label 1 is 10"):
            DigitsDataset(good, torch.tensor([0, 10, 3]))
        with pytest.raises(ValueError, match="labels: expected int64 of shape"):
            DigitsDataset(good, torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="images: image 2 holds NaN"):
            DigitsDataset(torch.cat((good[:2], torch.full((1, 784), float("nan")))), torch.tensor([0, 1, 2]))
        with pytest.raises(ValueError, match=r"images: expected shape \(..., 784\), got \(3, 10\)"):
            DigitsModule(hidden=4)(torch.zeros(3, 10))
        with pytest.raises(ValueError, match="part: expected one of 'train', 'test'"):
            DigitsDataset.load("validation")

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"no gzip", "not a gzip file, or damaged"),
            (
                gzip.compress(b"\0\0\x08\x01" + (5).to_bytes(4, "big") + b"123", mtime=0),
                "not an idx file of bytes with 3",
            ),
            (gzip.compress(b"\0\0\x08\x03" + (5).to_bytes(4, "big") * 3 + b"123", mtime=0), "damaged; its header says"),
            (gzip.compress(bytes(100), mtime=0)[:-9], "not a gzip file, or damaged"),
        ],
    )
    def test_files(self, tmp_path, content, text):
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(ValueError, match=f"t10k-images-idx3-ubyte.gz: {text}"):
            DigitsDataset.load("test", tmp_path)
