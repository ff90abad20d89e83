"""A convolutional convex network with its context fixed: a function of an image alone, its gradient in closed form.

The equations of :mod:`icnn_rl.nn.energy` with convolutions (*) in place of matrix products, over channels and pixels:

    p_i = W_i^(z) * (z_i . zgate_i) + W_i^(y) * (y . ygate_i) + c_i,          z_{i+1} = g(p_i)
    f   = sum over channels c and pixels of wout_c outgate z_k + lin . y + c_k + 1/2 sum_j q_j y_j^2

with W^(z), zgate, wout, outgate, q >= 0, and the reverse sweep with the transposed convolutions. The solvers see y as
rows of numbers (B, n), n = C H W.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_last_dim, check_same_kind
from icnn_rl.eager import full_precision
from icnn_rl.nn.activations import ConvexActivation

__all__ = ["ConvEnergy", "ConvLayer", "Stride"]


class Stride(NamedTuple):
    """Geometry of a convolution with square kernels: output size floor((size + 2 padding - kernel) / stride) + 1."""

    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """So that ceil(size / stride) outputs come out."""
        return (self.kernel - 1) // 2

    def convolve(self, image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(image, weight, bias, self.stride, self.padding)

    def transpose(self, image: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        """The adjoint of :meth:`convolve` with the same weight, back to pixels of the given size (..., H, W)."""
        missing = [
            whole - ((part - 1) * self.stride - 2 * self.padding + self.kernel)
            for whole, part in zip(size[-2:], image.shape[-2:], strict=True)
        ]
        return F.conv_transpose2d(image, weight, None, self.stride, self.padding, missing)


class ConvLayer(NamedTuple):
    """One layer of the convex path for B images."""

    offset: Tensor  # c_i          (B, h, H_i, W_i)
    passthrough: Tensor  # W_i^(y) (h, C, k, k)
    y_gate: Tensor  # (B, C, H, W)
    y_stride: Stride
    weight: Tensor | None  # W_i^(z) (h, h_prev, k, k), >= 0; None in the first layer
    z_gate: Tensor | None  # (B, h_prev, H_{i-1}, W_{i-1}), >= 0
    z_stride: Stride


@dataclass
class ConvEnergy:
    """f(y) for y (B, n) -> (B,), n = C H W; convex in y, any image of its batch on its own.

    Args:
        layers: the convex path, at least one.
        out_weight: wout . outgate (B, h_k, H_k, W_k), >= 0.
        linear: lin (B, n).
        constant: c_k (B,).
        quadratic: q (B, n), >= 0.
        activation: g.
        shape: (C, H, W) of y.
        convex: False where weights may be negative, so that no gradient bounds f from below.
    """

    layers: list[ConvLayer]
    out_weight: Tensor
    linear: Tensor
    constant: Tensor
    quadratic: Tensor
    activation: ConvexActivation
    shape: tuple[int, int, int]
    convex: bool = True

    separable = True  # one number a row: solvers may take rows out

    @property
    def smooth(self) -> bool:
        """Whether f is twice differentiable in y."""
        return self.activation.smooth

    @property
    def curvature(self) -> Tensor:
        """m (B, n): f - 1/2 sum_j m_j y_j^2 is still convex. Solvers turn it into certificates."""
        return self.quadratic

    def rows(self, index: Tensor) -> ConvEnergy:
        """The energy of the images at ``index`` alone."""
        layers = [
            one._replace(
                offset=one.offset[index],
                y_gate=one.y_gate[index],
                z_gate=None if one.z_gate is None else one.z_gate[index],
            )
            for one in self.layers
        ]
        return dataclasses.replace(
            self,
            layers=layers,
            out_weight=self.out_weight[index],
            linear=self.linear[index],
            constant=self.constant[index],
            quadratic=self.quadratic[index],
        )

    def tilted(self, p: Tensor) -> ConvEnergy:
        """f(y) - p . y for p (B, n) or (n,), see :meth:`icnn_rl.nn.EnsembleEnergy.tilted`."""
        check_last_dim("p", check_float_tensor("p", p), self.linear.shape[-1])
        check_same_kind("p", p, "the energy", self.linear)
        return dataclasses.replace(self, linear=self.linear - p)

    def start(self) -> Tensor:
        """(B, n) of zeros: a starting point of the right shape, dtype and device."""
        return torch.zeros_like(self.linear, requires_grad=False)

    @full_precision
    def __call__(self, y: Tensor) -> Tensor:
        z: Tensor | None = None
        for layer in self.layers:
            z = self.activation.value(self._pre_activation(layer, z, y))
        return self._value(z, y)

    @full_precision
    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f (B,) and its gradient in y (B, n)."""
        slopes, z = [], None
        for layer in self.layers:
            z, slope, _ = self.activation.jet(self._pre_activation(layer, z, y))
            slopes.append(slope)
        gradient = torch.addcmul(self.linear, self.quadratic, y)
        d = self.out_weight
        for i in reversed(range(len(self.layers))):
            layer, delta = self.layers[i], d * slopes[i]
            pulled = layer.y_stride.transpose(delta, layer.passthrough, layer.y_gate.shape)
            gradient = gradient + (pulled * layer.y_gate).flatten(1)
            if layer.weight is not None and layer.z_gate is not None:
                d = layer.z_stride.transpose(delta, layer.weight, layer.z_gate.shape) * layer.z_gate
        return self._value(z, y), gradient

    def _value(self, z: Tensor | None, y: Tensor) -> Tensor:
        f = (torch.addcmul(self.linear, self.quadratic, y, value=0.5) * y).sum(-1) + self.constant
        return f if z is None else f + (self.out_weight * z).flatten(1).sum(-1)

    def _pre_activation(self, layer: ConvLayer, z: Tensor | None, y: Tensor) -> Tensor:
        image = y.reshape(-1, *self.shape)
        p = layer.y_stride.convolve(image * layer.y_gate, layer.passthrough) + layer.offset
        if layer.weight is None or layer.z_gate is None or z is None:
            return p
        return p + layer.z_stride.convolve(z * layer.z_gate, layer.weight)
