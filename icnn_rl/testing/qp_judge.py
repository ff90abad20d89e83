"""The judge of the hard QPs: an optimum that is certain, and what an answer of ``solve_qp`` is worth beside it.

With C z <= d all rows and finite bounds, and multipliers y >= 0, v:  Qz + p + C'y + A'v = 0,  y'(d - Cz) = 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import clarabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, sparse

from icnn_rl.qp import PrimalDual, QPSolution, solve_qp
from icnn_rl.solution import Status
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_hard import HardProblem

Array = NDArray[np.float64]
#: What an answer has to reach: error of the objective over max(1, |optimum|), violation over 1 + largest norm.
TOL = 1e-7
#: The optimum's own error has to be this much smaller.
CERTAIN = 1e-8
#: Relative error of what a proof sets to 0.
PROOF_TOL = 1e-7
#: A proof of infeasibility has to exclude all points up to this many times the size of the problem.
REACH = 1e4
#: A multiplier that is 0, relative to the largest.
ROUNDING = 1e-12
#: Arrays of a solution that must be finite whatever the status.
FIELDS = (
    *("value", "fun", "gap", "residual", "primal_residual", "dual_residual", "slack", "ray"),
    *("dual_ineq", "dual_eq", "dual_lb", "dual_ub"),
)


@dataclass(frozen=True)
class Stacked:
    """The problem with its bounds among the rows; ``owner`` says which multiplier a row of C has: (field, index)."""

    Q: Array
    p: Array
    C: Array
    d: Array
    A: Array
    b: Array
    owner: list[tuple[str, int]]

    def objective(self, x: Array) -> float:
        return float(0.5 * x @ self.Q @ x + self.p @ x)

    def size(self, x: Array) -> float:
        """The sum of the objective's terms without their signs."""
        return float(0.5 * x @ self.Q @ x + np.abs(self.p) @ np.abs(x))

    def violations(self, x: Array) -> Array:
        """Of rows and bounds, then of equations; at least 0."""
        return np.concatenate([np.maximum(0.0, self.C @ x - self.d), np.abs(self.A @ x - self.b)])

    def row_sizes(self, x: Array) -> Array:
        """|d| + |C| |x|, then |b| + |A| |x|: what rounding of a row is relative to."""
        size = np.abs(x)
        return np.concatenate(
            [np.abs(self.d) + np.abs(self.C) @ size, np.abs(self.b) + np.abs(self.A) @ size],
        )

    def largest(self) -> float:
        """1 + the largest norm of a right-hand side."""
        return 1.0 + max((float(np.abs(part).max()) for part in (self.d, self.b) if len(part)), default=0.0)


def stacked(problem: HardProblem) -> Stacked:
    n = problem.n
    eye = np.eye(n)
    blocks, right, owner = [np.empty((0, n))], [np.empty(0)], []
    if problem.G is not None and problem.h is not None:
        blocks, right = [*blocks, problem.G], [*right, problem.h]
        owner += [("dual_ineq", i) for i in range(len(problem.h))]
    for name, bound, sign in (("dual_lb", problem.lb, -1.0), ("dual_ub", problem.ub, 1.0)):
        if bound is not None:
            finite = np.flatnonzero(np.isfinite(bound))
            blocks, right = [*blocks, sign * eye[finite]], [*right, sign * bound[finite]]
            owner += [(name, int(i)) for i in finite]
    A = np.empty((0, n)) if problem.A is None else problem.A
    b = np.empty(0) if problem.b is None else problem.b
    return Stacked(problem.Q, problem.p, np.vstack(blocks), np.concatenate(right), A, b, owner)


# The optimum


@dataclass(frozen=True)
class Reference:
    """The optimum, and what it is worth.

    Attributes:
        fun: the objective at ``x``.
        error: what gap, violations and gradient leave open, over max(1, |fun|), or over the objective's own terms.
        how: which solver, data and tolerance gave it.
        seconds: what Clarabel took for the data as they are, at 1e-12.
    """

    fun: float
    x: Array
    error: float
    how: str
    seconds: float

    @property
    def certain(self) -> bool:
        return self.error <= CERTAIN


def reference(problem: HardProblem) -> Reference:
    """The best of several tries: Clarabel at 1e-12 on the data as they are, then on data scaled by powers of two (which
    rounds nothing) with right-hand sides as they are and of size 1; then looser tolerances; for a linear programme
    HiGHS; at last Clarabel's point made exact on its active set. The first that is certain enough is taken."""
    best: Reference | None = None
    seconds = 0.0
    whole = stacked(problem)
    for how, x, y, v, took in _tries(whole):
        seconds = seconds or took
        if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(v).all()):
            continue
        fun = whole.objective(x)
        unit = max(whole.size(x), 1e-300) if problem.own_size else max(1.0, abs(fun))
        found = Reference(fun, x, open_error(whole, x, y, v) / unit, how, seconds)
        if best is None or found.error < best.error:
            best = found
        if best.error <= 0.1 * CERTAIN:
            break
    assert best is not None
    return Reference(best.fun, best.x, best.error, best.how, seconds)


