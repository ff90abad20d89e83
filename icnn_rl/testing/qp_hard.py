"""Hard quadratic programmes, seeded: the structures of published collections, of robots and of statistics.

    min 1/2 z'Qz + p'z   s.t.   Gz <= h,   Az = b,   lb <= z <= ub

Each family is a short function of a random generator. Three ways to know that a problem has a solution: it is the
model of something that has one; :func:`planted` chooses the solution and its multipliers first and p last; or scales
that are powers of two are put on one that has. Those without a solution carry the reason in their construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from icnn_rl.solution import Status

Array = NDArray[np.float64]
Draw = Callable[[Generator], "HardProblem"]
INF = np.inf


@dataclass(frozen=True, eq=False)
class HardProblem:
    """One programme; None: no such block. ``expected`` is the right status.

    ``own_size``: the objective is far smaller than 1, and errors count in units of the problem's own numbers too.
    """

    name: str
    Q: Array  # (n, n), symmetric, positive semidefinite
    p: Array  # (n,)
    G: Array | None = None  # (m, n)
    h: Array | None = None  # (m,)
    A: Array | None = None  # (q, n)
    b: Array | None = None  # (q,)
    lb: Array | None = None  # (n,), -inf: no bound
    ub: Array | None = None  # (n,), +inf: no bound
    expected: Status = Status.SUCCESS
    own_size: bool = False

    @property
    def n(self) -> int:
        return len(self.p)

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


#: All families, in the order in which :func:`problems` deals them.
FAMILIES: dict[str, Draw] = {}


def family(draw: Draw) -> Draw:
    """Enters the function into the table under its name."""
    FAMILIES[draw.__name__] = draw
    return draw


def problems(count: int, seed: int = 0, names: tuple[str, ...] = ()) -> list[HardProblem]:
    """The first ``count`` problems, dealt round-robin from the families (or those of ``names``); "family/number"."""
    chosen = names or tuple(FAMILIES)
    return [_numbered(chosen[i % len(chosen)], i // len(chosen), seed) for i in range(count)]


def _numbered(name: str, number: int, seed: int) -> HardProblem:
    """The problem of this number, whatever else is dealt."""
    rng = np.random.default_rng([seed, number, *name.encode()])
    return replace(FAMILIES[name](rng), name=f"{name}/{number}")


def programme(
    Q: Array | float,
    p: Array,
    G: ArrayLike | None = None,
    h: ArrayLike | None = None,
    A: ArrayLike | None = None,
    b: ArrayLike | None = None,
    lb: ArrayLike | None = None,
    ub: ArrayLike | None = None,
    expected: Status = Status.SUCCESS,
) -> HardProblem:
    """A problem without its name; numbers stand for multiples of the identity and for equal bounds."""
    n = len(p)
    Q = Q * np.eye(n) if np.ndim(Q) == 0 else np.asarray(Q)
    lb, ub = (None if bound is None else np.broadcast_to(bound, (n,)).astype(float) for bound in (lb, ub))
    G, h, A, b = (None if part is None else np.asarray(part, dtype=np.float64) for part in (G, h, A, b))
    return HardProblem("", 0.5 * (Q + Q.T), np.asarray(p, dtype=np.float64), G, h, A, b, lb, ub, expected)


def planted(
    rng: Generator,
    Q: Array | float,
    x: Array,
    G: Array | None = None,
    A: Array | None = None,
    lb: Array | float | None = None,
    ub: Array | float | None = None,
    active: float = 0.5,
    weak: float = 0.2,
) -> HardProblem:
    """The problem whose solution is ``x``: a share ``active`` of the rows of G is met with equality, a share ``weak``
    of those, and of the bounds that x lies on, has the multiplier 0. Multipliers and slacks are of size 1."""
    n = len(x)
    p = -(Q * x if np.ndim(Q) == 0 else Q @ x)
    h = b = None
    if G is not None:
        met = rng.random(len(G)) < active
        p = p - G.T @ _multipliers(rng, met, weak)
        h = G @ x + np.where(met, 0.0, rng.uniform(0.1, 2.0, len(G)))
    if A is not None:
        p, b = p - A.T @ rng.standard_normal(len(A)), A @ x
    for bound, sign in ((lb, 1.0), (ub, -1.0)):
        if bound is not None:
            p = p + sign * _multipliers(rng, x == np.broadcast_to(bound, (n,)), weak)
    return programme(Q, p, G, h, A, b, lb, ub)


def _multipliers(rng: Generator, met: NDArray[np.bool_], weak: float) -> Array:
    """Between 0.1 and 2 where the constraint is met and strongly so."""
    return np.where(met & (rng.random(len(met)) >= weak), rng.uniform(0.1, 2.0, len(met)), 0.0)


def _size(rng: Generator, small: tuple[int, int], large: tuple[int, int], share: float = 0.15) -> int:
    """Mostly small."""
    low, high = large if rng.random() < share else small
    return int(rng.integers(low, high + 1))


def _sparse(rng: Generator, rows: int, n: int, per_row: int = 4, digits: bool = True) -> Array:
    """Rows with ``per_row`` entries, digits between -9 and 9 or normal numbers; each column is met if rows suffice."""
    matrix = np.zeros((rows, n))
    for i in range(rows):
        columns = rng.choice(n, min(per_row, n), replace=False)
        values = rng.integers(1, 10, len(columns)) * rng.choice([-1.0, 1.0], len(columns))
        matrix[i, columns] = values if digits else rng.standard_normal(len(columns))
    return matrix


def _corner(rng: Generator, n: int, zero: float = 0.5) -> Array:
    """A point x >= 0 with a share of zeros."""
    return np.where(rng.random(n) < zero, 0.0, rng.uniform(0.1, 3.0, n))


def _low_rank(rng: Generator, n: int, rank: int) -> Array:
    root = rng.standard_normal((n, rank))
    return root @ root.T / rank


def _with_dependent(rng: Generator, A: Array, extra: int) -> Array:
    """``extra`` further rows: sums, differences and copies of what is there, exact in digits."""
    pairs = rng.integers(len(A), size=(extra, 2))
    signs = rng.choice([-1.0, 0.0, 1.0], extra)
    return np.vstack([A, A[pairs[:, 0]] + signs[:, None] * A[pairs[:, 1]]])


def _powers(rng: Generator, size: int, digits: float) -> Array:
    """Powers of two between 10^-digits and 10^digits: scaling with them rounds nothing."""
    powers: Array = np.exp2(np.round(rng.uniform(-digits, digits, size) * np.log2(10.0)))
    return powers


# Linear programmes and low-rank objectives with the structure of models


@family
def staircase_lp(rng: Generator) -> HardProblem:
    """Periods with stocks between them: B x_t + C x_(t-1) = b_t, x >= 0 but for some free ones, rows repeated."""
    periods, rows = _size(rng, (2, 5), (8, 15)), int(rng.integers(3, 7))
    n = periods * (wide := 3 * rows)
    A = np.zeros((periods * rows, n))
    for t in range(periods):
        block = slice(t * rows, (t + 1) * rows)
        A[block, t * wide : (t + 1) * wide] = _sparse(rng, rows, wide)
        if t:
            A[block, (t - 1) * wide : t * wide] = _sparse(rng, rows, wide, 2)
    free = rng.random(n) < 0.1
    x = np.where(free, rng.standard_normal(n), _corner(rng, n, 0.7))
    return planted(rng, 0.0, x, A=_with_dependent(rng, A, rows), lb=np.where(free, -INF, 0.0))


def _flow(rng: Generator, nodes: int, arcs: int) -> Array:
    """Incidence matrix of a connected graph: the rows add up to 0."""
    ends = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes])
    others = np.stack([start := rng.integers(nodes, size=arcs), (start + rng.integers(1, nodes, arcs)) % nodes])
    ends = np.concatenate([ends, others], 1)
    A = np.zeros((nodes, ends.shape[1]))
    A[ends[0], np.arange(ends.shape[1])], A[ends[1], np.arange(ends.shape[1])] = -1.0, 1.0
    return A


def _transport(supplies: int, demands: int) -> Array:
    """Row sums and column sums of a matrix; one equation too many."""
    return np.vstack([np.kron(np.eye(supplies), np.ones(demands)), np.kron(np.ones(supplies), np.eye(demands))])


@family
def transport_lp(rng: Generator) -> HardProblem:
    s, d = (int(rng.integers(3, 8)), int(rng.integers(3, 8))) if rng.random() < 0.85 else (14, 20)
    A, cost = _transport(s, d), rng.integers(1, 20, s * d).astype(float)
    return programme(0.0, cost, A=A, b=A @ (10.0 * rng.integers(0, 5, s * d)), lb=0.0)


@family
def assignment_lp(rng: Generator) -> HardProblem:
    """Every vertex is degenerate, and whole numbers make ties."""
    k = _size(rng, (3, 7), (12, 16))
    return programme(0.0, rng.integers(1, 10, k * k).astype(float), A=_transport(k, k), b=np.ones(2 * k), lb=0.0)


@family
def network_flow_lp(rng: Generator) -> HardProblem:
    nodes = _size(rng, (5, 12), (30, 50))
    A = _flow(rng, nodes, 3 * nodes)
    n = A.shape[1]
    capacity = rng.integers(1, 10, n).astype(float)
    flow = np.where(rng.random(n) < 0.5, capacity, np.floor(capacity * rng.random(n)))
    return programme(0.0, rng.integers(0, 20, n).astype(float), A=A, b=A @ flow, lb=0.0, ub=capacity)


@family
def maximum_flow_lp(rng: Generator) -> HardProblem:
    """All right-hand sides of the equations are 0; the last arc leads back from sink to source and earns 1."""
    nodes = _size(rng, (5, 10), (25, 40))
    A = _flow(rng, nodes, 3 * nodes)
    back = np.zeros((nodes, 1))
    back[0], back[nodes // 2] = 1.0, -1.0
    A = np.hstack([A, back])
    capacity = np.append(rng.integers(0, 10, A.shape[1] - 1).astype(float), INF)
    return programme(0.0, np.append(np.zeros(A.shape[1] - 1), -1.0), A=A, b=np.zeros(nodes), lb=0.0, ub=capacity)


@family
def refinery(rng: Generator) -> HardProblem:
    """Blending: qualities of crudes between 1e-2 and 1e3, balances, capacities up to 1e3, curvature in a few."""
    n = _size(rng, (15, 50), (90, 200), 0.1)
    A, G = _sparse(rng, n // 6, n, 4, digits=False), _sparse(rng, n // 2, n, 5, digits=False)
    G *= _powers(rng, len(G), 2.0)[:, None]
    G[:, : n // 5] *= 8.0
    top = np.where(rng.random(n) < 0.6, 1000.0, INF)
    x = np.where(rng.random(n) < 0.4, 0.0, rng.uniform(1.0, 900.0, n))
    curvature = np.diag(np.where(rng.random(n) < 0.3, rng.uniform(0.1, 30.0, n), 0.0))
    return planted(rng, curvature, x, G, A, 0.0, top, active=0.3)


@family
def recipe(rng: Generator) -> HardProblem:
    """Most variables are free of cost and curvature, most right-hand sides 0, an eighth of the variables fixed, and at
    0 the vertex is degenerate; entries from 0.1 to 145."""
    n = _size(rng, (20, 50), (120, 250), 0.2)
    A, G = _sparse(rng, n // 3, n, 5), _sparse(rng, n // 8, n, 13)
    A, G = (part * np.round(10.0 ** rng.uniform(-1.0, 1.2, (len(part), 1)), 1) for part in (A, G))
    top = np.where(rng.random(n) < 0.5, rng.integers(1, 100, n), INF)
    few = np.arange(n) < max(3, n // 8)
    Q = np.zeros((n, n))
    Q[np.ix_(few, few)] = _low_rank(rng, int(few.sum()), max(1, int(few.sum()) // 2))
    x = np.where(rng.random(n) < 0.8, 0.0, np.minimum(top, rng.integers(0, 10, n)))
    fixed = rng.random(n) < 0.125
    return planted(rng, Q, x, G, A, np.where(fixed, x, 0.0), np.where(fixed, x, top), active=0.8, weak=0.6)


@family
def capital(rng: Generator) -> HardProblem:
    """Assets that grow by a tenth a period and flow on: all equations and most rows are homogeneous; one number, what
    there is at first, bounds everything. Only the last period earns, and its risk has low rank."""
    assets, periods = int(rng.integers(2, 5)), _size(rng, (3, 6), (15, 25), 0.2)
    stock, move = np.arange(periods * assets).reshape(periods, assets), np.arange(periods - 1)[:, None] * assets
    move = periods * assets + move + np.arange(assets)
    n = stock.size + move.size
    A, G = np.zeros((move.size, n)), np.zeros((move.size + 1, n))
    for i, (t, k) in enumerate(np.ndindex(*move.shape)):
        # what moves on from asset k arrives at asset k + 1, a tenth of it lost
        A[i, [stock[t + 1, k], stock[t, k], move[t, k], move[t, k - 1]]] += [1.0, -1.1 + 0.1 * (k % 2), 1.0, -0.9]
        G[i, [move[t, k], stock[t, k]]] = 1.0, -0.5
    G[-1, stock[0]] = 1.0
    Q, p = np.zeros((n, n)), np.zeros(n)
    Q[np.ix_(stock[-1], stock[-1])] = _low_rank(rng, assets, 1)
    p[stock[-1, 0]] = -1.0
    return programme(Q, p, G, np.append(np.zeros(move.size), 200.0), A, np.zeros(len(A)), 0.0)


@family
def low_rank_qp(rng: Generator) -> HardProblem:
    n = _size(rng, (10, 60), (150, 300), 0.1)
    A = _with_dependent(rng, _sparse(rng, max(1, n // 5), n), max(1, n // 20))
    free = rng.random(n) < 0.05
    x = np.where(free, rng.standard_normal(n), _corner(rng, n))
    return planted(rng, _low_rank(rng, n, 3), x, _sparse(rng, n // 3, n), A, np.where(free, -INF, 0.0))


@family
def degenerate_vertex_lp(rng: Generator) -> HardProblem:
    """Many times more rows through one point than there are variables."""
    n = int(rng.integers(3, 12))
    G = rng.integers(-3, 4, (int(rng.integers(4, 8)) * n, n)).astype(float)
    G[np.arange(n), np.arange(n)] = 4.0
    return planted(rng, 0.0, rng.integers(-2, 3, n).astype(float), G, active=0.8, weak=0.5)


@family
def klee_minty_lp(rng: Generator) -> HardProblem:
    """x_i + 2 sum_(j<i) 2^(i-j) x_j <= 5^i: right-hand sides from 5 to 5^n."""
    n = int(rng.integers(3, 9))
    i = np.arange(n, dtype=np.float64)
    G = np.where(i[:, None] > i, 2.0 ** (i[:, None] - i + 1), 0.0) + np.eye(n)
    return programme(0.0, -np.exp2(n - 1 - i), G, np.power(5.0, i + 1), lb=0.0)


@family
def matrix_game_lp(rng: Generator) -> HardProblem:
    """min v s.t. M y <= v, y a probability; entries in -1, 0, 1 make many best answers."""
    k = _size(rng, (3, 10), (30, 60))
    M = rng.integers(-1, 2, (k + 2, k)).astype(float)
    G = np.hstack([M, -np.ones((k + 2, 1))])
    A = np.append(np.ones(k), 0.0)[None]
    return programme(0.0, np.append(np.zeros(k), 1.0), G, np.zeros(k + 2), A, np.ones(1), np.append(np.zeros(k), -INF))


@family
def knapsack(rng: Generator) -> HardProblem:
    """One dense row, bounds on everything, half of the time a singular diagonal Q."""
    n = _size(rng, (5, 30), (100, 250))
    weight, value = rng.integers(1, 30, n).astype(float), rng.integers(1, 30, n).astype(float)
    Q = np.diag(rng.integers(0, 2, n) * (rng.random() < 0.5) * 1.0)
    return programme(Q, -value, weight[None], np.floor(weight.sum(keepdims=True) / 3), lb=0.0, ub=1.0)


@family
def chebyshev_centre_lp(rng: Generator) -> HardProblem:
    """max r s.t. a_i'x + |a_i| r <= b_i."""
    n = int(rng.integers(2, 10))
    a = np.vstack([rng.standard_normal((4 * n, n)), np.eye(n), -np.eye(n)])
    G = np.hstack([a, np.linalg.norm(a, axis=1, keepdims=True)])
    return programme(0.0, np.append(np.zeros(n), -1.0), G, rng.uniform(0.5, 3.0, len(a)))


