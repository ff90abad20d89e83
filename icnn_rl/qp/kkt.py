"""The linear systems of the method: the only place where anything is factored or solved, forward and backward.

    [ Q   A^T   C^T ] [dx ]   [rx]
    [ A    0     0  ] [dnu] = [ra]          E = diag(e),  0 <= e <= inf,
    [ C    0    -E  ] [dz ]   [rc]

With e = s / z it is an interior-point step; with e = 0 on a set of active rows and e = inf (dz = 0) on the others, the
optimality conditions on that set and, with other right-hand sides, their derivatives. Every e is raised by a small
delta, which keeps dependent rows from making the matrix singular; who needs the exact solution corrects it with its
residual (the proximal method of multipliers).

Two ways to eliminate, and changes to problems where they are cheap:

* :class:`Primal` factors Q + C^T W C, n x n, W = 1 / (E + delta). No equalities.
* :class:`Range` factors R M R^T + E, R = [A; G], M = (Q + bounds)^{-1}, for bounds and a diagonal, positive Q.
* :class:`Dual` turns to the dual problem, min 1/2 y^T R Q^{-1} R^T y + c^T y with y = (nu, z), z >= 0: bounds only, and
  a matrix that is computed once.
* :class:`Eliminate`: x = A^+ b + Z v with A Z = 0 removes the equalities.
* :class:`Scale` equilibrates.

Each is a frozen dataclass of tensors, so that rows can be taken out of a batch and autograd can carry it.

References:
    B. Amos, J. Z. Kolter, OptNet, ICML 2017, section 3.1. R. Schwan et al., PIQP: A proximal interior-point quadratic
    programming solver, CDC 2023 (the proximal terms).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem, matvec, norms_of, rmatvec
from icnn_rl.qp.sparse import Pairs, SparseRows
from icnn_rl.qp.tensor_tree import map_tensors, pick

#: delta, relative to ``unit``: of Primal, of Primal where Q may be singular, of Range and Dual. Primal's H holds 1 /
#: delta: the digits of Q that this leaves are what corrections live on, and delta rho > eps keeps a singular H
#: meaningful. In float32 all are larger.
_PRIMAL, _SEMIDEFINITE, _RANGE, _COARSER = 1e-10, 1e-8, 1e-11, 1e5
#: rho, relative to the curvature of the objective.
_RHO = 1e-8
#: 1 / e of a row that is out, relative to 1 / delta.
_OUT = 1e-24
#: The e of the penalty problem to start from, in the unit of c^T Q^{-1} c.
_PENALTY = 0.1
#: Singular values of A below this, relative, are 0.
_DEPENDENT = 1e-12
#: Elements of an orthogonal matrix below this are 0.
_ROUNDING = 1e-14
#: Passes of the equilibration.
_RUIZ = 8


@dataclass(frozen=True)
class Point:
    """x (B, n), nu (B, q), z (B, k), s = d - C x (B, k)."""

    x: Tensor
    nu: Tensor
    z: Tensor
    s: Tensor


Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Factor:
    """What depends on e: e + delta and w = 1 / (e + delta) (B, k), a Cholesky factor, and for :class:`Range` the
    diagonal of M."""

    e: Tensor
    w: Tensor
    chol: Tensor
    mass: Tensor | None = None


class _SameRows:
    """The active sets of the inner problem are those of this one."""

    def outer(self, active: Tensor) -> Tensor:
        return active

    def guess(self, active: Tensor) -> Tensor:
        return active


class _Innermost(_SameRows):
    """Iterations take place here."""

    @property
    def inner(self) -> Self:
        return self

    def lift(self, point: Point) -> Point:
        return point


class _Around:
    """A change of variables around ``system``, which does not touch active sets."""

    system: Kkt

    @property
    def inner(self) -> Inner:
        return self.system.inner

    def outer(self, active: Tensor) -> Tensor:
        return self.system.outer(active)

    def guess(self, active: Tensor) -> Tensor:
        return self.system.guess(active)


@dataclass(frozen=True)
class Primal(_Innermost):
    """H = Q + rho + C^T W C, for problems without equalities.

    ``proximal``: whether rho is there because Q may be singular. ``start`` (1|B, k), here and in :class:`Range`: the e
    of the penalty problem that iterations start from. ``compiled``: made by the compiled kernel, which is to be used
    for derivatives as well.
    """

    problem: Problem
    rho: Tensor | None
    delta: Tensor
    start: Tensor
    proximal: bool = False
    factor: Factor | None = None
    compiled: bool = False

    def factored(self, e: Tensor) -> Primal:
        problem = self.problem
        e = e + self.delta
        w = e.reciprocal()
        if problem.present is not None:
            w = w * problem.present
        h = _hessian(problem, w, self.rho)
        return dataclasses.replace(self, factor=Factor(e, w, _cholesky(h)))

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        problem, w = self.problem, self.factor.w
        dx = _cholesky_solve(rx + problem.Ctz(w * rc), self.factor.chol)
        return dx, ra, w * (problem.Cx(dx) - rc)

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        return rx if self.rho is None else torch.addcmul(rx, self.rho, dx, value=-1.0), ra


@dataclass(frozen=True)
class Range(_Innermost):
    """S = R M R^T + E with R = [A; G] and M = 1 / (Q + bounds), for diagonal Q > 0.

    ``delta`` (1|B, q + k) belongs to the equalities and the rows of C. Sparse rows have ``pairs``, and S costs only the
    products of entries that meet in a column.
    """

    problem: Problem
    rows: Tensor | SparseRows
    delta: Tensor
    start: Tensor
    pairs: Pairs | None = None
    factor: Factor | None = None

    @property
    def q(self) -> int:
        return self.rows.shape[-2] - self.problem.m

    def factored(self, e: Tensor) -> Range:
        problem, q, m = self.problem, self.q, self.problem.m
        e = e + self.delta[:, q:]
        w = e.reciprocal()
        w = w if problem.present is None else w * problem.present
        bounds = problem.on_diagonal(w)
        mass = (problem.Q if bounds is None else problem.Q + bounds).expand(w.shape[0], -1).reciprocal()
        if self.pairs is not None:
            s = self.pairs.gram(mass)
        else:
            assert isinstance(self.rows, Tensor)
            s = torch.matmul(self.rows * mass.unsqueeze(-2), self.rows.mT)
        diagonal = s.diagonal(dim1=-2, dim2=-1)
        diagonal[:, :q].add_(self.delta[:, :q])
        if m:
            # a row that is out has w = 0: a shift that dwarfs the others keeps it out
            diagonal[:, q:].add_(1.0 / torch.maximum(w[:, :m], _OUT / self.delta[:, q : q + m]))
        return dataclasses.replace(self, factor=Factor(e, w, _cholesky(s), mass))

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.factor is not None
        problem, q, m, w, mass = self.problem, self.q, self.problem.m, self.factor.w, self.factor.mass
        assert mass is not None
        bounded = problem.lower or problem.upper
        rx = rx + problem.Ctz_bounds(w * rc) if bounded else rx
        y = _cholesky_solve(matvec(self.rows, mass * rx) - torch.cat((ra, rc[:, :m]), -1), self.factor.chol)
        dx = mass * (rx - rmatvec(self.rows, y))
        dz = w[:, m:] * (problem.bounds_of(dx) - rc[:, m:])
        if m:
            dz = torch.cat((torch.where(w[:, :m] > 0, y[:, q:], 0.0), dz), -1)
        return dx, y[:, :q], dz

    def spent(self, rx: Tensor, ra: Tensor, dx: Tensor, dnu: Tensor) -> tuple[Tensor, Tensor]:
        return rx, torch.addcmul(ra, self.delta[:, : self.q], dnu)


@dataclass(frozen=True)
class Dual:
    """The dual problem, for Q > 0: what is active here is what is not at its bound there.

    With L L^T = Q and W = L^{-1} R^T, R = [A; C], the multipliers y = (nu, z) solve min 1/2 y^T K y + c^T y, z >= 0,
    where K = W^T W and c = (b, d) + R Q^{-1} p; then x = -Q^{-1} (p + R^T y) and s = K y + c.

    ``chol``: L (1|B, n, n), or its diagonal (1|B, n); ``rows``: W (1|B, n, q + k).
    """

    problem: Problem
    chol: Tensor
    rows: Tensor
    system: Primal

    @staticmethod
    def of(problem: Problem, chol: Tensor) -> Dual:
        c = problem.constraint_matrix()
        present = problem.present
        if present is not None:
            c = c * present.unsqueeze(-1)
        r = c if problem.A is None else stack(problem.A, c)
        q = r.shape[-2] - c.shape[-2]
        w = _half_solve(chol, r.mT)
        gram = torch.matmul(w.mT, w)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        if present is not None:
            diagonal.add_(1.0 - torch.nn.functional.pad(present, (q, 0), value=1.0))
        right = torch.cat((problem.b, problem.d if present is None else problem.d * present), -1)
        free = None
        if q or present is not None:
            free = torch.ones_like(problem.d) if present is None else present
            free = torch.nn.functional.pad(free, (q, 0))
        inner = Problem(
            Q=gram,
            p=right + rmatvec(w, _half_solve(chol, problem.p.unsqueeze(-1)).squeeze(-1)),
            G=None,
            A=None,
            b=problem.b[:, :0],
            d=torch.zeros_like(right),
            lower=True,
            upper=False,
            present=free,
        ).with_norms()
        size = torch.where(diagonal > 0, diagonal, 1.0)
        # c^T Q^{-1} c is ruled by the smallest eigenvalue of Q, |c|^2 / mean by the largest: the truth is in between
        other = _unit(torch.linalg.vector_norm(r, dim=-1), _curvature(problem))
        start = 1.0 / (_PENALTY * torch.sqrt(size * other))
        return Dual(problem, chol, w, Primal(inner, _RANGE * size, _OUT / size, start))

    @property
    def inner(self) -> Primal:
        return self.system

    @property
    def q(self) -> int:
        return self.rows.shape[-1] - self.problem.d.shape[-1]

    def lift(self, point: Point) -> Point:
        q, problem = self.q, self.problem
        y = point.x.to(problem.p.dtype)  # iterations may have been in float32
        y = self._of_present(y)
        x = -_half_solve_t(
            self.chol, _half_solve(self.chol, problem.p.unsqueeze(-1)).squeeze(-1) + matvec(self.rows, y)
        )
        return Point(x, y[:, :q], y[:, q:], point.z[:, q:].to(x.dtype))

    def _of_present(self, y: Tensor) -> Tensor:
        """y without the multipliers of rows that do not exist."""
        present = self.problem.present
        return y if present is None else y * torch.nn.functional.pad(present, (self.q, 0), value=1.0)

    def outer(self, active: Tensor) -> Tensor:
        present = self.problem.present
        return ~active[:, self.q :] if present is None else ~active[:, self.q :] & (present > 0)

    def guess(self, active: Tensor) -> Tensor:
        return torch.nn.functional.pad(~active, (self.q, 0))

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        assert self.system.factor is not None
        half = _half_solve(self.chol, rx.unsqueeze(-1)).squeeze(-1)
        right = rmatvec(self.rows, half) - torch.cat((ra, rc), -1)
        chol = self.system.factor.chol
        y = torch.where(self.system.factor.w > 0, 0.0, _cholesky_solve(right.to(chol.dtype), chol).to(right.dtype))
        y = self._of_present(y)
        return _half_solve_t(self.chol, half - matvec(self.rows, y)), y[:, : self.q], y[:, self.q :]


@dataclass(frozen=True)
class Eliminate(_Around):
    """x = x_b + Z v, A Z = 0, A x_b = b: no equalities are left, bounds become rows of G.

    Dependent rows of A are recognised by their singular values. Attributes: null = Z (1|B, n, r), pinv = A^+ (1|B, n,
    q), particular = x_b (B, n).
    """

    problem: Problem
    null: Tensor
    pinv: Tensor
    particular: Tensor
    system: Kkt

    def lift(self, point: Point) -> Point:
        point, problem = self.system.lift(point), self.problem
        x = self.particular + matvec(self.null, point.x)
        nu = -rmatvec(self.pinv, problem.Qx(x) + problem.p + problem.Ctz(point.z))
        return dataclasses.replace(point, x=x, nu=nu)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        problem = self.problem
        x_a = matvec(self.pinv, ra)
        v, _, dz = self.system.solve(rmatvec(self.null, rx - problem.Qx(x_a)), ra[:, :0], rc - problem.Cx(x_a))
        dx = x_a + matvec(self.null, v)
        return dx, rmatvec(self.pinv, rx - problem.Qx(dx) - problem.Ctz(dz)), dz


@dataclass(frozen=True)
class Cast(_SameRows):
    """The same problem in float32: iterations and factors there, everything else in float64."""

    problem: Problem
    system: Inner

    @property
    def inner(self) -> Inner:
        return self.system

    def lift(self, point: Point) -> Point:
        return map_tensors(Tensor.double, point)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        dx, dnu, dz = self.system.solve(rx.float(), ra.float(), rc.float())
        return dx.double(), dnu.double(), dz.double()


@dataclass(frozen=True)
class Scale(_Around):
    """x = D v, and rows of A and C times E_a and E_c, the objective divided by a number: equilibrated data.

    columns = diag D (1|B, n), a_rows = diag E_a (1|B, q), c_rows = diag E_c (1|B, k), cost (1|B, 1).
    """

    problem: Problem
    columns: Tensor
    a_rows: Tensor
    c_rows: Tensor
    cost: Tensor
    system: Kkt

    def lift(self, point: Point) -> Point:
        point = self.system.lift(point)
        nu, z = self.cost * self.a_rows * point.nu, self.cost * self.c_rows * point.z
        return Point(self.columns * point.x, nu, z, point.s / self.c_rows)

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        v, dnu, dz = self.system.solve(self.columns * rx / self.cost, self.a_rows * ra, self.c_rows * rc)
        return self.columns * v, self.cost * self.a_rows * dnu, self.cost * self.c_rows * dz


@dataclass(frozen=True)
class Mixed:
    """Two systems: the rows at ``index`` belong to the second."""

    problem: Problem
    first: System
    index: Tensor
    second: System

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        right = (rx, ra, rc)
        others = self.second.solve(*(part[self.index] for part in right))
        mine = self.first.solve(*right)
        dx, dnu, dz = (a.index_copy(0, self.index, b) for a, b in zip(mine, others, strict=True))
        return dx, dnu, dz


@dataclass(frozen=True)
class Spread:
    """Two systems with all rows each: those that are ``chosen`` (B, 1) bool belong to the second."""

    problem: Problem
    first: System
    chosen: Tensor
    second: System

    def solve(self, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
        pairs = zip(self.first.solve(rx, ra, rc), self.second.solve(rx, ra, rc), strict=True)
        dx, dnu, dz = (torch.where(self.chosen, b, a) for a, b in pairs)
        return dx, dnu, dz


#: What can be iterated on, what leads there, what can be solved with. All have ``problem`` and, once factored,
#: ``solve(rx, ra, rc)`` -> dx (B, n), dnu (B, q), dz (B, k). The first have ``factored(e)``, e (B, k), a copy that
#: holds the factor, and ``spent``, what a solution takes off the right-hand sides rx and ra: Q dx + A^T dnu + C^T dz
#: and A dx (C dx is rc + (e + delta) dz). The first two have ``inner``, the system of the problem in which iterations
#: are cheapest, ``lift``, from a point of that problem to one of their own, ``outer`` and ``guess``, the same for
#: active sets, and back.
Inner = Primal | Range
Kkt = Primal | Range | Dual | Eliminate | Scale | Cast
System = Kkt | Mixed | Spread


def spread(system: System) -> System:
    """The same system with a row for each of the batch in every tensor that is not shared, and no row numbers:
    torch.func maps every tensor."""
    if not isinstance(system, Mixed):
        return system
    index, batch = system.index, system.problem.p.shape[0]
    chosen = torch.zeros(batch, 1, dtype=torch.bool, device=index.device).index_fill(0, index, True)
    place = torch.zeros(batch, dtype=index.dtype, device=index.device)
    place = place.index_copy(0, index, torch.arange(len(index), device=index.device))
    return Spread(system.problem, spread(system.first), chosen, pick(place, spread(system.second)))


def primal(problem: Problem, semidefinite: bool) -> Primal:
    """A :class:`Primal` system; rho > 0 only where Q may be singular."""
    curvature = _curvature(problem)
    unit = _unit(problem.row_norms(), curvature)
    if semidefinite:
        return Primal(problem, _RHO * curvature, _SEMIDEFINITE * unit, _PENALTY * unit, proximal=True)
    return Primal(problem, None, _PRIMAL * unit, _PENALTY * unit)


def range_space(problem: Problem) -> Range:
    """A :class:`Range` system."""
    assert problem.A is not None or problem.G is not None
    rows = _stack_sparse(problem) if problem.sparse else stack(problem.A, problem.G)
    norms = norms_of(rows)
    bounds = norms.new_ones(norms.shape[0], problem.d.shape[-1] - problem.m)
    unit = _unit(torch.cat((norms, bounds), -1), _curvature(problem))
    q = norms.shape[-1] - problem.m
    pairs = rows.pairs() if isinstance(rows, SparseRows) else None
    return Range(problem, rows, _RANGE * unit, _PENALTY * unit[:, q:], pairs)


def eliminate(problem: Problem, semidefinite: bool) -> Eliminate:
    """An :class:`Eliminate` change of variables with a :class:`Primal` system inside."""
    problem = problem.dense()
    assert isinstance(problem.A, Tensor)
    null, pinv, repeated = _null_space(problem.A)
    particular = matvec(pinv, problem.b)
    qz = problem.Q.unsqueeze(-1) * null if problem.diagonal else torch.matmul(problem.Q, null)
    q = torch.matmul(null.mT, qz)
    q = q if repeated is None else q + torch.diag_embed(repeated)
    inner = problem.changed(
        Q=q,
        p=rmatvec(null, problem.p + problem.Qx(particular)),
        G=torch.matmul(problem.constraint_matrix(), null),
        A=None,
        b=problem.b[:, :0],
        d=problem.d - problem.Cx(particular),
        lower=False,
        upper=False,
    )
    return Eliminate(problem, null, pinv, particular, primal(inner, semidefinite))


def choose(problem: Problem, chol: Tensor | None, semidefinite: bool) -> Kkt:
    """The cheapest elimination: products at 1 a flop, Cholesky factors at 4, as measured on a CPU core.

    Args:
        problem: the problem.
        chol: L L^T = Q (1|B, n, n), None where Q is diagonal.
        semidefinite: whether some Q is singular or nearly so.
    """
    if problem.sparse and problem.diagonal and not semidefinite:
        return range_space(problem)
    problem = problem.dense()
    n, m, k = problem.n, problem.m, problem.d.shape[-1]
    q = 0 if problem.A is None else problem.A.shape[-2]
    bounded = problem.lower or problem.upper
    free = max(n - q, 0)
    costs = {"primal": _cost(n, m)} if q == 0 else {"eliminate": _cost(free, k)}
    if not semidefinite and q + k > 0:
        costs["dual"] = (
            _cost(q + k, 0) + (q + k) * n * (0.0 if problem.diagonal else 0.25 * n) + 0.25 * n * (q + k) ** 2
        )
        if problem.diagonal and bounded and q + m > 0:
            costs["range"] = _cost(q + m, n)
    name = min(costs, key=costs.__getitem__)
    if name == "primal":
        return primal(problem, semidefinite)
    if name == "eliminate":
        return eliminate(problem, semidefinite)
    if name == "range":
        return range_space(problem)
    return Dual.of(problem, problem.Q.sqrt() if chol is None else chol)


def equilibrate(problem: Problem) -> Scale:
    """Ruiz' scaling: rows and columns of the matrix of the module's head brought to the norm 1 in the maximum norm.

    Always with a system that takes singular matrices.
    """
    problem = problem.dense()
    q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
    a = problem.A if isinstance(problem.A, Tensor) else problem.p[:1].new_zeros(1, 0, problem.n)
    c = problem.constraint_matrix() if problem.d.shape[-1] else a[:, :0]
    batch = max(part.shape[0] for part in (q, a, c))
    q, a, c = (part.expand(batch, -1, -1) for part in (q, a, c))
    ones = [torch.ones_like(part[..., 0]) for part in (q, a, c)]
    columns, a_rows, c_rows = ones
    for _ in range(_RUIZ):
        q_now = columns.unsqueeze(-1) * q * columns.unsqueeze(-2)
        a_now, c_now = (
            a_rows.unsqueeze(-1) * a * columns.unsqueeze(-2),
            c_rows.unsqueeze(-1) * c * columns.unsqueeze(-2),
        )
        columns = columns / _root(torch.cat((q_now, a_now, c_now), -2).abs().amax(-2))
        a_rows, c_rows = a_rows / _root(_row_size(a_now)), c_rows / _root(_row_size(c_now))
    q = columns.unsqueeze(-1) * q * columns.unsqueeze(-2)
    p = columns * problem.p
    cost = torch.maximum(q.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True), p.abs().amax(-1, keepdim=True))
    cost = torch.where(cost > 0, cost, 1.0)
    inner = problem.changed(
        Q=q / cost.unsqueeze(-1),
        p=p / cost,
        G=c_rows.unsqueeze(-1) * c * columns.unsqueeze(-2) if c.shape[-2] else None,
        A=a_rows.unsqueeze(-1) * a * columns.unsqueeze(-2) if problem.A is not None else None,
        b=a_rows * problem.b,
        d=c_rows * problem.d,
        lower=False,
        upper=False,
    )
    system = primal(inner, True) if inner.A is None else eliminate(inner, True)
    return Scale(problem, columns, a_rows, c_rows, cost, system)


def _row_size(rows: Tensor) -> Tensor:
    return rows.abs().amax(-1)


def _root(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0).sqrt()


def _cost(size: int, rows: int) -> float:
    return 4.0 * size**3 / 3.0 + 2.0 * rows * size**2


def _hessian(problem: Problem, w: Tensor, rho: Tensor | None) -> Tensor:
    """Q + rho + C^T W C, a tensor of its own."""
    parts = [problem.on_diagonal(w), rho, problem.Q if problem.diagonal else None]
    diagonal = sum(part for part in parts if part is not None)
    if problem.G is None and problem.diagonal:
        assert isinstance(diagonal, Tensor)
        return torch.diag_embed(diagonal.expand(w.shape[0], problem.n))
    if problem.G is None:
        h = problem.Q.expand(w.shape[0], -1, -1).clone()
    else:
        assert isinstance(problem.G, Tensor)  # systems that take sparse rows have no H
        h = torch.matmul(problem.G.mT, problem.G * w[:, : problem.m].unsqueeze(-1))
        h = h if problem.diagonal else h.add_(problem.Q)
    if isinstance(diagonal, Tensor):
        h.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    return h


def _curvature(problem: Problem) -> Tensor:
    """(1|B, 1): mean diagonal of Q, the unit of H; where Q = 0 the size of p stands in."""
    diagonal = problem.Q if problem.diagonal else problem.Q.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    if bool((mean > 0).all()):
        return mean
    size = torch.linalg.vector_norm(problem.p, dim=-1, keepdim=True)
    return torch.where(mean > 0, mean, torch.where(size > 0, size, 1.0))


def _unit(norms: Tensor, curvature: Tensor) -> Tensor:
    """|c|^2 / curvature; a row of zeros takes the mean row's."""
    squares = norms.square()
    mean = squares.mean(-1, keepdim=True)
    return torch.where(squares > 0, squares, torch.where(mean > 0, mean, 1.0)) / curvature


