"""Convolutional partially input-convex network: convex in an image y, any function of x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.checks import (
    check_choice,
    check_float_tensor,
    check_positive_int,
    check_range,
    check_same_kind,
    check_widths,
)
from icnn_rl.eager import full_precision
from icnn_rl.nn.activations import ConvexActivation, resolve_activation
from icnn_rl.nn.conv.context import ConvContext
from icnn_rl.nn.conv.energy import ConvEnergy, ConvLayer, Stride
from icnn_rl.nn.initialisation import non_negative_moments
from icnn_rl.nn.linear import ConvexNetwork, Layers, NonNegativeLinear

__all__ = ["ConvPICNN", "NonNegativeConv2d"]

_GATE_BIAS = 0.5413  # softplus of it is 1: gates start near one
_QUADRATIC_BIAS = -2.0


class NonNegativeConv2d(NonNegativeLinear):
    """Convolution with kernels >= 0, without bias: a :class:`NonNegativeLinear` on every patch of the image.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: side of the square kernels, odd.
        stride: of the convolution; the padding gives ceil(size / stride) outputs.
        positivity: "clamp", "softplus" or "relu", see :class:`NonNegativeLinear`.
        activation: whose outputs come in, for the initialisation that keeps the signal's scale.

    Attributes:
        weight: (out_channels, in_channels kernel^2), the raw parameter. kernels: what forward convolves with.

    Shapes:
        (B, in_channels, H, W) -> (B, out_channels, H', W').

    Raises:
        ValueError: a size below 1, an even kernel, an unknown ``positivity``, an activation that is not convex and
        non-decreasing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        positivity: str = "clamp",
        activation: str | ConvexActivation = "softplus",
    ) -> None:
        self.in_channels = check_positive_int("in_channels", in_channels)
        self.out_channels = check_positive_int("out_channels", out_channels)
        if check_positive_int("kernel", kernel) % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, so that stride 2 halves every size, got {kernel}.")
        self.geometry = Stride(kernel, check_positive_int("stride", stride))
        super().__init__(
            in_channels * kernel**2, out_channels, bias=False, positivity=positivity, activation=activation
        )

    @property
    def kernels(self) -> Tensor:
        """(out_channels, in_channels, kernel, kernel), >= 0."""
        side = self.geometry.kernel
        return self.weight_nonneg.view(self.out_channels, self.in_channels, side, side)

    def forward(self, image: Tensor) -> Tensor:
        return self.geometry.convolve(image, self.kernels)

    def extra_repr(self) -> str:
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, kernel={self.geometry.kernel}, "
            f"stride={self.geometry.stride}, positivity={self.positivity!r}"
        )


class _SignedConv2d(NonNegativeConv2d):
    """The same layer, started the same way, whose weights may become negative."""

    @property
    def weight_nonneg(self) -> Tensor:
        """The parameter itself."""
        return self.weight

    def clamp_weights_(self) -> None:
        return


