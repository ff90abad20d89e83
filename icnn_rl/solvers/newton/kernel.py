"""Projected Newton and the start before it, compiled, for energies with one layer of squareplus units.

What :mod:`.method` and :mod:`.smoothed_start` do for a batch of tensors is done here row by row, with the same formulas
and constants: a row's numbers stay in the first-level cache, and nothing but arithmetic is paid for. With the units of
all members in one row of length m,

    f(y) = sum_j w_j g( p_j ) + lin . y + c + 1/2 sum_i q_i y_i^2,      p_j = offset_j + sum_i D_ij y_i,
    g(p) = ( p + sqrt(p^2 + s_j) ) / 2,       s_j = width^2 + blur sum_i variance_i D_ij^2.

``blur`` = 0 is f itself, a number above 0 its average over a spread of y, see ``EnsembleEnergy.blur``. The sums
over units are in the precision of the data, everything of size n is in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from icnn_rl.compiling import jit
from icnn_rl.kernel_algebra import dot
from icnn_rl.solution import Status
from icnn_rl.solvers.newton.constants import ACCEPT, EASIER, GOOD, HARDER, SHARPER, SHORTEST, START_SOLVES, STIFFER
from icnn_rl.solvers.newton.found import Found
from icnn_rl.solvers.problem import NOISE

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = 1e-300
#: Statuses, as numba takes them.
_SUCCESS, _MAX_STEPS = int(Status.SUCCESS), int(Status.MAX_STEPS)
_NUMERICAL, _NONFINITE = int(Status.NUMERICAL), int(Status.NONFINITE_INPUT)


class Energies(NamedTuple):
    """f of a batch. What all rows share may have one row."""

    directions: Array  # (E, n, h): W^(y) transposed
    gates: Array  # (E, B, n)
    offsets: Array  # (E, B, h)
    out_weights: Array  # (E, B, h)
    linear: Array  # (B, n)
    constant: Array  # (B,)
    quadratic: Array  # (B, n)
    square_width: float


class Row(NamedTuple):
    """f of one row, and scratch: arrays over units first."""

    D: Array  # (n, m)
    offset: Array
    w: Array
    spread: Array
    p: Array
    slope: Array  # w g'
    bend: Array  # w g''
    lin: Array
    q: Array
    lower: Array
    upper: Array
    # the model: bounds on the step, its right-hand side, the system, the step, -(g + H d), the scaled gradient step
    low: Array
    high: Array
    rhs: Array
    system: Array
    d: Array
    rest: Array
    moved: Array
    held: Array
    damped: Array  # H + mu I


class Point(NamedTuple):
    """A point, and f's gradient and Hessian there."""

    y: Array
    g: Array
    H: Array


@jit
def new_row(energies: Energies) -> Row:
    members, n, h = energies.directions.shape
    kind = energies.directions.dtype
    units = np.zeros((6, members * h), kind)
    small = np.zeros((9, n))
    return Row(
        np.zeros((n, members * h), kind), units[0], units[1], units[2], units[3], units[4], units[5],
        small[0], small[1], small[2], small[3], small[4], small[5], small[6], np.zeros((n, n)), small[7], small[8],
        np.zeros(n), np.zeros(n, np.bool_), np.zeros((n, n)),
    )  # fmt: skip


@jit
def new_point(n: int) -> Point:
    return Point(np.zeros(n), np.zeros(n), np.zeros((n, n)))


@jit
def read_row(r: Row, energies: Energies, lower: Array, upper: Array, row: int) -> float:
    """Gather a row of the batch; returns c."""
    members, n, h = energies.directions.shape
    gated, own = min(row, energies.gates.shape[1] - 1), min(row, energies.offsets.shape[1] - 1)
    weighted, head = min(row, energies.out_weights.shape[1] - 1), min(row, energies.linear.shape[0] - 1)
    for e in range(members):
        for i in range(n):
            gate = energies.gates[e, gated, i]
            for j in range(h):
                r.D[i, e * h + j] = gate * energies.directions[e, i, j]
        for j in range(h):
            r.offset[e * h + j] = energies.offsets[e, own, j]
            r.w[e * h + j] = energies.out_weights[e, weighted, j]
    for i in range(n):
        r.lin[i], r.q[i] = energies.linear[head, i], energies.quadratic[head, i]
        r.lower[i], r.upper[i] = lower[min(row, len(lower) - 1), i], upper[min(row, len(upper) - 1), i]
    return float(energies.constant[head])


