"""What is compiled or has its own backward, against the tensor code that it stands in for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icnn_rl.nn import PICNN, _fused, linear
from icnn_rl.testing.minimisation import draw

DTYPES = {torch.float32: 1e-4, torch.float64: 1e-10}


def _parameters(dtype: torch.dtype, width: int = 24) -> tuple[Tensor, ...]:
    weight, bias, shift = draw(0, 2, width, 7), draw(1, 2, 1, width), draw(2, 2, 1, width)
    return tuple(part.to(dtype).requires_grad_() for part in (weight, bias, shift))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (2, 1, 7)])
def test_a_context_layer_and_its_gradients(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, parameters = draw(3, *shape).to(dtype).requires_grad_(), _parameters(dtype)
    results = []
    for layer in (_fused.context_layer, _fused.reference):
        u = layer(x, *parameters)
        results.append((u, *torch.autograd.grad(u.square().sum(), (x, *parameters))))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, atol=DTYPES[dtype], rtol=DTYPES[dtype])


def test_a_context_layer_has_derivatives_of_every_order() -> None:
    x, parameters = draw(3, 3, 7).double().requires_grad_(), _parameters(torch.float64, width=4)
    assert torch.autograd.gradcheck(_fused.context_layer, (x, *parameters))
    assert torch.autograd.gradgradcheck(_fused.context_layer, (x, *parameters))


def test_a_row_that_is_not_finite_stays_so_and_disturbs_nobody() -> None:
    x, parameters = draw(3, 5, 7), _parameters(torch.float32)
    clean = _fused.context_layer(x, *parameters)
    x[3, 0] = float("nan")
    u = _fused.context_layer(x, *parameters)
    assert u[:, 3].isnan().all()
    assert torch.equal(u[:, :3], clean[:, :3])


def test_members_share_an_affine_maps_input() -> None:
    x, (weight, bias, _) = draw(3, 5, 7).double().requires_grad_(), _parameters(torch.float64)
    assert torch.autograd.gradcheck(linear.affine, (x, weight, bias))
    assert torch.autograd.gradgradcheck(linear.affine, (x, weight, bias))
    torch.testing.assert_close(linear.affine(x, weight, bias), torch.matmul(x, weight.mT) + bias)


def test_weight_gradients_need_no_copy() -> None:
    x, (weight, bias, _) = draw(3, 5, 7), _parameters(torch.float32)
    (gradient,) = torch.autograd.grad(linear.affine(x, weight, bias).sum(), weight)
    assert gradient.is_contiguous()


@pytest.mark.parametrize("activation", [F.relu, torch.nn.ReLU(), F.silu])
def test_without_numba_a_network_is_the_same(monkeypatch: pytest.MonkeyPatch, activation: object) -> None:
    torch.manual_seed(0)
    net = PICNN(
        5, 3, (16, 8), (6,), activation="squareplus", context_activation=activation, context_norm=True, ensemble=2
    )  # type: ignore[arg-type]
    x, y = draw(0, 9, 5), draw(1, 9, 3)
    ours = net(x, y)
    monkeypatch.setattr(_fused, "available", lambda: False)
    monkeypatch.setattr(_fused, "_kernel", lambda: pytest.fail("asked for the kernel"))
    torch.testing.assert_close(ours, net(x, y))


def test_second_derivatives_where_not_every_input_asks_for_them() -> None:
    net = PICNN(3, 2, (4,), (4,), context_norm=True, activation="squareplus")
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    parameters = list(net.parameters())
    first = torch.autograd.grad(net(x, y).sum(), parameters, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), parameters, allow_unused=True)
    assert any(part is not None and part.abs().max() > 0 for part in second)
