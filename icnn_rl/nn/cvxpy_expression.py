"""A convex network as an expression of CVXPY, to minimise or to bound inside a programme of one's own."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.nn.activations import CONVEX_ACTIVATIONS, SOFTPLUS_BETA, ConvexActivation
from icnn_rl.nn.energy import EnsembleEnergy
from icnn_rl.nn.icnn import ICNN

__all__ = ["to_cvxpy"]


def to_cvxpy(f: ICNN | EnsembleEnergy, y: Any, *, row: int | None = None) -> Any:
    """f(y) as a convex expression of CVXPY: for ``cvxpy.Minimize``, sums, and constraints such as ``expression <= 1``.

    CVXPY sees that it is convex, for the weights W^(z) are constants >= 0, and makes the epigraph from it. The weights
    are those of now: after training, ask again. Needs the extra ``cvxpy``.

    Args:
        f: an ICNN or an energy (``net.bind(x)``): activations that know their ``pieces`` ("relu", "leaky_relu"),
            "softplus", and "squareplus" of one layer. Of members take the "mean", or the "softmax", which is convex as
            well.
        y: an affine expression of shape (n,): a variable, or a part of one such as ``u[:, t]``.
        row: which of the rows of ``net.bind(x)``; may be left out where there is one.

    Returns:
        A scalar ``cvxpy.Expression``.

    Raises:
        ImportError: cvxpy is not installed.
        ValueError: an activation that CVXPY has no form for, y of another shape or not affine, a missing ``row``.

    Example:
        >>> y = cvxpy.Variable(2)
        >>> cvxpy.Problem(cvxpy.Minimize(to_cvxpy(ICNN(2), y)), [cvxpy.abs(y) <= 1]).solve()

    References:
        M. Grant, S. Boyd, Y. Ye, Disciplined convex programming, 2006.
    """
    try:
        cp = importlib.import_module("cvxpy")
    except ImportError as error:
        raise ImportError("to_cvxpy: needs cvxpy, which is not installed: pip install -e '.[cvxpy]'.") from error
    with torch.no_grad():
        energy = _one_row(f.bind() if isinstance(f, ICNN) else f, row).double()
        n, members = energy.linear.shape[-1], len(energy.linear)
        if getattr(y, "shape", None) != (n,) or not isinstance(y, cp.Expression) or not y.is_affine():
            raise ValueError(f"y: expected an affine CVXPY expression of shape ({n},), got {y!r}.")
        if energy.reduction == "none" and not energy.squeeze:
            raise ValueError(
                f"f: expected one function, got {members} members side by side; bind('mean') or 'softmax'."
            )
        values = [_member(cp, energy, e, y) for e in range(members)]
    if energy.reduction == "softmax":
        return energy.temperature * cp.log_sum_exp(cp.hstack(values) / energy.temperature)
    return sum(values) / members


def _one_row(energy: EnsembleEnergy, row: int | None) -> EnsembleEnergy:
    rows = energy.linear.shape[-2]
    if row is None and rows > 1:
        raise ValueError(f"row: expected one of {rows} rows of f, got None.")
    if row is not None and not 0 <= row < rows:
        raise ValueError(f"row: expected a number from 0 to {rows - 1}, got {row}.")
    return energy.rows(torch.tensor([row or 0], device=energy.linear.device))


def _member(cp: Any, energy: EnsembleEnergy, e: int, y: Any) -> Any:
    """The equations of :mod:`icnn_rl.nn.energy`."""

    def array(part: Tensor) -> Any:
        return part[e].cpu().numpy()

    activation, z = _activation(cp, energy.activation, len(energy.layers)), None
    for layer in energy.layers:
        p = _gated(array, layer.passthrough, layer.y_gate) @ y + array(layer.offset)[0]
        if layer.weight is not None:
            p = _gated(array, layer.weight, layer.z_gate) @ z + p
        z = activation(p)
    f = array(energy.linear)[0] @ y + array(energy.constant)[0]
    quadratic = array(energy.quadratic)[0]
    if quadratic.any():
        f = f + 0.5 * cp.sum_squares(cp.multiply(np.sqrt(quadratic), y))
    if energy.root is not None:
        f = f + 0.5 * cp.sum_squares(array(energy.root) @ y)
    return f if z is None else f + array(energy.out_weight)[0] @ z


def _gated(array: Callable[[Tensor], Any], weight: Tensor, gate: Tensor | None) -> Any:
    return array(weight) if gate is None else array(weight) * array(gate)


def _activation(cp: Any, activation: ConvexActivation, depth: int) -> Callable[[Any], Any]:
    """g in terms that are convex and non-decreasing by CVXPY's own rules."""
    pieces, width = activation.pieces, activation.square_width
    if pieces is not None:
        return lambda p: cp.maximum(*(slope * p + offset if slope else offset for slope, offset in pieces))
    if activation is CONVEX_ACTIVATIONS["softplus"]:
        return lambda p: cp.logistic(SOFTPLUS_BETA * p) / SOFTPLUS_BETA
    if width is not None and depth <= 1:  # a norm takes affine expressions alone, and a deeper layer's is none
        return lambda p: 0.5 * (p + cp.norm(cp.vstack([p, np.full(p.shape, math.sqrt(width))]), 2, axis=0))
    raise ValueError(
        f"f: CVXPY has no convex form of the activation {activation.name!r} in {depth} layers. Use 'relu', "
        "'leaky_relu', 'softplus', 'squareplus' in one layer, or a ConvexActivation with its pieces."
    )
