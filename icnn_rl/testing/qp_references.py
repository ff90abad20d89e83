"""The yardstick of the quadratic programmes: Clarabel, polished on the active set it finds. NumPy in float64.

    min 1/2 x'Qx + p'x   s.t.   Gx <= h,   Ax = b,   lb <= x <= ub

Duals: Qx + p + G'ineq + A'eq - lower + upper = 0, all but eq at least 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import clarabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse

from icnn_rl.qp import Diagonal

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
EXTENDED = np.longdouble  # residuals of the refinement


@dataclass(frozen=True)
class Data:
    """A programme in arrays, every block present and dense; leading dimensions are a batch, or none."""

    Q: Array  # (*B, n, n), symmetric
    p: Array  # (*B, n)
    G: Array  # (*B, m, n)
    h: Array  # (*B, m)
    A: Array  # (*B, q, n)
    b: Array  # (*B, q)
    lb: Array  # (*B, n)
    ub: Array  # (*B, n)

    def __getitem__(self, row: Any) -> Data:
        return Data(*(getattr(self, field.name)[row] for field in fields(self)))

    @property
    def batch(self) -> tuple[int, ...]:
        return self.p.shape[:-1]

    @property
    def n(self) -> int:
        return int(self.p.shape[-1])


def _array(value: Any) -> Array:
    return np.asarray(value.detach().numpy() if isinstance(value, torch.Tensor) else value, dtype=np.float64)


def _square(Q: Any, n: int) -> Array:
    if isinstance(Q, Diagonal):
        return _array(Q.d)[..., None] * np.eye(n)
    matrix = _array(Q)
    return matrix * np.eye(n) if matrix.ndim == 0 else matrix


def dense(arguments: Mapping[str, Any]) -> Data:
    """The arguments of ``solve_qp`` as arrays, broadcast to the common batch: missing rows become an empty block,
    missing bounds infinite."""

    def array(name: str, shape: tuple[int, ...], empty: float = 0.0) -> Array:
        value = arguments.get(name)
        return np.full(shape, empty) if value is None else _array(value)

    p = _array(arguments["p"])
    n = p.shape[-1]
    Q = _square(arguments["Q"], n)
    G, h, A, b = array("G", (0, n)), array("h", (0,)), array("A", (0, n)), array("b", (0,))
    lb, ub = array("lb", (n,), -np.inf), array("ub", (n,), np.inf)
    lb, ub = (np.broadcast_to(bound, np.broadcast_shapes(bound.shape, (n,))) for bound in (lb, ub))
    vectors, matrices = (p, h, b, lb, ub), (Q, G, A)
    batch = np.broadcast_shapes(*(v.shape[:-1] for v in vectors), *(m.shape[:-2] for m in matrices))
    p, h, b, lb, ub = (np.broadcast_to(v, (*batch, v.shape[-1])) for v in vectors)
    Q, G, A = (np.broadcast_to(m, (*batch, *m.shape[-2:])) for m in matrices)
    return Data(0.5 * (Q + Q.swapaxes(-1, -2)), p, G, h, A, b, lb, ub)


class Point(NamedTuple):
    """A point and its multipliers, (*B, .) each."""

    x: Array
    ineq: Array
    eq: Array
    lower: Array
    upper: Array

    def at(self, row: Any) -> Point:
        return Point(*(part[row] for part in self))


def point_of(solution: Any) -> Point:
    """What ``solve_qp`` returned, as arrays."""
    names = ("value", "dual_ineq", "dual_eq", "dual_lb", "dual_ub")
    return Point(*(getattr(solution, name).detach().double().numpy() for name in names))


class Residuals(NamedTuple):
    """How far a point is from the conditions of optimality, each (*B,) and relative, 0 is best.

    stationarity: the largest component of the gradient of the Lagrangian / the largest of its terms.
    primal: the largest violation of a row / (|right-hand side| + |row| |x|), Euclidean norms.
    sign: the largest negative multiplier, or one of an infinite bound, times |row|_inf / the largest of those terms.
    complementarity: sum multiplier * slack / the largest term of the objective and of its dual.
    """

    stationarity: Array
    primal: Array
    sign: Array
    complementarity: Array

    @property
    def worst(self) -> Array:
        worst: Array = np.max(np.stack(self), axis=0)
        return worst


def times(matrix: Array, vector: Array) -> Array:
    product: Array = (matrix @ vector[..., None])[..., 0]
    return product


def transposed_times(matrix: Array, vector: Array) -> Array:
    return times(matrix.swapaxes(-1, -2), vector)


def largest(x: Array) -> Array:
    """max |x| over the last dimension, 0 if it is empty."""
    result: Array = np.max(np.abs(x), axis=-1, initial=0.0)
    return result


def length_scale(data: Data) -> Array:
    """(*B,) the smallest positive length that the data name: |h_i| / |G_i|_1, |b_i| / |A_i|_1, |lb|, |ub|, |p| / |Q|;
    1 if there is none. What a relative error is relative to where the solution vanishes."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = [
            np.abs(data.h) / np.abs(data.G).sum(-1),
            np.abs(data.b) / np.abs(data.A).sum(-1),
            np.abs(data.lb),
            np.abs(data.ub),
            (largest(data.p) / np.abs(data.Q).sum(-1).max(-1))[..., None],
        ]
        stacked = np.concatenate(ratios, axis=-1)
    smallest = np.where(np.isfinite(stacked) & (stacked > 0), stacked, np.inf).min(-1)
    scale: Array = np.where(np.isfinite(smallest), smallest, 1.0)
    return scale


