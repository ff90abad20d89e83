"""Entries that look at numbers, under what PyTorch has around a program: right numbers, or an error that says what to
do. A trace that repeats one way through a solve is neither."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from torch import Tensor, nn

from icnn_rl import Box, minimize
from icnn_rl.agents import ICNNQ, NAF, ConstrainedPPOPolicy, ConstrainedSACPolicy, ConstrainedTD3Policy
from icnn_rl.constraints import ActionProjection, OptNetHead, box, l1_ball
from icnn_rl.nn import ICNN, PICNN, ConvPICNN
from icnn_rl.qp import Diagonal, QPLayer, solve_qp
from icnn_rl.qp.total_variation import total_variation
from icnn_rl.solvers import BundleEntropy, Implicit, ImplicitCG, ProjectedGradient, ProjectedNewton, Unrolled

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch.jit, by torch
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # looked at by Dynamo
]

BATCH, N = 6, 3
BOX = Box(-1.0, 1.0)


class _Module(nn.Module):
    """``function`` of modules of its own: what an exporter takes."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], inner: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner, x)


def _picnn(**settings: Any) -> PICNN:
    return PICNN(N, N, (8, 8), **{"hidden": (8,), "activation": "squareplus", "context_norm": True, **settings})


def _y0(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), N)


def _solving() -> dict[str, _Module]:
    torch.manual_seed(0)
    newton = ProjectedNewton()
    pieces = _picnn(activation="relu", quadratic=False, strong_convexity=0.0)
    return {
        "solve_qp": _Module(lambda _, x: solve_qp(1.0, x, lb=-0.3, ub=0.3).value, nn.Identity()),
        "diagonal": _Module(lambda _, x: solve_qp(Diagonal(x.exp()), x, lb=-0.3, ub=0.3).value, nn.Identity()),
        "QPLayer": _Module(lambda layer, x: layer(x), QPLayer(N, n_ineq=2)),
        "ActionProjection": _Module(
            lambda head, x: head(None, 3 * x), ActionProjection(l1_ball(1.0), low=-1.0, high=1.0)
        ),
        "penalty": _Module(
            lambda head, x: head(None, 3 * x), ActionProjection(l1_ball(1.0), low=-1.0, high=1.0, penalty=0.3)
        ),
        "OptNetHead": _Module(lambda head, x: head(x), OptNetHead(N, 2, l1_ball(1.0), low=-1.0, high=1.0, n_ineq=2)),
        "total_variation": _Module(lambda _, x: total_variation(x, 0.1, throw=False).value, nn.Identity()),
        "newton": _Module(lambda f, x: minimize(f.bind(x), newton, _y0(x), domain=BOX).value, _picnn()),
        "mean": _Module(
            lambda f, x: minimize(f.bind(x, reduction="mean"), newton, _y0(x), domain=BOX).fun,
            _picnn(hidden=(8, 8), ensemble=2),
        ),
        "bundle": _Module(
            lambda f, x: minimize(f.bind(x), BundleEntropy(0.1, tol=1e-4), _y0(x), domain=BOX).value, pieces
        ),
    }


def _value_and_derivatives(f: PICNN, x: Tensor) -> Tensor:
    """f, its gradient and its Hessian side by side: recording a network takes seconds, whatever is asked of it."""
    y = x.sin()
    f_y, gradient, hessian = f.bind(x).value_grad_hessian(y)
    return torch.cat([f(x, y)[:, None], f_y[:, None], f.bind(x).value_and_grad(y)[1], gradient, hessian.flatten(1)], 1)


def _reductions(f: PICNN, x: Tensor) -> Tensor:
    return torch.stack([f.bind(x, reduction=name)(x.sin()) for name in ("mean", "softmax")], 1)