@family
def l1_fit_lp(rng: Generator) -> HardProblem:
    """min sum t s.t. |Mx - y| <= t; half of the measurements fit exactly."""
    n, m = int(rng.integers(2, 8)), _size(rng, (10, 30), (80, 120))
    M = rng.standard_normal((m, n))
    y = M @ rng.standard_normal(n) + np.where(rng.random(m) < 0.5, 0.0, rng.standard_normal(m))
    G = np.block([[M, -np.eye(m)], [-M, -np.eye(m)]])
    return programme(0.0, np.append(np.zeros(n), np.ones(m)), G, np.concatenate([y, -y]))


@family
def infinity_norm_fit_lp(rng: Generator) -> HardProblem:
    n, m = int(rng.integers(2, 8)), _size(rng, (10, 40), (150, 200))
    M, y = np.vander(np.linspace(-1.0, 1.0, m), n), rng.standard_normal(m)
    G = np.block([[M, -np.ones((m, 1))], [-M, -np.ones((m, 1))]])
    return programme(0.0, np.append(np.zeros(n), 1.0), G, np.concatenate([y, -y]))


# Right-hand sides


def _scaled_right(problem: HardProblem, factor: float, *, with_cost: bool) -> HardProblem:
    """All right-hand sides times ``factor``; with p as well the solution moves with them."""
    ends: dict[str, Any] = {
        name: None if (v := getattr(problem, name)) is None else v * factor for name in ("h", "b", "lb", "ub")
    }
    return replace(problem, p=problem.p * factor if with_cost else problem.p, **ends)