def objective(data: Data, x: Array) -> Array:
    value: Array = (x * (0.5 * times(data.Q, x) + data.p)).sum(-1)
    return value


def objective_scale(data: Data, x: Array) -> Array:
    """(*B,) the larger of 1/2 |x|'|Q||x| and |p|'|x|; near the origin 1e-6 of what they are at the shortest length."""
    size = np.abs(x)
    scale = np.maximum(0.5 * (size * times(np.abs(data.Q), size)).sum(-1), (np.abs(data.p) * size).sum(-1))
    floored: Array = np.maximum(scale, 1e-6 * force_scale(data) * length_scale(data))
    return floored


def force_scale(data: Data) -> Array:
    """(*B,) |Q| times the shortest length, or |p| where that is larger: what multipliers are relative to."""
    scale: Array = np.maximum(np.abs(data.Q).max((-2, -1)) * length_scale(data), largest(data.p))
    return scale


def relative(x: Array, scale: Array) -> Array:
    """x / scale, 0 where x is 0; a scale of 0 counts as 1e-40, so that rounding of nothing is nothing."""
    result: Array = np.where(x == 0, 0.0, x / np.maximum(scale, 1e-40))
    return result


def kkt_residuals(data: Data, point: Point) -> Residuals:
    """The conditions of optimality of every row of the batch."""
    x, ineq, eq, lower, upper = point
    length = np.maximum(largest(x), length_scale(data))
    absolute = [np.abs(part) for part in (ineq, eq, lower, upper)]
    gradient = times(data.Q, x) + data.p + transposed_times(data.G, ineq) + transposed_times(data.A, eq) - lower + upper
    terms = np.stack(
        [
            largest(times(np.abs(data.Q), np.abs(x))),
            np.abs(data.Q).max((-2, -1)) * length,
            largest(data.p),
            largest(transposed_times(np.abs(data.G), absolute[0])),
            largest(transposed_times(np.abs(data.A), absolute[1])),
            largest(lower),
            largest(upper),
        ]
    ).max(0)
    size = np.maximum(np.linalg.norm(x, axis=-1), length_scale(data))[..., None]
    slacks, sizes = _slacks(data, x, size)
    equality = relative(np.abs(times(data.A, x) - data.b), np.abs(data.b) + np.linalg.norm(data.A, axis=-1) * size)
    primal = np.maximum(largest(equality), np.max(relative(np.maximum(-slacks, 0.0), sizes), axis=-1, initial=0.0))
    multipliers = np.concatenate([ineq, lower, upper], axis=-1)
    free = ~np.isfinite(slacks)
    wrong = np.where(free, multipliers, np.minimum(multipliers, 0.0))
    wrong = wrong * np.concatenate([np.abs(data.G).max(-1), np.ones_like(x), np.ones_like(x)], axis=-1)
    products = np.where(free, 0.0, np.abs(multipliers)) * np.abs(np.where(free, 0.0, slacks))
    ends = np.concatenate([data.h, data.lb, data.ub], axis=-1)
    values = np.stack(
        [
            2.0 * objective_scale(data, x),
            np.abs(data.Q).max((-2, -1)) * length**2,
            largest(data.p) * length,
            (absolute[1] * np.abs(data.b)).sum(-1),
            (np.where(free, 0.0, np.abs(multipliers)) * np.where(free, 0.0, np.abs(ends))).sum(-1),
        ]
    ).max(0)
    return Residuals(
        relative(largest(gradient), terms),
        primal,
        relative(largest(wrong), terms),
        relative(products.sum(-1), values),
    )


