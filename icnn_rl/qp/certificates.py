"""What judges a point, in the data that the user gave: how well it satisfies the optimality conditions, whether it
proves that nothing is feasible, and whether it is a direction in which the objective falls for ever.

The proofs are projections onto cones: quadratic programmes with equalities, Q = I, that always have a solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.linear.dense import all_rows, quadratic_rows, scaled, stack
from icnn_rl.qp.problem import TINY, Problem, Products, matvec, norms_of, rmatvec
from icnn_rl.qp.sparse import SparseRows, stack_sparse
from icnn_rl.qp.stages import find_stages

#: |x| is at least this share of the distance to the nearest constraint, see :class:`Residuals`.
_FLOOR = 1e-4
#: Of certificates: the share of the largest multiplier that is noise, the largest relative error, and the length, where
#: 1 is possible, below which a projection counts as 0.
_NOISE, _CERTIFIED, _SHORT = 1e-11, 1e-8, 1e-7

#: Solves a problem with equalities and Q = I: x and nu.
Minimise = Callable[[Problem], tuple[Tensor, Tensor]]


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


def farkas(problem: Problem, minimise: Minimise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The point that violates the constraints least, nu and z, and whether these prove that none can be met.

    With R = [A; C], r = (b, d) and y = (nu, z), the projection of -r onto the cone {R^T y = 0, z >= 0} has r^T y =
    -|y|^2. Where this is negative, no x has A x = b and C x <= d, for y^T R x = 0 would be at most r^T y. The
    multiplier of R^T y = 0 is the point. Rows of R have norm 1 here.
    """
    rows = all_rows(problem)
    right = torch.cat((problem.b, problem.d), -1)
    norms = norms_of(rows)
    scale = torch.where(norms > 0, 1.0 / norms, 1.0)
    q = problem.b.shape[-1]
    exists = torch.nn.functional.pad(_ones_if_none(problem), (q, 0), value=1.0)
    scale = scale * exists
    rows, right = scaled(rows, scale), right * scale
    size = torch.linalg.vector_norm(right, dim=-1, keepdim=True).clamp(min=TINY[right.dtype])
    signed = torch.nn.functional.pad(_ones_if_none(problem), (q, 0))
    y, x = _onto_cone(-right / size, rows.mT, signed, minimise)
    # what is rounding next to the largest must go: a proof has no tolerance in units
    y = torch.where((signed > 0) & (y < 0), 0.0, y) * exists
    y = torch.where(y.abs() > _NOISE * torch.linalg.vector_norm(y, dim=-1, keepdim=True), y, 0.0)
    y = _absorbed(problem, y, rmatvec(rows, y), exists)
    off, slope = rmatvec(rows, y), rmatvec(rows.abs(), y.abs())
    value, weight = (right * y).sum(-1), (right * y).abs().sum(-1)
    long = torch.linalg.vector_norm(y, dim=-1) > _SHORT
    proven = long & (off.abs() <= _CERTIFIED * slope).all(-1) & (value < -_SHORT * weight)
    y = y * scale
    return -size * x, y[:, :q], y[:, q:], proven


def _absorbed(problem: Problem, y: Tensor, off: Tensor, exists: Tensor) -> Tensor:
    """y with R^T y = ``off`` taken up by the multipliers of bounds, where there are such: multipliers that grow or
    decay from stage to stage leave, next to the smallest of them, more than rounding."""
    q, m = problem.b.shape[-1], problem.m
    (_, lower, upper), (_, has_lower, has_upper) = problem.blocks(y[:, q:]), problem.blocks(exists[:, q:])
    parts = [y[:, : q + m]]
    parts += [lower + off.clamp(min=0.0) * has_lower] if problem.lower else []
    parts += [upper - off.clamp(max=0.0) * has_upper] if problem.upper else []
    return torch.cat(parts, -1)


def ray(problem: Problem, minimise: Minimise) -> tuple[Tensor, Tensor]:
    """-p projected onto {r: Q r = 0, A r = 0, C r <= 0}, and whether the objective falls along it for ever.

    The projection r has p^T r = -|r|^2, so r = 0 says that there is no such direction.
    """
    tiny = TINY[problem.p.dtype]
    q = quadratic_rows(problem)
    largest = problem.largest_diagonal().clamp(min=tiny).unsqueeze(-1)
    q = scaled(q, largest.reciprocal().expand(-1, problem.n))
    sparse = [part for part in (problem.A, q) if isinstance(part, SparseRows)]
    flat = stack_sparse(sparse) if problem.stage is not None else stack(problem.A, q)
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True).clamp(min=tiny)
    cone = problem.changed(
        Q=torch.ones_like(problem.p[:1]),
        coupling=None,
        p=problem.p / size,
        A=flat,
        b=problem.p.new_zeros(problem.p.shape[0], flat.shape[-2]),
        d=torch.zeros_like(problem.d),
    )
    r, _ = minimise(cone)
    falls = (problem.p * r).sum(-1) < -_SHORT * (problem.p * r).abs().sum(-1)
    length = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    stays = (matvec(flat, r).abs() <= _CERTIFIED * norms_of(flat) * length).all(-1)
    inside = (problem.Cx(r) * _ones_if_none(problem) <= _CERTIFIED * problem.row_norms() * length).all(-1)
    return r, falls & stays & inside & (length.squeeze(-1) > _SHORT)


def _onto_cone(target: Tensor, flat: Tensor | SparseRows, signed: Tensor, minimise: Minimise) -> tuple[Tensor, Tensor]:
    """The point of {y: F y = 0, y_i >= 0 where signed} nearest to target (B, N), and the multiplier of F y = 0."""
    zeros = torch.zeros_like(target)
    cone = Problem(
        Q=torch.ones_like(target[:1]),
        p=-target,
        G=None,
        A=flat,
        b=target.new_zeros(target.shape[0], flat.shape[-2]),
        d=zeros,
        lower=True,
        upper=False,
        present=signed.expand_as(target),
        stage=find_stages(target.shape[-1], [flat]) if isinstance(flat, SparseRows) else None,
    ).with_norms()
    return minimise(cone)


def _ones_if_none(problem: Problem) -> Tensor:
    """Which rows of C exist, (B, k)."""
    return torch.ones_like(problem.d) if problem.present is None else problem.present
