"""What lies between the matrix products of an update, compiled: each pass reads a batch once.

For one hidden layer of squareplus units and a context of linear, LayerNorm, ReLU layers, in the letters of
:mod:`icnn_rl.nn.energy`,

    p = W^(y) (y * ygate) + c,       z = g(p),       g(p) = ( p + sqrt(p^2 + s) ) / 2
    f = sum_j softplus(a_j) v_j z_j + lin . y + k + 1/2 sum_i ( softplus(b_i) + m ) y_i^2

where ygate, c, a, lin, k, b are what the heads read from the context, v >= 0 and W^(y) are weights of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icnn_rl.agents.normalization import CLIP, EPSILON
from icnn_rl.compiling import jit
from icnn_rl.solvers.newton.found import Found
from icnn_rl.solvers.newton.kernel import Energies, newton
from icnn_rl.solvers.newton.smoothed_start import STAGES

Array = np.ndarray[Any, np.dtype[Any]]

_EPS = 1e-5  # as in torch's layer_norm
_USABLE = 1  # the last Status that leaves a point: MAX_STEPS


@jit
def normalise(x: Array, shift: Array, per_std: Array, u: Array) -> None:
    """u = relu( xhat + shift ),    xhat = (x - mean) / std over the last dimension.

    Args:
        x: (M, B, width), overwritten by xhat.
        shift: (M, width).
        per_std: (M, B), filled with 1 / std.
        u: (M, B, width), filled.
    """
    members, batch, width = x.shape
    real = x.dtype.type
    zero, share = real(0.0), real(1.0 / width)
    for e in range(members):
        for b in range(batch):
            mean = variance = zero
            for j in range(width):
                mean += x[e, b, j]
            mean *= share
            for j in range(width):
                variance += (x[e, b, j] - mean) * (x[e, b, j] - mean)
            factor = real(1.0) / np.sqrt(variance * share + real(_EPS))
            per_std[e, b] = factor
            for j in range(width):
                x[e, b, j] = (x[e, b, j] - mean) * factor
            for j in range(width):
                raised = x[e, b, j] + shift[e, j]
                u[e, b, j] = zero if raised < zero else raised  # NaN stays NaN


@jit
def normalise_backward(xhat: Array, shift: Array, per_std: Array, du: Array, dbias: Array, dshift: Array) -> None:
    """dx = ( v - mean(v) - xhat mean(v xhat) ) / std with v = du where u > 0.

    Args:
        xhat, shift, per_std: of :func:`normalise`.
        du: (M, B, width), overwritten by dx.
        dbias, dshift: (M, width), filled with the sums of dx and of v over the batch.
    """
    members, batch, width = xhat.shape
    real = xhat.dtype.type
    zero, share = real(0.0), real(1.0 / width)
    dbias[...] = zero
    dshift[...] = zero
    for e in range(members):
        for b in range(batch):
            mean = along = zero
            for j in range(width):
                v = du[e, b, j] if xhat[e, b, j] + shift[e, j] > zero else zero
                du[e, b, j] = v
                mean += v
                along += v * xhat[e, b, j]
            mean *= share
            along *= share
            for j in range(width):
                dshift[e, j] += du[e, b, j]
            for j in range(width):
                du[e, b, j] = (du[e, b, j] - mean - xhat[e, b, j] * along) * per_std[e, b]
            for j in range(width):
                dbias[e, j] += du[e, b, j]


@jit
def features(obs: Array, mean: Array, variance: Array, x: Array) -> None:
    """x = clip( (obs - mean) / sqrt(variance + 1e-8), +-10 ), see :func:`icnn_rl.agents.normalization.normalize`.

    Args:
        obs: (S, B, o). mean, variance: (S, o). x: (S, B, o), filled.
    """
    learners, batch, width = obs.shape
    real = x.dtype.type
    for s in range(learners):
        for i in range(width):
            factor, middle = real(1.0 / np.sqrt(variance[s, i] + EPSILON)), obs.dtype.type(mean[s, i])
            for b in range(batch):
                raised = real(obs[s, b, i] - middle) * factor
                x[s, b, i] = min(max(raised, real(-CLIP)), real(CLIP)) if raised == raised else raised


@jit
def weights(passthrough: Array, raw: Array) -> tuple[Array, Array]:
    """W^(y) transposed (M, n, h), and v = max(raw, 0) (M, h), from (M, h, n) and (M, 1, h)."""
    members, h, n = passthrough.shape
    directions, v = np.empty((members, n, h), passthrough.dtype), np.empty((members, h), raw.dtype)
    for e in range(members):
        for j in range(h):
            v[e, j] = raw[e, 0, j] if not raw[e, 0, j] < 0 else 0
            for i in range(n):
                directions[e, i, j] = passthrough[e, j, i]
    return directions, v


@jit
def adam(
    parameters: Any,
    gradients: Any,
    means: Any,
    squares: Any,
    targets: Any,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: float,
    tau: float,
) -> None:
    """One step of Adam and one of the targets, in one pass over the weights: as torch's Adam, and

        theta' += tau (theta - theta').

    Args:
        parameters, gradients, means, squares, targets: tuples of arrays of the same shapes; changed but for the
            gradients.
        step: how many there have been, with this one.
    """
    share1, share2 = 1.0 - beta1, 1.0 - beta2
    for k in range(len(parameters)):
        p, g, m = parameters[k].reshape(-1), gradients[k].reshape(-1), means[k].reshape(-1)
        v, slow = squares[k].reshape(-1), targets[k].reshape(-1)
        real = p.dtype.type
        length, root = real(rate / (1.0 - beta1**step)), real(1.0 / np.sqrt(1.0 - beta2**step))
        b1, b2, s1, s2, eps, t = real(beta1), real(beta2), real(share1), real(share2), real(epsilon), real(tau)
        for i in range(len(p)):
            m[i] = b1 * m[i] + s1 * g[i]
            v[i] = b2 * v[i] + s2 * g[i] * g[i]
            p[i] -= length * m[i] / (np.sqrt(v[i]) * root + eps)
            slow[i] += t * (p[i] - slow[i])


@jit
def length(gradients: Any) -> float:
    """Of all gradients together."""
    total = 0.0
    for k in range(len(gradients)):
        g = gradients[k].reshape(-1)
        square = g.dtype.type(0.0)
        for i in range(len(g)):
            square += g[i] * g[i]
        total += square
    return float(np.sqrt(total))


@jit
def loss(
    heads: Array,
    tail: Array,
    slope: Array,
    directions: Array,
    v: Array,
    curvature: float,
    square_width: float,
    y: Array,
    target: Array,
    usable: Array,
    told: Array,
    dheads: Array,
    ddirections: Array,
    dv: Array,
) -> None:
    """losses_s = sum_e mean_b ( f_e(s_b, y_b) + target_b )^2 over the usable b, and its gradient.

    Args:
        heads: (S E, B, 2 n + 2 h + n + 1), rows of ygate, c, a, lin, k, b.
        tail, slope: (S E, B, h + n + 1 + n), softplus and its derivative of a, lin, k, b.
        directions: (S E, n, h): W^(y) transposed. v: (S E, h).
        curvature: m. square_width: s.
        y: (S, B, n). target: (S, B). usable: (S, B), bool.
        told: (S, 4), filled: the losses, the root mean square of the errors, and the means of Q and of the target; NaN
            where no row is usable.
        dheads, ddirections, dv: as ``heads``, ``directions`` and ``v``, filled.
    """
    groups, batch, n = y.shape
    total, _, h = directions.shape
    members = total // groups
    real = heads.dtype.type
    zero, half, one = real(0.0), real(0.5), real(1.0)
    m, s = real(curvature), real(square_width)
    gate, shift, out, lin = 0, n, n + h, n + 2 * h
    constant, quadratic = lin + n, lin + n + 1
    p, inverse = np.empty(h, heads.dtype), np.empty(h, heads.dtype)
    ddirections[...] = zero
    dv[...] = zero
    for g in range(groups):
        count = 0
        for b in range(batch):
            count += usable[g, b]
        double = real(2.0 / count) if count else real(np.nan)
        squares = values = targets = 0.0
        for e in range(g * members, (g + 1) * members):
            for b in range(batch):
                row, up, bend, into = heads[e, b], tail[e, b], slope[e, b], dheads[e, b]
                for j in range(h):
                    p[j] = row[shift + j]
                for i in range(n):
                    moved = y[g, b, i] * row[gate + i]
                    for j in range(h):
                        p[j] += directions[e, i, j] * moved
                f = row[constant]
                hidden = zero
                for j in range(h):
                    root = np.sqrt(p[j] * p[j] + s)
                    inverse[j] = one / root
                    into[shift + j] = half * (p[j] + root)  # z, for now
                    hidden += up[j] * v[e, j] * into[shift + j]
                f += hidden
                for i in range(n):
                    f += (row[lin + i] + half * (up[h + n + 1 + i] + m) * y[g, b, i]) * y[g, b, i]
                values -= f
                error = f + target[g, b] if usable[g, b] else zero
                squares += error * error
                d = double * error
                for j in range(h):
                    z = into[shift + j]
                    into[out + j] = d * z * v[e, j] * bend[j]
                    dv[e, j] += d * z * up[j]
                    p[j] = d * up[j] * v[e, j] * half * (one + p[j] * inverse[j])
                    into[shift + j] = p[j]
                for i in range(n):
                    moved = y[g, b, i] * row[gate + i]
                    pulled = zero
                    for j in range(h):
                        pulled += directions[e, i, j] * p[j]
                        ddirections[e, i, j] += moved * p[j]
                    into[gate + i] = pulled * y[g, b, i]
                    into[lin + i] = d * y[g, b, i]
                    into[quadratic + i] = d * half * y[g, b, i] * y[g, b, i] * bend[h + n + 1 + i]
                into[constant] = d
        for b in range(batch):
            if usable[g, b]:
                targets += target[g, b]
        share = 1.0 / count if count else np.nan
        told[g, 0] = squares * share
        told[g, 1] = np.sqrt(squares * share / members)
        told[g, 2] = values / (members * batch)
        told[g, 3] = targets * share


@jit
def bind(
    heads: Array,
    tail: Array,
    v: Array,
    curvature: float,
    gates: Array,
    offsets: Array,
    out_weights: Array,
    linear: Array,
    constant: Array,
    quadratic: Array,
) -> None:
    """The mean of the members as :class:`icnn_rl.solvers.newton.kernel.Energies`, from what the heads read.

    Args:
        heads, tail, v, curvature: of the E members of one learner, as in :func:`loss`.
        gates: (E, B, n). offsets, out_weights: (E, B, h). linear, quadratic: (B, n). constant: (B,). Filled.
    """
    members, batch, _ = heads.shape
    h, n = v.shape[1], gates.shape[2]
    real = heads.dtype.type
    share = real(1.0 / members)
    lin = n + 2 * h
    for b in range(batch):
        constant[b] = real(0.0)
        for i in range(n):
            linear[b, i] = real(0.0)
            quadratic[b, i] = real(curvature)
        for e in range(members):
            row, up = heads[e, b], tail[e, b]
            for i in range(n):
                gates[e, b, i] = row[i]
                linear[b, i] += share * row[lin + i]
                quadratic[b, i] += share * up[h + n + 1 + i]
            constant[b] += share * row[lin + n]
            for j in range(h):
                offsets[e, b, j] = row[n + j]
                out_weights[e, b, j] = share * up[j] * v[e, j]


@jit
def greatest(
    heads: Array,
    tail: Array,
    directions: Array,
    v: Array,
    curvature: float,
    square_width: float,
    y: Array,
    members: Array,
    energies: Array,
) -> None:
    """energies_sb = max_e f_e(s_b, y_b) over some members e of each learner: min_e Q_e = -max_e f_e.

    Args:
        heads, tail, directions, v, curvature, square_width: as in :func:`loss`.
        y: (S, B, n).
        members: (S, K), which of the learner's own.
        energies: (S, B), filled. NaN where one of them is.
    """
    groups, batch, n = y.shape
    total, _, h = directions.shape
    each = total // groups
    real = heads.dtype.type
    half, m, s = real(0.5), real(curvature), real(square_width)
    lin = n + 2 * h
    p = np.empty(h, heads.dtype)
    for g in range(groups):
        for b in range(batch):
            greatest_yet = real(-np.inf)
            for k in range(members.shape[1]):
                e = g * each + members[g, k]
                row, up = heads[e, b], tail[e, b]
                for j in range(h):
                    p[j] = row[n + j]
                for i in range(n):
                    moved = y[g, b, i] * row[i]
                    for j in range(h):
                        p[j] += directions[e, i, j] * moved
                f = real(0.0)
                for j in range(h):
                    f += up[j] * v[e, j] * half * (p[j] + np.sqrt(p[j] * p[j] + s))
                f += row[lin + n]
                for i in range(n):
                    f += (row[lin + i] + half * (up[h + n + 1 + i] + m) * y[g, b, i]) * y[g, b, i]
                if f > greatest_yet or f != f:
                    greatest_yet = f
                if f != f:
                    break
            energies[g, b] = greatest_yet


@jit
def act(
    obs: Array,
    normalised: bool,
    mean: Array,
    variance: Array,
    context: Any,
    biases: Any,
    shifts: Any,
    head_weight: Array,
    head_bias: Array,
    passthrough: Array,
    raw_v: Array,
    curvature: float,
    square_width: float,
    tol: float,
    max_steps: int,
    model_solves: int,
) -> tuple[Array, int]:
    """The greedy action (n,) of one state and the status of its search, from the observation to the action: for one row
    a product of matrices costs less than asking for it.

    Args:
        obs: (o,). mean, variance: (o,), if it is to be ``normalised`` by them.
        context, biases, shifts: of the layers of the context, (E, out, in), (E, 1, out) and (E, 1, out).
        head_weight, head_bias: (E, H, width) and (E, 1, H).
        passthrough: W^(y) (E, h, n). raw_v: (E, 1, h), v before it is clamped.
        curvature, square_width: as in :func:`loss`. tol, max_steps, model_solves: of the solver.
    """
    members, h, n = passthrough.shape
    real = head_weight.dtype.type
    zero = real(0.0)
    widest = len(obs)
    for layer in range(len(context)):
        widest = max(widest, context[layer].shape[1])
    u = np.empty((2, widest), head_weight.dtype)
    x = np.empty(len(obs), head_weight.dtype)
    for i in range(len(obs)):
        x[i] = obs[i]
        if normalised:
            raised = real(obs[i] - obs.dtype.type(mean[i])) * real(1.0 / np.sqrt(variance[i] + EPSILON))
            x[i] = min(max(raised, real(-CLIP)), real(CLIP)) if raised == raised else raised
    heads = np.empty((members, 1, head_weight.shape[1]), head_weight.dtype)
    for e in range(members):
        width, now, other = len(obs), 0, 1
        u[now, :width] = x
        for layer in range(len(context)):
            w = context[layer][e]
            out = w.shape[0]
            middle = spread = zero
            for j in range(out):
                total = biases[layer][e, 0, j]
                for i in range(width):
                    total += w[j, i] * u[now, i]
                u[other, j] = total
                middle += total
            middle /= real(out)
            for j in range(out):
                spread += (u[other, j] - middle) * (u[other, j] - middle)
            factor = real(1.0) / np.sqrt(spread / real(out) + real(_EPS))
            for j in range(out):
                raised = (u[other, j] - middle) * factor + shifts[layer][e, 0, j]
                u[other, j] = zero if raised < zero else raised
            now, other, width = other, now, out
        for j in range(heads.shape[2]):
            total = head_bias[e, 0, j]
            for i in range(width):
                total += head_weight[e, j, i] * u[now, i]
            heads[e, 0, j] = total
    tail = np.empty((members, 1, heads.shape[2] - n - h), heads.dtype)
    directions, v = weights(passthrough, raw_v)
    for e in range(members):
        for j in range(tail.shape[2]):
            a = heads[e, 0, n + h + j]
            tail[e, 0, j] = a if a > real(20.0) else np.log1p(np.exp(a))  # as in torch's softplus
    gates, offsets = np.empty((members, 1, n), heads.dtype), np.empty((members, 1, h), heads.dtype)
    out_weights, linear = np.empty((members, 1, h), heads.dtype), np.empty((1, n), heads.dtype)
    constant, quadratic = np.empty(1, heads.dtype), np.empty((1, n), heads.dtype)
    bind(heads, tail, v, curvature, gates, offsets, out_weights, linear, constant, quadratic)
    energies = Energies(directions, gates, offsets, out_weights, linear, constant, quadratic, square_width)
    bounds, reals = np.ones((1, n), heads.dtype), np.empty((3, 1), heads.dtype)
    integers, value = np.empty((2, 1), np.int64), np.empty((1, n), heads.dtype)
    found = Found(value, reals[0], reals[1], reals[2], integers[0], integers[1])
    newton(energies, -bounds, bounds, 0.0 * bounds, STAGES, tol, 0.0, max_steps, model_solves, found)
    return value[0], integers[1, 0]


@jit
def bellman(
    value: Array,
    action: Array,
    gap: Array,
    num_steps: Array,
    status: Array,
    rewards: Array,
    ended: Array,
    discounts: Array,
    reward_factor: Array,
    target: Array,
    usable: Array,
    told: Array,
) -> None:
    """target = scale r + discount (1 - ended) V(s'), the rows that have one, and what is logged of the search for V.

    Args:
        value: (S, B). action: (S, B, n), the greedy one. gap, num_steps, status: (S, B), of the search.
        rewards, ended: (S, B). discounts: (S, B), or (S, 1) for all rows. reward_factor: (S,).
        target, usable: (S, B), filled.
        told: (S, 6), filled: see :data:`icnn_rl.agents.icnn_q.losses.TARGET_KEYS`.
    """
    learners, batch, n = action.shape
    told[...] = 0.0
    for s in range(learners):
        for b in range(batch):
            d = discounts[s, b if discounts.shape[1] > 1 else 0]
            reward = reward_factor[s] * rewards[s, b]
            over = ended[s, b] > 0
            target[s, b] = reward if over else reward + d * value[s, b]
            found = status[s, b] <= _USABLE
            usable[s, b] = found or over
            told[s, 0] += num_steps[s, b]
            told[s, 1] += gap[s, b]
            told[s, 2] += status[s, b] == 0
            told[s, 3] += not found
            bounds = 0
            for i in range(n):
                bounds += abs(action[s, b, i]) >= 1.0
            told[s, 5] += bounds / n
        for k in range(6):
            told[s, k] /= batch