def _slacks(data: Data, x: Array, length: Array) -> tuple[Array, Array]:
    """Slack of every row of G, lower and upper bound, and what it is relative to."""
    sides = [data.h - times(data.G, x), x - data.lb, data.ub - x]
    ones = np.ones_like(x)
    rows = [(data.h, np.linalg.norm(data.G, axis=-1)), (data.lb, ones), (data.ub, ones)]
    sizes = [np.abs(np.where(np.isfinite(end), end, 0.0)) + size * length for end, size in rows]
    return np.concatenate(sides, axis=-1), np.concatenate(sizes, axis=-1)


@dataclass(frozen=True)
class Reference:
    """The solution of one programme.

    Attributes:
        status: "solved", "primal_infeasible", "dual_infeasible", or "unknown" where Clarabel gives up.
        point: x and the multipliers; of a degenerate programme one choice of them.
        active: True where a constraint counts as an equation: (m,), (n,), (n,); both bounds of a fixed variable.
        margin: the least max(slack, multiplier) of an inequality, scaled: 0 without strict complementarity.
        dependent: active rows minus their rank: 0 if they are linearly independent.
        curvature: the least singular value of the scaled KKT matrix on the active set: 0 if the solution is not unique.
    """

    status: str
    point: Point
    active: tuple[Mask, Mask, Mask]
    margin: float
    dependent: int
    curvature: float

    @property
    def regular(self) -> bool:
        """The solution is a differentiable function of the data, and a stable one."""
        return self.status == "solved" and self.margin > 1e-6 and self.dependent == 0 and self.curvature > 1e-4


@dataclass(frozen=True)
class _Scaled:
    """min 1/2 x'Qx + p'x s.t. Ex = e, Cx <= d: rows of length 1, x and the objective of size about 1."""

    Q: Array
    p: Array
    E: Array
    e: Array
    C: Array
    d: Array

    def residual(self, x: Array, v: Array, y: Array) -> float:
        """The largest violated condition."""
        slack = self.d - self.C @ x
        parts = (
            self.Q @ x + self.p + self.E.T @ v + self.C.T @ y,
            self.E @ x - self.e,
            np.minimum(slack, 0.0),
            np.minimum(y, 0.0),
            np.minimum(np.abs(y), np.abs(slack)),
        )
        return max(float(np.max(np.abs(part), initial=0.0)) for part in parts)


@dataclass(frozen=True)
class _Layout:
    """Which rows of the scaled programme come from where, and by how much they were scaled."""

    length: float
    value: float
    fixed: Mask
    finite: tuple[Mask, Mask, Mask]
    equal_norm: Array
    bound_norm: Array

    def point(self, data: Data, x: Array, v: Array, y: Array) -> Point:
        """Back in the units of the data."""
        v, y = v * self.value / (self.length * self.equal_norm), y * self.value / (self.length * self.bound_norm)
        q = data.A.shape[0]
        ineq, lower, upper = np.zeros(len(data.h)), np.zeros(data.n), np.zeros(data.n)
        for target, where, part in zip((ineq, lower, upper), self.finite, self.split(y), strict=True):
            target[where] = part
        lower[self.fixed], upper[self.fixed] = np.maximum(-v[q:], 0.0), np.maximum(v[q:], 0.0)
        return Point(x * self.length, ineq, v[:q], lower, upper)

    def split(self, y: NDArray[Any]) -> list[NDArray[Any]]:
        """One number an inequality as G rows, lower bounds, upper bounds."""
        return np.split(y, np.cumsum([int(where.sum()) for where in self.finite])[:2])


