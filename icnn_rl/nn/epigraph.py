"""A convex network with piecewise-linear activations as a linear or quadratic programme.

With g(p) = max_k ( s_k p + o_k ) non-decreasing and W^(z), zgate, wout >= 0, the layers of :mod:`icnn_rl.nn.energy` may
be relaxed to inequalities,

    f(y) = min_z  wout . z_k + lin . y + c_k + 1/2 sum_j q_j y_j^2
           s.t.   z_{i+1} >= s_k p_i + o_k   for every piece k,
                  p_i = W_i^(z) (z_i * zgate_i) + W_i^(y) (y * ygate_i) + c_i

for the objective does not fall as any z_i grows: it is least where all are as small as the pieces allow. Minimising
over y as well gives min f; the feasible (y, z, t) with t >= objective project onto the epigraph of f.

References:
    Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, appendix on inference as a linear programme; S. Boyd, L.
    Vandenberghe, Convex Optimization, 2004, section 4.3.1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.nn.energy import ConvexLayer, EnsembleEnergy
from icnn_rl.nn.icnn import ICNN
from icnn_rl.qp.problem import Diagonal
from icnn_rl.sets import ConvexSet, Domain, Unconstrained

__all__ = ["NetworkProgram", "to_linear_program", "to_quadratic_program"]


@dataclass(frozen=True)
class NetworkProgram:
    """min 1/2 v^T Q v + c . v + constant subject to G v <= h, A v = b, lb <= v <= ub, whose minimum is that of f.

    v = (y, z): the network's input first, then its hidden units, (..., N) in all. The leading dimensions are the rows
    of f; one row has none. All tensors carry the graph of f.

    Attributes:
        c, constant: (..., N) and (...).
        G, h: (..., M, N) and (..., M): a row for every unit and piece of its activation, then those of the domain.
        A, b: the domain's equations, or None.
        lb, ub: (..., N).
        n: the size of y.
        Q: 0.0 in a linear programme, else ``Diagonal`` or (..., N, N).
    """

    c: Tensor
    constant: Tensor
    G: Tensor
    h: Tensor
    A: Tensor | None
    b: Tensor | None
    lb: Tensor
    ub: Tensor
    n: int
    Q: Tensor | Diagonal | float = 0.0

    @property
    def arguments(self) -> dict[str, Any]:
        """Of :func:`icnn_rl.qp.solve_qp`: ``solve_qp(**programme.arguments)``, to whose ``fun`` ``constant`` is due."""
        return {"Q": self.Q, "p": self.c, **{name: getattr(self, name) for name in ("G", "h", "A", "b", "lb", "ub")}}

    def inputs(self, v: Tensor) -> Tensor:
        """y (..., n) of v (..., N)."""
        return v[..., : self.n]


def to_linear_program(f: ICNN | EnsembleEnergy, domain: Domain | None = None) -> NetworkProgram:
    """The minimum of a piecewise-linear network as a linear programme, for :func:`icnn_rl.qp.solve_qp` or SciPy.

    Exact. Take it where the network is part of a larger programme, or unbounded: a linear programme solver tells a
    minimum from an energy that falls for ever. ``to_linear_program(f.tilted(y))`` has the minimum -f*(y).

    Args:
        f: an ICNN or an energy (``net.bind(x)``), with "relu", "leaky_relu" or another activation that knows its
            ``pieces``; members reduced to one number by "mean", or a single one; no quadratic term.
        domain: of y: ``Box``, ``Polytope``, ``Simplex`` or whatever consists of rows and bounds.

    Returns:
        A :class:`NetworkProgram` with Q = 0, differentiable: so are the value and the minimiser of ``solve_qp``.

    Raises:
        ValueError: an activation that is not known to be piecewise linear, a soft maximum or members side by side, a
            quadratic term, a domain with an ellipsoid.

    Example:
        >>> programme = to_linear_program(ICNN(2, (8, 8), activation="relu"), Box(-1.0, 1.0))
        >>> minimum = solve_qp(**programme.arguments).fun + programme.constant
    """
    programme = to_quadratic_program(f, domain)
    if not (isinstance(programme.Q, Diagonal) and bool((programme.Q.d == 0).all())):
        raise ValueError(
            "f: has a quadratic term, which no linear programme can hold. Use to_quadratic_program, or a network with "
            "strong_convexity=0.0, quadratic=False and no quadratic_rank."
        )
    return dataclasses.replace(programme, Q=0.0)


def to_quadratic_program(f: ICNN | EnsembleEnergy, domain: Domain | None = None) -> NetworkProgram:
    """:func:`to_linear_program` for networks with a quadratic term as well: it becomes 1/2 v^T Q v."""
    energy = f.bind() if isinstance(f, ICNN) else f
    pieces = _pieces_of(energy)
    batch, n = energy.linear.shape[-2:]
    y = energy.start()
    own = (Unconstrained() if domain is None else domain).as_set(y[0] if batch == 1 else y)
    if own.ellipsoid is not None:
        raise ValueError("domain: has an ellipsoid, which no linear rows can say. Use rows and bounds.")
    free = n + own.lifted
    layers = [_layer(one, e, batch) for e in range(len(energy.linear)) for one in energy.layers]
    size = free + sum(layer.width for layer in layers)

    blocks, at = [_rows_of_domain(own, energy.linear, size)], free
    for layer in layers:
        blocks += [_rows_of_piece(layer, slope, offset, at, size) for slope, offset in pieces if slope != 0.0]
        at += layer.width
    blank = energy.linear.new_zeros(batch, size - n)
    lower, upper = _bounds(own, pieces, energy.linear, size)
    programme = NetworkProgram(
        c=torch.cat((energy.linear.mean(0), blank[:, : own.lifted], *_prices(energy, layers)), -1),
        constant=energy.constant.mean(0),
        G=torch.cat([block.G for block in blocks], -2),
        h=torch.cat([block.h for block in blocks], -1),
        A=None if own.A is None else _wide(own.A, size).expand(batch, -1, -1),
        b=None if own.b is None else own.b.expand(batch, -1),
        lb=lower.expand(batch, -1),
        ub=upper.expand(batch, -1),
        n=n,
        Q=_quadratic(energy, size),
    )
    return programme if batch > 1 else _one_row(programme)


class _Layer(NamedTuple):
    """One layer of one member with its gates multiplied in: p = before z + inputs y + offset."""

    inputs: Tensor  # (B, h, n)
    before: Tensor  # (B, h, h_prev); h_prev = 0 in the first layer
    offset: Tensor  # (B, h)

    @property
    def width(self) -> int:
        return self.offset.shape[-1]


class _Rows(NamedTuple):
    """G v <= h."""

    G: Tensor  # (B, m, N)
    h: Tensor  # (B, m)


def _pieces_of(energy: EnsembleEnergy) -> tuple[tuple[float, float], ...]:
    pieces = energy.activation.pieces
    if pieces is None and energy.layers:
        raise ValueError(
            f"f: its activation {energy.activation.name!r} is not known to be piecewise linear. Use 'relu' or "
            "'leaky_relu', or give a ConvexActivation its pieces; smooth networks go to minimize, or to_cvxpy."
        )
    if energy.reduction != "mean" and not energy.squeeze:
        raise ValueError(
            "f: expected one piecewise-linear function a row, a single network or bind('mean'), got "
            f"reduction={energy.reduction!r} of {len(energy.linear)} members."
        )
    return pieces or ()


def _layer(layer: ConvexLayer, e: int, batch: int) -> _Layer:
    inputs, offset = layer.passthrough[e], layer.offset[e]
    if layer.y_gate is not None:
        inputs = inputs * layer.y_gate[e].unsqueeze(-2)
    before = inputs[..., :0] if layer.weight is None else layer.weight[e]
    if layer.z_gate is not None:
        before = before * layer.z_gate[e].unsqueeze(-2)
    return _Layer(inputs.expand(batch, -1, -1), before.expand(batch, -1, -1), offset.expand(batch, -1))


def _rows_of_piece(layer: _Layer, slope: float, offset: float, at: int, size: int) -> _Rows:
    """slope p + offset - z <= 0 for the units z of a layer, which begin at column ``at``, behind those before them."""
    batch, width, n = layer.inputs.shape
    gap = layer.inputs.new_zeros(batch, width, at - layer.before.shape[-1] - n)
    rest = layer.inputs.new_zeros(batch, width, size - at - width)
    minus = -torch.eye(width, dtype=rest.dtype, device=rest.device).expand(batch, -1, -1)
    G = torch.cat((slope * layer.inputs, gap, slope * layer.before, minus, rest), -1)
    return _Rows(G, -slope * layer.offset - offset)


def _rows_of_domain(own: ConvexSet, like: Tensor, size: int) -> _Rows:
    batch = like.shape[-2]
    if own.G is None or own.h is None:
        return _Rows(like.new_zeros(batch, 0, size), like.new_zeros(batch, 0))
    return _Rows(_wide(own.G, size).expand(batch, -1, -1), own.h.expand(batch, -1))


def _wide(rows: Tensor, size: int) -> Tensor:
    """Rows over the domain's variables as rows over all."""
    return torch.nn.functional.pad(rows, (0, size - rows.shape[-1]))


