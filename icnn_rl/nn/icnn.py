"""Fully input-convex network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from icnn_rl.checks import (
    check_float_tensor,
    check_positive_int,
    check_range,
    check_same_kind,
    check_widths,
)
from icnn_rl.eager import full_precision
from icnn_rl.nn.activations import ConvexActivation, resolve_activation
from icnn_rl.nn.energy import ConvexLayer, EnsembleEnergy
from icnn_rl.nn.initialisation import quadratic_root
from icnn_rl.nn.linear import ConvexNetwork, EnsembleLinear, Layers, NonNegativeLinear, check_batch

__all__ = ["ICNN"]


class ICNN(ConvexNetwork):
    """Fully input-convex network (FICNN): a scalar f(y), convex in every input.

    With z_0 absent, layers i = 0 .. k-1 and a linear output layer,

        z_{i+1} = g( W_i^(z) z_i + W_i^(y) y + b_i )
        f(y)    = w^(z) . z_k + w^(y) . y + b + 1/2 strong_convexity |y|^2 + 1/2 |R y|^2

    with W^(z), w^(z) >= 0 elementwise, g convex and non-decreasing. W^(y) is free in sign. Minimise f; do not maximise
    it.

    Args:
        in_features: n, the size of y.
        hidden: widths of the hidden layers, any number.
        activation: g: a name ("softplus", "squareplus", "relu", "leaky_relu", "elu") or an elementwise function, which
            is checked.
        strong_convexity: m >= 0; f - m/2 |y|^2 is convex too.
        quadratic_rank: rows of R, which is learned; n of them make f strongly convex, and its gradient any affine map
            to begin with, see :func:`initialise_gradient_map`. None: no such term.
        positivity: how W^(z) stays non-negative, see :class:`NonNegativeLinear`.
        ensemble: None, or a number E of members evaluated side by side.

    Shapes:
        ``f(y)``: (B, n) -> (B,); with an ensemble, (B, n) or (E, B, n) -> (E, B). float32 or float64, as the
            parameters.

    Raises:
        ValueError: a wrong width, or an activation that is not convex and non-decreasing.

    Example:
        >>> f = ICNN(in_features=8, hidden=(64, 64), strong_convexity=1e-3)
        >>> f(torch.randn(32, 8)).shape
        torch.Size([32])

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017 (arXiv 1609.07152), equation 2.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str | Callable[[Tensor], Tensor] | ConvexActivation = "softplus",
        strong_convexity: float = 0.0,
        quadratic_rank: int | None = None,
        positivity: str = "clamp",
        ensemble: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive_int("in_features", in_features)
        self.hidden = check_widths("hidden", hidden)
        self.activation = resolve_activation(activation)
        self.strong_convexity = check_range("strong_convexity", strong_convexity, 0.0, float("inf"))
        self.ensemble = ensemble
        members = 1 if ensemble is None else check_positive_int("ensemble", ensemble)
        widths = (*self.hidden, 1)
        self.passthrough = Layers[EnsembleLinear](
            EnsembleLinear(in_features, width, members, bias=i == 0) for i, width in enumerate(widths)
        )
        self.nonneg = Layers[NonNegativeLinear](
            NonNegativeLinear(before, after, positivity=positivity, activation=self.activation, ensemble=members)
            for before, after in itertools.pairwise(widths)
        )
        self.root = None if quadratic_rank is None else quadratic_root(members, quadratic_rank, in_features)

    @full_precision
    def bind(self, reduction: str = "none", temperature: float = 1.0) -> EnsembleEnergy:
        """The network as an energy with closed-form derivatives, see :class:`EnsembleEnergy`."""
        layers = []
        for i in range(len(self.hidden)):
            offset = _bias(self.passthrough[i] if i == 0 else self.nonneg[i - 1])
            weight = None if i == 0 else self.nonneg[i - 1].weight_nonneg
            layers.append(ConvexLayer(offset, self.passthrough[i].weight, None, weight, None))
        if self.hidden:
            out_weight, constant = self.nonneg[-1].weight_nonneg, _bias(self.nonneg[-1]).squeeze(-1)
        else:
            out_weight, constant = self.passthrough[-1].weight[..., :0], _bias(self.passthrough[-1]).squeeze(-1)
        linear = self.passthrough[-1].weight
        quadratic = torch.full_like(linear, self.strong_convexity, requires_grad=False)
        return EnsembleEnergy(
            layers,
            out_weight,
            linear,
            constant,
            quadratic,
            self.activation,
            reduction,
            temperature,
            squeeze=self.ensemble is None,
            root=self.root,
        )

    @full_precision
    def tilted(self, p: Tensor) -> EnsembleEnergy:
        """f(y) - p . y as an energy, see :meth:`EnsembleEnergy.tilted`."""
        return self.bind().tilted(p)

    @full_precision
    def forward(self, y: Tensor) -> Tensor:
        check_batch("y", check_float_tensor("y", y), self.in_features, self.ensemble)
        check_same_kind("y", y, "the network's parameters", self.passthrough[0].weight)
        return self.bind()(y)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, hidden={self.hidden}, activation={self.activation.name!r}, "
            f"ensemble={self.ensemble}"
        )


def _bias(layer: EnsembleLinear | NonNegativeLinear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