def _norms(matrix: Array) -> Array:
    norms = np.linalg.norm(matrix, axis=-1)
    scale: Array = np.where(norms > 0, norms, 1.0)
    return scale


def _scale(data: Data, length: float | None) -> tuple[_Scaled, _Layout]:
    eye = np.eye(data.n)
    fixed = (data.lb == data.ub) & np.isfinite(data.lb)
    finite = (np.isfinite(data.h) | (data.h < 0), (data.lb > -np.inf) & ~fixed, (data.ub < np.inf) & ~fixed)
    E, e = np.vstack([data.A, eye[fixed]]), np.concatenate([data.b, data.lb[fixed]])
    C = np.vstack([data.G[finite[0]], -eye[finite[1]], eye[finite[2]]])
    d = np.concatenate([data.h[finite[0]], -data.lb[finite[1]], data.ub[finite[2]]])
    d = np.maximum(d, -1e20)  # h = -inf: infeasible
    equal_norm, bound_norm = _norms(E), _norms(C)
    E, e, C, d = E / equal_norm[:, None], e / equal_norm, C / bound_norm[:, None], d / bound_norm
    Q_size, p_size = float(np.abs(data.Q).max()), float(np.abs(data.p).max())
    ends = np.abs(np.concatenate([e, d]))
    lengths = [*ends[(ends > 0) & (ends < 1e19)], *([p_size / Q_size] if Q_size > 0 < p_size else [])]
    if length is None:
        length = float(np.median(lengths)) if lengths else 1.0
    value = max(Q_size * length**2, p_size * length) or 1.0
    scaled = _Scaled(data.Q * (length**2 / value), data.p * (length / value), E, e / length, C, d / length)
    return scaled, _Layout(length, value, fixed, finite, equal_norm, bound_norm)