def _bounds(own: ConvexSet, pieces: tuple[tuple[float, float], ...], like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Those of the domain, and of the units the pieces that are constant."""
    free = like.shape[-1] + own.lifted
    least = max((offset for slope, offset in pieces if slope == 0.0), default=-torch.inf)

    def side(bound: Tensor | float | None, missing: float, of_units: float) -> Tensor:
        own = torch.as_tensor(missing if bound is None else bound, dtype=like.dtype, device=like.device)
        own = own.expand(*own.shape[:-1], free) if own.dim() else own.expand(free)
        return torch.cat((own, like.new_full((*own.shape[:-1], size - free), of_units)), -1)

    return side(own.lb, -torch.inf, least), side(own.ub, torch.inf, torch.inf)


def _prices(energy: EnsembleEnergy, layers: list[_Layer]) -> list[Tensor]:
    """What the units cost: wout for those of a member's last layer, shared by the members of a mean, else nothing."""
    members, depth = len(energy.linear), len(energy.layers)
    prices = [torch.zeros_like(layer.offset) for layer in layers]
    for e in range(members if depth else 0):
        prices[(e + 1) * depth - 1] = energy.out_weight[e].expand_as(prices[(e + 1) * depth - 1]) / members
    return prices


def _quadratic(energy: EnsembleEnergy, size: int) -> Tensor | Diagonal:
    """diag(q) + R^T R over y, 0 over all else."""
    q, n = energy.quadratic.mean(0), energy.linear.shape[-1]
    diagonal = torch.nn.functional.pad(q, (0, size - n))
    gram = energy.gram
    if gram is None:
        return Diagonal(diagonal)
    own = gram if gram.dim() == 2 else gram.squeeze(0)
    return torch.diag_embed(diagonal) + torch.nn.functional.pad(own, (0, size - n, 0, size - n))


def _one_row(programme: NetworkProgram) -> NetworkProgram:
    """The programme of a single row, without the batch dimension."""
    Q = programme.Q
    assert not isinstance(Q, float)
    names = ("c", "constant", "G", "h", "A", "b", "lb", "ub")
    parts = {name: getattr(programme, name) for name in names}
    one: dict[str, Any] = {name: None if part is None else part[0] for name, part in parts.items()}
    return dataclasses.replace(programme, **one, Q=Diagonal(Q.d[0]) if isinstance(Q, Diagonal) else Q[0])
