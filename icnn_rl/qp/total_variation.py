"""Total-variation denoising in one dimension, exact and differentiable, for a whole batch of signals.

    x* = argmin_x  1/2 sum_i w_i (x_i - y_i)^2  +  sum_i lam_i |x_{i+1} - x_i|

The answer is piecewise constant. With a dual number u_i per edge, |u_i| <= lam_i, it is known by

    w_i (x_i - y_i) = u_i - u_{i-1},    u_i = lam_i sign(x_{i+1} - x_i) where x jumps,    u = 0 beyond both ends:

on a piece {a, ..., b} the value is  (sum_{i=a}^b w_i y_i + u_b - u_{a-1}) / sum_{i=a}^b w_i.  Which edges jump, and in
which direction, is found without gradients; the answer is then written by that formula, sums over pieces and one
division, which autograd differentiates as often as asked. No linear system is solved in either direction.

Finding the jumps. For a level t, the labels s_i = 1 where x*_i > t, else 0, are a minimiser of

    sum_i w_i (t - y_i) s_i + sum_i lam_i |s_{i+1} - s_i|    over s in {0, 1}^n,

a chain of two states, solved by one sweep of clipped sums. Start from a single piece, take its value as t, and cut it
where the labels change; the parts are problems of their own, with u = +-lam at their ends. The value of a piece is the
weighted mean of x* over it, so a piece on which x* is not constant has samples on both sides and is cut: the cuts end
after n rounds at most, and after about log2 of the number of pieces as a rule. A round works on all pieces of all rows
at once; its sweep is a scan of log2 n steps.

References:
    D. S. Hochbaum, An efficient algorithm for image segmentation, Markov random fields and related problems, J. ACM 48,
    2001.
    A. Chambolle, J. Darbon, On total variation minimization and surface evolution using parametric maximum flows, Int.
    J. Comput. Vis. 84, 2009.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn_rl.checks import check_float_tensor, check_same_kind
from icnn_rl.eager import eager
from icnn_rl.solution import Solution, SolveError, Status

__all__ = ["Edges", "total_variation"]


class Edges(NamedTuple):
    """What is known about the edges between neighbouring samples; both (B, n-1).

    Attributes:
        dual: u with |u_i| <= lam_i, the certificate; u_i = +-lam_i where x jumps.
        sign: of the jump x_{i+1} - x_i; 0 inside a piece. The gradient of ``value`` is that of these pieces.
    """

    dual: Tensor
    sign: Tensor


@eager("total_variation", mapped=True, dual=True)
def total_variation(y: Tensor, lam: float | Tensor, weights: Tensor | None = None, *, throw: bool = True) -> Solution:
    """Find argmin_x 1/2 sum_i w_i (x_i - y_i)^2 + sum_i lam_i |x_{i+1} - x_i| for every row of a batch.

    ``value`` is differentiable, any number of times, in all three arguments: with g the incoming gradient, p(i) the
    piece of sample i, W_p the sum of its weights and G_p = (sum of g over the piece) / W_p,

        dL/dy_i = w_i G_p(i),    dL/dw_i = (y_i - x_i) G_p(i),    dL/dlam_i = sign_i (G_p(i) - G_p(i+1)).

    x* is not differentiable where an edge between equal samples has |u_i| = lam_i. The gradient there is finite and
    that of the pieces found, one of the limits of gradients near by. An edge with lam_i = 0 always ends a piece, so
    that dx/dy is exact there, and dx/dlam_i is the derivative from above, or 0 between equal samples.

    Args:
        y: (B, n) signals, n >= 1, float32 or float64. Any number of leading batch dimensions, or none.
        lam: >= 0 and finite; a number, or a tensor that broadcasts to (B, n-1): one number an edge, (..., 1) one a row.
        weights: > 0, broadcasts to (B, n); None: 1. Like ``lam``, of the dtype and on the device of ``y``.
        throw: raise if a row failed; otherwise look at ``solution.status``. Must be False under ``torch.func.vmap``.

    Returns:
        A :class:`Solution`, exact up to rounding (the work is done in float64 for float32 too); all but ``value`` is
        detached. ``gap`` is the duality gap of ``value`` and ``state.dual`` (:class:`Edges`); ``residual`` is how far
        the two are from the conditions above, relative to sum_i w_i |y_i|; ``num_steps`` counts the rounds. A row that
        holds a NaN or an infinite number has NaN in ``value`` and the status NONFINITE_INPUT; one whose sums overflow
        has NUMERICAL. Failed rows pass no gradient on and other rows do not notice.

    Raises:
        SolveError: some row did not succeed and ``throw`` is set; carries the solution.
        ValueError: a wrong argument, among them a negative or infinite lam and a weight that is not positive.

    Example:
        >>> total_variation(torch.tensor([0.0, 1.0, 5.0, 6.0]), 0.5).value
        tensor([0.7500, 0.7500, 5.2500, 5.2500])
    """
    data = _arguments(y, lam, weights)
    detached = [part.detach() for part in data]
    x, dual, sign, ends, rounds = _Pieces.apply(*detached)  # type: ignore[no-untyped-call]
    fun, gap, residual = _certificate(x.to(y.dtype), dual, *detached)
    good = residual <= (y.shape[-1] + 32) * torch.finfo(y.dtype).eps  # what rounding may do to a sum of n terms
    status = torch.where(good, int(Status.SUCCESS), int(Status.NUMERICAL))
    solution = Solution(
        value=_differentiable_value(good.unsqueeze(-1), x, sign, ends, *data).to(y.dtype),
        fun=fun.to(y.dtype),
        gap=torch.where(good, gap, math.inf).to(y.dtype),
        status=torch.where(_finite_rows(*detached), status, int(Status.NONFINITE_INPUT)),
        num_steps=rounds,
        residual=residual.to(y.dtype),
        state=Edges(dual.to(y.dtype), sign.to(y.dtype)),
    )
    if throw and not bool(solution.success.all()):
        raise SolveError(solution)
    return solution


def _arguments(y: Tensor, lam: object, weights: object) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, n), lam (B, n-1) and weights (B, n) in float64, their shapes and kinds checked; their values are not."""
    check_float_tensor("y", y)
    if y.dim() == 0 or y.shape[-1] == 0:
        raise ValueError(f"y: expected shape (..., n) with n >= 1, got {tuple(y.shape)}.")
    if isinstance(lam, int | float) and not isinstance(lam, bool):
        lam = torch.tensor(float(lam), dtype=y.dtype, device=y.device)
    edges = _along_signal("lam", lam, y.shape[-1] - 1, y)
    samples = _along_signal("weights", torch.ones_like(y[..., :1]) if weights is None else weights, y.shape[-1], y)
    shapes = [part.shape[:-1] for part in (y, edges, samples)]
    try:
        batch = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        given = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"y, lam, weights: expected batch shapes that broadcast to one, got {given}.") from None
    y64, lam64, w64 = (part.double().expand(*batch, part.shape[-1]) for part in (y, edges, samples))
    return y64, lam64, w64


