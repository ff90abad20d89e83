"""The networks under ``torch.func`` and batched gradients: what the closed forms say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icnn_rl.nn import ICNN, PICNN, ConvPICNN
from icnn_rl.testing.convexity import ACTIVATIONS

DOUBLE = torch.float64
BATCH = 4

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own


class _Of(nn.Module):
    """f as a function of y alone."""

    def __init__(self, net: nn.Module, energy: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.energy = net, energy

    def forward(self, y: Tensor) -> Tensor:
        f: Tensor = self.energy(self.net, y)(y.flatten(1))
        return f


def _nets() -> dict[str, tuple[nn.Module, Callable[[Any, Tensor], Any]]]:
    torch.manual_seed(0)
    nets: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Any]]] = {}
    for name in ACTIVATIONS:
        nets[f"icnn {name}"] = ICNN(3, (5, 4), activation=name), lambda net, y: net.bind()
    nets["icnn own activation"] = ICNN(3, (5, 4), activation=nn.Softplus(beta=3.0)), lambda net, y: net.bind()
    for norm in (False, True):
        nets[f"picnn {norm}"] = PICNN(3, 3, (6, 6), (5, 4), context_norm=norm), lambda net, y: net.bind(y.sin())
    ensemble = PICNN(3, 3, (6,), (5,), ensemble=2, context_norm=True, activation="squareplus")
    nets["mean"] = ensemble, lambda net, y: net.bind(y.sin(), reduction="mean")
    images = ConvPICNN((1, 4, 4), (1, 4, 4), (2, 2), (2,), latent=3).eval()
    nets["conv"] = images, lambda net, y: net.bind(y.sin())
    return {name: (net.double(), energy) for name, (net, energy) in nets.items()}


@pytest.fixture(params=_nets())
def case(request: pytest.FixtureRequest) -> tuple[_Of, Tensor, Tensor]:
    """f, points, and the gradient of the sum of f there by ``torch.autograd``."""
    f = _Of(*_nets()[request.param])
    y = torch.randn(BATCH, *((1, 4, 4) if request.param == "conv" else (3,)), dtype=DOUBLE)
    leaf = y.clone().requires_grad_()
    return f, y, torch.autograd.grad(f(leaf).sum(), leaf)[0]


def test_derivatives_in_y(case: tuple[_Of, Tensor, Tensor]) -> None:
    f, y, g = case

    def one(y: Tensor) -> Tensor:
        return f(y.unsqueeze(0)).squeeze(0)

    torch.testing.assert_close(torch.func.vmap(torch.func.grad(one))(y), g)
    rows = range(BATCH)
    torch.testing.assert_close(torch.func.jacrev(f)(y)[rows, rows], g)
    torch.testing.assert_close(torch.func.jacfwd(f)(y)[rows, rows], g)
    leaf, units = y.clone().requires_grad_(), torch.eye(BATCH, dtype=DOUBLE)
    (jacobian,) = torch.autograd.grad(f(leaf), leaf, units, is_grads_batched=True)
    torch.testing.assert_close(jacobian[rows, rows], g)
    with torch.autograd.forward_ad.dual_level():
        out = torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(y, y)))
    torch.testing.assert_close(out.tangent, (g * y).flatten(1).sum(-1))
    hessian = torch.func.vmap(torch.func.hessian(one))(y)
    torch.testing.assert_close(hessian, torch.func.vmap(torch.func.jacrev(torch.func.jacrev(one)))(y))


def test_the_closed_forms_inside_of_transforms() -> None:
    for name in ("icnn softplus", "icnn own activation"):
        net, y = _nets()[name][0], torch.randn(BATCH, 3, dtype=DOUBLE)
        assert isinstance(net, ICNN)
        _, g, h = net.bind().value_grad_hessian(y)
        found = torch.func.vmap(lambda y, net=net: net.bind().value_and_grad(y.unsqueeze(0))[1].squeeze(0))(y)
        torch.testing.assert_close(found, g)
        jacobian = torch.func.jacrev(lambda y, net=net: net.bind().value_and_grad(y)[1])(y)
        torch.testing.assert_close(jacobian[range(BATCH), :, range(BATCH)], h)


def test_derivatives_in_the_parameters(case: tuple[_Of, Tensor, Tensor]) -> None:
    """Of a whole batch, and of every row on its own."""
    f, y, _ = case
    parameters = {name: part.detach() for name, part in f.named_parameters()}

    def loss(parameters: dict[str, Tensor], y: Tensor) -> Tensor:
        return torch.func.functional_call(f, parameters, (y,)).square().sum()

    whole = torch.func.grad(loss)(parameters, y)
    rows = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, y.unsqueeze(1))
    f(y).square().sum().backward()
    for name, part in f.named_parameters():
        expected = torch.zeros_like(part) if part.grad is None else part.grad
        torch.testing.assert_close(whole[name], expected)
        torch.testing.assert_close(rows[name].sum(0), expected)


def test_batch_norm_leaves_its_running_moments_alone_inside_of_transforms() -> None:
    net = ConvPICNN((1, 4, 4), (1, 4, 4), (2, 2), (2,), latent=3).double().train()
    twin, x = copy.deepcopy(net), torch.randn(BATCH, 1, 4, 4, dtype=DOUBLE)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    parameters = {name: part.detach() for name, part in net.named_parameters()}
    found = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x, x)).square().sum())(parameters)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    twin(x, x).square().sum().backward()
    assert any(not torch.equal(buffer, before[name]) for name, buffer in twin.named_buffers())
    for name, part in twin.named_parameters():
        torch.testing.assert_close(found[name], torch.zeros_like(part) if part.grad is None else part.grad)
