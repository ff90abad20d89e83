"""Model files: what comes back, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icnn_rl.qp import PrimalDual
from icnn_rl.solvers import BundleEntropy
from icnn_rl.supervised import SavedModule


class Scale(SavedModule):
    def __init__(self, size, hidden=(2, 3), solver=None, table=None):
        super().__init__()
        self.given = {"size": size, "hidden": hidden, "solver": solver, "table": table}
        self.weight = nn.Parameter(torch.randn(size))
        self.register_buffer("twice", self.weight.detach())  # shares its memory

    def arguments(self):
        return self.given


class Other(Scale):
    pass


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "m.safetensors"
    Scale(4).save(path)
    return path


@pytest.mark.parametrize("solver", [None, PrimalDual(tol=1e-6), BundleEntropy(max_steps=15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_comes_back_whole(tmp_path, solver, dtype):
    model = Scale(4, hidden=(5,), solver=solver, table={"a": [1, 2.5, None], "b": {"c": True}}).to(dtype)
    model.save(tmp_path / "m.safetensors")
    again = Scale.load(tmp_path / "m.safetensors")
    assert torch.equal(again.weight, model.weight)
    assert again.weight.dtype == dtype
    assert again.weight.requires_grad
    assert again.given["hidden"] == (5,)
    assert again.given["solver"] == solver
    assert not again.training
    assert again.given["table"] == {"a": (1, 2.5, None), "b": {"c": True}}
    assert [f.name for f in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_argument_that_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"arguments.solver: function cannot be written"):
        Scale(4, solver=lambda: None).save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_class_is_named(file):
    with pytest.raises(ValueError, match=r"m.safetensors: holds a Scale, not a Other. Load it with Scale.load"):
        Other.load(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.safetensors: no such file"):
        Scale.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", [lambda b: b[:-4], lambda b: b"", lambda b: b"PK" + b, lambda b: b[: len(b) // 3]])
def test_a_damaged_file(file, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"m.safetensors: not a safetensors file, or damaged"):
        Scale.load(file)


def test_somebody_elses_file(file):
    save_file({"weight": torch.zeros(4)}, file)
    with pytest.raises(ValueError, match=r"m.safetensors: a safetensors file, but not one that Scale.save wrote"):
        Scale.load(file)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": "9"}, "format_version 9, but this version of icnn_rl reads 1"),
        ({"class_version": "2"}, "class_version 2, but"),
        ({"arguments": "{}"}, "does not fit Scale"),
        ({"arguments": '{"size": 5}'}, "does not fit Scale"),
        ({"arguments": "not JSON"}, "does not fit Scale"),
        ({"arguments": '{"size": 4, "solver": {"settings": "os"}}'}, "unknown settings 'os'"),
    ],
)
def test_a_header_that_does_not_fit(file, changes, text):
    header = {"format": "icnn_rl", "format_version": "1", "class": "Scale", "class_version": "1"}
    tensors = {"weight": torch.zeros(4), "twice": torch.zeros(4)}
    save_file(tensors, file, metadata={**header, "arguments": '{"size": 4}', **changes})
    with pytest.raises(ValueError, match=rf"m.safetensors: .*{text}"):
        Scale.load(file)
