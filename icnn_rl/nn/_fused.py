"""A context layer, u = relu( LayerNorm( W x + b ) + shift ), in two passes over the batch instead of five.

The products are torch's. What is between them, forward and backward, is compiled (:mod:`._context_kernel`) where numba
is installed; elsewhere, and for derivatives of higher order, :func:`reference` does the same in tensor operations.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icnn_rl.eager import batched
from icnn_rl.nn.linear import affine, plain
from icnn_rl.numba_support import available


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.nn._context_kernel")


def context_layer(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """relu( LayerNorm( W x + b ) + shift ): (B, in) or (E, B, in) -> (E, B, out).

    Args:
        weight: (E, out, in).
        bias, shift: (E, 1, out).
    """
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return reference(x, weight, bias, shift)
    if not plain() or not available():
        return reference(x, weight, bias, shift)
    members = x.expand(weight.shape[0], -1, -1)
    if not torch.is_grad_enabled():
        return _forward(members, weight, bias, shift)[0]
    return _ContextLayer.apply(members, weight, bias, shift)  # type: ignore[no-any-return, no-untyped-call]


def reference(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """The same in tensor operations."""
    return F.relu(F.layer_norm(affine(x, weight, bias), weight.shape[1:2]) + shift)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's output, its normalised input to the shift, and 1 / std of every row."""
    xhat = torch.baddbmm(bias, x, weight.mT)
    per_std, u = xhat.new_empty(xhat.shape[:2]), torch.empty_like(xhat)
    _kernel().forward(xhat.numpy(), shift.detach().squeeze(1).numpy(), per_std.numpy(), u.numpy())
    return u, xhat, per_std


def _reference_backward(
    du: Tensor, x: Tensor, weight: Tensor, shift: Tensor, xhat: Tensor, per_std: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernel's backward pass in tensor operations, for gradients that are many at once."""
    v = du * (xhat + shift > 0)
    centred = v - v.mean(-1, keepdim=True) - xhat * (v * xhat).mean(-1, keepdim=True)
    dx = centred * per_std.unsqueeze(-1)
    return torch.matmul(dx, weight), torch.matmul(dx.mT, x), dx.sum(-2, keepdim=True), v.sum(-2, keepdim=True)


class _ContextLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        u, *normalised = _forward(x, weight, bias, shift)
        ctx.save_for_backward(x, weight, bias, shift)
        ctx.normalised = normalised  # fresh, and nobody else's
        return u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, shift = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of this derivative are asked for
            u = reference(x, weight, bias, shift)
            wanted = [part for part, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True) if needed]
            found = iter(torch.autograd.grad(u, wanted, grads, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
        xhat, per_std = ctx.normalised
        if batched(grads[0]):
            return _reference_backward(grads[0], x, weight, shift, xhat, per_std)
        du, dx = grads[0].contiguous(), torch.empty_like(xhat)
        dbias, dshift = torch.zeros(2, *shift.shape, dtype=shift.dtype)
        arrays = (part.detach().numpy() for part in (xhat, shift[:, 0], per_std, du, dx, dbias[:, 0], dshift[:, 0]))
        _kernel().backward(*arrays)
        back = torch.bmm(dx, weight) if ctx.needs_input_grad[0] else None
        return back, torch.bmm(dx.mT, x), dbias, dshift
