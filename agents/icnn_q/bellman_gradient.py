"""The Bellman loss and its gradient without a graph: the products are torch's, the rest is compiled.

Autograd takes an update apart into some eighty operations, each a pass over memory that was in the cache a moment
before. Here an update of the usual critic is eight products and four passes between them (:mod:`.kernel`).
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.nn import PICNN
from icnn_rl.numba_support import available

__all__ = ["BellmanGradient"]


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.agents.icnn_q.kernel")


class BellmanGradient:
    """losses_s = sum_e mean_b ( f_e(x_b, y_b) + target_b )^2 of S learners with E members each, and its gradient.

    Args:
        net: the S E members, of the form :meth:`fits` asks for.
        groups: S.

    The tensors that it returns are overwritten by the next call.
    """

    def __init__(self, net: PICNN, groups: int) -> None:
        self.net, self.groups = net, groups
        self.members = net.ensemble or 1
        self.gradients = [torch.zeros_like(part) for part in net.parameters()]
        self._into = dict(zip((name for name, _ in net.named_parameters()), self.gradients, strict=True))
        self._buffers: dict[tuple[str, int], Tensor] = {}

    @staticmethod
    def fits(net: nn.Module) -> bool:
        """Whether the network is one that is known here, on the CPU, and numba is installed."""
        return (
            isinstance(net, PICNN)
            and len(net.hidden) == 1
            and len(net.context_widths) > 0
            and net.norms is not None
            and net.rectified
            and net.activation.square_width is not None
            and net.gate == "softplus"
            and net.quadratic
            and net.nonneg[0].positivity == "clamp"
            and net.heads.weight.device.type == "cpu"
            and net.heads.weight.dtype in (torch.float32, torch.float64)
            and all(part.requires_grad for part in net.parameters())
            and available()
        )

    @torch.no_grad()
    def __call__(
        self, x: Tensor, y: Tensor, target: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Losses (S,), energies (S, E, B), and gradients in the order of ``net.parameters()``.

        Args:
            x: (S E, B, x_features). y: (S, B, n). target: (S, B). usable: (S, B), bool.
        """
        inputs = self._encode(x)
        losses, energies, dheads = self._loss(inputs[-1], y, target, usable)
        self._pull(dheads, x, inputs)
        batch = x.shape[-2]
        return losses, energies.view(self.groups, -1, batch), list(self.gradients)

    def _buffer(self, name: str, batch: int, *shape: int) -> Tensor:
        if (name, batch) not in self._buffers:
            self._buffers[name, batch] = self.net.heads.weight.new_empty(shape)
        return self._buffers[name, batch]

    def _encode(self, x: Tensor) -> list[Tensor]:
        """u_1, .., u_k: what every layer of the context gives."""
        net, batch, us = self.net, x.shape[-2], []
        assert net.norms is not None
        u = x
        for i, (layer, norm) in enumerate(zip(net.context, net.norms, strict=True)):
            assert layer.bias is not None
            shape = (self.members, batch, layer.out_features)
            xhat, per_std = self._buffer(f"xhat {i}", batch, *shape), self._buffer(f"std {i}", batch, *shape[:2])
            torch.baddbmm(layer.bias, u, layer.weight.mT, out=xhat)
            u = self._buffer(f"u {i}", batch, *shape)
            _kernel().normalise(xhat.numpy(), norm.bias.squeeze(1).numpy(), per_std.numpy(), u.numpy())
            us.append(u)
        return us

    def _loss(self, u: Tensor, y: Tensor, target: Tensor, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        net, batch = self.net, u.shape[1]
        n, (h,) = net.y_features, net.hidden
        assert net.heads.bias is not None
        assert net.activation.square_width is not None
        heads = self._buffer("heads", batch, self.members, batch, net.heads.out_features)
        torch.baddbmm(net.heads.bias, u, net.heads.weight.mT, out=heads)
        dheads, energies = torch.empty_like(heads), heads.new_empty(self.members, batch)
        tail = heads[..., n + h :]
        losses = heads.new_empty(self.groups)
        v, into_v = net.nonneg[0].weight, self._into["nonneg.0.weight"]
        directions = net.passthrough[0].weight.mT.contiguous()
        ddirections = torch.empty_like(directions)
        _kernel().loss(
            heads.numpy(),
            F.softplus(tail).numpy(),
            torch.sigmoid(tail).numpy(),
            directions.numpy(),
            v.clamp(min=0.0).squeeze(1).numpy(),
            net.strong_convexity,
            net.activation.square_width,
            y.contiguous().numpy(),
            target.contiguous().numpy(),
            usable.contiguous().numpy(),
            energies.numpy(),
            losses.numpy(),
            dheads.numpy(),
            ddirections.numpy(),
            into_v.squeeze(1).numpy(),
        )
        into_v.masked_fill_((v < 0) & (into_v > 0), 0.0)  # see NonNegativeLinear: what is below 0 may only rise
        self._into["passthrough.0.weight"].copy_(ddirections.mT)
        return losses, energies, dheads

    def _pull(self, dheads: Tensor, x: Tensor, us: list[Tensor]) -> None:
        """The gradient through heads and context."""
        net, into, batch = self.net, self._into, x.shape[-2]
        assert net.norms is not None
        torch.bmm(dheads.mT, us[-1], out=into["heads.weight"])
        torch.sum(dheads, 1, keepdim=True, out=into["heads.bias"])
        pulled, through = dheads, net.heads.weight
        for i in range(len(us) - 1, -1, -1):
            du = self._buffer(f"du {i}", batch, *us[i].shape)
            torch.bmm(pulled, through, out=du)
            xhat, per_std = self._buffers[f"xhat {i}", batch], self._buffers[f"std {i}", batch]
            into_bias, into_shift = into[f"context.{i}.bias"], into[f"norms.{i}.bias"]
            _kernel().normalise_backward(
                xhat.numpy(), net.norms[i].bias.squeeze(1).numpy(), per_std.numpy(), du.numpy(),
                into_bias.squeeze(1).numpy(), into_shift.squeeze(1).numpy(),
            )  # fmt: skip
            torch.bmm(du.mT, us[i - 1] if i else x, out=into[f"context.{i}.weight"])
            pulled, through = du, net.context[i].weight