@jit
def _spread(r: Row) -> None:
    """The variance of every unit's input where y is uniform on the box."""
    r.spread[:] = 0
    for i in range(len(r.lin)):
        variance = r.spread.dtype.type((r.upper[i] - r.lower[i]) ** 2 / 12)
        for j in range(len(r.spread)):
            r.spread[j] += variance * r.D[i, j] * r.D[i, j]


@jit
def evaluate(r: Row, at: Point, constant: float, square_width: float, blur: float) -> float:
    """f at ``at.y``; fills its gradient and Hessian."""
    real = r.w.dtype.type
    n, m = r.D.shape
    for j in range(m):
        r.p[j] = r.offset[j]
    for i in range(n):
        y = real(at.y[i])
        for j in range(m):
            r.p[j] += r.D[i, j] * y
    half, one, base, share = real(0.5), real(1.0), real(square_width), real(blur)
    hidden = real(0.0)
    for j in range(m):
        square = base + share * r.spread[j]
        inverse = one / np.sqrt(r.p[j] * r.p[j] + square)
        slope = half * r.p[j] * inverse + half
        hidden += r.w[j] * slope / inverse
        r.slope[j] = r.w[j] * slope
        r.bend[j] = r.w[j] * half * square * inverse * inverse * inverse
    f = float(hidden) + constant
    for i in range(n):
        pull = real(0.0)
        for j in range(m):
            pull += r.slope[j] * r.D[i, j]
        at.g[i] = float(pull) + r.lin[i] + r.q[i] * at.y[i]
        f += (r.lin[i] + 0.5 * r.q[i] * at.y[i]) * at.y[i]
        for j in range(m):
            r.p[j] = r.bend[j] * r.D[i, j]
        for k in range(i + 1):
            curve = real(0.0)
            for j in range(m):
                curve += r.p[j] * r.D[k, j]
            at.H[i, k] = at.H[k, i] = float(curve)
        at.H[i, i] += r.q[i]
    return f


@jit
def clip(x: float, low: float, high: float) -> float:
    return np.minimum(np.maximum(x, low), high)  # type: ignore[no-any-return]  # NaN stays NaN


@jit
def _bounds(r: Row, y: Array) -> None:
    for i in range(len(y)):
        r.low[i], r.high[i] = r.lower[i] - y[i], r.upper[i] - y[i]


@jit
def _box_qp(r: Row, g: Array, H: Array, solves: int) -> None:
    """min g . d + 1/2 d^T H d over low <= d <= high, see ``box_qp.py``: fills d and rest = -(g + H d)."""
    n = len(g)
    for i in range(n):
        r.moved[i] = -g[i] / max(H[i, i], _TINY)
    for turn in range(solves):
        settled = turn > 0
        for i in range(n):
            bound = clip(r.moved[i], r.low[i], r.high[i])
            r.held[i] = bound != r.moved[i]
            wanted = bound if r.held[i] else -g[i]
            settled = settled and wanted == r.rhs[i]
            r.rhs[i] = wanted
        if settled:
            return
        _solve_held(r, H)
        for i in range(n):
            r.rest[i] = -g[i] - dot(H[i], r.d)
            r.moved[i] = r.d[i] + r.rest[i] / max(H[i, i], _TINY)
    for i in range(n):
        r.d[i] = clip(r.d[i], r.low[i], r.high[i])
    for i in range(n):
        r.rest[i] = -g[i] - dot(H[i], r.d)


@jit
def _solve_held(r: Row, H: Array) -> None:
    """d_i = rhs_i where held, (H d)_i = rhs_i elsewhere: A = L D L^T, with H d of the held ones moved to the right."""
    n, A, d = len(H), r.system, r.d
    d[:] = r.rhs
    for i in range(n):
        for k in range(i + 1):
            A[i, k] = H[i, k]
            if r.held[i] or r.held[k]:
                A[i, k] = 1.0 if i == k else 0.0
                if not r.held[k]:
                    d[k] -= H[i, k] * r.rhs[i]
                if not r.held[i]:
                    d[i] -= H[i, k] * r.rhs[k]
    for j in range(n):  # below the diagonal stays L D
        per_pivot = 1.0 / A[j, j]
        for i in range(j + 1, n):
            factor = A[i, j] * per_pivot
            for k in range(j + 1, i + 1):
                A[i, k] -= factor * A[k, j]
            d[i] -= factor * d[j]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            d[i] -= A[k, i] * d[k]
        d[i] /= A[i, i]


