"""Linear layers: one per ensemble member, run as batched matrix products, and one whose weights are non-negative."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.checks import check_choice, check_last_dim, check_positive_int
from icnn_rl.eager import any_transform, recorded, traced
from icnn_rl.nn.activations import ConvexActivation, resolve_activation
from icnn_rl.nn.initialisation import log_normal_, non_negative_moments

__all__ = [
    "ConvexNetwork",
    "EnsembleLinear",
    "EnsembleNorm",
    "Layers",
    "NonNegativeLinear",
    "affine",
    "check_batch",
    "intercepted",
    "inverse_softplus",
]

POSITIVITY = ("clamp", "softplus", "relu")


Layer = TypeVar("Layer", bound=nn.Module)


class Layers(nn.ModuleList, Generic[Layer]):
    """A ModuleList that knows what its modules are."""

    def __iter__(self) -> Iterator[Layer]:
        return cast(Iterator[Layer], super().__iter__())

    def __getitem__(self, index: int) -> Layer:  # type: ignore[override]  # no slices here
        return cast(Layer, super().__getitem__(index))


def inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, member by member where there are members: (B, in) or (E, B, in) -> (B, out) or (E, B, out)."""
    transposed = weight.transpose(-1, -2)  # not mT, which the exporter to ONNX that traces does not know
    if bias is not None and weight.dim() == 3:
        if bias.dim() == 3 and bias.shape[1] == 1:
            members = x.expand(len(weight), -1, -1)
            if not torch.is_grad_enabled() or intercepted():
                return torch.baddbmm(bias, members, transposed)
            return _Affine.apply(members, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
        if x.dim() == 3 and x.shape[0] == weight.shape[0]:
            return torch.baddbmm(bias, x, transposed)  # the bias in the same pass
    product = torch.matmul(x, transposed)
    return product if bias is None else product + bias


def check_batch(name: str, value: Tensor, size: int, ensemble: int | None) -> None:
    """``value`` must be a batch (B, size), or one for each member of an ensemble (E, B, size)."""
    if value.dim() < 2:
        raise ValueError(f"{name}: expected shape (B, {size}), got {tuple(value.shape)}. Give it a batch dimension.")
    check_last_dim(name, value, size)
    if value.dim() > 2 and (value.dim() > 3 or value.shape[0] not in (1, ensemble or 1)):
        each = "" if ensemble is None else f" or ({ensemble}, B, {size}), a batch for each member"
        raise ValueError(
            f"{name}: expected shape (B, {size}){each}, got {tuple(value.shape)}. Flatten further batch dimensions."
        )


def intercepted() -> bool:
    """Whether something records or transforms operations, or casts their results, so that code of ours must not
    stand in for them."""
    return recorded() or any_transform() or torch._C._is_any_autocast_enabled()


class _Affine(torch.autograd.Function):
    """x W^T + b of every member. Autograd's own gradient of W comes out transposed, to be copied; this one does not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias, x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (g,) = ctx.saved_tensors, grads
        into_x = torch.bmm(g, weight) if ctx.needs_input_grad[0] else None
        return into_x, torch.bmm(g.mT, x), g.sum(1, keepdim=True)


def clamped(raw: Tensor) -> Tensor:
    """max(V, 0), elementwise, with a gradient that can still raise what is below 0: there the clamp's own is 0, and an
    entry that an optimiser carried below 0 would stay there for good. What would carry it further down is left out.
    Where V >= 0 it is the identity."""
    if not torch.is_grad_enabled() or traced():
        return raw.clamp(min=0.0)
    kind = _ClampedInTransforms if any_transform() else _Clamped
    return kind.apply(raw)  # type: ignore[no-any-return, no-untyped-call]


def _into_raw(raw: Tensor, g: Tensor) -> Tensor:
    return g.masked_fill((raw < 0) & (g > 0), 0.0)


class _Clamped(torch.autograd.Function):
    """:func:`clamped`."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw)
        return raw.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _into_raw(*ctx.saved_tensors, *grads)


class _ClampedInTransforms(torch.autograd.Function):
    """:func:`clamped` as ``torch.func`` asks for it, which takes ten times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.clamp(min=0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _into_raw(*ctx.saved_tensors, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (raw,), (t,) = ctx.saved_tensors, tangents
        return t.masked_fill(raw < 0, 0.0)


class EnsembleLinear(nn.Module):
    """E linear maps side by side: (B, in) or (E, B, in) -> (E, B, out).

    Args:
        in_features: size of the input.
        out_features: size of the output.
        ensemble: number of members E.
        bias: whether to add one.
    """

    def __init__(self, in_features: int, out_features: int, ensemble: int, *, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.ensemble = in_features, out_features, ensemble
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(ensemble, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(ensemble, 1, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"ensemble={self.ensemble}, bias={self.bias is not None}"
        )


class EnsembleNorm(nn.Module):
    """LayerNorm over the last dimension with a shift for each member: (E, B, width) -> (E, B, width).

    There is no scale: before a ReLU the next layer's weights can carry it, and a pass over the batch is saved.
    """

    def __init__(self, width: int, ensemble: int) -> None:
        super().__init__()
        self.width, self.ensemble = width, ensemble
        self.bias = nn.Parameter(torch.zeros(ensemble, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,)) + self.bias

    def extra_repr(self) -> str:
        return f"width={self.width}, ensemble={self.ensemble}"


class NonNegativeLinear(nn.Module):
    """Linear map y = W x + b with W >= 0 elementwise: keeps convexity from input to output.

    Args:
        in_features: size of the input.
        out_features: size of the output.
        bias: whether to add b, free in sign.
        positivity: how W stays non-negative whatever an optimiser does to the parameter V.
            ``"clamp"``: W = max(V, 0). An entry below 0 still gets the gradient that would raise it, so that it can
                return. With :meth:`clamp_weights_` after every step this is the paper's projected gradient method;
                without, momentum may carry V below 0 for a while.
            ``"softplus"``: W = softplus(V), always positive. ``"relu"``: W = max(V, 0); an entry at or below zero gets
                no gradient.
        activation: the activation whose outputs come in, for the initialisation that keeps the signal's scale.
        ensemble: None for one map (weight (out, in)), or E for E maps side by side (weight (E, out, in)).

    Attributes:
        weight: the raw parameter. weight_nonneg: what forward multiplies by.

    Raises:
        ValueError: a size below 1, an unknown ``positivity``, an activation that is not convex and non-decreasing.

    Example:
        >>> layer = NonNegativeLinear(64, 32, positivity="softplus")
        >>> bool((layer.weight_nonneg >= 0).all())
        True

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, section 3; initialisation: see ``nn.initialisation``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        positivity: str = "clamp",
        activation: str | ConvexActivation = "relu",
        ensemble: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive_int("in_features", in_features)
        self.out_features = check_positive_int("out_features", out_features)
        self.positivity = check_choice("positivity", positivity, POSITIVITY)
        self.ensemble = ensemble
        lead = () if ensemble is None else (check_positive_int("ensemble", ensemble),)
        self.weight = nn.Parameter(torch.empty(*lead, out_features, in_features))
        moments = non_negative_moments(in_features, resolve_activation(activation))
        with torch.no_grad():
            log_normal_(self.weight, moments.mean, moments.std)
            if positivity == "softplus":
                self.weight.copy_(inverse_softplus(self.weight))
        shape = (out_features,) if ensemble is None else (ensemble, 1, out_features)
        self.bias = nn.Parameter(torch.full(shape, moments.bias)) if bias else None

    @property
    def weight_nonneg(self) -> Tensor:
        """(out, in) or (E, out, in), >= 0: the weights that forward uses; NaN where the parameter is."""
        if self.positivity == "softplus":
            return F.softplus(self.weight)
        if self.positivity == "relu":
            return self.weight.relu()
        return clamped(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight_nonneg, self.bias)

    @torch.no_grad()
    def clamp_weights_(self) -> None:
        """Clamp the parameter to >= 0, which changes no weight that forward uses. Does nothing unless positivity is
        "clamp"; a NaN stays a NaN."""
        if self.positivity == "clamp":
            self.weight.clamp_(min=0.0)

    def is_nonneg(self) -> bool:
        """Whether every weight that forward uses is >= 0 (False if one is NaN)."""
        return bool((self.weight_nonneg >= 0).all())

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"positivity={self.positivity!r}, ensemble={self.ensemble}"
        )


class ConvexNetwork(nn.Module):
    """A network whose convexity rests on the weights of its ``nonneg`` layers, which are never negative."""

    nonneg: Layers[NonNegativeLinear]

    def clamp_weights_(self) -> None:
        """Clamp the parameters of W^(z) to >= 0 after an optimiser step, see :class:`NonNegativeLinear`: convex it is
        without. A no-op unless positivity is "clamp"."""
        for layer in self.nonneg:
            layer.clamp_weights_()

    def is_convex(self) -> bool:
        """Whether every weight that carries convexity is >= 0: false where one is NaN."""
        return all(layer.is_nonneg() for layer in self.nonneg)
