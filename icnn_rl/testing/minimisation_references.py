"""Slow, dense, obviously right: what the solvers are compared with. Everything here is NumPy and SciPy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from icnn_rl.nn import EnsembleEnergy

Array = NDArray[np.float64]
ValueAndGrad = Callable[[Array], tuple[float, Array]]


def numpy_function(energy: Callable[[torch.Tensor], torch.Tensor], row: int, like: torch.Tensor) -> ValueAndGrad:
    """One row of a batched energy as y (n,) -> (f, gradient by autograd); ``like`` (B, n) gives the batch's shape."""

    def function(y: Array) -> tuple[float, Array]:
        batch = like.detach().double().clone()
        batch[row] = torch.as_tensor(y)
        batch.requires_grad_()
        with torch.enable_grad():
            f = energy(batch)[row]
            (g,) = torch.autograd.grad(f, batch)
        return float(f.detach()), g[row].numpy().copy()

    return function


def box_qp_by_enumeration(h: Array, g: Array, low: Array, high: Array) -> Array:
    """argmin g.d + 1/2 d^T H d on a box: every one of the 3^n active sets is tried, the best feasible point wins."""
    n = len(g)
    best, best_value = np.clip(np.zeros(n), low, high), np.inf
    for pattern in itertools.product((-1, 0, 1), repeat=n):
        where = np.array(pattern)
        d = np.where(where < 0, low, np.where(where > 0, high, 0.0))
        free = where == 0
        if not np.isfinite(d).all():
            continue
        if free.any():
            right = -g[free] - h[np.ix_(free, ~free)] @ d[~free]
            d[free] = np.linalg.solve(h[np.ix_(free, free)], right)
        if (d < low - 1e-12).any() or (d > high + 1e-12).any():
            continue
        value = float(g @ d + 0.5 * d @ h @ d)
        if value < best_value:
            best, best_value = d, value
    return best


def smooth_on_box(function: ValueAndGrad, low: Array, high: Array, start: Array) -> tuple[float, Array]:
    """L-BFGS-B to the end of float64, restarted once."""
    y = np.clip(start, low, high)
    bounds = optimize.Bounds(low, high)
    for _ in range(2):
        result = optimize.minimize(
            function,
            y,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 5000, "maxcor": 30},
        )
        y = result.x
    return float(result.fun), y


def entropy(w: Array) -> float:
    """H(w) in nats, 0 log 0 = 0."""
    return float(special.entr(w).sum() + special.entr(1.0 - w).sum())


def smooth_with_entropy(function: ValueAndGrad, low: Array, high: Array, tau: float) -> tuple[float, Array]:
    """min f - tau H over the box, by BFGS in the logits of w: strict convexity leaves one stationary point."""
    width = high - low
    moving = width > 0

    def y_of(v: Array) -> Array:
        y = low.copy()
        y[moving] += width[moving] * special.expit(v)
        return y

    def objective(v: Array) -> tuple[float, Array]:
        w = special.expit(v)
        f, g = function(y_of(v))
        # -H has the derivative log(w / (1 - w)) = v
        return f - tau * entropy(w), (g[moving] * width[moving] + tau * v) * w * special.expit(-v)

    v = np.zeros(int(moving.sum()))
    if v.size == 0:
        return function(low)[0], low
    value = np.inf
    for _ in range(3):
        result = optimize.minimize(objective, v, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 2000})
        v, value = result.x, min(value, float(result.fun))
    return value, y_of(v)


