"""Dense matrices: Cholesky factors, units, and what solving costs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import SparseRows, stack_sparse

#: What is added to the diagonal of a matrix that breaks down, relative to its mean: at first, from try to try, tries.
_LIFT, _GROWTH, _LIFTS = 1e-14, 100.0, 4
#: 1 / e of a row that is out, relative to 1 / delta.
OUT = 1e-24


def flops(size: int, rows: int) -> float:
    """The cost of summing a matrix of this size from so many rows and factoring it, with flops of products counted once
    and those of Cholesky factors four times, as measured on a CPU core."""
    return 4.0 * size**3 / 3.0 + 2.0 * rows * size**2


def cholesky(h: Tensor) -> Tensor:
    """U with U^T U = H. Where H is not positive definite U is meaningless or NaN; residuals find that out later."""
    out: Tensor = torch.linalg.cholesky_ex(h, upper=True)[0]
    return out


def cholesky_lifted(h: Tensor) -> Tensor:
    """The same, with as large a multiple of the diagonal's mean added as it takes where a factorisation breaks down."""
    chol: Tensor
    chol, broken = torch.linalg.cholesky_ex(h, upper=True)
    lift = _LIFT
    for _ in range(_LIFTS):
        if not bool(broken.any()):
            break
        bad = broken.nonzero().squeeze(-1)
        again = h[bad]
        diagonal = again.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(lift * diagonal.abs().mean(-1, keepdim=True))
        factor, info = torch.linalg.cholesky_ex(again, upper=True)
        chol, broken = chol.index_copy(0, bad, factor), broken.index_copy(0, bad, info)
        lift *= _GROWTH
    return chol


def cholesky_solve(right: Tensor, chol: Tensor) -> Tensor:
    """H^{-1} right (B, n)."""
    # two triangular solves: torch.cholesky_solve copies its factor
    half = torch.linalg.solve_triangular(chol.mT, right.unsqueeze(-1), upper=False)
    out: Tensor = torch.linalg.solve_triangular(chol, half, upper=True).squeeze(-1)
    return out


def weights(problem: Problem, e: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """e + delta and W = 1 / (e + delta) (B, k), 0 where a row is absent."""
    e = e + delta
    w = e.reciprocal()
    return e, w if problem.present is None else w * problem.present


def proximal_force(rho: Tensor, before: Tensor, x: Tensor) -> Tensor:
    """(B,): |rho (x - before)|."""
    force: Tensor = torch.linalg.vector_norm(rho * (x - before), dim=-1)
    return force


def without_proximal(rx: Tensor, rho: Tensor | None, dx: Tensor) -> Tensor:
    """rx - rho dx: what (Q + rho) dx = rx leaves to Q dx."""
    return rx if rho is None else torch.addcmul(rx, rho, dx, value=-1.0)


def curvature(problem: Problem) -> Tensor:
    """(1|B, 1): mean diagonal of Q, the unit of H; where Q = 0 the size of p stands in."""
    mean = problem.q_diagonal.mean(-1, keepdim=True)
    if bool((mean > 0).all()):
        return mean
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True)
    return torch.where(mean > 0, mean, torch.where(size > 0, size, 1.0))


def unit(norms: Tensor, curvature: Tensor) -> Tensor:
    """|c|^2 / curvature, of c^T Q^{-1} c; a row of zeros takes the mean row's."""
    squares = norms.square()
    mean = squares.mean(-1, keepdim=True)
    return torch.where(squares > 0, squares, torch.where(mean > 0, mean, 1.0)) / curvature


def stack(a: Tensor | SparseRows | None, c: Tensor | SparseRows | None) -> Tensor:
    """[A; C], where both or one of them exist."""
    blocks = [block.dense() if isinstance(block, SparseRows) else block for block in (a, c) if block is not None]
    batch = max(block.shape[0] for block in blocks)
    return torch.cat([block.expand(batch, -1, -1) for block in blocks], -2) if len(blocks) > 1 else blocks[0]


def all_rows(problem: Problem) -> Tensor | SparseRows:
    """[A; C]; sparse where the problem has stages."""
    if problem.stage is None:
        return stack(problem.A, problem.constraint_matrix())
    parts = [part for part in (problem.A, problem.G) if isinstance(part, SparseRows)]
    ones = torch.ones_like(problem.p[:1])
    signs = [-ones] * problem.lower + [ones] * problem.upper
    return stack_sparse([*parts, *map(diagonal_rows, signs)])


def quadratic_rows(problem: Problem) -> Tensor | SparseRows:
    """Q; sparse where the problem has stages."""
    if problem.stage is None:
        return torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    diagonal, off = diagonal_rows(problem.Q), problem.coupling
    if off is None:
        return diagonal
    both = stack_sparse([diagonal, off])
    return dataclasses.replace(both, row=both.row % problem.n, shape=off.shape)


def diagonal_rows(d: Tensor) -> SparseRows:
    """diag(d), d (1|B, n)."""
    n = d.shape[-1]
    place = torch.arange(n, device=d.device)[None]
    return SparseRows(place, place, d, (n, n))


def scaled(rows: Tensor | SparseRows, size: Tensor) -> Tensor | SparseRows:
    """diag(size) R, size (1|B, k)."""
    return rows.scaled(size) if isinstance(rows, SparseRows) else rows * size.unsqueeze(-1)
