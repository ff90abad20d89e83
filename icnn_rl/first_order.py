"""Where a gradient is right and the gradient of that gradient would not be: refuse the second one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["first_order", "last_derivative"]


def first_order(value: Tensor) -> Tensor:
    """``value``, whose gradient may be taken, and differentiated no further.

    Raises:
        RuntimeError: later, from the backward pass that asks for a second derivative.
    """
    return _FirstOrder.apply(value)  # type: ignore[no-any-return, no-untyped-call]


def last_derivative(grad: Tensor, value: Tensor) -> Tensor:
    """``grad``, for a backward pass to return: who differentiates it with respect to what made ``value`` gets the error
    of :func:`first_order`."""
    return _Last.apply(grad, value)  # type: ignore[no-any-return, no-untyped-call]


class _FirstOrder(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return last_derivative(*grads, *ctx.saved_tensors)


class _Last(torch.autograd.Function):
    """``grad``, said to depend on ``value``: who differentiates it with respect to what made the value ends here."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, value: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError(
            "second derivatives through this minimiser are not known: its gradient holds fixed what a second one would "
            "vary. Take gradients without create_graph, or finite differences of them."
        )
