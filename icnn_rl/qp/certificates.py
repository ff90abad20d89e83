"""The judgement of a point, in the user's own data: how well it satisfies the optimality conditions, whether its
multipliers prove that nothing is feasible, and whether it is a direction in which the objective falls for ever.

The proofs are projections onto cones: quadratic programmes with equalities, Q = I, that always have a solution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.constants import CERTIFIED, FLOOR, NOISE, ROUNDING, SHORT, TINY
from icnn_rl.qp.linear.dense import all_rows, quadratic_rows, scaled, stack
from icnn_rl.qp.problem import Problem, Products, largest, matvec, norms_of, rmatvec, typical
from icnn_rl.qp.sparse import SparseRows, stack_sparse
from icnn_rl.qp.stages import find_stages

#: Solves a problem with equalities and Q = I: x and nu.
Minimise = Callable[[Problem], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Yardstick:
    """The sizes that errors are compared with.

    ``columns`` (1|B, n): the scales of the variables, Q_jj^(-1/2), or one over the largest entry of A and G in a column
    where Q_jj = 0. Floors are 1e-6 of the data's own sizes: ``force`` and ``scaled_force`` (B,), of the largest term of
    the gradient in either variables, |p|; ``length`` (B,), of |x|, the shortest length that the data name; ``a_rows``
    (B, q) and ``c_rows`` (B, k), of the terms of a row, |c| times that, or for a row of zeros a typical right-hand
    side.
    """

    columns: Tensor
    force: Tensor
    scaled_force: Tensor
    length: Tensor
    a_rows: Tensor
    c_rows: Tensor

    @staticmethod
    def of(problem: Problem) -> Yardstick:
        right = problem.d if problem.present is None else problem.d * problem.present
        a_norms, c_norms = problem.equality_norms(), problem.row_norms()
        shortest = _shortest(problem, torch.cat((problem.b / a_norms, right / c_norms), -1).abs())
        columns = _columns(problem)
        a_rows, c_rows = (
            FLOOR * torch.where(norms > 0, shortest * norms, typical(part) if bool((norms == 0).any()) else 0.0)
            for norms, part in ((a_norms, problem.b), (c_norms, right))
        )
        force, scaled = FLOOR * largest(problem.p), FLOOR * largest(columns * problem.p)
        return Yardstick(columns, force, scaled, FLOOR * shortest.squeeze(-1), a_rows, c_rows)


def _columns(problem: Problem) -> Tensor:
    diagonal = problem.q_diagonal
    if bool((diagonal > 0).all()):
        return diagonal.rsqrt()
    sizes = [
        part.column_sizes() if isinstance(part, SparseRows) else part.abs().amax(-2) for part in _matrices(problem)
    ]
    size = functools.reduce(torch.maximum, sizes, torch.zeros_like(diagonal))
    return torch.where(diagonal > 0, diagonal.rsqrt(), torch.where(size > 0, size.reciprocal(), 1.0))


def _matrices(problem: Problem) -> list[Tensor | SparseRows]:
    return [part for part in (problem.A, problem.G) if part is not None and part.shape[-2]]


def _shortest(problem: Problem, lengths: Tensor) -> Tensor:
    """(B, 1): the distance of the nearest constraint that 0 does not meet with equality, or |p| / |Q| if nearer."""
    free = largest(problem.p).unsqueeze(-1) / problem.largest_diagonal().unsqueeze(-1)
    lengths = torch.cat((lengths, free), -1)
    lengths = torch.where((lengths > 0) & torch.isfinite(lengths), lengths, 0.0)
    # what is rounding next to the others is 0
    lengths = torch.where(lengths > ROUNDING * typical(lengths), lengths, torch.inf)
    shortest = lengths.amin(-1, keepdim=True)
    return torch.where(torch.isfinite(shortest), shortest, 1.0)


@dataclass(frozen=True)
class Residuals:
    """How far a row is from optimal, each (B,). This is what "solved" means: ``largest`` is at most the tolerance.

    ``primal``, ``dual`` and ``gap`` are errors over 1 + the largest of the norms that enter them, in the user's data,
    in the maximum norm, for z >= 0; rows of G and bounds are blocks of their own:

        |A x - b| / (1 + max(|A x|, |b|)),  |(C x - d)_+| / (1 + max(|C x|, |d|))
        |Q x + p + A^T nu + C^T z| / (1 + max(|Q x|, |p|, |A^T nu|, |C^T z|))
        |x^T Q x + p^T x + b^T nu + d^T z| / (1 + max(|primal objective|, |dual objective|))

    ``relative`` is the largest of errors that no choice of units can make small, without the 1: a row of A or C over
    |d_i| + |c_i| |x|; the gradient over its largest term, in the user's variables and in variables of equal curvature;
    the gap over the largest of its four sums. Near 0 the data's own sizes stand in, see :class:`Yardstick`: a solution
    at 0 is as good as any other. ``duality`` is the duality gap itself.

    References:
        Criteria of the first kind: B. Stellato et al., OSQP, Math. Program. Comput. 12, 2020, section 3.4; P. J.
        Goulart, Y. Chen, Clarabel (arXiv 2405.12762), section 2.2.
    """

    primal: Tensor
    dual: Tensor
    gap: Tensor
    relative: Tensor
    duality: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(torch.maximum(self.primal, self.dual), torch.maximum(self.gap, self.relative))


class _Errors(NamedTuple):
    """What a point leaves of the conditions, and what that is made of: A x - b, (C x - d)_+ and d, 0 where a row is
    absent, the gradient of the Lagrangian and its terms, and x^T Q x, p^T x, b^T nu, d^T z by element."""

    off: Tensor
    excess: Tensor
    right: Tensor
    gradient: Tensor
    forces: list[Tensor]
    works: tuple[Tensor, Tensor, Tensor, Tensor]

    @staticmethod
    def of(problem: Problem, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> _Errors:
        excess, right, present = (at.cx - problem.d).clamp(min=0.0), problem.d, problem.present
        if present is not None:
            excess, right = excess * present, right * present
        forces = [at.qx, problem.p, at.ctz] + ([] if at.aty is None else [at.aty])
        works = at.qx * x, problem.p * x, problem.b * nu, right * z
        return _Errors(at.ax - problem.b, excess, right, at.gradient(problem.p), forces, works)


def residuals(problem: Problem, yardstick: Yardstick, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> Residuals:
    """For z >= 0, ``at`` the products of the point; a NaN in the point gives a NaN."""
    errors = _Errors.of(problem, x, nu, z, at)
    primal, dual, gap, duality = _normwise(problem, errors, at)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    columns, gradient, forces = yardstick.columns, errors.gradient, errors.forces
    force = torch.maximum(largest(*forces), yardstick.force)
    scaled = torch.maximum(largest(*(columns * part for part in forces)), yardstick.scaled_force)
    work = functools.reduce(torch.maximum, (part.abs().sum(-1) for part in errors.works))
    relative = [_over(largest(gradient), force), _over(largest(columns * gradient), scaled)]
    relative.append(_over(duality, torch.maximum(work, force * yardstick.length)))
    for error, part, norms, floor in (
        (errors.off, problem.b, problem.equality_norms(), yardstick.a_rows),
        (errors.excess, errors.right, problem.row_norms(), yardstick.c_rows),
    ):
        if error.shape[-1]:
            relative.append(_over(error.abs(), torch.maximum(part.abs() + norms * length, floor)).amax(-1))
    return Residuals(primal, dual, gap, functools.reduce(torch.maximum, relative), duality)


def normwise(problem: Problem, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> tuple[Tensor, Tensor, Tensor]:
    """``primal``, ``dual`` and ``gap`` of :class:`Residuals`."""
    return _normwise(problem, _Errors.of(problem, x, nu, z, at), at)[:3]


def _normwise(problem: Problem, errors: _Errors, at: Products) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same, and the duality gap itself."""
    m, excess, right = problem.m, errors.excess, errors.right
    blocks = [(errors.off, at.ax, problem.b), (excess[:, :m], at.cx[:, :m], right[:, :m])]
    blocks.append((excess[:, m:], at.cx[:, m:], right[:, m:]))
    of_blocks = (largest(error) / (1.0 + largest(*terms)) for error, *terms in blocks if error.shape[-1])
    primal = functools.reduce(torch.maximum, of_blocks, torch.zeros_like(problem.p[:, 0]))
    dual = largest(errors.gradient) / (1.0 + largest(*errors.forces))
    curved, linear, equations, rows = (work.sum(-1) for work in errors.works)
    bound = equations + rows
    value = torch.maximum((0.5 * curved + linear).abs(), (0.5 * curved + bound).abs())
    duality = (curved + linear + bound).abs()
    return primal, dual, duality / (1.0 + value), duality


