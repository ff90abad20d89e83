"""What judges a point, in the data that the user gave: how well it satisfies the optimality conditions, whether it
proves that nothing is feasible, and whether it is a direction in which the objective falls for ever.

The proofs are projections onto cones: quadratic programmes with equalities, Q = I, that always have a solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl.qp.equilibration import Scales
from icnn_rl.qp.linear.dense import stack
from icnn_rl.qp.problem import TINY, Problem, Products, matvec, rmatvec

#: Of certificates: the share of the largest multiplier that is noise, the largest relative error, and the length, where
#: 1 is possible, below which a projection counts as 0.
_NOISE, _CERTIFIED, _SHORT = 1e-11, 1e-8, 1e-7

#: Solves a problem with equalities and Q = I: x and nu.
Minimise = Callable[[Problem], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Residuals:
    """Errors of a row over 1 + the largest of the norms that enter them, each (B,). This is what "solved" means: a row
    is solved where ``largest`` is at most the tolerance.

        equations, rows of G, bounds:  |A x - b| / (1 + max(|A x|, |b|)),  |(C x - d)_+| / (1 + max(|C x|, |d|)), block by block
        stationarity:  |Q x + p + A^T nu + C^T z| / (1 + max(|Q x|, |p|, |A^T nu|, |C^T z|))
        gap:  |x^T Q x + p^T x + b^T nu + d^T z| / (1 + max(|primal objective|, |dual objective|))

    in the maximum norm, for z >= 0. ``primal``, ``dual`` and ``gap`` are those of the user's data; ``equilibrated`` is the
    largest of the same numbers in equilibrated data (:mod:`icnn_rl.qp.equilibration`), where the 1 is a length, a force
    and an energy of the problem's own, so that no choice of units makes a wrong answer pass.
    duality: the duality gap itself.

    References:
        B. Stellato et al., OSQP, Math. Program. Comput. 12, 2020, section 3.4, and Clarabel (arXiv 2405.12762), section 2.2,
        have such criteria.
    """

    primal: Tensor
    dual: Tensor
    gap: Tensor
    equilibrated: Tensor
    duality: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(torch.maximum(self.primal, self.dual), torch.maximum(self.gap, self.equilibrated))


def residuals(problem: Problem, scales: Scales, x: Tensor, nu: Tensor, z: Tensor, at: Products) -> Residuals:
    """For z >= 0, ``at`` the products of the point; a NaN in the point gives a NaN."""
    excess = (at.cx - problem.d).clamp(min=0.0)
    excess = excess if problem.present is None else excess * problem.present
    right = problem.d if problem.present is None else problem.d * problem.present
    m, q = problem.m, problem.b.shape[-1]
    blocks = [(at.ax - problem.b, (at.ax, problem.b), scales.a_rows)] if q else []
    if m:
        blocks.append((excess[:, :m], (at.cx[:, :m], right[:, :m]), scales.c_rows[:, :m]))
    if right.shape[-1] > m:
        blocks.append((excess[:, m:], (at.cx[:, m:], right[:, m:]), scales.c_rows[:, m:]))
    primal, equilibrated = [], []
    for error, terms, rows in blocks:
        primal.append(_relative(error, terms))
        unit = rows / scales.length
        equilibrated.append(_relative(error * unit, [term * unit for term in terms]))
    forces = [at.qx, problem.p, at.ctz] + ([] if at.aty is None else [at.aty])
    gradient, unit = at.gradient(problem.p), scales.columns / scales.force
    dual = _relative(gradient, forces)
    equilibrated.append(_relative(gradient * unit, [force * unit for force in forces]))
    xqx, px = (at.qx * x).sum(-1), (problem.p * x).sum(-1)
    by = (problem.b * nu).sum(-1) + (right * z).sum(-1)
    duality = (xqx + px + by).abs()
    size = torch.maximum((0.5 * xqx + px).abs(), (0.5 * xqx + by).abs())
    energy = (scales.length * scales.force).squeeze(-1)
    gap, scaled_gap = duality / (1.0 + size), duality / (energy + size)
    worst = torch.stack([*equilibrated, scaled_gap], -1).amax(-1)
    largest = torch.stack(primal, -1).amax(-1) if primal else torch.zeros_like(dual)
    return Residuals(largest, dual, gap, worst, duality)


def _relative(error: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """(B,): the largest error over 1 + the largest term."""
    size = torch.stack([term.abs().amax(-1) for term in terms], -1).amax(-1)
    return error.abs().amax(-1) / (1.0 + size)


def farkas(problem: Problem, minimise: Minimise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The point that violates the constraints least, nu and z, and whether these prove that none can be met.

    With R = [A; C], r = (b, d) and y = (nu, z), the projection of -r onto the cone {R^T y = 0, z >= 0} has r^T y =
    -|y|^2. Where this is negative, no x has A x = b and C x <= d, for y^T R x = 0 would be at most r^T y. The
    multiplier of R^T y = 0 is the point. Rows of R have norm 1 here.
    """
    rows = stack(problem.A, problem.constraint_matrix())
    right = torch.cat((problem.b, problem.d), -1)
    norms = torch.linalg.vector_norm(rows, dim=-1)
    scale = torch.where(norms > 0, 1.0 / norms, 1.0)
    q = problem.b.shape[-1]
    exists = torch.nn.functional.pad(_ones_if_none(problem), (q, 0), value=1.0)
    scale = scale * exists
    rows, right = rows * scale.unsqueeze(-1), right * scale
    size = torch.linalg.vector_norm(right, dim=-1, keepdim=True).clamp(min=TINY[right.dtype])
    signed = torch.nn.functional.pad(_ones_if_none(problem), (q, 0))
    y, x = _onto_cone(-right / size, rows.mT, signed, minimise)
    # what is rounding next to the largest must go: a proof has no tolerance in units
    y = torch.where((signed > 0) & (y < 0), 0.0, y) * exists
    y = torch.where(y.abs() > _NOISE * torch.linalg.vector_norm(y, dim=-1, keepdim=True), y, 0.0)
    off, slope = rmatvec(rows, y), rmatvec(rows.abs(), y.abs())
    value, weight = (right * y).sum(-1), (right * y).abs().sum(-1)
    long = torch.linalg.vector_norm(y, dim=-1) > _SHORT
    proven = long & (off.abs() <= _CERTIFIED * slope).all(-1) & (value < -_SHORT * weight)
    y = y * scale
    return -size * x, y[:, :q], y[:, q:], proven


