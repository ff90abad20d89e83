"""How well a point satisfies the optimality conditions, in the data that the user gave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem, Products

_TINY, _FLOOR = 1e-300, 1e-4


@dataclass(frozen=True)
class Residuals:
    """Relative errors of a row, each (B,).

    primal: max_i of (C x - d)_i over |d_i| + |c_i| |x|, and |A x - b|_i over |b_i| + |a_i| |x|. dual: |Q x + p +
    A^T nu + C^T z| over the largest of its four terms, in the maximum norm. gap: |x^T Q x + p^T x + b^T nu + d^T z|,
    the duality gap, over the largest of its four terms. Where the solution is 0 these terms are rounding; then 1e-4 |Q|
    t and 1e-4 |Q| t^2 take their place, t the distance from 0 of the nearest constraint that is not met there with
    equality.
    """

    primal: Tensor
    dual: Tensor
    gap: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(torch.maximum(self.primal, self.dual), self.gap)


def residuals(problem: Problem, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> Residuals:
    """For z >= 0, ``at`` the products of the point; a NaN in the point gives a NaN."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    excess = (at.cx - problem.d).clamp(min=0.0)
    excess = excess if problem.present is None else excess * problem.present
    primal = _largest(excess / (problem.d.abs() + problem.row_norms() * size).clamp(min=_TINY))
    terms, weights = [at.qx, problem.p, at.ctz], [at.qx * x, problem.p * x, problem.d * z]
    if at.aty is not None:
        off = (at.ax - problem.b).abs() / (problem.b.abs() + problem.equality_norms() * size).clamp(min=_TINY)
        primal = torch.maximum(primal, _largest(off))
        terms, weights = [*terms, at.aty], [*weights, problem.b * nu]
    length = _shortest(problem)
    diagonal = problem.Q if problem.diagonal else problem.Q.diagonal(dim1=-2, dim2=-1)
    floor = (_FLOOR * _largest(diagonal) * length).expand_as(primal)
    pull = _largest(torch.stack([floor, *(_largest(term.abs()) for term in terms)], -1))
    work = _largest(torch.stack([floor * length, *(term.abs().sum(-1) for term in weights)], -1))
    balance = torch.stack([term.sum(-1) for term in weights], -1).sum(-1).abs()
    dual = _largest(at.gradient(problem.p).abs()) / pull.clamp(min=_TINY)
    return Residuals(primal, dual, balance / work.clamp(min=_TINY))


def _shortest(problem: Problem) -> Tensor:
    """(B,): min |d_i| / |c_i| over the rows with d_i != 0; 0 where there are none."""
    if problem.d.shape[-1] == 0:
        return torch.zeros_like(problem.p[:, 0])
    distance = problem.d.abs() / problem.row_norms()
    length = torch.where((distance > 0) & torch.isfinite(distance), distance, torch.inf).amin(-1)
    return torch.where(torch.isfinite(length), length, 0.0)


def _largest(t: Tensor) -> Tensor:
    """Maximum over the last dimension, 0 over none."""
    return t.amax(-1) if t.shape[-1] else t.new_zeros(t.shape[:-1])
