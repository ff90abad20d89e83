"""Conjugate gradients for a batch of symmetric positive definite systems, given as products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, tol: float, max_steps: int) -> Tensor:
    """x (B, n) with |A x - right| <= tol |right| for every system, or what ``max_steps`` products with A come to; NaN
    where ``right`` is not finite.

    Args:
        apply: v (B, n) -> A v (B, n), each A symmetric and positive definite.
        right: (B, n).

    References:
        M. Hestenes, E. Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    x = torch.zeros_like(right)
    residual = right.clone()
    direction = residual
    square = residual.square().sum(-1, keepdim=True)
    enough = (tol * tol) * square
    for _ in range(max_steps):
        active = square > enough  # false for NaN and for right = 0
        if not bool(active.any()):
            break
        product = apply(direction)
        bend = (direction * product).sum(-1, keepdim=True)
        active = active & (bend > 0)  # rounding has made the rest of the row's directions useless
        step = torch.where(active, square / bend, 0.0)
        x = x + step * direction
        residual = residual - step * product
        fresh = residual.square().sum(-1, keepdim=True)
        direction = torch.where(active, residual + fresh / square * direction, direction)
        square = torch.where(active, fresh, torch.zeros_like(fresh))
    return torch.where(right.isfinite().all(-1, keepdim=True), x, torch.nan)