def ray(problem: Problem, minimise: Minimise) -> tuple[Tensor, Tensor]:
    """-p projected onto {r: Q r = 0, A r = 0, C r <= 0}, and whether the objective falls along it for ever.

    The projection r has p^T r = -|r|^2, so r = 0 says that there is no such direction.
    """
    tiny = TINY[problem.p.dtype]
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    q = q / q.abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
    flat = stack(problem.A, q)
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True).clamp(min=tiny)
    cone = problem.changed(
        Q=torch.ones_like(problem.p[:1]),
        p=problem.p / size,
        A=flat,
        b=problem.p.new_zeros(problem.p.shape[0], flat.shape[-2]),
        d=torch.zeros_like(problem.d),
    )
    r, _ = minimise(cone)
    falls = (problem.p * r).sum(-1) < -_SHORT * (problem.p * r).abs().sum(-1)
    length = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    stays = (matvec(flat, r).abs() <= _CERTIFIED * torch.linalg.vector_norm(flat, dim=-1) * length).all(-1)
    inside = (problem.Cx(r) * _ones_if_none(problem) <= _CERTIFIED * problem.row_norms() * length).all(-1)
    return r, falls & stays & inside & (length.squeeze(-1) > _SHORT)


def _onto_cone(target: Tensor, flat: Tensor, signed: Tensor, minimise: Minimise) -> tuple[Tensor, Tensor]:
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
    ).with_norms()
    return minimise(cone)


def _ones_if_none(problem: Problem) -> Tensor:
    """Which rows of C exist, (B, k)."""
    return torch.ones_like(problem.d) if problem.present is None else problem.present
