"""A batch of convex quadratic programmes in the form the solvers work on.

    min_x  1/2 x^T Q x + p^T x    subject to    A x = b,    C x <= d,

where C stacks the rows of G, of -I (lower bounds) and of I (upper bounds), and d = (h, -lb, ub). Bounds are applied,
never stored: they cost O(n). Every tensor has one leading batch dimension, of size B or, where the rows of the batch
share it, 1.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.qp.sparse import SparseRows

__all__ = ["Diagonal", "Problem"]


@dataclass(frozen=True)
class Diagonal:
    """A diagonal matrix, for the argument Q of :func:`icnn_rl.qp.solve_qp`.

    Args:
        d: (..., n) its diagonal, >= 0.
    """

    d: Tensor


def matvec(m: Tensor | SparseRows, x: Tensor) -> Tensor:
    """M x: m (1|B, k, n), x (B, n) -> (B, k)."""
    if isinstance(m, SparseRows):
        return m.matvec(x)
    if m.shape[0] == 1:
        return torch.matmul(x, m[0].mT)
    return (m * x.unsqueeze(-2)).sum(-1)  # twice as fast as matmul on a CPU, which takes the rows one by one


def rmatvec(m: Tensor | SparseRows, y: Tensor) -> Tensor:
    """M^T y: m (1|B, k, n), y (B, k) -> (B, n)."""
    if isinstance(m, SparseRows):
        return m.rmatvec(y)
    if m.shape[0] == 1:
        return torch.matmul(y, m[0])
    return torch.matmul(y.unsqueeze(-2), m).squeeze(-2)


def norms_of(m: Tensor | SparseRows) -> Tensor:
    """(1|B, k): Euclidean norms of the rows of m."""
    return m.norms() if isinstance(m, SparseRows) else torch.linalg.vector_norm(m, dim=-1)


def largest(*parts: Tensor) -> Tensor:
    """(B,): the largest magnitude of vectors (1|B, k), of which one at least is not empty; NaN where there is one."""
    return functools.reduce(torch.maximum, (part.abs().amax(-1) for part in parts if part.shape[-1]))


def typical(vector: Tensor) -> Tensor:
    """(B, 1): the median magnitude of what is not 0; 0 where all is."""
    if not vector.shape[-1]:
        return vector.new_zeros(vector.shape[0], 1)
    size = vector.abs()
    median: Tensor = torch.where(size > 0, size, torch.nan).nanmedian(-1, keepdim=True)[0]
    return median.nan_to_num(0.0)


class Products(NamedTuple):
    """Q x, A^T nu (None without equalities), C^T z, A x, C x."""

    qx: Tensor
    aty: Tensor | None
    ctz: Tensor
    ax: Tensor
    cx: Tensor

    def gradient(self, p: Tensor) -> Tensor:
        """The Lagrangian's gradient Q x + p + A^T nu + C^T z."""
        total = self.qx + p + self.ctz
        return total if self.aty is None else total + self.aty

    def left(self, p: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The residuals of the equations with right-hand sides -p, b and d."""
        return -self.gradient(p), b - self.ax, d - self.cx


@dataclass(frozen=True)
class Problem:
    """See the module. ``Q`` is (1|B, n) for a diagonal matrix, else (1|B, n, n).

    A problem whose variables have ``stages`` is kept sparse: then Q is its diagonal plus the ``coupling``.

    Attributes:
        G, A: (1|B, m, n) and (1|B, q, n), or sparse rows that all share, or None.
        b: (B, q); zero columns where A is None.
        d: (B, k), k = m + n (lower) + n (upper); where ``present`` is 0 any finite number.
        lower, upper: whether C has the rows of -I and of I.
        present: (B, k), 1.0 where a row exists and 0.0 where its right-hand side was infinite; None: all exist.
        coupling: the entries of Q off the diagonal, at symmetric places; None: there are none, or Q holds them.
        stage: (1, n) int64, the stage that a variable belongs to: no entry of ``coupling`` and no row of A or G reaches
            further than from one stage to the next. None: no such order is known.
        a_norms, c_norms: what :meth:`equality_norms` and :meth:`row_norms` return, None as long as nobody asked.
    """

    Q: Tensor
    p: Tensor
    G: Tensor | SparseRows | None
    A: Tensor | SparseRows | None
    b: Tensor
    d: Tensor
    lower: bool
    upper: bool
    present: Tensor | None
    coupling: SparseRows | None = None
    stage: Tensor | None = None
    a_norms: Tensor | None = None
    c_norms: Tensor | None = None

    @property
    def n(self) -> int:
        return self.p.shape[-1]

    @property
    def m(self) -> int:
        return 0 if self.G is None else self.G.shape[-2]  # of SparseRows, too

    @property
    def diagonal(self) -> bool:
        return self.Q.dim() == 2 and self.coupling is None

    @property
    def q_diagonal(self) -> Tensor:
        """(1|B, n): the diagonal of Q."""
        return self.Q if self.Q.dim() == 2 else self.Q.diagonal(dim1=-2, dim2=-1)

    def Qx(self, x: Tensor) -> Tensor:
        if self.coupling is not None:
            return self.Q * x + self.coupling.matvec(x)
        return self.Q * x if self.diagonal else rmatvec(self.Q, x)  # symmetric

    def Ax(self, x: Tensor) -> Tensor:
        return x[:, :0] if self.A is None else matvec(self.A, x)

    def bounds_of(self, x: Tensor) -> Tensor:
        """The rows of C x that belong to bounds."""
        if self.lower and self.upper:
            return torch.cat((-x, x), -1)
        return -x if self.lower else (x if self.upper else x[:, :0])

    def Cx(self, x: Tensor) -> Tensor:
        if self.G is None:
            return self.bounds_of(x)
        gx = matvec(self.G, x)
        return torch.cat((gx, self.bounds_of(x)), -1) if self.lower or self.upper else gx

    def Ctz_bounds(self, z: Tensor) -> Tensor:
        """What the bounds contribute to C^T z."""
        _, lower, upper = self.blocks(z)
        if self.lower and self.upper:
            return upper - lower
        return -lower if self.lower else upper

    def Ctz(self, z: Tensor) -> Tensor:
        """C^T z."""
        bounded = self.lower or self.upper
        if self.G is None:
            return self.Ctz_bounds(z) if bounded else z.new_zeros(z.shape[0], self.n)
        gz = rmatvec(self.G, self.blocks(z)[0])
        return gz + self.Ctz_bounds(z) if bounded else gz

    def snap(self, x: Tensor, active: Tensor) -> Tensor:
        """x with the variables whose bound is active put on it."""
        _, d_lower, d_upper = self.blocks(self.d)
        _, at_lower, at_upper = self.blocks(active)
        x = torch.where(at_lower, -d_lower, x) if self.lower else x
        return torch.where(at_upper, d_upper, x) if self.upper else x

    def blocks(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of a vector over the rows of C: of G, of the lower and of the upper bounds (empty if absent).

        Here and wherever gradients pass no slices are taken: where z[:, :m] is all of z it becomes an operation that
        ``is_grads_batched=True`` has no rule for.
        """
        if not (self.lower or self.upper):
            none = z.new_empty(z.shape[0], 0)
            return z, none, none
        rows, lower, upper = z.split_with_sizes((self.m, self.n * self.lower, self.n * self.upper), -1)
        return rows, lower, upper

    def on_diagonal(self, w: Tensor) -> Tensor | None:
        """Diagonal of sum_i w_i c_i c_i^T over the bounds; None if there are none."""
        if not (self.lower or self.upper):
            return None
        _, lower, upper = self.blocks(w)
        return lower + upper if self.lower and self.upper else (lower if self.lower else upper)

    def largest_diagonal(self) -> Tensor:
        """(1|B,): the largest diagonal element of Q, no element is larger."""
        diagonal = self.q_diagonal
        return diagonal.amax(-1) if self.n else diagonal.sum(-1)

    def row_norms(self) -> Tensor:
        """(1|B, k): Euclidean norms of the rows of C."""
        if self.c_norms is not None:
            return self.c_norms
        bounds = self.p.new_ones(1, self.d.shape[-1] - self.m)
        if self.G is None:
            return bounds
        norms = norms_of(self.G)
        return torch.cat((norms, bounds.expand(norms.shape[0], -1)), -1) if bounds.shape[-1] else norms

    def equality_norms(self) -> Tensor:
        """(1|B, q): likewise of A."""
        if self.a_norms is not None:
            return self.a_norms
        return self.b[:1] if self.A is None else norms_of(self.A)

    def with_norms(self) -> Problem:
        """The same problem, with these norms kept."""
        return dataclasses.replace(self, a_norms=self.equality_norms(), c_norms=self.row_norms())

    def without_infinite(self) -> Problem:
        """The same problem, where constraints whose right-hand side is infinite are absent."""
        infinite = torch.isinf(self.d)
        if not bool(infinite.any()):
            return self
        return dataclasses.replace(self, d=torch.where(infinite, 0.0, self.d), present=(~infinite).double())

    @property
    def sparse(self) -> bool:
        return any(isinstance(part, SparseRows) for part in (self.G, self.A, self.coupling))

    def dense(self) -> Problem:
        """The same problem without sparse parts."""
        g, a = (part.dense() if isinstance(part, SparseRows) else part for part in (self.G, self.A))
        q = self.Q if self.coupling is None else torch.diag_embed(self.Q) + self.coupling.dense()
        return dataclasses.replace(self, Q=q, G=g, A=a, coupling=None, stage=None)

    def changed(self, **parts: Any) -> Problem:
        """The problem with some parts replaced."""
        return dataclasses.replace(self, **parts, a_norms=None, c_norms=None).with_norms()

    def products(self, x: Tensor, nu: Tensor, z: Tensor) -> Products:
        """What the optimality conditions are made of."""
        aty = None if self.A is None else rmatvec(self.A, nu)
        return Products(self.Qx(x), aty, self.Ctz(z), self.Ax(x), self.Cx(x))

    def constraint_matrix(self) -> Tensor:
        """C (1|B, k, n), written out."""
        identity = torch.eye(self.n, dtype=self.p.dtype, device=self.p.device).unsqueeze(0)
        g = self.G.dense() if isinstance(self.G, SparseRows) else self.G
        blocks = ([] if g is None else [g]) + ([-identity] if self.lower else []) + [identity] * self.upper
        batch = 1 if g is None else g.shape[0]
        if not blocks:
            return self.p.new_zeros(1, 0, self.n)
        return torch.cat([block.expand(batch, -1, -1) for block in blocks], -2)

    def objective(self, x: Tensor) -> Tensor:
        """(B,): 1/2 x^T Q x + p^T x."""
        if self.Q.dim() == 3 and self.Q.shape[0] == 1:
            slope = torch.addmm(self.p, x, self.Q[0], alpha=0.5)
        else:
            slope = torch.add(self.p, self.Qx(x), alpha=0.5)
        product: Tensor = torch.linalg.vecdot(slope, x)
        return product