def _networks() -> dict[str, _Module]:
    torch.manual_seed(0)
    images = ConvPICNN((1, 4, 4), (1, 4, 4), (2, 2), (2,), latent=3).eval()
    return {
        "icnn": _Module(lambda f, x: f(x), ICNN(N, (8, 8))),
        "picnn": _Module(_value_and_derivatives, _picnn(hidden=(8, 8))),
        "ensemble": _Module(_reductions, _picnn(ensemble=2)),
        "conv": _Module(lambda f, x: f(*2 * (x.repeat(1, 6)[:, :16].view(-1, 1, 4, 4),)), images),
    }


def _inputs() -> tuple[Tensor, Tensor]:
    """Those that something is recorded with, and others, larger."""
    torch.manual_seed(1)
    return 0.1 * torch.randn(BATCH, N), torch.randn(BATCH, N)


def _trace(module: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(module, (x,), check_trace=False)


def _export(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,)).module()


def _onnx(module: nn.Module, x: Tensor) -> Any:
    return torch.onnx.export(module, (x,), io.BytesIO(), dynamo=False)


RECORDERS = [_trace, _export, _onnx]


@pytest.mark.parametrize("record", RECORDERS)
@pytest.mark.parametrize("name", _solving())
def test_what_solves_is_not_recorded(name: str, record: Callable[[nn.Module, Tensor], Any]) -> None:
    """A recorded projection let (0.9, 0.8) pass where (0.55, 0.45) was right."""
    with pytest.raises(RuntimeError, match=r"cannot be recorded .* Export the networks around it alone"):
        record(_solving()[name], _inputs()[0])


@pytest.mark.parametrize("record", [_trace, _export])
@pytest.mark.parametrize("name", _networks())
def test_recorded_networks_are_the_networks(name: str, record: Callable[[nn.Module, Tensor], Any]) -> None:
    module, (small, large) = _networks()[name], _inputs()
    with torch.no_grad():
        recorded = record(module, small)
        torch.testing.assert_close(recorded(large), module(large), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*_solving(), *(f"network {name}" for name in _networks())])
def test_compiled_code_goes_around(name: str) -> None:
    """Dynamo would trace into the solver, for minutes, or end in numba's dispatcher."""
    module = _networks()[name.removeprefix("network ")] if name.startswith("network ") else _solving()[name]
    torch._dynamo.reset()
    for x in _inputs():
        alone, together = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected = module(alone)
        found = torch.compile(module, backend="eager")(together)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        if expected.requires_grad:
            expected.square().sum().backward()
            found.square().sum().backward()
            torch.testing.assert_close(together.grad, alone.grad, rtol=1e-4, atol=1e-6)


def test_a_whole_graph_with_a_solve_is_refused_with_the_reason() -> None:
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="QPLayer looks at the numbers"):
        torch.compile(_solving()["QPLayer"], backend="eager", fullgraph=True)(_inputs()[0])


_SPACES = spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (1,))


def _policies() -> dict[str, Callable[[], nn.Module]]:
    limit = {"constraint": box(-0.2, 0.2)}

    def of(agent: Any, policy: Any, **kwargs: Any) -> Callable[[], nn.Module]:
        return lambda: agent(policy, "Pendulum-v1", seed=0, device="cpu", policy_kwargs=kwargs).policy

    return {
        "icnn": of(ICNNQ, "MlpPolicy"),
        "icnn under a constraint": of(ICNNQ, "MlpPolicy", **limit),
        "naf": of(NAF, "MlpPolicy"),
        "td3": of(TD3, ConstrainedTD3Policy, **limit),
        "sac": of(SAC, ConstrainedSACPolicy, **limit),
        "ppo": of(PPO, ConstrainedPPOPolicy, **limit),
    }


@pytest.mark.parametrize("name", _policies())
def test_policies(name: str) -> None:
    policy = _policies()[name]()
    policy.set_training_mode(False)
    module = _Module(lambda policy, obs: policy._predict(obs, deterministic=True), policy)
    small, large = _inputs()
    for record in RECORDERS:
        with pytest.raises(RuntimeError, match="cannot be recorded"):
            record(module, small)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(module, backend="eager")(large), module(large))