def _clarabel(problem: _Scaled, tol: float) -> tuple[str, Array, Array, Array]:
    """Status, x, multipliers of the equations, multipliers of the inequalities."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = tol
    settings.presolve_enable = False
    cones = [
        cone(k)
        for cone, k in ((clarabel.ZeroConeT, len(problem.e)), (clarabel.NonnegativeConeT, len(problem.d)))
        if k > 0
    ]
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(problem.Q)),
        problem.p,
        sparse.csc_matrix(np.vstack([problem.E, problem.C])),
        np.concatenate([problem.e, problem.d]),
        cones,
        settings,
    )
    result = solver.solve()
    dual = np.asarray(result.z)
    return str(result.status), np.asarray(result.x), dual[: len(problem.e)], dual[len(problem.e) :]


def _solve_kkt(Q: Array, C: Array, right: Array) -> Array:
    """[Q C'; C 0]^-1 right by LU of a slightly regularised matrix and refinement with residuals in extended precision:
    exact to the last digits, and a solution too where the matrix is singular and ``right`` in its range."""
    n, k = len(Q), len(C)
    kkt = np.block([[Q, C.T], [C, np.zeros((k, k))]])
    scale = _equilibration(kkt)
    kkt, right = kkt * scale[:, None] * scale, right * scale
    delta = 1e-11
    factors = linalg.lu_factor(kkt + np.diag(np.concatenate([np.full(n, delta), np.full(k, -delta)])))
    extended = kkt.astype(EXTENDED)
    solution = np.zeros(n + k, dtype=EXTENDED)
    best, best_size = solution, np.inf
    for _ in range(40):
        residual = right - extended @ solution
        size = float(np.abs(residual).max(initial=0.0))
        if size < best_size:
            best, best_size = solution, size
        if size < 1e-19 or size > 1e3 * best_size:
            break
        solution = solution + linalg.lu_solve(factors, residual.astype(np.float64))
    return best.astype(np.float64) * scale


def _equilibration(matrix: Array) -> Array:
    """Powers of 2, which cost no digits: diag(scale) matrix diag(scale) has rows whose largest entry is about 1."""
    scale = np.ones(len(matrix))
    for _ in range(6):
        size = largest(matrix * scale[:, None] * scale)
        scale = scale * np.where(size > 0, 2.0 ** -np.round(0.5 * np.log2(np.where(size > 0, size, 1.0))), 1.0)
    return scale


def _polish(problem: _Scaled, active: Mask) -> tuple[Array, Array, Array]:
    """x and multipliers if the inequalities ``active`` are equations and the others do not exist."""
    n, q = len(problem.p), len(problem.e)
    C = np.vstack([problem.E, problem.C[active]])
    solution = _solve_kkt(problem.Q, C, np.concatenate([-problem.p, problem.e, problem.d[active]]))
    y = np.zeros(len(problem.d))
    y[active] = solution[n + q :]
    return solution[:n], solution[n : n + q], y


def _nonnegative_multipliers(problem: _Scaled, x: Array, active: Mask) -> tuple[Array, Array]:
    """Multipliers of x with the right signs where they are not unique."""
    q = len(problem.e)
    matrix = np.vstack([problem.E, -problem.E, problem.C[active]]).T
    found, _ = optimize.nnls(matrix, -(problem.Q @ x + problem.p), maxiter=30 * matrix.shape[1] + 100)
    y = np.zeros(len(problem.d))
    y[active] = found[2 * q :]
    return found[:q] - found[q : 2 * q], y


def _refine(problem: _Scaled, x: Array, v: Array, y: Array) -> tuple[Array, Array, Array]:
    """The best of the given point and of polished ones, while the active set is corrected by what the signs say."""
    best, best_residual = (x, v, y), problem.residual(x, v, y)
    active = y > problem.d - problem.C @ x
    for _ in range(8):
        x, v, y = _polish(problem, active)
        candidates = [(x, v, y)]
        if (y < -1e-13).any():
            candidates.append((x, *_nonnegative_multipliers(problem, x, active)))
        for candidate in candidates:
            if problem.residual(*candidate) < best_residual:
                best, best_residual = candidate, problem.residual(*candidate)
        if best_residual < 1e-14:
            break
        changed = (active & (y > -1e-13)) | (~active & (problem.d - problem.C @ x < -1e-13))
        if (changed == active).all():
            break
        active = changed
    return best


def solve(data: Data, length: float | None = None) -> Reference:
    """The solution of one programme, without batch dimensions; ``length`` is the size of x that is expected."""
    problem, layout = _scale(data, length)
    if len(problem.e) + len(problem.d) == 0:
        return _unconstrained(data, problem, layout)
    if _inconsistent(problem):
        return _failed(data, "primal_infeasible")
    for tol in (1e-12, 1e-8):
        status, x, v, y = _clarabel(problem, tol)
        if "Infeasible" in status:
            return _failed(data, "primal_infeasible" if "Primal" in status else "dual_infeasible")
        x, v, y = _refine(problem, x, v, y)
        size = float(np.abs(x).max())
        if length is None and 1e-12 < size < 1e-3:
            return solve(data, size * layout.length)
        if problem.residual(x, v, y) < 1e-10:
            return _finish(data, problem, layout, x, v, y)
    return _failed(data, "unknown")


def _inconsistent(problem: _Scaled) -> bool:
    """The equations alone have no solution."""
    if len(problem.e) == 0:
        return False
    nearest = np.linalg.lstsq(problem.E, problem.e, rcond=1e-12)[0]
    return float(np.abs(problem.E @ nearest - problem.e).max()) > 1e-9 * max(1.0, float(np.abs(problem.e).max()))


def _finish(data: Data, problem: _Scaled, layout: _Layout, x: Array, v: Array, y: Array) -> Reference:
    slack = problem.d - problem.C @ x
    active = (y > slack) | (slack < 1e-11)
    C = np.vstack([problem.E, problem.C[active]])
    kkt = np.block([[problem.Q, C.T], [C, np.zeros((len(C), len(C)))]])
    smallest = float(np.abs(np.linalg.eigvalsh(kkt)).min())
    dependent = 0 if smallest > 1e-9 else len(C) - int(np.linalg.matrix_rank(C, tol=1e-9)) if len(C) else 0
    ineq, lower, upper = np.zeros(len(data.h), bool), layout.fixed.copy(), layout.fixed.copy()
    for target, where, part in zip((ineq, lower, upper), layout.finite, layout.split(active), strict=True):
        target[where] = part
    margin = float(np.min(np.maximum(slack, y / max(1.0, float(y.max(initial=0.0)))), initial=np.inf))
    point = layout.point(data, x, v, y)
    return Reference("solved", point, (ineq, lower, upper), margin, dependent, smallest)


def _unconstrained(data: Data, problem: _Scaled, layout: _Layout) -> Reference:
    """A linear system; unbounded below if p is not in the range of Q."""
    x, _, _ = _polish(problem, np.zeros(0, bool))
    if problem.residual(x, np.zeros(0), np.zeros(0)) > 1e-8:
        return _failed(data, "dual_infeasible")
    return _finish(data, problem, layout, x, np.zeros(0), np.zeros(0))


def _failed(data: Data, status: str) -> Reference:
    n, m = data.n, len(data.h)
    nothing = Point(*(np.full(size, np.nan) for size in (n, m, len(data.b), n, n)))
    return Reference(status, nothing, (np.zeros(m, bool), np.zeros(n, bool), np.zeros(n, bool)), 0.0, 0, 0.0)


@dataclass(frozen=True)
class Gradients:
    """Derivatives of a scalar with respect to the data of one programme; that of Q is symmetric."""

    Q: Array
    p: Array
    G: Array
    h: Array
    A: Array
    b: Array
    lb: Array
    ub: Array


def gradients(data: Data, reference: Reference, weights: Point) -> Gradients:
    """Derivatives of sum of weights * (x, multipliers) by the implicit function theorem on the active set, at a regular
    solution without fixed variables.

    Source: A. V. Fiacco, Sensitivity analysis for nonlinear programming using penalty methods (1976)."""
    x, ineq, eq, lower, upper = reference.point
    in_rows, in_lower, in_upper = reference.active
    eye, n = np.eye(data.n), data.n
    C = np.vstack([data.A, data.G[in_rows], -eye[in_lower], eye[in_upper]])
    y = np.concatenate([eq, ineq[in_rows], lower[in_lower], upper[in_upper]])
    weight = np.concatenate(
        [weights.x, weights.eq, weights.ineq[in_rows], weights.lower[in_lower], weights.upper[in_upper]]
    )
    adjoint = _solve_kkt(data.Q, C, weight)
    u, w = adjoint[:n], adjoint[n:]
    of_C = -np.outer(y, u) - np.outer(w, x)
    stops = np.cumsum([len(eq), int(in_rows.sum()), int(in_lower.sum())])
    w_eq, w_rows, w_lower, w_upper = np.split(w, stops)
    G, h, lb, ub = np.zeros_like(data.G), np.zeros_like(data.h), np.zeros(n), np.zeros(n)
    G[in_rows], h[in_rows] = of_C[stops[0] : stops[1]], w_rows
    lb[in_lower], ub[in_upper] = -w_lower, w_upper
    return Gradients(-0.5 * (np.outer(u, x) + np.outer(x, u)), -u, G, h, of_C[: stops[0]], w_eq, lb, ub)


def numerical_gradients(data: Data, weights: Point, step: float = 1e-5) -> Gradients:
    """The same by central differences of the polished solution."""

    def value(changed: Data) -> float:
        point = solve(changed).point
        return float(sum((weight * part).sum() for weight, part in zip(weights, point, strict=True)))

    def derivative(name: str, index: tuple[int, ...]) -> float:
        ends = []
        for sign in (1.0, -1.0):
            moved = getattr(data, name).copy()
            moved[index] += 0.5 * sign * step
            if name == "Q":
                moved[index[::-1]] += 0.5 * sign * step
            else:
                moved[index] += 0.5 * sign * step
            ends.append(value(replace(data, **{name: moved})))
        return (ends[0] - ends[1]) / (2.0 * step)

    def block(name: str) -> Array:
        result: Array = np.zeros_like(getattr(data, name))
        for index in np.ndindex(result.shape):
            if np.isfinite(getattr(data, name)[index]):
                result[index] = derivative(name, index)
        return result

    return Gradients(*(block(field.name) for field in fields(Gradients)))