def _general(rng: Generator, low: int = 4, high: int = 30) -> HardProblem:
    """Q of any rank or 0, rows, equations and bounds, a degenerate corner that is not the origin."""
    n = int(rng.integers(low, high + 1))
    Q = np.zeros((n, n)) if rng.random() < 0.3 else _low_rank(rng, n, int(rng.integers(1, n + 1)))
    G = rng.standard_normal((int(rng.integers(1, 2 * n)), n))
    A = rng.standard_normal((int(rng.integers(1, max(2, n // 3))), n))
    x = _corner(rng, n)
    x[0] += 0.5
    return planted(rng, Q, x, G, A, 0.0, active=0.4)


@family
def homogeneous(rng: Generator) -> HardProblem:
    """All right-hand sides are 0: a cone, and the solution is its tip."""
    n = int(rng.integers(3, 20))
    G, A = rng.standard_normal((2 * n, n)), rng.standard_normal((max(1, n // 4), n))
    Q = _low_rank(rng, n, int(rng.integers(1, n + 1))) if rng.random() < 0.6 else 0.0
    return planted(rng, Q, np.zeros(n), G, A, active=1.0)


@family
def homogeneous_with_curvature(rng: Generator) -> HardProblem:
    """Right-hand sides 0, Q > 0 and any p: the solution is on a face of the cone, or at its tip."""
    n = int(rng.integers(3, 20))
    G = rng.standard_normal((n + 3, n))
    return programme(_low_rank(rng, n, n) + 0.1 * np.eye(n), rng.standard_normal(n), G, np.zeros(len(G)))


@family
def tiny_right_sides(rng: Generator) -> HardProblem:
    """Right-hand sides of size 1e-9; p of size 1, or of size 1e-9 too."""
    return replace(_scaled_right(_general(rng), 1e-9, with_cost=rng.random() < 0.5), own_size=True)


@family
def huge_right_sides(rng: Generator) -> HardProblem:
    """Right-hand sides of size 1e6 to 1e8; the objective grows with them, or with their square."""
    factor, grows = float(10.0 ** rng.integers(6, 9)), rng.random() < 0.5
    problem = _scaled_right(_general(rng), factor, with_cost=grows)
    return problem if grows else replace(problem, Q=problem.Q / factor)


# Many rows, parallel rows, thin sets


@family
def many_rows(rng: Generator) -> HardProblem:
    """30 to 40 dense rows for a variable, scaled between 1 and 1e4, a box and a budget."""
    n = int(rng.integers(5, 11))
    G = rng.standard_normal((int(rng.integers(30, 41)) * n, n))
    G *= 10.0 ** rng.uniform(0.0, 4.0, (len(G), 1))
    x = np.where(rng.random(n) < 0.4, 0.0, rng.random(n))
    x[0] += 0.1
    problem = planted(rng, _low_rank(rng, n, n), x / x.sum(), G, np.ones((1, n)), 0.0, 1.0, active=n / len(G))
    return replace(problem, b=np.ones(1))


@family
def dual_curvature(rng: Generator) -> HardProblem:
    """DUALC's: Q = V'V of any rank with eigenvalues up to 1e6, about 250 rows of whole numbers up to 2000, many of them
    nearly parallel to the budget equation, and right-hand sides 0."""
    n = int(rng.integers(6, 10))
    V = rng.integers(-20, 21, (int(rng.integers(2, 2 * n)), n)) * 10.0 ** rng.uniform(0.0, 1.5, n)
    size = 10.0 ** rng.uniform(0.5, 3.3, (int(rng.integers(28, 36)) * n, 1))
    G = np.round(size * (1.0 + 10.0 ** rng.uniform(-3.0, 0.7, (len(size), 1)) * rng.standard_normal((len(size), n))))
    inside = np.full(n, 1.0 / n)
    G *= -np.where(G @ inside > 0.0, 1.0, -1.0)[:, None]  # the barycentre meets all rows
    p = V.T @ (50.0 * rng.standard_normal(len(V))) + np.round(10.0 ** rng.uniform(0.0, 3.0, n))
    return programme(V.T @ V, p, G, np.zeros(len(G)), np.ones((1, n)), [1.0], 0.0, 1.0)


@family
def primal_curvature(rng: Generator) -> HardProblem:
    """A few dense rows, x >= 0, a diagonal Q that is mostly 0 and otherwise large."""
    n = _size(rng, (20, 60), (150, 250), 0.1)
    Q = np.diag(np.where(rng.random(n) < 0.1, rng.uniform(1.0, 1000.0, n), 0.0))
    G = rng.integers(-200, 201, (int(rng.integers(5, 10)), n)).astype(float)
    return planted(rng, Q, _corner(rng, n, 0.8), G, lb=0.0, active=0.7)


@family
def duplicate_rows(rng: Generator) -> HardProblem:
    """Each row twice, some a third time in another length."""
    problem = _general(rng)
    assert problem.G is not None
    assert problem.h is not None
    G, h = (np.concatenate([part, part, 3.0 * part[::2]]) for part in (problem.G, problem.h))
    return replace(problem, G=G, h=h)


@family
def nearly_parallel_rows(rng: Generator) -> HardProblem:
    """Each row again, turned by 1e-6 to 1e-10 about the solution."""
    n = int(rng.integers(3, 20))
    G = rng.standard_normal((n, n))
    turned = G + 10.0 ** rng.uniform(-10.0, -6.0, (n, 1)) * rng.standard_normal((n, n))
    return planted(rng, _low_rank(rng, n, int(rng.integers(1, n + 1))), rng.standard_normal(n), np.vstack([G, turned]))


@family
def equations_as_pairs(rng: Generator) -> HardProblem:
    """A x <= b and -A x <= -b: no interior, and multipliers without a bound."""
    problem = _general(rng)
    assert problem.A is not None
    assert problem.b is not None
    assert problem.G is not None
    assert problem.h is not None
    G, h = np.vstack([problem.G, problem.A, -problem.A]), np.concatenate([problem.h, problem.b, -problem.b])
    return replace(problem, G=G, h=h, A=None, b=None)


def _slab(rng: Generator, width: float) -> HardProblem:
    """A x within ``width`` of A x*, as pairs of opposite rows."""
    problem = equations_as_pairs(rng)
    assert problem.h is not None
    return replace(problem, h=problem.h + width * rng.random(len(problem.h)))


@family
def slabs_of_width_1e9(rng: Generator) -> HardProblem:
    return _slab(rng, 1e-9)


@family
def slabs_of_width_1e6(rng: Generator) -> HardProblem:
    return _slab(rng, 1e-6)


@family
def interior_of_width_1e6(rng: Generator) -> HardProblem:
    """A polytope of width 1e-6 around a point of size 1."""
    n = int(rng.integers(3, 15))
    G = rng.standard_normal((3 * n, n))
    G = np.vstack([G, -G[: n + 1]])
    h = G @ rng.standard_normal(n) + 1e-6 * rng.uniform(0.1, 1.0, len(G))
    return programme(_low_rank(rng, n, n) if rng.random() < 0.7 else 0.0, rng.standard_normal(n), G, h)


@family
def nearly_empty_box(rng: Generator) -> HardProblem:
    """Bounds 1e-8 apart, or equal, on half of the variables; a sum that pins the others to 1e-8."""
    n = int(rng.integers(4, 25))
    x = rng.standard_normal(n)
    width = np.where(rng.random(n) < 0.5, 1e-8 * rng.integers(0, 2, n), 2.0)
    G = np.vstack([np.ones(n), -np.ones(n)])
    h = G @ x + 1e-8
    return programme(_low_rank(rng, n, max(1, n // 2)), rng.standard_normal(n), G, h, lb=x - width, ub=x + width)


@family
def mixed_scales(rng: Generator) -> HardProblem:
    """A tame problem in other units: rows and columns times powers of two between 1e-4 and 1e4, so that entries lie
    between 1e-8 and 1e8."""
    tame = _general(rng, 4, 20)
    assert tame.G is not None
    assert tame.h is not None
    assert tame.A is not None
    assert tame.b is not None
    assert tame.lb is not None
    d, g, a = (_powers(rng, k, 4.0) for k in (tame.n, len(tame.G), len(tame.A)))
    return replace(
        tame,
        Q=d[:, None] * tame.Q * d,
        p=d * tame.p,
        G=g[:, None] * tame.G * d,
        h=g * tame.h,
        A=a[:, None] * tame.A * d,
        b=a * tame.b,
        lb=tame.lb / d,
    )


@family
def mixed_rows(rng: Generator) -> HardProblem:
    """Rows times powers of two between 1e-8 and 1e8."""
    tame = _general(rng)
    assert tame.G is not None
    assert tame.h is not None
    g = _powers(rng, len(tame.G), 8.0)
    return replace(tame, G=g[:, None] * tame.G, h=g * tame.h)


# Robots


def _integrator(order: int, step: float) -> tuple[Array, Array]:
    """(A, B) of a chain of integrators in discrete time."""
    whole = linalg.expm(step * np.eye(order + 1, k=1))
    return whole[:order, :order], whole[:order, order]


def _predictions(A: Array, B: Array, horizon: int) -> tuple[Array, Array]:
    """S (horizon * d, d), U (horizon * d, horizon): the states x_1.. are S x_0 + U u."""
    d = len(A)
    powers = [np.eye(d)]
    for _ in range(horizon):
        powers.append(A @ powers[-1])
    U = np.zeros((horizon * d, horizon))
    for t in range(horizon):
        for s in range(t + 1):
            U[t * d : (t + 1) * d, s] = powers[t - s] @ B
    return np.vstack(powers[1:]), U


def _walking_axis(rng: Generator, N: int, step: float, feet: Array, width: float, state: Array) -> tuple[Array, ...]:
    """Q, p, G, h of one axis: jerks that follow the feet's speed, the ZMP x - (height/g) x'' within the edges of the
    foot at the times 0 to N - 1; some edges are far away (100).

    At the time 0 no jerk has acted: a row of zeros. Half of the time the ZMP starts on an edge, where the right-hand
    side of that row is 0 or, as rounding has it, on either side of it."""
    A, B = _integrator(3, step)
    S, U = _predictions(A, B, N)
    zmp, speed = np.array([1.0, 0.0, -float(rng.uniform(0.6, 1.0)) / 9.81]), np.array([0.0, 1.0, 0.0])
    S_z, U_z = (np.kron(np.eye(N, k=-1), zmp) @ M for M in (S, U))
    S_z[0] = zmp
    S_v, U_v = (np.kron(np.eye(N), speed) @ M for M in (S, U))
    wanted = (feet[-1] - feet[0]) / (N * step)
    heel = float(rng.choice([0.0, -7e-18, 0.5 * width, width]))
    place = zmp @ state + feet - feet[0]
    top, bottom = (np.where(rng.random(N) < 0.1, 100.0, edge) for edge in (place + width, heel - place))
    bottom[0] = heel - place[0]
    h = np.concatenate([top - S_z @ state, bottom + S_z @ state])
    return 1e-3 * np.eye(N) + U_v.T @ U_v, U_v.T @ (S_v @ state - wanted), np.vstack([U_z, -U_z]), h


@family
def walking_mpc(rng: Generator) -> HardProblem:
    """A linear inverted pendulum over 16 jerks, of one axis or of two, in any order; mostly from rest."""
    axes = int(rng.integers(1, 3))
    N, step = 16 // axes, 0.1 * axes
    parts = []
    for axis in range(axes):
        place = (np.arange(N) + rng.integers(4)) // (6 // axes)
        feet = np.asarray(
            float(rng.choice([0.05, 0.1, 0.2])) * place if axis == 0 else 0.08 * (-1.0) ** place, np.float64
        )
        state = np.zeros(3) if rng.random() < 0.6 else np.array([0.01, 0.05, 0.05]) * rng.standard_normal(3)
        parts.append(_walking_axis(rng, N, step, feet, float(rng.choice([0.04, 0.065, 0.13])), state))
    Q, G = (linalg.block_diag(*(part[i] for part in parts)) for i in (0, 2))
    p, h = (np.concatenate([part[i] for part in parts]) for i in (1, 3))
    order, rows = rng.permutation(16), rng.permutation(32)
    return programme(Q[np.ix_(order, order)], p[order], G[np.ix_(rows, order)], h[rows])


@family
def inverse_kinematics(rng: Generator) -> HardProblem:
    """Velocities of 7 joints: |J v - twist|^2 + damping, limits of position as bounds and of acceleration as rows."""
    n, step = 7, 0.005
    J = rng.standard_normal((6, n))
    J[5] = J[4] + 1e-4 * rng.standard_normal(n)  # near a singular posture
    now, room = rng.uniform(-1.0, 1.0, n), np.where(rng.random(n) < 0.3, 1e-4, 1.0)
    rows = np.vstack([np.eye(n), -np.eye(n)]) / step
    h = 40.0 + rows @ now
    Q = J.T @ J + float(rng.choice([1e-3, 1e-6, 1e-8])) * np.eye(n)
    top = np.maximum(0.5 * room / step, now - 30.0 * step)
    return programme(Q, -J.T @ (3.0 * rng.standard_normal(6)), rows, h, lb=-2.0 - np.abs(now), ub=top)


@family
def force_distribution(rng: Generator) -> HardProblem:
    """Forces of 4 or 8 contacts in newtons that make up a wrench, in friction pyramids; a swinging foot has none."""
    feet, weight, mu = int(rng.choice([4, 8])), 300.0, float(rng.uniform(0.3, 0.9))
    places = rng.uniform(-0.4, 0.4, (feet, 3)) - np.array([0.0, 0.0, 0.5])
    cross = [np.cross(np.eye(3), place).T * -1.0 for place in places]
    M = np.vstack([np.tile(np.eye(3), feet), np.hstack(cross)])
    wrench = np.array([0.0, 0.0, weight, 0.0, 0.0, 0.0]) + rng.standard_normal(6) * [40.0, 40.0, 60.0, 15.0, 15.0, 15.0]
    pyramid = np.array([[1.0, 0.0, -mu], [-1.0, 0.0, -mu], [0.0, 1.0, -mu], [0.0, -1.0, -mu]])
    top = np.tile([INF, INF, 400.0], feet)
    top[2::3][rng.random(feet) < 0.25] = 0.0
    least = np.tile([-INF, -INF, 0.0], feet)
    Q = M.T @ M + float(rng.choice([1e-3, 1e-6])) * np.eye(3 * feet)
    return programme(Q, -M.T @ wrench, np.kron(np.eye(feet), pyramid), np.zeros(4 * feet), lb=least, ub=top)


def _condensed(
    rng: Generator, A: Array, B: Array, start: Array, horizon: int, force: float, state: Array
) -> HardProblem:
    """min sum |x|^2 + 1e-3 u^2 with |u| <= force, and |x| <= state + a slack variable for the whole horizon, which
    costs 1000: it has a solution from every start."""
    S, U = _predictions(A, B, horizon)
    Q = linalg.block_diag(U.T @ U + 1e-3 * np.eye(horizon), 0.0)
    p = np.append(U.T @ S @ start, 1000.0)
    limit = np.tile(state, horizon)
    column = -np.ones((len(limit), 1))
    G = np.block([[U, column], [-U, column]])
    h = np.concatenate([limit - S @ start, limit + S @ start])
    bound = np.append(np.full(horizon, force), INF)
    return programme(Q, p, G, h, lb=np.append(-bound[:-1], 0.0), ub=bound)


@family
def integrator_mpc(rng: Generator) -> HardProblem:
    order = int(rng.integers(2, 4))
    A, B = _integrator(order, float(rng.choice([0.05, 0.1, 0.3])))
    start = rng.standard_normal(order) * (rng.random() < 0.8)
    return _condensed(rng, A, B, start, int(rng.integers(10, 31)), 1.0, np.ones(order))


@family
def cart_pole_mpc(rng: Generator) -> HardProblem:
    """Unstable: the condition number grows with the horizon."""
    step, gravity, length, cart, pole = float(rng.choice([0.02, 0.05, 0.1])), 9.81, 0.5, 1.0, 0.1
    slope = np.zeros((5, 5))
    slope[0, 1] = slope[2, 3] = 1.0
    slope[1, 2], slope[3, 2] = -pole * gravity / cart, (cart + pole) * gravity / (cart * length)
    slope[1, 4], slope[3, 4] = 1.0 / cart, -1.0 / (cart * length)
    whole = linalg.expm(step * slope)
    start = rng.standard_normal(4) * [0.5, 0.3, 0.05, 0.1]
    limits = np.array([1.0, 2.0, 0.2, 2.0])
    return _condensed(rng, whole[:4, :4], whole[:4, 4], start, int(rng.integers(10, 31)), 20.0, limits)


@family
def sparse_mpc(rng: Generator) -> HardProblem:
    """States are variables, the dynamics equations; only the last state has a cost next to the controls."""
    order, horizon = int(rng.integers(2, 5)), _size(rng, (6, 12), (20, 40))
    A, B = _integrator(order, 0.1)
    block = horizon * order
    dynamics = np.eye(block) - np.kron(np.eye(horizon, k=-1), A)
    E = np.hstack([dynamics, -np.kron(np.eye(horizon), B[:, None])])
    start = 0.3 * rng.standard_normal(order)
    weights = np.append(np.zeros(block), np.full(horizon, 1e-3))
    weights[block - order : block] = 10.0
    bound = np.append(np.full(block, 5.0), np.ones(horizon))
    right = np.concatenate([A @ start, np.zeros(block - order)])
    return programme(np.diag(weights), np.zeros(block + horizon), A=E, b=right, lb=-bound, ub=bound)


# Statistics and finance


@family
def svm_dual(rng: Generator) -> HardProblem:
    """A linear kernel: Q has the rank of the features; a fifth of the points twice."""
    points, features = _size(rng, (10, 40), (100, 150)), int(rng.integers(2, 6))
    X = rng.standard_normal((points, features))
    X[: points // 5] = X[points // 5 : 2 * (points // 5)]
    label = np.where(X[:, 0] + 0.5 * rng.standard_normal(points) > 0, 1.0, -1.0)
    label[:2] = 1.0, -1.0
    scaled = label[:, None] * X
    top = float(rng.choice([0.1, 1.0, 100.0]))
    return programme(scaled @ scaled.T, -np.ones(points), A=label[None], b=np.zeros(1), lb=0.0, ub=top)


@family
def svm_primal(rng: Generator) -> HardProblem:
    """(w, offset, slacks): Q is 1 for w and 0 for the rest."""
    points, features = _size(rng, (10, 40), (80, 120)), int(rng.integers(2, 6))
    X = rng.standard_normal((points, features))
    label = np.where(X[:, 0] + 0.5 * rng.standard_normal(points) > 0, 1.0, -1.0)
    label[:2] = 1.0, -1.0
    G = -np.hstack([label[:, None] * X, label[:, None], np.eye(points)])
    Q = np.diag(np.append(np.ones(features), np.zeros(points + 1)))
    p = np.append(np.zeros(features + 1), np.full(points, float(rng.choice([0.1, 1.0, 100.0]))))
    return programme(Q, p, G, -np.ones(points), lb=np.append(np.full(features + 1, -INF), np.zeros(points)))


@family
def portfolio(rng: Generator) -> HardProblem:
    """Covariance F F' of a few factors, returns of 1e-3 to 1e-2, a budget, at most a tenth or all in one asset."""
    n = _size(rng, (12, 50), (150, 250))
    F = rng.standard_normal((n, max(2, n // 10))) * 0.05
    diagonal = np.diag(rng.random(n) * 1e-3) * (rng.random() < 0.5)
    earned = rng.uniform(-0.01, 0.02, n)
    top = float(rng.choice([1.0, 0.1]))
    return programme(F @ F.T + diagonal, -0.1 * earned, A=np.ones((1, n)), b=np.ones(1), lb=0.0, ub=top)


@family
def portfolio_with_factors(rng: Generator) -> HardProblem:
    """The factors y = F'x as free variables; Q is diagonal and small."""
    n = _size(rng, (12, 50), (150, 200))
    k = max(2, n // 10)
    F = rng.standard_normal((n, k)) * (rng.random((n, k)) < 0.5)
    Q = np.diag(np.append(rng.random(n) * 0.1, np.ones(k)))
    A = np.vstack([np.append(np.ones(n), np.zeros(k)), np.hstack([F.T, -np.eye(k)])])
    p, least = np.append(-rng.standard_normal(n), np.zeros(k)), np.append(np.zeros(n), np.full(k, -INF))
    return programme(Q, p, A=A, b=np.append(1.0, np.zeros(k)), lb=least)


@family
def lasso(rng: Generator) -> HardProblem:
    """1/2 |y|^2 + weight sum t s.t. y = Mx - c, |x| <= t, with more features than measurements."""
    m, n = int(rng.integers(5, 15)), _size(rng, (8, 25), (60, 90))
    M, c = rng.standard_normal((m, n)), rng.standard_normal(m)
    weight = 0.2 * float(np.abs(M.T @ c).max())
    Q = np.diag(np.append(np.zeros(2 * n), np.ones(m)))
    p = np.concatenate([np.zeros(n), np.full(n, weight), np.zeros(m)])
    G = np.block([[np.eye(n), -np.eye(n), np.zeros((n, m))], [-np.eye(n), -np.eye(n), np.zeros((n, m))]])
    A = np.hstack([M, np.zeros((m, n)), -np.eye(m)])
    return programme(Q, p, G, np.zeros(2 * n), A, c)


@family
def huber_fit(rng: Generator) -> HardProblem:
    """1/2 |u|^2 + sum (r + s) s.t. Mx - c - u = r - s; r, s >= 0."""
    n, m = int(rng.integers(2, 6)), _size(rng, (8, 20), (60, 90))
    M = rng.standard_normal((m, n))
    c = M @ rng.standard_normal(n) + np.where(rng.random(m) < 0.2, 10.0, 0.1) * rng.standard_normal(m)
    Q = np.diag(np.concatenate([np.zeros(n), np.ones(m), np.zeros(2 * m)]))
    A = np.hstack([M, -np.eye(m), -np.eye(m), np.eye(m)])
    least = np.append(np.full(n + m, -INF), np.zeros(2 * m))
    return programme(Q, np.append(np.zeros(n + m), np.ones(2 * m)), A=A, b=c, lb=least)


@family
def isotonic(rng: Generator) -> HardProblem:
    """The nearest sequence that does not fall; ties in the data, all right-hand sides 0."""
    n = _size(rng, (5, 40), (100, 250))
    y, weight = np.round(2.0 * rng.standard_normal(n) + 0.1 * np.arange(n)), rng.integers(1, 5, n).astype(float)
    return programme(np.diag(weight), -weight * y, np.eye(n - 1, n) - np.eye(n - 1, n, k=1), np.zeros(n - 1))


@family
def simplex_with_ties(rng: Generator) -> HardProblem:
    """The nearest point of the simplex to whole numbers, or the best vertex for such costs."""
    n = _size(rng, (3, 30), (100, 300))
    p = rng.integers(-2, 3, n).astype(float)
    return programme(float(rng.integers(0, 2)), p, A=np.ones((1, n)), b=np.ones(1), lb=0.0)


@family
def obstacle(rng: Generator) -> HardProblem:
    """A string over an obstacle: Q is the second difference, with condition n^2."""
    n = _size(rng, (10, 50), (120, 200))
    s = np.linspace(0.0, 1.0, n)
    ground = 0.3 * np.sin(float(rng.uniform(5.0, 15.0)) * s) - 0.2
    stiffness = (2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1)
    return programme(stiffness, np.full(n, 1.0 / (n + 1)), lb=ground)


# Collections


@family
def convex_with_pattern(rng: Generator) -> HardProblem:
    """CVXQP's pattern: sum of i (x_i + x_j + x_k)^2 / 2, j = 2i - 1 and k = 3i - 1 mod n, and x_i + 2 x_j' + 3 x_k'."""
    n = _size(rng, (10, 50), (100, 200), 0.1)
    i = np.arange(1, n + 1)
    V, A = np.eye(n), np.eye(n)
    np.add.at(V, (i - 1, (2 * i - 1) % n), 1.0)
    np.add.at(V, (i - 1, (3 * i - 1) % n), 1.0)
    np.add.at(A, (i - 1, (4 * i - 1) % n), 2.0)
    np.add.at(A, (i - 1, (5 * i - 1) % n), 3.0)
    A = A[: int(n * rng.choice([0.25, 0.5, 0.75]))]
    return programme(V.T @ (i[:, None] * V), np.zeros(n), A=A, b=A @ rng.uniform(0.1, 2.0, n), lb=0.1, ub=10.0)


def _hs(number: str) -> HardProblem:
    """Small problems of Hock and Schittkowski, and of the collection of Maros and Meszaros."""
    if number == "21":
        return programme(np.diag([0.02, 2.0]), np.zeros(2), [[-10.0, 1.0]], [-10.0], lb=[2.0, -50.0], ub=50.0)
    if number in ("35", "35mod"):
        Q = np.array([[4.0, 2.0, 2.0], [2.0, 4.0, 0.0], [2.0, 0.0, 2.0]])
        ends = ([0.0, 0.5, 0.0], [INF, 0.5, INF]) if number == "35mod" else (0.0, None)
        return programme(Q, np.array([-8.0, -6.0, -4.0]), [[1.0, 1.0, 2.0]], [3.0], None, None, *ends)
    if number == "76":
        Q = np.array([[2.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
        G = [[1.0, 2.0, 1.0, 1.0], [3.0, 1.0, 2.0, -1.0], [0.0, -1.0, -4.0, 0.0]]
        return programme(Q, np.array([-1.0, -3.0, 1.0, -1.0]), G, [5.0, 4.0, -1.5], lb=0.0)
    if number == "tame":
        return programme(np.array([[2.0, -2.0], [-2.0, 2.0]]), np.zeros(2), A=[[1.0, 1.0]], b=[1.0], lb=0.0)
    if number == "zecevic2":
        return programme(np.diag([0.0, 4.0]), np.array([-2.0, -4.0]), [[1.0, 1.0], [1.0, 4.0]], [2.0, 4.0], lb=0, ub=10)
    # 51 to 53: (x1 - x2)^2 + (x2 + x3 - 2)^2 + (x4 - 1)^2 + (x5 - 1)^2, with 4 x1 in 52
    R = np.array([[1.0, -1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    R[0, 0] = 4.0 if number == "52" else 1.0
    A, b = np.array([[1.0, 3, 0, 0, 0], [0, 0, 1, 1, -2], [0, 1, 0, 0, -1]]), np.array([4.0, 0.0, 0.0])
    b[0] = 4.0 if number == "51" else 0.0
    bound = 10.0 if number == "53" else None
    lower = None if bound is None else -bound
    return programme(2.0 * R.T @ R, -2.0 * R.T @ np.array([0.0, 2.0, 1.0, 1.0]), A=A, b=b, lb=lower, ub=bound)


@family
def hock_schittkowski(rng: Generator) -> HardProblem:
    return _hs(str(rng.choice(["21", "35", "35mod", "51", "52", "53", "76", "tame", "zecevic2"])))


@family
def odds_and_ends(rng: Generator) -> HardProblem:
    """Rows and columns of zeros, a fixed variable, one that is in nothing, equations 0 = 0 and rows 0 <= 0 or 1."""
    n = int(rng.integers(5, 20))
    Q, G, A = (_low_rank(rng, n, int(rng.integers(1, n))), rng.standard_normal((n, n)), rng.standard_normal((2, n)))
    Q[0], Q[:, 0], G[:, 0], A[:, 0], G[-2:], A[-1] = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    x = _corner(rng, n)
    lb, ub = np.zeros(n), np.full(n, INF)
    x[0], lb[0], lb[1], ub[1] = 0.0, -INF, x[1], x[1]
    return planted(rng, Q, x, G, A, lb, ub)


# No solution


def _margin(rng: Generator) -> float:
    return float(10.0 ** rng.uniform(-3.0, 3.0))


@family
def contradictory_rows(rng: Generator) -> HardProblem:
    """A row that contradicts a positive combination of others by a margin between 1e-3 and 1e3."""
    n = int(rng.integers(2, 20))
    G = rng.standard_normal((n + int(rng.integers(1, n + 1)), n))
    h = G @ rng.standard_normal(n) + rng.random(len(G))
    weight = rng.uniform(0.1, 1.0, k := int(rng.integers(1, n + 1)))
    G, h = np.vstack([G, -weight @ G[:k]]), np.append(h, -weight @ h[:k] - _margin(rng))
    return programme(_low_rank(rng, n, n), rng.standard_normal(n), G, h, expected=Status.PRIMAL_INFEASIBLE)


@family
def contradictory_equations(rng: Generator) -> HardProblem:
    """Dependent equations, in digits, whose right-hand sides are not."""
    n = int(rng.integers(3, 40))
    A = _with_dependent(rng, _sparse(rng, max(2, n // 3), n), 1)
    b = A @ _corner(rng, n)
    b[-1] += _margin(rng) * rng.choice([-1.0, 1.0])
    Q = np.diag(rng.integers(0, 2, n).astype(float))
    return programme(Q, np.ones(n), A=A, b=b, lb=0.0, expected=Status.PRIMAL_INFEASIBLE)


@family
def rows_out_of_reach(rng: Generator) -> HardProblem:
    """A sum that the bounds do not admit."""
    n = int(rng.integers(2, 40))
    weight = rng.uniform(0.1, 2.0, (1, n))
    h = -weight.sum(-1) - _margin(rng)
    p = rng.standard_normal(n)
    return programme(0.0, p, -weight, h, lb=-1.0, ub=1.0, expected=Status.PRIMAL_INFEASIBLE)


@family
def supply_beyond_capacity(rng: Generator) -> HardProblem:
    """The arcs out of the first node carry less than it has to send."""
    nodes = int(rng.integers(4, 15))
    A = _flow(rng, nodes, 2 * nodes)
    capacity = rng.integers(1, 10, A.shape[1]).astype(float)
    b = np.zeros(nodes)
    b[0] = -(capacity @ (A[0] < 0)) - max(1.0, np.round(_margin(rng)))
    b[nodes // 2] = -b[0]
    cost = rng.integers(0, 9, A.shape[1]).astype(float)
    return programme(0.0, cost, A=A, b=b, lb=0.0, ub=capacity, expected=Status.PRIMAL_INFEASIBLE)


@family
def unbounded_lp(rng: Generator) -> HardProblem:
    """A ray inside all rows along which the objective falls, slowly or fast."""
    n = int(rng.integers(2, 30))
    ray = rng.uniform(0.1, 1.0, n)
    G = rng.standard_normal((int(rng.integers(1, 2 * n + 1)), n))
    G -= np.maximum(0.0, G @ ray + 0.1)[:, None] * ray / (ray @ ray)
    p = rng.standard_normal(n)
    p -= (p @ ray + 10.0 ** rng.uniform(-2.0, 1.0)) * ray / (ray @ ray)
    h = G @ rng.random(n) + 1.0
    return programme(0.0, p, G, h, lb=0.0, expected=Status.DUAL_INFEASIBLE)


@family
def unbounded_qp(rng: Generator) -> HardProblem:
    """Q is singular along a ray that equations and bounds admit."""
    n = int(rng.integers(3, 20))
    ray = np.where(rng.random(n) < 0.5, rng.integers(1, 4, n), 0).astype(float)
    ray[0] = 1.0
    across = np.eye(n) - np.outer(ray, ray) / (ray @ ray)
    A = rng.standard_normal((max(1, n // 3), n)) @ across
    p = rng.standard_normal(n)
    p -= (p @ ray + rng.uniform(0.1, 2.0)) * ray / (ray @ ray)
    Q = across @ _low_rank(rng, n, n) @ across
    return programme(Q, p, A=A, b=A @ rng.random(n), lb=0.0, expected=Status.DUAL_INFEASIBLE)


@family
def unbounded_free_variable(rng: Generator) -> HardProblem:
    """A free variable with a cost that stands in no row."""
    problem = _general(rng, 4, 20)
    assert problem.G is not None
    assert problem.A is not None
    n, cost = problem.n, float(rng.choice([-1.0, 1.0, 1e-2]))
    Q = linalg.block_diag(problem.Q, 0.0)
    G, A = (np.hstack([part, np.zeros((len(part), 1))]) for part in (problem.G, problem.A))
    least = np.append(np.zeros(n), -INF)
    p, expected = np.append(problem.p, cost), Status.DUAL_INFEASIBLE
    return programme(Q, p, G, problem.h, A, problem.b, least, expected=expected)


# Published problems


def stored(path: Path) -> dict[str, tuple[HardProblem, float]]:
    """Problems of a file with arrays NAME/P, q, G, h, A, b, lb, ub (absent: no such block), and NAME/optimum."""
    with np.load(path) as arrays:
        found = {}
        for name in dict.fromkeys(key.partition("/")[0] for key in arrays.files):
            parts = (arrays.get(f"{name}/{part}") for part in ("P", "q", "G", "h", "A", "b", "lb", "ub"))
            found[name] = programme(*parts), float(arrays[f"{name}/optimum"])
    return {name: (replace(problem, name=name), optimum) for name, (problem, optimum) in found.items()}