def optimum(problem: HardProblem) -> Reference | None:
    """The reference of a problem that has a solution; None for the others."""
    return reference(problem) if problem.expected == Status.SUCCESS else None


def open_error(whole: Stacked, x: Array, y: Array, v: Array) -> float:
    """How far the objective at ``x`` may be from the optimum, to first order: duality gap, violations weighed with
    their multipliers, and the gradient times the point."""
    y = np.maximum(y, 0.0)
    gradient = whole.Q @ x + whole.p + whole.C.T @ y + whole.A.T @ v
    gap = abs(x @ whole.Q @ x + whole.p @ x + whole.d @ y + whole.b @ v)
    violation = whole.violations(x) @ np.concatenate([y, np.abs(v)])
    return float(gap + violation + np.abs(gradient) @ np.abs(x))


def _tries(whole: Stacked) -> Iterator[tuple[str, Array, Array, Array, float]]:
    """What, x, y, v, seconds."""
    for tol in (1e-12, 1e-10, 1e-9):
        yield f"clarabel {tol:g}", *_clarabel(whole, tol)
        for long in (False, True):
            balanced, undo = balance(whole, long)
            x, y, v, took = _clarabel(balanced, tol)
            yield f"clarabel {tol:g}, scaled", *undo(x, y, v), took
    if not whole.Q.any():
        yield "highs", *_highs(whole)
    for long in (False, True):
        balanced, undo = balance(whole, long)
        yield "polished", *undo(*_polished(balanced)), 0.0


def _highs(whole: Stacked) -> tuple[Array, Array, Array, float]:
    """The same of a linear programme by the dual simplex method; NaN where it gives up."""
    start = time.perf_counter()
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    parts = (whole.p, whole.C, whole.d, whole.A, whole.b, (None, None))
    result = optimize.linprog(*parts, method="highs-ds", options=options)
    if result.status != 0:
        return whole.p * np.nan, whole.d * np.nan, whole.b * np.nan, time.perf_counter() - start
    return result.x, -result.ineqlin.marginals, -result.eqlin.marginals, time.perf_counter() - start


def _polished(whole: Stacked) -> tuple[Array, Array, Array]:
    """Clarabel's answer made exact on its active set; NaN where it cannot be."""
    infinite = np.full(len(whole.p), np.inf)
    data = references.Data(whole.Q, whole.p, whole.C, whole.d, whole.A, whole.b, -infinite, infinite)
    point = references.solve(data).point
    return point.x, point.ineq, point.eq


def _clarabel(whole: Stacked, tol: float) -> tuple[Array, Array, Array, float]:
    """x, y, v, seconds; the status does not matter, as what came is weighed."""
    start = time.perf_counter()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = tol
    settings.presolve_enable = False
    count, total = len(whole.b), len(whole.b) + len(whole.d)
    cones = [clarabel.ZeroConeT(count)] * (count > 0) + [clarabel.NonnegativeConeT(total - count)] * (total > count)
    rows, right = np.vstack([whole.A, whole.C]), np.concatenate([whole.b, whole.d])
    upper, csc = sparse.csc_matrix(np.triu(whole.Q)), sparse.csc_matrix(rows)
    result = clarabel.DefaultSolver(upper, whole.p, csc, right, cones, settings).solve()
    dual = np.asarray(result.z)
    return np.asarray(result.x), dual[count:], dual[:count], time.perf_counter() - start


def _power(size: Array) -> Array:
    """The nearest power of two; 1 where there is nothing to measure."""
    return np.exp2(np.round(np.log2(np.where((size > 0.0) & np.isfinite(size), size, 1.0))))


class Undo:
    """From the scaled problem's solution to that of the given one: x = D y, multipliers of row i times E_i."""

    def __init__(self, columns: Array, rows: Array, value: float) -> None:
        self.columns, self.rows, self.value = columns, rows, value

    def __call__(self, x: Array, y: Array, v: Array) -> tuple[Array, Array, Array]:
        scale = self.value * self.rows
        return self.columns * x, scale[: len(y)] * y, scale[len(y) :] * v


