"""Linear layers, one per ensemble member, and the one with non-negative weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from icnn_rl.nn import NonNegativeLinear
from icnn_rl.nn.linear import POSITIVITY, EnsembleLinear, EnsembleNorm, affine


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("positivity", POSITIVITY)
@pytest.mark.parametrize("ensemble", [None, 3])
def test_forward_is_a_non_negative_affine_map(positivity: str, ensemble: int | None) -> None:
    layer = NonNegativeLinear(5, 4, positivity=positivity, ensemble=ensemble)
    x = torch.randn(7, 5)
    y, weight, bias = layer(x), layer.weight_nonneg, layer.bias
    assert bias is not None
    assert (weight >= 0).all()
    assert layer.is_nonneg()
    if ensemble is None:
        assert y.shape == (7, 4)
        torch.testing.assert_close(y, F.linear(x, weight, bias))
    else:
        assert y.shape == (3, 7, 4)
        for member in range(3):
            torch.testing.assert_close(y[member], F.linear(x, weight[member], bias[member, 0]))
        own = torch.randn(3, 7, 5)
        torch.testing.assert_close(layer(own)[2], F.linear(own[2], weight[2], bias[2, 0]))


def test_the_start_has_the_same_distribution_whatever_the_positivity() -> None:
    means = [float(NonNegativeLinear(64, 256, positivity=name).weight_nonneg.detach().mean()) for name in POSITIVITY]
    assert max(means) == pytest.approx(min(means), rel=5e-2)


def test_project_clamps_the_parameter_and_changes_no_weight() -> None:
    for positivity in POSITIVITY:
        layer = NonNegativeLinear(3, 2, positivity=positivity)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[-1.0, 0.0, 2.0], [3.0, -0.5, 1.0]]))
        before, used = layer.weight.clone(), layer.weight_nonneg.clone()
        assert layer.is_nonneg()
        layer.clamp_weights_()
        expected = before.clamp(min=0) if positivity == "clamp" else before
        assert torch.equal(layer.weight, expected)
        assert torch.equal(layer.weight_nonneg, used)
        assert layer.weight.requires_grad


def test_a_clamped_weight_below_zero_can_only_be_raised() -> None:
    """Where the parameter is at or above 0 the gradient is the one of a plain parameter."""
    layer = NonNegativeLinear(3, 2, bias=False)
    raw = torch.tensor([[-1.0, 0.0, 2.0], [-1.0, 0.0, 2.0]])
    with torch.no_grad():
        layer.weight.copy_(raw)
    used = layer.weight_nonneg
    assert torch.equal(used, raw.clamp(min=0))
    wanted = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    (g,) = torch.autograd.grad(used, layer.weight, wanted)
    assert torch.equal(g, torch.tensor([[0.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
def test_the_same_rule_holds_inside_torch_func() -> None:
    module, raw = _Used(NonNegativeLinear(3, 2, bias=False)), torch.tensor([[-1.0, 0.0, 2.0], [-1.0, 0.0, 2.0]])

    def used(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"layer.weight": weight}, ())

    wanted = torch.stack((torch.ones(2, 3), -torch.ones(2, 3)))
    found = torch.func.vmap(torch.func.grad(lambda w, c: (used(w) * c).sum()), (None, 0))(raw, wanted)
    assert torch.equal(found[0], torch.tensor([[0.0, 1.0, 1.0]]).expand(2, -1))
    assert torch.equal(found[1], -torch.ones(2, 3))
    _, tangent = torch.func.jvp(used, (raw,), (torch.ones_like(raw),))
    assert torch.equal(tangent, (raw >= 0).float())


class _Used(torch.nn.Module):
    def __init__(self, layer: NonNegativeLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> torch.Tensor:
        return self.layer.weight_nonneg


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
def test_training_without_projecting_comes_back_from_zero(optimiser: type[torch.optim.Optimizer]) -> None:
    """First a target that only negative weights could meet, then one that positive ones meet."""
    layer = NonNegativeLinear(4, 1, bias=False)
    x, w = torch.rand(64, 4), torch.tensor([[0.5, 1.0, 1.5, 2.0]])
    steps = optimiser(layer.parameters(), lr=0.05)  # type: ignore[call-arg]
    for target, least in ((-w, 0.0), (w, 0.5)):
        for _ in range(400):
            steps.zero_grad()
            F.mse_loss(layer(x), x @ target.mT).backward()
            steps.step()
            assert layer.is_nonneg()
        torch.testing.assert_close(layer.weight_nonneg, target.clamp(min=least), atol=0.05, rtol=0)


@pytest.mark.parametrize("positivity", POSITIVITY)
def test_a_nan_stays_a_nan_and_is_seen(positivity: str) -> None:
    layer = NonNegativeLinear(3, 2, positivity=positivity)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    layer.clamp_weights_()
    assert layer.weight[0, 0].isnan()
    assert not layer.is_nonneg()


def test_without_bias() -> None:
    layer = NonNegativeLinear(3, 2, bias=False)
    assert layer.bias is None
    assert (layer(torch.zeros(1, 3)) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, r"in_features: expected an integer >= 1, got 0"),
        ({"out_features": 1.5}, r"out_features: expected an integer >= 1, got 1\.5"),
        ({"positivity": "abs"}, r"positivity: expected one of 'clamp', 'softplus', 'relu', got 'abs'"),
        ({"ensemble": 0}, r"ensemble: expected an integer >= 1"),
        ({"activation": "gelu"}, r"activation: 'gelu' is not a known"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonNegativeLinear(**{"in_features": 3, "out_features": 2, **arguments})  # type: ignore[arg-type]


def test_ensemble_linear_is_a_loop_over_members() -> None:
    layer = EnsembleLinear(4, 3, 2)
    assert layer.bias is not None
    shared, own = torch.randn(5, 4), torch.randn(2, 5, 4)
    for member in range(2):
        torch.testing.assert_close(layer(shared)[member], F.linear(shared, layer.weight[member], layer.bias[member, 0]))
        torch.testing.assert_close(
            layer(own)[member], F.linear(own[member], layer.weight[member], layer.bias[member, 0])
        )


def test_ensemble_norm_is_layer_norm_per_member() -> None:
    norm, x = EnsembleNorm(6, 2), torch.randn(2, 5, 6)
    with torch.no_grad():
        norm.bias.normal_()
    for member in range(2):
        expected = F.layer_norm(x[member], (6,), bias=norm.bias[member, 0])
        torch.testing.assert_close(norm(x)[member], expected)


def test_settings_are_shown() -> None:
    assert "positivity='softplus'" in repr(NonNegativeLinear(3, 2, positivity="softplus"))
    assert "ensemble=2" in repr(EnsembleLinear(3, 2, 2))
    assert "width=4" in repr(EnsembleNorm(4, 2))


def test_members_share_an_affine_maps_input() -> None:
    x, weight, bias = (torch.randn(shape).double().requires_grad_() for shape in ((5, 7), (2, 4, 7), (2, 1, 4)))
    assert torch.autograd.gradcheck(affine, (x, weight, bias))
    assert torch.autograd.gradgradcheck(affine, (x, weight, bias))
    torch.testing.assert_close(affine(x, weight, bias), torch.matmul(x, weight.mT) + bias)


def test_weight_gradients_need_no_copy() -> None:
    x, weight, bias = torch.randn(5, 7), torch.randn(2, 4, 7, requires_grad=True), torch.randn(2, 1, 4)
    (gradient,) = torch.autograd.grad(affine(x, weight, bias).sum(), weight)
    assert gradient.is_contiguous()