@jit
def _step_into(r: Row, y: Array, out: Array) -> None:
    """out = P(y + d), a point that the data's precision can hold."""
    for i in range(len(y)):
        out[i] = float(r.w.dtype.type(clip(y[i] + r.d[i], r.lower[i], r.upper[i])))


@jit
def _smoothed_start(r: Row, at: Point, start: Array, constant: float, square_width: float, stages: int) -> None:
    """Moves ``at.y`` from ``start`` by Newton steps on averages of f, see ``smoothed_start.py``."""
    _spread(r)
    blur = 1.0
    at.y[:] = start
    for _ in range(stages):
        evaluate(r, at, constant, square_width, blur)
        _bounds(r, at.y)
        _box_qp(r, at.g, at.H, START_SOLVES)
        at.y[:] += r.d
        blur *= SHARPER
    for i in range(len(start)):
        if np.isnan(at.y[i]):
            at.y[i] = start[i]


@jit
def newton(
    energies: Energies,
    lower: Array,
    upper: Array,
    start: Array,
    stages: int,
    tol: float,
    atol: float,
    max_steps: int,
    model_solves: int,
    found: Found,
) -> None:
    """The loop of :func:`icnn_rl.solvers.minimize.solve` around :class:`icnn_rl.solvers.ProjectedNewton`.

    Args:
        energies: f of every row.
        lower, upper: (B, n), or (1, n) for all rows; finite.
        start: (B, n).
        stages: of the search for a better start, which comes first.
        tol, max_steps, model_solves: the solver's settings.
        atol: a gap that is small enough, in f's units, whatever ``tol`` says.
        found: (B, ...), filled.
    """
    n = start.shape[1]
    r, at, trial = new_row(energies), new_point(n), new_point(n)
    for row in range(len(start)):
        c = read_row(r, energies, lower, upper, row)
        _smoothed_start(r, at, start[row], c, energies.square_width, stages)
        r.d[:] = 0.0
        _step_into(r, at.y, at.y)
        f = evaluate(r, at, c, energies.square_width, 0.0)
        scale = variation(r, at)
        noise = (abs(f) + scale) * NOISE * np.finfo(start.dtype).eps
        gap, damping, stalled, steps = box_gap(r, at), 0.0, False, 0
        sound = np.isfinite(f) and not np.isnan(gap / max(scale, _TINY)) and np.isfinite(noise)
        solved = is_solved(gap, scale, noise, tol, atol)
        while sound and not solved and not stalled and steps < max_steps:
            steps += 1
            move = _propose(r, at, damping, model_solves, trial.y)
            f_trial = evaluate(r, trial, c, energies.square_width, 0.0)
            gap_trial = box_gap(r, trial)
            actual = f - f_trial + noise
            enough = max(noise, tol * scale)
            if (actual >= GOOD * move and move > noise) or (gap_trial <= enough and actual >= 0):
                accepted, damping = True, EASIER * damping
            else:
                accepted, damping, stalled = judge(r, at, trial, f, f_trial, gap, gap_trial, move, noise, damping)
            if accepted:
                f, gap = f_trial, gap_trial
                at, trial = trial, at
            solved = is_solved(gap, scale, noise, tol, atol)
        found.value[row] = at.y
        found.fun[row], found.gap[row], found.num_steps[row] = f, np.maximum(gap, 0.0), steps
        found.residual[row] = gap / max(scale, _TINY)
        found.status[row] = status_of(sound, solved, stalled)


@jit
def status_of(sound: bool, solved: bool, stalled: bool) -> int:
    if not sound:
        return _NONFINITE
    if solved:
        return _SUCCESS
    return _NUMERICAL if stalled else _MAX_STEPS


@jit
def is_solved(gap: float, scale: float, noise: float, tol: float, atol: float) -> bool:
    return gap / max(scale, _TINY) <= tol or gap <= max(noise, atol)


@jit
def variation(r: Row, at: Point) -> float:
    """How much the quadratic model varies over the box, coordinate by coordinate: the scale of f."""
    total = 0.0
    for i in range(len(at.g)):
        w = r.upper[i] - r.lower[i]
        total += (abs(at.g[i]) + 0.125 * at.H[i, i] * w) * w
    return total


