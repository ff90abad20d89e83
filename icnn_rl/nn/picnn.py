"""Partially input-convex network: convex in y, any function of x."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.checks import (
    check_choice,
    check_float_tensor,
    check_function,
    check_positive_int,
    check_range,
    check_same_kind,
    check_widths,
)
from icnn_rl.eager import full_precision
from icnn_rl.nn.activations import ConvexActivation, resolve_activation
from icnn_rl.nn.energy import ConvexLayer, EnsembleEnergy
from icnn_rl.nn.initialisation import non_negative_moments, quadratic_root
from icnn_rl.nn.linear import ConvexNetwork, EnsembleLinear, EnsembleNorm, Layers, NonNegativeLinear, check_batch

__all__ = ["PICNN"]

_GATE_BIAS = 0.5413  # softplus of it is 1: gates start near one
_QUADRATIC_BIAS = -2.0  # softplus of it is 0.13: a mild bowl to begin with


class PICNN(ConvexNetwork):
    """Partially input-convex network: a scalar f(x, y), convex in y for every x.

    The context path u_0 = x, u_{i+1} = g~( norm( W~_i u_i + b~_i ) ) ends in u, from which every gate and offset of the
    convex path is read; with z_0 absent and layers i = 0 .. k-1,

        z_{i+1} = g( W_i^(z) ( z_i * [W_i^(zu) u + b_i^(z)]_+ ) + W_i^(y) ( y * (W_i^(yu) u + b_i^(y)) )
                     + W_i^(u) u + b_i )
        f(x, y) = w^(z) . ( z_k * [W_k^(zu) u + b_k^(z)]_+ ) + (W_k^(yu) u + b_k^(y)) . y + W_k^(u) u + b_k
                  + 1/2 sum_j q_j(x) y_j^2 + 1/2 |R y|^2

    with W^(z) >= 0 elementwise, [.]_+ a non-negative gate, g convex and non-decreasing, q >= strong_convexity.

    Departures from the paper, each for a reason: the gates read the last context layer instead of the layer beside
    them, so that context and convex path may have different widths and depths (a wide context is evaluated once, a
    narrow convex path at every solver step); [.]_+ may be a softplus, which never dies; the quadratic head makes f
    strongly convex.

    Args:
        x_features: size of x.
        y_features: n, size of y.
        context: widths of the context path; () feeds x itself to the gates.
        hidden: widths of the convex path.
        activation: g: a name ("softplus", "squareplus", "relu", "leaky_relu", "elu") or an elementwise function, which
            is checked.
        context_activation: g~, any elementwise function.
        context_norm: LayerNorm on every context layer, before g~ (never on the convex path, where it would break
            convexity).
        gate: [.]_+ on z: "softplus" or "relu" (the paper's).
        quadratic: whether q depends on x, q = strong_convexity + softplus(W^(q) u + b^(q)); otherwise q =
            strong_convexity.
        strong_convexity: lower bound on q, >= 0.
        quadratic_rank: rows of R, which is learned and does not depend on x, see :class:`ICNN`. None: no such term.
        positivity: how W^(z) stays non-negative, see :class:`NonNegativeLinear`.
        ensemble: None, or a number E of members evaluated side by side as batched matrix products.

    Shapes:
        ``f(x, y)``: (B, x_features), (B, n) -> (B,); with an ensemble (E, B), and x, y may carry a leading E.

    Raises:
        ValueError: a wrong width, an activation that is not convex and non-decreasing, tensors of the wrong shape or
            dtype.

    Example:
        >>> f = PICNN(x_features=17, y_features=6, context=(256, 256), hidden=(64, 64))
        >>> energy = f.bind(torch.randn(32, 17))     # the context path, once
        >>> energy(torch.zeros(32, 6)).shape         # the convex path, as often as a solver likes
        torch.Size([32])

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017 (arXiv 1609.07152), equation 3.
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        context: Sequence[int] = (256, 256),
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str | Callable[[Tensor], Tensor] | ConvexActivation = "softplus",
        context_activation: Callable[[Tensor], Tensor] = F.relu,
        context_norm: bool = False,
        gate: str = "softplus",
        quadratic: bool = True,
        strong_convexity: float = 1e-3,
        quadratic_rank: int | None = None,
        positivity: str = "clamp",
        ensemble: int | None = None,
    ) -> None:
        super().__init__()
        self.x_features = check_positive_int("x_features", x_features)
        self.y_features = check_positive_int("y_features", y_features)
        self.context_widths = check_widths("context", context)
        self.hidden = check_widths("hidden", hidden)
        self.activation = resolve_activation(activation)
        self.context_activation = check_function("context_activation", context_activation)
        self.gate = check_choice("gate", gate, ("softplus", "relu"))
        self.quadratic = bool(quadratic)
        self.strong_convexity = check_range("strong_convexity", strong_convexity, 0.0, float("inf"))
        self.ensemble = ensemble
        members = 1 if ensemble is None else check_positive_int("ensemble", ensemble)

        widths = (x_features, *self.context_widths)
        self.context = Layers[EnsembleLinear](
            EnsembleLinear(before, after, members) for before, after in itertools.pairwise(widths)
        )
        self.norms = (
            Layers[EnsembleNorm](EnsembleNorm(width, members) for width in self.context_widths)
            if context_norm
            else None
        )
        self.passthrough = Layers[EnsembleLinear](
            EnsembleLinear(y_features, width, members, bias=False) for width in self.hidden
        )
        self.nonneg = Layers[NonNegativeLinear](
            NonNegativeLinear(
                before, after, bias=False, positivity=positivity, activation=self.activation, ensemble=members
            )
            for before, after in itertools.pairwise((*self.hidden, 1))
        )
        self._head_sizes = self._plan_heads()
        self.heads = EnsembleLinear(widths[-1], sum(self._head_sizes.values()), members)
        self._initialise_head_biases()
        self.root = None if quadratic_rank is None else quadratic_root(members, quadratic_rank, y_features)

    def _plan_heads(self) -> dict[str, int]:
        """Name and size of everything that is read from the context: one matrix product serves them all."""
        n = self.y_features
        sizes: dict[str, int] = {}
        for i, width in enumerate(self.hidden):
            if i > 0:
                sizes[f"z_gate_{i}"] = self.hidden[i - 1]
            sizes[f"y_gate_{i}"] = n
            sizes[f"offset_{i}"] = width
        if self.hidden:
            sizes["z_gate_out"] = self.hidden[-1]
        sizes["linear"] = n
        sizes["constant"] = 1
        if self.quadratic:
            sizes["quadratic"] = n
        return sizes

    def head_slice(self, name: str) -> slice:
        """Where in the last dimension of ``heads`` a part lies: "linear", "constant", "quadratic", "offset_0", .."""
        if name not in self._head_sizes:
            raise ValueError(f"name: expected one of {', '.join(self._head_sizes)}, got {name!r}.")
        names = list(self._head_sizes)
        start = sum(self._head_sizes[before] for before in names[: names.index(name)])
        return slice(start, start + self._head_sizes[name])

    @torch.no_grad()
    def _initialise_head_biases(self) -> None:
        assert self.heads.bias is not None
        bias = dict(
            zip(self._head_sizes, torch.split(self.heads.bias, list(self._head_sizes.values()), dim=-1), strict=True)
        )
        gate_start = _GATE_BIAS if self.gate == "softplus" else 1.0
        for name, part in bias.items():
            if name.startswith("z_gate"):
                part.fill_(gate_start)
            elif name.startswith("y_gate"):
                part.fill_(1.0)
            elif name == "quadratic":
                part.fill_(_QUADRATIC_BIAS)
            elif name.startswith("offset_") and name != "offset_0":
                before = self.hidden[int(name.removeprefix("offset_")) - 1]
                part.fill_(non_negative_moments(before, self.activation).bias)
            elif name == "constant" and self.hidden:
                part.fill_(non_negative_moments(self.hidden[-1], self.activation).bias)
            else:
                part.zero_()

    @property
    def rectified(self) -> bool:
        """Whether the context's activation is the ReLU."""
        return self.context_activation is F.relu or isinstance(self.context_activation, nn.ReLU)

    @full_precision
    def encode(self, x: Tensor) -> Tensor:
        """The context u (E, B, width) of x (B, x_features) or (E, B, x_features)."""
        u = x
        for i, layer in enumerate(self.context):
            u = layer(u)
            u = self.context_activation(u if self.norms is None else self.norms[i](u))
        return u

    @full_precision
    def bind(self, x: Tensor, reduction: str = "none", temperature: float = 1.0) -> EnsembleEnergy:
        """f(x, .) as an energy in y: evaluates the context path and all gates, once.

        Args:
            x: (B, x_features), or (E, B, x_features) with an ensemble.
            reduction: over members: "none", "mean" or "softmax", see :class:`EnsembleEnergy`.
            temperature: of the soft maximum.

        Returns:
            A callable y -> f with ``value_and_grad`` and ``value_grad_hessian``; gradients flow into x and the
            parameters.
        """
        check_batch("x", check_float_tensor("x", x), self.x_features, self.ensemble)
        check_same_kind("x", x, "the network's parameters", self.heads.weight)
        heads = self.heads(self.encode(x)).split(list(self._head_sizes.values()), dim=-1)
        head = dict(zip(self._head_sizes, heads, strict=True))
        layers = [
            ConvexLayer(
                head[f"offset_{i}"],
                self.passthrough[i].weight,
                head[f"y_gate_{i}"],
                None if i == 0 else self.nonneg[i - 1].weight_nonneg,
                None if i == 0 else self._positive(head[f"z_gate_{i}"]),
            )
            for i in range(len(self.hidden))
        ]
        linear = head["linear"]
        if self.hidden:
            out_weight = self._positive(head["z_gate_out"]) * self.nonneg[-1].weight_nonneg
        else:
            out_weight = linear[..., :0]
        if self.quadratic:
            quadratic = F.softplus(head["quadratic"]) + self.strong_convexity
        else:
            quadratic = torch.full_like(linear, self.strong_convexity, requires_grad=False)
        return EnsembleEnergy(
            layers,
            out_weight,
            linear,
            head["constant"].squeeze(-1),
            quadratic,
            self.activation,
            reduction,
            temperature,
            squeeze=self.ensemble is None,
            root=self.root,
        )

    def _positive(self, pre: Tensor) -> Tensor:
        return F.softplus(pre) if self.gate == "softplus" else pre.relu()

    @full_precision
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        check_batch("y", check_float_tensor("y", y), self.y_features, self.ensemble)
        check_same_kind("y", y, "x", x)
        if x.dim() >= 2 and x.shape[-2] != y.shape[-2] and x.shape[-2] != 1 and y.shape[-2] != 1:
            raise ValueError(f"y: expected as many rows as x has, {x.shape[-2]}, got shape {tuple(y.shape)}.")
        return self.bind(x)(y)

    def extra_repr(self) -> str:
        return (
            f"x_features={self.x_features}, y_features={self.y_features}, context={self.context_widths}, "
            f"hidden={self.hidden}, "
            f"activation={self.activation.name!r}, gate={self.gate!r}, ensemble={self.ensemble}"
        )