def _along_signal(name: str, value: object, size: int, y: Tensor) -> Tensor:
    """A tensor of the kind of ``y`` with last dimension ``size``, where 1 or none at all were given."""
    tensor = check_float_tensor(name, value)
    check_same_kind(name, tensor, "y", y)
    tensor = tensor.unsqueeze(0) if tensor.dim() == 0 else tensor
    if tensor.shape[-1] not in (1, size):
        raise ValueError(f"{name}: expected shape (..., {size}) or (..., 1), got {tuple(tensor.shape)}.")
    return tensor.expand(*tensor.shape[:-1], size)


def _finite_rows(*data: Tensor) -> Tensor:
    """(B,) bool, true where a row holds neither NaN nor an infinite number."""
    first, *others = (torch.isfinite(part).all(-1) for part in data)
    for other in others:
        first = first & other
    return first


def _differentiable_value(
    good: Tensor, x: Tensor, sign: Tensor, ends: Tensor, y: Tensor, lam: Tensor, weights: Tensor
) -> Tensor:
    """x as a function of y, lam and the weights, given its pieces; rows that are not ``good`` (B, 1) stay detached.

    They go through the formula as zeros: a derivative at a NaN would be NaN even when multiplied by 0.
    """
    y, lam, weights = torch.where(good, y, 0.0), torch.where(good, lam, 0.0), torch.where(good, weights, 1.0)
    return torch.where(good, _piece_values(y, pad(lam * sign, (0, 1)), weights, ends), x)