class ConvPICNN(ConvexNetwork):
    """Convolutional partially input-convex network: a scalar f(x, y), convex in the image y for every x.

    With u^(j) context features of x at 1/2^j of the image's size (:class:`~icnn_rl.nn.conv.context.ConvContext`), * a
    convolution, z_0 absent and layers i = 0 .. k-1, each halving the image,

        z_{i+1} = g( W_i^(z) * (z_i . zgate_i(u^(i))) + W_i^(y) * (y . ygate_i(u^(0))) + offset_i(u^(i+1)) )
        f(x, y) = sum over channels c and pixels of w_c outgate z_k + lin(x) . y + const(x) + 1/2 sum_j q_j(x) y_j^2

    with kernels W^(z) >= 0, w >= 0, non-negative gates on z, g convex and non-decreasing. y is read in every layer by
    a kernel that reaches over 2^(i+1) pixels. Gates, offsets, lin and q are 1x1 convolutions of the context; lin also
    reads the context's dense layer.

    Departures from the paper's network: its context path has no way back to the full size (its gates are read from
    small maps, and a second convolution of y feeds the later layers); lin(x) . y stands beside the convex layers at
    full size, so that f can be as good as a regression from x at least: with the entropy, argmin_y lin . y - tau H(y)
    = sigmoid(-lin / tau).

    Args:
        x_shape: (channels, H, W) of x.
        y_shape: (channels, H, W) of y; H and W as x's.
        context: channels of the context path at full, half, quarter, .. size.
        hidden: channels of the convex layers at half, quarter, .. size; at least one, fewer than ``context``.
        latent: units of the context's dense layer.
        activation: g: a name ("softplus", "squareplus", "relu", "leaky_relu", "elu") or an elementwise function, which
            is checked.
        context_norm: batch norm on the context path. None is possible on the convex path.
        dropout: of the context's dense layer.
        gate: [.]_+ on z: "softplus" or "relu" (the paper's).
        quadratic: whether q depends on x, q = strong_convexity + softplus(.); otherwise q = strong_convexity.
        strong_convexity: lower bound on q, >= 0.
        kernel: side of the kernels on z.
        positivity: how W^(z) and w stay non-negative, see :class:`NonNegativeConv2d`.
        convex: False leaves W^(z) and w free in sign: the non-convex twin, for comparisons. Nothing is certified of its
            minimisers.

    Shapes:
        ``f(x, y)``: (B, *x_shape), (B, *y_shape) -> (B,). ``bind(x)``: a function of y as rows (B, n), n = C H W, for
        the solvers.

    Raises:
        ValueError: sizes that do not fit together, an activation that is not convex and non-decreasing, tensors of the
        wrong shape or dtype.

    Example:
        >>> f = ConvPICNN(x_shape=(2, 16, 16), y_shape=(1, 16, 16), context=(8, 16), hidden=(8,))
        >>> energy = f.bind(torch.rand(4, 2, 16, 16))        # the context path, once
        >>> energy(torch.rand(4, 256)).shape
        torch.Size([4])

    References:
        Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017 (arXiv 1609.07152), equation 3 and section 6.3.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        context: Sequence[int] = (16, 32, 32),
        hidden: Sequence[int] = (16, 16),
        *,
        latent: int = 128,
        activation: str | Callable[[Tensor], Tensor] | ConvexActivation = "softplus",
        context_norm: bool = True,
        dropout: float = 0.0,
        gate: str = "softplus",
        quadratic: bool = False,
        strong_convexity: float = 0.0,
        kernel: int = 3,
        positivity: str = "clamp",
        convex: bool = True,
    ) -> None:
        super().__init__()
        self.x_shape, self.y_shape = _image_shape("x_shape", x_shape), _image_shape("y_shape", y_shape)
        if self.x_shape[1:] != self.y_shape[1:]:
            raise ValueError(f"y_shape: expected x_shape's height and width {self.x_shape[1:]}, got {self.y_shape}.")
        self.context_widths, self.hidden = check_widths("context", context), check_widths("hidden", hidden)
        if not 0 < len(self.hidden) < len(self.context_widths):
            raise ValueError(
                f"hidden: expected at least one layer and fewer than context's {len(self.context_widths)}, got "
                f"{self.hidden}: the layer at 1/2^i of the size reads the context of that size."
            )
        self.activation = resolve_activation(activation)
        self.gate = check_choice("gate", gate, ("softplus", "relu"))
        self.quadratic = bool(quadratic)
        self.strong_convexity = check_range("strong_convexity", strong_convexity, 0.0, float("inf"))
        self.convex = bool(convex)
        if not convex and positivity != "clamp":
            raise ValueError(f'positivity: expected "clamp" with convex=False, got {positivity!r}.')
        check_range("dropout", dropout, 0.0, 1.0)

        channels, height, width = self.y_shape
        self.context = ConvContext(
            self.x_shape[0],
            (height, width),
            self.context_widths,
            check_positive_int("latent", latent),
            context_norm,
            dropout,
        )
        self.passthrough = nn.ParameterList()
        for i, size in enumerate(self.hidden):
            reach = _reach(i).kernel
            bound = (channels * reach * reach) ** -0.5
            self.passthrough.append(torch.empty(size, channels, reach, reach).uniform_(-bound, bound))
        sizes = (*self.hidden, 1)
        make = NonNegativeConv2d if convex else _SignedConv2d
        self.nonneg = Layers[NonNegativeLinear](
            make(
                sizes[i],
                sizes[i + 1],
                kernel if i + 1 < len(self.hidden) else 1,
                2 if i + 1 < len(self.hidden) else 1,
                positivity=positivity,
                activation=self.activation,
            )
            for i in range(len(self.hidden))
        )
        self._plan = self._plan_heads()
        self.heads = Layers[nn.Conv2d](
            nn.Conv2d(size, sum(parts.values()), 1)
            for size, parts in zip(self.context_widths, self._plan, strict=False)
        )
        self.dense_linear = nn.Linear(latent, channels * height * width, bias=False)
        self._initialise_heads()

    def _plan_heads(self) -> list[dict[str, int]]:
        """Name and channels of everything that is read from the context, size by size."""
        channels, last = self.y_shape[0], len(self.hidden)
        plan: list[dict[str, int]] = [{"linear": channels}]
        if self.quadratic:
            plan[0]["quadratic"] = channels
        for i, size in enumerate(self.hidden):
            plan[0][f"y_gate_{i}"] = channels
            plan.append({"offset": size, "gate": size})
        plan[last]["constant"] = 1
        return plan

    @torch.no_grad()
    def _initialise_heads(self) -> None:
        gate_start = _GATE_BIAS if self.gate == "softplus" else 1.0
        starts = {"linear": 0.0, "constant": 0.0, "quadratic": _QUADRATIC_BIAS, "gate": gate_start, "offset": 0.0}
        for level, (head, parts) in enumerate(zip(self.heads, self._plan, strict=True)):
            assert head.bias is not None
            for (name, _), part in zip(parts.items(), torch.split(head.bias, list(parts.values())), strict=True):
                part.fill_(1.0 if name.startswith("y_gate") else starts[name])
                if name == "offset" and level > 1:
                    part.fill_(non_negative_moments(self.nonneg[level - 2].in_features, self.activation).bias)

    @torch.no_grad()
    def soften_(self, factor: float = 0.1) -> None:
        """Scale the weights that carry f's part in y by ``factor``: lin(x) and w. For a net added to another energy."""
        linear = self.y_shape[0]  # the first channels of the heads at full size
        for weight in (self.dense_linear.weight, self.heads[0].weight[:linear], self.nonneg[-1].weight):
            weight.mul_(factor)

    @full_precision
    def bind(self, x: Tensor) -> ConvEnergy:
        """f(x, .) as an energy in y (B, n): evaluates the context path and all gates, once.

        Args:
            x: (B, *x_shape).

        Returns:
            A callable y -> f with ``value_and_grad``; gradients flow into x and the parameters.
        """
        self._check_images("x", x, self.x_shape)
        check_same_kind("x", x, "the network's parameters", self.dense_linear.weight)
        u, v = self.context(x)
        read = [
            dict(zip(parts, head(feature).split(list(parts.values()), 1), strict=True))
            for feature, head, parts in zip(u, self.heads, self._plan, strict=False)
        ]
        layers = []
        for i in range(len(self.hidden)):
            before = cast(NonNegativeConv2d, self.nonneg[i - 1]) if i > 0 else None
            layers.append(
                ConvLayer(
                    read[i + 1]["offset"],
                    self.passthrough[i],
                    read[0][f"y_gate_{i}"],
                    _reach(i),
                    None if before is None else before.kernels,
                    None if before is None else self._positive(read[i]["gate"]),
                    _reach(0) if before is None else before.geometry,
                )
            )
        linear = read[0]["linear"].flatten(1) + self.dense_linear(v)
        if self.quadratic:
            quadratic = F.softplus(read[0]["quadratic"].flatten(1)) + self.strong_convexity
        else:
            quadratic = torch.full_like(linear, self.strong_convexity, requires_grad=False)
        return ConvEnergy(
            layers,
            self._positive(read[-1]["gate"]) * self.nonneg[-1].weight_nonneg.view(1, -1, 1, 1),
            linear,
            read[-1]["constant"].mean((1, 2, 3)),
            quadratic,
            self.activation,
            self.y_shape,
            self.convex,
        )

    def _positive(self, pre: Tensor) -> Tensor:
        return F.softplus(pre) if self.gate == "softplus" else pre.relu()

    @full_precision
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self._check_images("y", y, self.y_shape)
        check_same_kind("y", y, "x", x)
        return self.bind(x)(y.flatten(1))

    @staticmethod
    def _check_images(name: str, value: Tensor, shape: tuple[int, int, int]) -> None:
        check_float_tensor(name, value)
        if value.dim() != 4 or value.shape[1:] != shape:
            raise ValueError(f"{name}: expected shape (B, {', '.join(map(str, shape))}), got {tuple(value.shape)}.")

    def extra_repr(self) -> str:
        return (
            f"x_shape={self.x_shape}, y_shape={self.y_shape}, context={self.context_widths}, hidden={self.hidden}, "
            f"activation={self.activation.name!r}, gate={self.gate!r}"
        )


def _reach(i: int) -> Stride:
    """How layer i reads y: 2^(i+1) pixels apart, with kernels that overlap by one pixel on both sides."""
    step = 2 ** (i + 1)
    return Stride(step + 1, step)


def _image_shape(name: str, shape: object) -> tuple[int, int, int]:
    sides = check_widths(name, shape)
    if len(sides) != 3:
        raise ValueError(f"{name}: expected (channels, height, width), got {sides}.")
    return sides[0], sides[1], sides[2]
