"""Rows and bounds as tensors: how they are joined, padded and measured."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.qp.problem import Diagonal
from icnn_rl.sets.ellipsoid import times, unit

__all__ = ["dense", "join", "largest", "pad_quadratic", "row_violation", "vector_of"]


def largest(parts: list[Tensor]) -> Tensor:
    """Elementwise maximum of tensors that broadcast."""
    return functools.reduce(torch.maximum, parts)


def row_violation(G: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """(g_i^T y - h_i) / ||g_i|| for every row; a row of zeros holds (-inf) or does not (inf): (..., m).

    Computed in float64, where numbers of float32 neither overflow nor cancel.
    """
    G, h, like = G.double(), h.double(), y
    y = y.double()
    norm = torch.linalg.vector_norm(G, dim=-1)
    if not transformed() and (scale := unit(G.detach().abs().amax(-1)) if G.numel() else None) is not None:
        G, h = G * scale.unsqueeze(-1), h * scale
        norm = torch.linalg.vector_norm(G, dim=-1)
    away = times(G, y) - h
    zero = torch.where(away > 0, torch.inf, away - torch.inf)  # NaN stays NaN
    return torch.where(norm > 0, away / norm.clamp(min=torch.finfo(torch.float64).tiny), zero).to(like.dtype)


def vector_of(bound: float | Tensor, n: int, like: Tensor) -> Tensor:
    """A bound as n numbers: (..., n)."""
    tensor = torch.as_tensor(bound, dtype=like.dtype, device=like.device)
    return tensor.expand(*tensor.shape[:-1], n) if tensor.dim() else tensor.expand(n)


def join(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate along ``dim`` (negative); leading dimensions broadcast."""
    if len(parts) == 1:
        return parts[0]
    batch = torch.broadcast_shapes(*(t.shape[:dim] for t in parts))  # type: ignore[no-untyped-call]
    return torch.cat([t.expand(*batch, *t.shape[dim:]) for t in parts], dim)


def dense(Q: Tensor | Diagonal | float, n: int, like: Tensor) -> Tensor:
    """Q as a matrix."""
    if isinstance(Q, Diagonal):
        return torch.diag_embed(Q.d)
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return Q
    return torch.as_tensor(Q, dtype=like.dtype, device=like.device) * torch.eye(n, dtype=like.dtype, device=like.device)


def pad_quadratic(Q: Tensor | Diagonal | float, n: int, k: int, like: Tensor) -> Tensor | Diagonal:
    """Q over (y, u): nothing is charged for u."""
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return torch.nn.functional.pad(Q, (0, k, 0, k))
    d = Q.d if isinstance(Q, Diagonal) else torch.as_tensor(Q, dtype=like.dtype, device=like.device).expand(n)
    return Diagonal(torch.nn.functional.pad(d, (0, k)))