def balance(whole: Stacked, long: bool) -> tuple[Stacked, Undo]:
    """Rows and columns with a largest entry near 1, by powers of two; ``long``: right-hand sides too."""
    R, Q = np.vstack([whole.C, whole.A]), whole.Q
    columns, rows = np.ones(len(whole.p)), np.ones(len(R))
    for _ in range(15):
        if len(R):
            rows = rows / _power(np.sqrt(np.abs(R * rows[:, None] * columns).max(1)))
        high = np.abs(R * rows[:, None] * columns).max(0, initial=0.0)
        high = np.maximum(high, np.abs(Q * columns[:, None] * columns).max(0))
        columns = columns / _power(np.sqrt(high))
    if len(R):
        rows = rows / _power(np.abs(R * rows[:, None] * columns).max(1))
    right = np.concatenate([whole.d, whole.b])
    if long and right.any():
        length = float(_power(np.array(np.abs(rows * right).max())))
        columns, rows = columns * length, rows / length
    p, Q = whole.p * columns, Q * columns[:, None] * columns
    value = float(_power(np.array(max(np.abs(p).max(), np.abs(Q).max()))))
    k = len(whole.d)
    R, right = R * rows[:, None] * columns, right * rows
    scaled = Stacked(Q / value, p / value, R[:k], right[:k], R[k:], right[k:], whole.owner)
    return scaled, Undo(columns, rows, value)


# The answer


@dataclass(frozen=True)
class Answer:
    """What ``solve_qp`` returned for one problem, in arrays."""

    status: Status
    fields: dict[str, Array]
    seconds: float

    @property
    def said(self) -> str:
        return self.status.name


def answer(problem: HardProblem, solver: PrimalDual | None = None) -> Answer:
    """One call for one problem."""
    names = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
    parts: list[Any] = [None if (v := getattr(problem, name)) is None else torch.as_tensor(v.copy()) for name in names]
    start = time.perf_counter()
    solution = solve_qp(*parts, solver=solver, throw=False)
    return read(solution, time.perf_counter() - start)


def read(solution: QPSolution, seconds: float) -> Answer:
    fields = {name: np.asarray(getattr(solution, name).numpy(), dtype=np.float64) for name in FIELDS}
    return Answer(Status(int(solution.status)), fields, seconds)


class Kind(StrEnum):
    SOLVED = "solved"  # a minimiser, as accurate as asked for
    PROVEN = "proven"  # infeasible or unbounded, with a proof that holds
    HONEST = "honest"  # a status that says that it failed
    WRONG = "wrong"  # a success or a proof that does not hold
    NAN = "nan"  # a number that is not finite


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    why: str = ""
    error: float = 0.0  # of the objective over max(1, |optimum|), where success was said

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}" if self.why else str(self.kind)


def judge(problem: HardProblem, given: Answer, optimum: Reference | None) -> Verdict:
    """``optimum``: None where the problem has none."""
    if bad := [name for name, part in given.fields.items() if not np.isfinite(part).all()]:
        return Verdict(Kind.NAN, f"{given.said}, {', '.join(bad)}")
    if given.status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
        return _judge_proof(problem, given)
    if given.status != Status.SUCCESS:
        return Verdict(Kind.HONEST, given.said)
    if optimum is None:
        return Verdict(Kind.WRONG, "success without a solution")
    error = abs(float(given.fields["fun"]) - optimum.fun) / max(1.0, abs(optimum.fun))
    why = "; ".join([*faults(problem, given, optimum), *stationarity_faults(problem, given)])
    return Verdict(Kind.WRONG if why else Kind.SOLVED, why, error)


def _judge_proof(problem: HardProblem, given: Answer) -> Verdict:
    infeasible = given.status == Status.PRIMAL_INFEASIBLE
    why = farkas_fault(problem, given.fields) if infeasible else ray_fault(problem, given.fields["ray"])
    if why:
        return Verdict(Kind.WRONG, f"{given.said}: {why}")
    if given.status != problem.expected:
        return Verdict(Kind.WRONG, f"{given.said} of a problem that is {problem.expected.name}")
    return Verdict(Kind.PROVEN)


def faults(problem: HardProblem, given: Answer, optimum: Reference) -> Iterator[str]:
    """Objective and constraints against the optimum, in the units of the test and, where they say nothing, in those of
    the problem."""
    whole, x, fun = stacked(problem), given.fields["value"], float(given.fields["fun"])
    off = abs(fun - optimum.fun)
    if off > TOL * max(1.0, abs(optimum.fun)):
        yield f"objective {fun:.9g}, optimum {optimum.fun:.9g}"
    if abs(fun - whole.objective(x)) > 1e-9 * (whole.size(x) + abs(fun)):
        yield f"fun {fun:.9g}, objective of value {whole.objective(x):.9g}"
    violation = whole.violations(x)
    if (worst := violation.max(initial=0.0)) > TOL * whole.largest():
        yield f"violation {worst:.2g}"
    if problem.own_size:
        if off > TOL * max(whole.size(optimum.x), whole.size(x)):
            yield f"objective {fun:.9g}, optimum {optimum.fun:.9g}, in its own size"
        if (violation > TOL * whole.row_sizes(np.maximum(np.abs(x).max(), np.abs(optimum.x)))).any():
            yield f"violation {worst:.2g}, in its own size"