def _over(error: Tensor, size: Tensor) -> Tensor:
    """error / size, and 0 where both are 0."""
    return torch.where(error == 0, 0.0, error / size)


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
    y = torch.where(y.abs() > NOISE * torch.linalg.vector_norm(y, dim=-1, keepdim=True), y, 0.0)
    y = _absorbed(problem, y, rmatvec(rows, y), exists)
    off, slope = rmatvec(rows, y), rmatvec(rows.abs(), y.abs())
    value, weight = (right * y).sum(-1), (right * y).abs().sum(-1)
    long = torch.linalg.vector_norm(y, dim=-1) > SHORT
    proven = long & (off.abs() <= CERTIFIED * slope).all(-1) & (value < -SHORT * weight)
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
    flat = _equations_of_ray(problem)
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
    falls = (problem.p * r).sum(-1) < -SHORT * (problem.p * r).abs().sum(-1)
    length = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    stays = (matvec(flat, r).abs() <= CERTIFIED * norms_of(flat) * length).all(-1)
    inside = (problem.Cx(r) * _ones_if_none(problem) <= CERTIFIED * problem.row_norms() * length).all(-1)
    return r, falls & stays & inside & (length.squeeze(-1) > SHORT)


def _equations_of_ray(problem: Problem) -> Tensor | SparseRows:
    """[A; Q], Q with its largest entry 1; sparse where the problem has stages."""
    top = problem.largest_diagonal().unsqueeze(-1)
    q = scaled(quadratic_rows(problem), torch.where(top > 0, top, 1.0).reciprocal().expand(-1, problem.n))
    if problem.stage is None:
        return stack(problem.A, q)
    return stack_sparse([part for part in (problem.A, q) if isinstance(part, SparseRows)])


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