def _null_space(a: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`_null_space_of` with what is 0 but for rounding set to 0: a bound on Z v would mind its sign."""
    null, pinv, repeated = _null_space_of(a)
    return torch.where(null.abs() > _ROUNDING, null, 0.0), pinv, repeated


def _null_space_of(a: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Z, A^+ and, where the ranks of a batch differ, 1.0 for the columns of Z that one row has less than another."""
    q, n = a.shape[-2:]
    if q <= n:
        basis, r = torch.linalg.qr(a.mT, mode="complete")
        square = r[..., :q, :]
        diagonal = square.diagonal(dim1=-2, dim2=-1).abs()
        if bool((diagonal.amin(-1) > 1e-8 * diagonal.amax(-1)).all()):
            return basis[..., q:].contiguous(), _pinv(basis[..., :q], square), None
    u, s, vh = torch.linalg.svd(a, full_matrices=True)
    tolerance = _DEPENDENT * s[..., :1]  # the largest comes first
    rank = (s > tolerance).sum(-1)
    least = int(rank.min())
    inverse = torch.where(s > tolerance, 1.0 / s, 0.0)
    kept = s.shape[-1]
    pinv = torch.matmul(vh[..., :kept, :].mT * inverse.unsqueeze(-2), u[..., :kept].mT)
    null = vh[..., least:, :].mT
    surplus = (torch.arange(least, n, device=a.device) < rank.unsqueeze(-1)).to(a.dtype)
    repeated = surplus if bool((rank != least).any()) else None
    return (null if repeated is None else null * (1.0 - surplus).unsqueeze(-2)).contiguous(), pinv, repeated


def _pinv(basis: Tensor, r: Tensor) -> Tensor:
    """A^+ = Y R^{-T} for A^T = Y R."""
    out: Tensor = torch.linalg.solve_triangular(r, basis.mT, upper=True).mT
    return out


def stack(a: Tensor | SparseRows | None, c: Tensor | SparseRows | None) -> Tensor:
    """[A; C], where both or one of them exist."""
    blocks = [block.dense() if isinstance(block, SparseRows) else block for block in (a, c) if block is not None]
    batch = max(block.shape[0] for block in blocks)
    return torch.cat([block.expand(batch, -1, -1) for block in blocks], -2) if len(blocks) > 1 else blocks[0]


def _stack_sparse(problem: Problem) -> SparseRows | Tensor:
    """[A; G] where one of them is sparse: sparse if the other is sparse, too, or absent."""
    parts = [part for part in (problem.A, problem.G) if part is not None]
    sparse = [part for part in parts if isinstance(part, SparseRows)]
    if len(sparse) < len(parts):
        problem = problem.dense()
        return stack(problem.A, problem.G)
    offsets = [0, sparse[0].shape[0]]
    row = torch.cat([part.row + offset for part, offset in zip(sparse, offsets, strict=False)], -1)
    column, values = (torch.cat([getattr(part, name) for part in sparse], -1) for name in ("column", "values"))
    return SparseRows(row, column, values, (sum(part.shape[0] for part in sparse), problem.n))


def _cholesky(h: Tensor) -> Tensor:
    """U with U^T U = H; rows that are not positive definite come out as rubbish or NaN, and are found out later."""
    out: Tensor = torch.linalg.cholesky_ex(h, upper=True)[0]
    return out


def _cholesky_solve(right: Tensor, chol: Tensor) -> Tensor:
    # two triangular solves: torch.cholesky_solve copies its factor
    half = torch.linalg.solve_triangular(chol.mT, right.unsqueeze(-1), upper=False)
    out: Tensor = torch.linalg.solve_triangular(chol, half, upper=True).squeeze(-1)
    return out


def _half_solve(chol: Tensor, x: Tensor) -> Tensor:
    """L^{-1} X for X (1|B, n, j); chol may be a diagonal."""
    if chol.dim() == 2:
        return x / chol.unsqueeze(-1)
    out: Tensor = torch.linalg.solve_triangular(chol, x, upper=False)
    return out


def _half_solve_t(chol: Tensor, x: Tensor) -> Tensor:
    """L^{-T} x for x (B, n)."""
    if chol.dim() == 2:
        return x / chol
    out: Tensor = torch.linalg.solve_triangular(chol.mT, x.unsqueeze(-1), upper=True).squeeze(-1)
    return out


def in_single(system: Kkt) -> Kkt:
    """The same system with its innermost problem in float32: there it iterates and is factored."""
    if isinstance(system, Eliminate | Scale):
        return dataclasses.replace(system, system=in_single(system.system))
    inner = system.inner
    coarse = dataclasses.replace(inner, delta=_COARSER * inner.delta)
    if isinstance(coarse, Primal) and coarse.rho is not None:
        coarse = dataclasses.replace(coarse, rho=_COARSER * coarse.rho)
    coarse = map_tensors(Tensor.float, coarse)
    return with_inner(system if isinstance(system, Dual) else Cast(inner.problem, inner), coarse)


def with_inner(system: Kkt, inner: Inner) -> Kkt:
    """The same system with its innermost one replaced: where iterations took place."""
    if isinstance(system, Dual):
        assert isinstance(inner, Primal)
        return dataclasses.replace(system, system=inner)
    if isinstance(system, Eliminate | Scale):
        return dataclasses.replace(system, system=with_inner(system.system, inner))
    if isinstance(system, Cast):
        return dataclasses.replace(system, system=inner)
    return inner