def stationarity_faults(problem: HardProblem, given: Answer) -> Iterator[str]:
    """The conditions of optimality with the answer's own multipliers, relative to the largest of their terms."""
    whole, x = stacked(problem), given.fields["value"]
    y, v, stray = multipliers(whole, given.fields)
    if max(stray, -y.min(initial=0.0)) > ROUNDING * np.abs(y).max(initial=0.0):
        yield "a negative multiplier, or one without a bound"
    terms = [whole.Q @ x, whole.p, whole.C.T @ y, whole.A.T @ v]
    gradient = np.abs(sum(terms)).max()
    if gradient > TOL * (pull := max(float(np.abs(term).max()) for term in terms)):
        yield f"gradient {gradient:.2g} of {pull:.2g}"
    work = np.abs(np.concatenate([x * terms[0], x * whole.p, whole.d * y, whole.b * v])).sum()
    product = np.abs(y * (whole.d - whole.C @ x)).sum()
    length = max((float(np.abs(part).max()) for part in (whole.d, whole.b) if part.any()), default=1.0)
    if product > TOL * work + 1e-14 * pull * length:
        yield f"multipliers times slacks {product:.2g} of {work:.2g}"


def multipliers(whole: Stacked, fields: dict[str, Array]) -> tuple[Array, Array, float]:
    """y of all rows, v, and the largest multiplier of a bound that is not there."""
    y = np.array([fields[name][i] for name, i in whole.owner])
    unowned = {name: fields[name].copy() for name in ("dual_ineq", "dual_lb", "dual_ub")}
    for name, i in whole.owner:
        unowned[name][i] = 0.0
    return y, fields["dual_eq"], max(float(np.abs(part).max(initial=0.0)) for part in unowned.values())


def farkas_fault(problem: HardProblem, fields: dict[str, Array]) -> str:
    """What keeps the multipliers from proving that no point of a size that matters meets all constraints.

    For every such point 0 >= y'(Cz - d) + v'(Az - b) = r'z - (d'y + b'v): with r = C'y + A'v and -(d'y + b'v) = m > 0,
    none has |z| < m / |r|_1."""
    whole = stacked(problem)
    y, v, stray = multipliers(whole, fields)
    if y.min(initial=0.0) < 0.0 or stray > ROUNDING * y.max(initial=0.0):  # what is stray is left out of the proof
        return "a negative multiplier, or one without a bound"
    terms = np.concatenate([whole.C * y[:, None], whole.A * v[:, None]])
    rest, products = terms.sum(0), np.concatenate([whole.d * y, whole.b * v])
    margin = -products.sum() - 1e-14 * np.abs(products).sum()
    if margin <= 0.0:
        return f"margin {margin:.2g}"
    if (error := np.abs(rest).max()) > PROOF_TOL * np.abs(terms).max():
        return f"combination {error:.2g}, not 0"
    if margin <= np.abs(rest).sum() * REACH * whole.largest():
        return f"excludes points up to {margin / np.abs(rest).sum():.2g} alone"
    return ""


def ray_fault(problem: HardProblem, ray: Array) -> str:
    """What keeps ``ray`` from being a direction of unlimited descent."""
    whole, length = stacked(problem), float(np.abs(ray).max())
    if length == 0.0:
        return "no ray"
    ray = ray / length
    curve = np.abs(whole.Q @ ray).max() / max(np.abs(whole.Q).max(), 1e-300)
    rows = np.maximum(0.0, whole.C @ ray) / np.maximum(np.abs(whole.C).sum(1), 1e-300)
    equations = np.abs(whole.A @ ray) / np.maximum(np.abs(whole.A).sum(1), 1e-300)
    error = max(float(curve), rows.max(initial=0.0), equations.max(initial=0.0))
    fall = -float(whole.p @ ray) / float(np.abs(whole.p).sum())
    if error > PROOF_TOL:
        return f"ray leaves the constraints or meets curvature: {error:.2g}"
    return "" if fall > 1e3 * error and fall > 1e-9 else f"descent {fall:.2g} beside errors of {error:.2g}"
