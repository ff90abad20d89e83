"""The context path of the convolutional network: features of x at every resolution that the convex path reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.eager import transformed
from icnn_rl.nn.linear import Layers

__all__ = ["ConvContext", "halved"]


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """The size of an image after ``times`` convolutions with stride 2."""
    height, width = size
    for _ in range(times):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width


class _Norm(nn.BatchNorm2d):
    """Batch norm. Inside of ``torch.func``, whose functions change nothing but what they return, the running moments
    stay as they are."""

    def forward(self, image: Tensor) -> Tensor:
        if self.training and transformed():
            return F.batch_norm(image, None, None, self.weight, self.bias, True, eps=self.eps)
        return super().forward(image)


class _Block(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=not norm)
        self.norm = _Norm(after) if norm else None

    def forward(self, image: Tensor) -> Tensor:
        image = self.conv(image)
        return F.relu(image if self.norm is None else self.norm(image))


class ConvContext(nn.Module):
    """Context features u^(0) .. u^(D) of an image x, u^(j) of 1/2^j its size: down, through a dense layer, and up.

        e_0   = block(x),    e_{j+1} = block(e_j, stride 2)
        v     = relu(V e_D)
        u^(D) = e_D + V' v,    u^(j) = block([ enlarge(u^(j+1)), e_j ])

    Convolutions alone would not let one side of an image know of the other: the dense layer does. Any function of x
    is allowed here, batch norm included: y never enters.

    Args:
        channels: of x.
        size: (H, W) of x.
        widths: channels of e_0 .. e_D.
        latent: units of the dense layer.
        norm: batch norm in every block, layer norm in the dense layer.
        dropout: share of the dense layer's units that are dropped in training.

    Shapes:
        x (B, channels, H, W) -> list of u^(j) (B, widths[j], H_j, W_j), and v (B, latent).
    """

    def __init__(
        self, channels: int, size: tuple[int, int], widths: Sequence[int], latent: int, norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.widths, self.latent, self.dropout = tuple(widths), latent, dropout
        inputs = (channels, *widths[:-1])
        self.down = Layers[_Block](
            _Block(before, after, 1 if j == 0 else 2, norm)
            for j, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.up = Layers[_Block](
            _Block(fine + coarse, fine, 1, norm) for fine, coarse in itertools.pairwise(self.widths)
        )
        self.bottom = halved(size, len(widths) - 1)
        pixels = widths[-1] * self.bottom[0] * self.bottom[1]
        self.squeeze = nn.Linear(pixels, latent)
        self.squeeze_norm = nn.LayerNorm(latent) if norm else None
        self.spread = nn.Linear(latent, pixels)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        steps = []
        for block in self.down:
            x = block(x)
            steps.append(x)
        v = self.squeeze(x.flatten(1))
        v = F.relu(v if self.squeeze_norm is None else self.squeeze_norm(v))
        v = F.dropout(v, self.dropout, self.training)
        u = [x + self.spread(v).view_as(x)]
        for j in reversed(range(len(self.up))):
            enlarged = F.interpolate(u[0], size=steps[j].shape[-2:])
            u.insert(0, self.up[j](torch.cat((enlarged, steps[j]), 1)))
        return u, v