@pytest.mark.parametrize("name", [*_solving(), *(f"network {name}" for name in _networks())])
def test_autocast_stays_outside(name: str) -> None:
    """The answer to a layer's output of 16 bits is the answer to these numbers in 32."""
    module = _networks()[name.removeprefix("network ")] if name.startswith("network ") else _solving()[name]
    x = _inputs()[1]
    layer = nn.Linear(N, N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(x)
        found = module(rough)
    assert rough.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    expected = module(rough.detach().float())
    exact = name in (
        "solve_qp",
        "QPLayer",
        "OptNetHead",
        "newton",
        "mean",
        "bundle",
    )  # the others' functions begin in 16
    tolerance = 0.0 if exact else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if found.requires_grad:
        found.square().sum().backward()
        for parameter in module.parameters():
            assert parameter.grad is None or parameter.grad.dtype == torch.float32


DOUBLE = torch.float64


def _double(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    module = _solving()[name].double()
    return module, _inputs()[1].double()


@pytest.mark.parametrize("name", _solving())
def test_reverse_mode_of_torch_func(name: str) -> None:
    function, x = _double(name)
    weight = torch.randn_like(function(x)).detach()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((function(leaf) * weight).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda x: (function(x) * weight).sum())(x), expected)
    if name == "penalty":  # its part of a gradient is the same for every output
        return
    jacobian = torch.func.jacrev(function)(x)
    torch.testing.assert_close(torch.tensordot(weight, jacobian, weight.dim()), expected)


@pytest.mark.parametrize("adjoint", [Implicit(), ImplicitCG(), Unrolled()])
def test_reverse_mode_of_torch_func_through_functions_of_ones_own(adjoint: Implicit | ImplicitCG | Unrolled) -> None:
    solver = ProjectedGradient(max_steps=20) if isinstance(adjoint, Unrolled) else ProjectedNewton(tol=1e-12)

    def argmin(x: Tensor) -> Tensor:
        energy = lambda y: ((y - x.sin()) ** 2).sum(-1) + (y**4).sum(-1)  # noqa: E731
        return minimize(energy, solver, torch.zeros_like(x), domain=BOX, adjoint=adjoint, throw=False).value

    x = _inputs()[1].double()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(argmin(leaf).sum(), leaf)
    if isinstance(adjoint, ImplicitCG):
        with pytest.raises(ValueError, match=r"adjoint: ImplicitCG\(\) does not go with torch\.func"):
            torch.func.grad(lambda x: argmin(x).sum())(x)
        out = argmin(leaf)
        with pytest.raises(RuntimeError, match="one gradient at a time"):
            torch.autograd.grad(out, leaf, torch.ones(2, *out.shape, dtype=DOUBLE), is_grads_batched=True)
        return
    torch.testing.assert_close(torch.func.grad(lambda x: argmin(x).sum())(x), expected)
    if isinstance(adjoint, Unrolled):  # its steps are ordinary operations
        _, tangent = torch.func.jvp(argmin, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(tangent.sum(), expected.sum())


@pytest.mark.parametrize("name", _solving())
def test_other_transforms_are_known_or_refused(name: str) -> None:
    function, x = _double(name)

    def row(x: Tensor) -> Tensor:
        return function(x.unsqueeze(0)).squeeze(0)

    if name in ("solve_qp", "diagonal", "QPLayer", "total_variation"):
        torch.testing.assert_close(torch.func.vmap(row)(x), function(x))
    else:
        with pytest.raises(RuntimeError, match=r"cannot be mapped .* pass all rows at once"):
            torch.func.vmap(row)(x)
    if name == "total_variation":
        torch.testing.assert_close(torch.func.jacfwd(function)(x), torch.func.jacrev(function)(x))
        return
    for forward_mode in (
        lambda: torch.func.jvp(function, (x,), (x,)),
        lambda: torch.func.hessian(lambda x: function(x).sum())(x),
        lambda: _dual(function, x),
    ):
        with pytest.raises(RuntimeError, match=r"has no forward-mode derivatives .* torch\.func\.grad"):
            forward_mode()


def _dual(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        return function(torch.autograd.forward_ad.make_dual(x, x))