def _piece_values(y: Tensor, force: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """(sum_{a..b} w_i y_i + force_b - force_{a-1}) / sum_{a..b} w_i on every piece a..b, all (B, n).

    ``ends`` marks the last sample of every piece; ``force`` is u there and 0 elsewhere.
    """
    piece = pad(ends[..., :-1].cumsum(-1), (1, 0))  # the number of the piece that a sample belongs to
    pull = weights * y + force - pad(force[..., :-1], (1, 0))
    total = torch.zeros_like(pull).scatter_add(-1, piece, pull)
    weight = torch.zeros_like(pull).scatter_add(-1, piece, weights)
    return total.gather(-1, piece) / weight.gather(-1, piece)


def _clipped_sums(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """u_i = clip(u_{i-1} + a_i, low_i, high_i) from u = 0, all (B, n), in log2 n steps.

    The maps u -> clip(u + a, low, high) are closed under composition: (b, p, q) after (a, l, h) is
    (a + b, clip(l + b, p, q), clip(h + b, p, q)). Step k composes each with the one 2^k places before it. The first map
    is a constant, low = high, and so is what it has reached.
    """
    band = torch.stack((low, high))
    band[..., 0] = torch.clamp(a[..., 0], low[..., 0], high[..., 0])
    reach = 1
    while reach < a.shape[-1]:
        further = torch.clamp(band[..., :-reach] + a[..., reach:], band[0, ..., reach:], band[1, ..., reach:])
        band = torch.cat((band[..., :reach], further), -1)
        a = torch.cat((a[..., :reach], a[..., :-reach] + a[..., reach:]), -1)
        reach *= 2
    return band[0]


def _labels(one: Tensor, zero: Tensor, ends: Tensor) -> Tensor:
    """Labels in {0, 1}, (B, n): 1 where ``one``, 0 where ``zero`` or at the end of a piece, else the next sample's."""
    decided = one | zero | ends
    rank = torch.arange(one.shape[-1], 0, -1, device=one.device)  # grows to the left: the nearest decision is the max
    code = torch.where(decided, 2 * rank + one, 0)
    return code.flip(-1).cummax(-1).values.flip(-1) & 1


def _cut(y: Tensor, lam: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cut until every piece is constant: x (B, n), u and the signs of the jumps (B, n-1), ends (B, n), rounds (B)."""
    lam = pad(lam, (0, 1))  # the last sample ends a piece: an edge without a penalty
    ends, sign = lam == 0, torch.zeros_like(y)
    rounds = torch.ones(y.shape[:-1], dtype=torch.int64, device=y.device)
    while True:
        force = lam * sign
        x = _piece_values(y, force, weights, ends)
        slope = weights * (x - y)
        low, high = torch.where(ends, force, -lam), torch.where(ends, force, lam)
        dual = _clipped_sums(slope, low, high)
        unclipped = slope + pad(dual[..., :-1], (1, 0))
        labels = _labels(unclipped < low, unclipped > high, ends)
        jump = pad(labels.diff(dim=-1), (0, 1)).masked_fill(ends, 0)
        fresh = jump != 0
        if not bool(fresh.any()):
            break
        ends, sign = ends | fresh, sign + jump
        rounds += fresh.any(-1)
    sign = torch.where(lam[..., :-1] == 0, x.diff(dim=-1).sign(), sign[..., :-1])
    return x, dual[..., :-1].contiguous(), sign, ends, rounds


def _certificate(x: Tensor, u: Tensor, y: Tensor, lam: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective at x, its distance from the dual objective at u, residual of the optimality conditions, each (B,).

    With r_i = w_i (x_i - y_i) + u_{i-1} - u_i, the distance is

        sum_i r_i^2 / (2 w_i)  +  sum_i (lam_i |x_{i+1} - x_i| - u_i (x_{i+1} - x_i)),

    terms that are never negative for |u_i| <= lam_i and all zero at the solution: nothing cancels. All is float64 but
    x, which is in the dtype of the answer.
    """
    size, x = y.abs().clamp(min=torch.finfo(x.dtype).tiny), x.double()
    slope, jump = weights * (x - y), x.diff(dim=-1)
    r = slope + pad(u, (1, 0)) - pad(u, (0, 1))
    slack = ((lam - u * jump.sign()) * jump.abs()).sum(-1)
    fun = 0.5 * (slope * (x - y)).sum(-1) + (lam * jump.abs()).sum(-1)
    total = (weights * size).sum(-1)
    residual = torch.maximum(r.abs().amax(-1) / total, slack / total / size.amax(-1))
    return fun, (0.5 * r**2 / weights).sum(-1) + slack, residual


class _Pieces(torch.autograd.Function):
    """:func:`_cut`, the arguments' values checked and rows that are not finite set aside. It has no derivative.

    An autograd function only so that ``torch.func.vmap`` hands it the whole batch: the rounds depend on the data.
    """

    @staticmethod
    def forward(y: Tensor, lam: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        if bool((lam < 0).any()) or bool(torch.isinf(lam).any()):
            raise ValueError(f"lam: expected finite numbers >= 0, got {float(lam.min())} to {float(lam.max())}.")
        if bool((weights <= 0).any()):
            raise ValueError(f"weights: expected numbers > 0, got {float(weights.min())}.")
        bad = ~_finite_rows(y, lam, weights).unsqueeze(-1)
        x, *rest = _cut(y.masked_fill(bad, 0.0), lam.masked_fill(bad, 0.0), weights.masked_fill(bad, 1.0))
        return x.masked_fill(bad, math.nan), *rest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        whole = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(args, in_dims, strict=True)
        ]
        output = _Pieces.apply(*whole)  # type: ignore[no-untyped-call]
        return output, (0,) * len(output)