@jit
def box_gap(r: Row, at: Point) -> float:
    """Upper bound on f(y) - min f over the bounds."""
    return certify(r, at, at.g, 0.0)  # type: ignore[no-any-return]


@jit
def certify(r: Row, at: Point, slope: Array, bound: float) -> float:
    """``bound`` and :func:`icnn_rl.sets.certificate.certificate` of a slope over the bounds."""
    total = bound
    for i in range(len(slope)):
        g, q = slope[i], r.q[i]
        low, high = r.lower[i] - at.y[i], r.upper[i] - at.y[i]
        steepest = low if g > 0 else high
        step = clip(-g / q, low, high) if q > 0 else steepest
        total -= (g + 0.5 * q * step) * step
    return total


@jit
def _propose(r: Row, at: Point, damping: float, model_solves: int, out: Array) -> float:
    """out = the minimiser of the damped model on the box; returns the decrease that it promises."""
    n, H = len(at.g), r.damped
    H[:] = at.H
    rounding = 0.0
    for i in range(n):
        rounding += H[i, i] * np.finfo(r.w.dtype).eps
    for i in range(n):
        H[i, i] += rounding + damping
    _bounds(r, at.y)
    _box_qp(r, at.g, H, model_solves)
    _step_into(r, at.y, out)
    return float(0.5 * (dot(r.d, r.rest) - dot(r.d, at.g)))


@jit
def judge(
    r: Row,
    at: Point,
    trial: Point,
    f: float,
    f_trial: float,
    gap: float,
    gap_trial: float,
    predicted: float,
    noise: float,
    damping: float,
) -> tuple[bool, float, bool]:
    """Whether the step is taken, the next damping, and whether the row gives up; mends H where the step failed."""
    n, d = len(at.g), r.d
    accept = f - f_trial + noise >= ACCEPT * predicted
    lost = stalled = False
    if predicted <= noise:
        lost = predicted < _sure_decrease(r, at) - noise
        accept = accept and not lost
        # below rounding f no longer tells good steps from bad: go on only while the certificate still improves
        stalled = not lost and gap_trial > 0.5 * gap
    if accept:
        return True, EASIER * damping, stalled
    slope, along = dot(at.g, d), _form(r.damped, d)
    met = -slope / _minimiser_between(trial, d, slope, along, f - f_trial)
    if not lost and met > STIFFER * along:
        factor = (met - along) / dot(d, d) ** 2
        for i in range(n):
            for k in range(n):
                at.H[i, k] += factor * d[i] * d[k]
        return False, damping, stalled
    return False, damping + HARDER * _needed(r, lost, slope), stalled


@jit
def _form(H: Array, d: Array) -> float:
    """d^T H d."""
    total = 0.0
    for i in range(len(d)):
        total += d[i] * dot(H[i], d)
    return total


@jit
def _sure_decrease(r: Row, at: Point) -> float:
    """``method._sure_decrease``."""
    trace = total = 0.0
    for i in range(len(at.g)):
        trace += r.damped[i, i]
    for i in range(len(at.g)):
        total -= 0.5 * at.g[i] * clip(-at.g[i] / max(trace, _TINY), r.low[i], r.high[i])
    return total


@jit
def _minimiser_between(trial: Point, d: Array, slope: float, along: float, decrease: float) -> float:
    """t in [0.1, 1]: where on the way y + t d, that went too far, f is smallest, judged from both ends."""
    slope_end, along_end = dot(trial.g, d), _form(trial.H, d)
    a = 0.5 * (along - along_end)
    b = slope - slope_end + along_end
    c = decrease + slope_end - 0.5 * along_end
    cross = 2 * c / (np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)) - b)
    t = 1 - slope_end / along_end
    if c > 0:
        t = np.maximum(np.minimum(-slope / along, cross), t)
    t = clip(t, SHORTEST, 1.0)
    return SHORTEST if np.isnan(t) else t


@jit
def _needed(r: Row, lost: bool, slope: float) -> float:
    """The damping that makes up for a step that failed, see ``method.py``."""
    mean = 0.0
    for i in range(len(r.d)):
        mean += r.damped[i, i] / len(r.d)
    needed = np.maximum(0.0 if lost else abs(slope) / dot(r.d, r.d), mean)
    return needed if np.isfinite(needed) and needed > 0 else 1.0
