"""How well a point satisfies the optimality conditions, in the data that the user gave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.problem import TINY, Problem, Products

_FLOOR = 1e-4


@dataclass(frozen=True)
class Residuals:
    """Relative errors of a row, each (B,).

    primal: max_i of (C x - d)_i over |d_i| + |c_i| |x|, and |A x - b|_i over |b_i| + |a_i| |x|. dual: |Q x + p +
    A^T nu + C^T z| over the largest of its four terms, in the maximum norm. gap: |x^T Q x + p^T x + b^T nu + d^T z|,
    the duality gap, over the largest of its four terms. Where the solution is 0 all these are rounding; so |x| is taken
    to be 1e-4 t at least, t the distance from 0 of the nearest constraint that is not met there with equality, and the
    terms of the gap what the largest of the gradient's does along that way.
    duality: the duality gap itself.
    """

    primal: Tensor
    dual: Tensor
    gap: Tensor
    duality: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(torch.maximum(self.primal, self.dual), self.gap)


def residuals(problem: Problem, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> Residuals:
    """For z >= 0, ``at`` the products of the point; a NaN in the point gives a NaN."""
    tiny = TINY[x.dtype]
    length = _FLOOR * _length(problem)
    size = (torch.linalg.vector_norm(x, dim=-1) + length).unsqueeze(-1)
    excess = (at.cx - problem.d).clamp(min=0.0)
    excess = excess if problem.present is None else excess * problem.present
    primal = _largest(excess / (problem.d.abs() + problem.row_norms() * size).clamp(min=tiny))
    terms, weights = [at.qx, problem.p, at.ctz], [at.qx * x, problem.p * x, problem.d * z]
    if at.aty is not None:
        off = (at.ax - problem.b).abs() / (problem.b.abs() + problem.equality_norms() * size).clamp(min=tiny)
        primal = torch.maximum(primal, _largest(off))
        terms, weights = [*terms, at.aty], [*weights, problem.b * nu]
    floor = problem.largest_diagonal() * length
    pull = _largest(torch.stack([floor, *(_largest(term.abs()) for term in terms)], -1))
    work = _largest(torch.stack([pull * length, *(term.abs().sum(-1) for term in weights)], -1))
    balance = torch.stack([term.sum(-1) for term in weights], -1).sum(-1).abs()
    dual = _largest(at.gradient(problem.p).abs()) / pull.clamp(min=tiny)
    return Residuals(primal, dual, balance / work.clamp(min=tiny), balance)


def _length(problem: Problem) -> Tensor:
    """(B,): how far from 0 the nearest constraint is that 0 does not meet with equality, or |p| / |Q| if nearer."""
    lengths = torch.cat(
        (
            problem.d.abs() / problem.row_norms(),
            problem.b.abs() / problem.equality_norms(),
            (_largest(problem.p.abs()) / problem.largest_diagonal()).unsqueeze(-1),
        ),
        -1,
    )
    shortest = torch.where((lengths > 0) & torch.isfinite(lengths), lengths, torch.inf).amin(-1)
    return torch.where(torch.isfinite(shortest), shortest, 0.0)


def _largest(t: Tensor) -> Tensor:
    """Maximum over the last dimension, 0 over none."""
    return t.amax(-1) if t.shape[-1] else t.new_zeros(t.shape[:-1])