@dataclass(frozen=True)
class Lift:
    """A piecewise-linear convex function as a linear programme: f(y) = min c.v + constant, v = (y, extra variables),
    s.t. matrix v <= right, the extra variables >= extra_low."""

    c: Array
    constant: float
    matrix: Array
    right: Array
    extra_low: Array

    def minimize(self, low: Array, high: Array) -> tuple[float, Array]:
        """min over y in the box, by HiGHS."""
        bounds = [*zip(low, high, strict=True), *((bound, None) for bound in self.extra_low)]
        result = optimize.linprog(self.c, A_ub=self.matrix, b_ub=self.right, bounds=bounds, method="highs")
        assert result.status == 0, result.message
        return float(result.fun) + self.constant, result.x[: len(low)]

    def minimize_with_entropy(self, low: Array, high: Array, tau: float) -> tuple[float, Array]:
        """min of f - tau H over y in the box: SLSQP in (w, extra variables), from a feasible vertex."""
        n, width = len(low), high - low
        bounds = [*zip(low, high, strict=True), *((bound, None) for bound in self.extra_low)]
        middle = 0.5 * (low + high)
        fixed = [*((m, m) for m in middle), *bounds[n:]]
        start = optimize.linprog(self.c, A_ub=self.matrix, b_ub=self.right, bounds=fixed, method="highs").x
        start[:n] = 0.5
        matrix = self.matrix.copy()
        right = self.right - matrix[:, :n] @ low
        matrix[:, :n] *= width
        c = self.c.copy()
        offset = self.constant + float(c[:n] @ low)
        c[:n] *= width

        def objective(v: Array) -> tuple[float, Array]:
            g = c.copy()
            w = np.clip(v[:n], 1e-13, 1.0 - 1e-13)
            g[:n] += tau * special.logit(w)
            return float(c @ v) - tau * entropy(w), g

        result = optimize.minimize(
            objective,
            start,
            jac=True,
            method="SLSQP",
            bounds=[*((1e-12, 1.0 - 1e-12) for _ in range(n)), *bounds[n:]],
            constraints={"type": "ineq", "fun": lambda v: right - matrix @ v, "jac": lambda v: -matrix},
            options={"ftol": 1e-14, "maxiter": 2000},
        )
        return float(result.fun) + offset, low + width * result.x[:n]


def lift_max_affine(slopes: Array, offsets: Array) -> Lift:
    """f(y) = max_i slopes_i . y + offsets_i: minimise t subject to every piece <= t."""
    pieces, n = slopes.shape
    return Lift(
        c=np.append(np.zeros(n), 1.0),
        constant=0.0,
        matrix=np.hstack((slopes, -np.ones((pieces, 1)))),
        right=-offsets,
        extra_low=np.array([-np.inf]),
    )


def lift_relu_network(energy: EnsembleEnergy, row: int) -> Lift:
    """The paper's linear programme of one row of a bound ReLU network over (y, z_1, .., z_k):
    z_{i+1} >= pre-activation, z_{i+1} >= 0."""

    def pick(x: torch.Tensor) -> Array:
        member: Array = x[0].detach().double().numpy()
        chosen: Array = member[row if member.shape[0] > 1 else 0]
        return chosen

    assert float(energy.quadratic.abs().max()) == 0.0
    n = energy.linear.shape[-1]
    widths = [layer.passthrough.shape[1] for layer in energy.layers]
    total = n + sum(widths)
    rows, right = [], []
    before = n
    for i, layer in enumerate(energy.layers):
        block = np.zeros((widths[i], total))
        y_gate = np.ones(n) if layer.y_gate is None else pick(layer.y_gate)
        block[:, :n] = layer.passthrough[0].detach().double().numpy() * y_gate
        if layer.weight is not None:
            z_gate = np.ones(widths[i - 1]) if layer.z_gate is None else pick(layer.z_gate)
            block[:, before - widths[i - 1] : before] = layer.weight[0].detach().double().numpy() * z_gate
        block[:, before : before + widths[i]] -= np.eye(widths[i])
        rows.append(block)
        right.append(-pick(layer.offset))
        before += widths[i]
    c = np.zeros(total)
    c[:n] = pick(energy.linear)
    c[total - widths[-1] :] = pick(energy.out_weight)
    constant = energy.constant[0].detach().double().numpy()
    return Lift(
        c,
        float(constant[row if len(constant) > 1 else 0]),
        np.vstack(rows),
        np.concatenate(right),
        np.zeros(sum(widths)),
    )
