"""Linear-quadratic model-predictive control as a quadratic programme in stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_positive_int, check_same_kind
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.qp.sparse import Sparse

__all__ = ["MPCProblem", "mpc_problem"]

Matrix = Tensor | Diagonal


@dataclass(frozen=True)
class MPCProblem:
    """What :func:`mpc_problem` makes: ``solve_qp(**problem.arguments)``, and the way back from z to a trajectory.

    z = (x_0, u_0, x_1, u_1, ..., x_N).

    Attributes:
        arguments: of :func:`icnn_rl.qp.solve_qp`, all sparse, with ``blocks``.
        constant: (...) what the cost of the trajectory is more than ``solution.fun``: that of the references.
        horizon, states, inputs: N, n_x, n_u.
        rows: m, rows of a stage.
    """

    arguments: dict[str, Any]
    constant: Tensor
    horizon: int
    states: int
    inputs: int
    rows: int

    def unpack(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """States (..., N + 1, n_x) and inputs (..., N, n_u) of z (..., n)."""
        body, last = self._split(z)
        states = torch.cat((body[..., : self.states], last.unsqueeze(-2)), -2)
        return states, body[..., self.states :]

    def starting_from(self, x0: Tensor) -> MPCProblem:
        """The same problem from another initial state (..., n_x)."""
        b = self.arguments["b"]
        rest = b[..., self.states :]
        batch = torch.broadcast_shapes(x0.shape[:-1], rest.shape[:-1])  # type: ignore[no-untyped-call]
        b = torch.cat((x0.expand(*batch, -1), rest.expand(*batch, -1)), -1)
        return dataclasses.replace(self, arguments={**self.arguments, "b": b})

    def shift(self, warm_start: ActiveSet) -> ActiveSet:
        """The active set of this problem's solution one stage later, the last stage twice: a guess for the next problem
        of a receding horizon."""
        middle = self.horizon * self.rows
        rows, terminal = warm_start.ineq[..., :middle], warm_start.ineq[..., middle:]
        later = torch.cat((rows[..., self.rows :], rows[..., middle - self.rows :], terminal), -1)
        return ActiveSet(later, self._shifted(warm_start.lower), self._shifted(warm_start.upper))

    def _shifted(self, active: Tensor) -> Tensor:
        body, last = self._split(active)
        states = torch.cat((body[..., 1:, : self.states], last.unsqueeze(-2)), -2)
        inputs = torch.cat((body[..., 1:, self.states :], body[..., -1:, self.states :]), -2)
        states[..., 0, :] = False  # x_0 has no bounds
        return torch.cat((torch.cat((states, inputs), -1).flatten(-2), last), -1)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, n_x + n_u) and what belongs to x_N."""
        end = self.horizon * (self.states + self.inputs)
        return z[..., :end].reshape(*z.shape[:-1], self.horizon, self.states + self.inputs), z[..., end:]


def mpc_problem(
    A: Tensor,
    B: Tensor,
    Q: Matrix,
    R: Matrix,
    horizon: int,
    *,
    x0: Tensor,
    c: Tensor | None = None,
    S: Tensor | None = None,
    QN: Matrix | None = None,
    x_ref: Tensor | None = None,
    u_ref: Tensor | None = None,
    x_min: Tensor | float | None = None,
    x_max: Tensor | float | None = None,
    u_min: Tensor | float | None = None,
    u_max: Tensor | float | None = None,
    G_x: Tensor | None = None,
    G_u: Tensor | None = None,
    h: Tensor | None = None,
    G_N: Tensor | None = None,
    h_N: Tensor | None = None,
) -> MPCProblem:
    """The quadratic programme of linear-quadratic model-predictive control, differentiable in every tensor.

        min  sum_{t < N} 1/2 [dx_t; du_t]^T [Q, S; S^T, R] [dx_t; du_t] + 1/2 dx_N^T QN dx_N,
             dx = x - x_ref,  du = u - u_ref,
        subject to   x_{t+1} = A x_t + B u_t + c,   x_0 = x0,   G_x x_t + G_u u_t <= h for t < N,  G_N x_N <= h_N,
             u_min <= u_t <= u_max,  x_min <= x_t <= x_max for t > 0.

    Every matrix either has two dimensions, the same in all stages, or a dimension for the N stages before these two,
    (..., N, rows, columns), and more for batches before that: (..., 1, rows, columns) is a batch of constant ones. So
    with vectors and one dimension. Numbers do as bounds. Batch dimensions broadcast.

    Args:
        A, B: (n_x, n_x) and (n_x, n_u).
        Q, R: (n_x, n_x) and (n_u, n_u), or ``Diagonal`` both (and QN): cheaper. Q may be singular.
        horizon: N.
        x0: (..., n_x), the states to start from.
        c: (n_x), added to the next state.
        S: (n_x, n_u), cost of a state together with an input; [Q, S; S^T, R] must be positive semidefinite.
        QN: of the last state; by default Q of the last stage.
        x_ref: (n_x), or (..., N + 1, n_x).
        u_ref: (n_u).
        x_min, x_max: (n_x), or (..., N, n_x) of x_1 to x_N.
        u_min, u_max: (n_u).
        G_x, G_u, h: (m, n_x), (m, n_u), (m): either matrix may be left out.
        G_N, h_N: (..., m_N, n_x) and (..., m_N).

    Returns:
        An :class:`MPCProblem`; ``solve_qp(**problem.arguments)`` solves it in time linear in N.

    Raises:
        ValueError: names the argument whose shape does not fit.

    Example:
        >>> A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.0], [0.1]])
        >>> problem = mpc_problem(A, B, torch.eye(2), torch.eye(1), 10, x0=torch.ones(2), u_min=-1.0, u_max=1.0)
        >>> states, inputs = problem.unpack(solve_qp(**problem.arguments).value)

    References:
        J. B. Rawlings, D. Q. Mayne, M. M. Diehl, Model Predictive Control, 2nd edition, 2017, sections 1.3 and 8.8.
    """
    check_positive_int("horizon", horizon)
    check_float_tensor("x0", x0)
    check_float_tensor("B", B)
    if x0.dim() == 0 or B.dim() < 2:
        raise ValueError(
            f"x0, B: expected shapes (..., n_x) and (..., n_x, n_u), got {tuple(x0.shape)}, {tuple(B.shape)}."
        )
    shape = _Shape(horizon, x0.shape[-1], B.shape[-1], x0)
    x, u = shape.states, shape.inputs
    dynamics = shape.join("A, B", shape.of("A", A, x, x), shape.of("B", B, x, u))
    cost = _Cost.of(shape, Q, R, S, QN)
    reference = (shape.of("x_ref", x_ref, x, stages=horizon + 1), shape.of("u_ref", u_ref, u))
    p, constant = cost.linear(*reference)
    rows = _rows(shape, G_x, G_u, h, G_N, h_N)
    lower = _bounds(shape, (("x_min", x_min), ("u_min", u_min)), -torch.inf)
    upper = _bounds(shape, (("x_max", x_max), ("u_max", u_max)), torch.inf)
    offset = shape.of("c", c, x).flatten(-2)
    b = torch.cat(shape.alike(x0, offset), -1)
    arguments = {
        "Q": cost.matrix(),
        "p": p,
        **rows,
        "A": _equations(shape, dynamics),
        "b": b,
        "lb": lower,
        "ub": upper,
        "blocks": [x + u] * horizon + [x],
    }
    m = 0 if h is None else h.shape[-1]
    return MPCProblem(arguments, constant, horizon, x, u, m)


@dataclass(frozen=True)
class _Shape:
    """N, n_x, n_u, and a tensor of the right dtype and device."""

    horizon: int
    states: int
    inputs: int
    like: Tensor

    @property
    def size(self) -> int:
        return self.states + self.inputs

    @property
    def device(self) -> torch.device:
        return self.like.device

    def of(self, name: str, value: Tensor | None, *core: int, stages: int | None = None) -> Tensor:
        """``value`` (..., stages, *core), by default of N stages, or zeros (stages, *core)."""
        stages = self.horizon if stages is None else stages
        if value is None:
            return self.like.new_zeros(stages, *core)
        check_same_kind(name, check_float_tensor(name, value), "x0", self.like)
        given, tail = value.shape[: max(value.dim() - len(core), 0)], value.shape[value.dim() - len(core) :]
        if tuple(tail) != core or (given and given[-1] not in (1, stages)):
            raise ValueError(
                f"{name}: expected shape {core} or (..., {stages}, {', '.join(map(str, core))}), got "
                f"{tuple(value.shape)}."
            )
        value = value if given else value.unsqueeze(0)
        return value.expand(*value.shape[: -len(core) - 1], stages, *core)

    def alike(self, *tensors: Tensor, core: int = 1) -> list[Tensor]:
        """With the same batch dimensions, those before the last ``core``."""
        batch = torch.broadcast_shapes(*(t.shape[: t.dim() - core] for t in tensors))  # type: ignore[no-untyped-call]
        return [t.expand(*batch, *t.shape[t.dim() - core :]) for t in tensors]

    def join(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """[left, right], matrices side by side."""
        try:
            return torch.cat(self.alike(left, right, core=3), -1)
        except RuntimeError:
            raise ValueError(
                f"{name}: batch dimensions do not broadcast, {tuple(left.shape)} and {tuple(right.shape)}."
            ) from None

    def first(self, stages: int) -> Tensor:
        """(stages, 1, 1): the first variable of each stage."""
        return self.size * torch.arange(stages, device=self.device)[:, None, None]

    @property
    def n(self) -> int:
        return self.horizon * self.size + self.states


def _equations(shape: _Shape, dynamics: Tensor) -> Sparse:
    """x_0 = x0, then x_{t+1} - A x_t - B u_t = c: a row for each state of each stage."""
    x, size, horizon = shape.states, shape.size, shape.horizon
    state, place = torch.arange(x, device=shape.device), torch.arange(size, device=shape.device)
    next_state = (size + state)[:, None]
    column = torch.cat((place.expand(x, -1), next_state), -1) + shape.first(horizon)
    ones = torch.ones_like(dynamics[..., :1])
    values = torch.cat((-dynamics, ones), -1).flatten(-3)
    row = torch.repeat_interleave(torch.arange(x, x + horizon * x, device=shape.device), size + 1)
    start = values.new_ones(*values.shape[:-1], x)
    return Sparse(
        torch.cat((state, row)),
        torch.cat((state, column.flatten())),
        torch.cat((start, values), -1),
        (x + horizon * x, shape.n),
    )


@dataclass(frozen=True)
class _Cost:
    """Matrices or diagonals of the stages, (..., N, s, s) or (..., N, s), and of the last state."""

    shape: _Shape
    stages: Tensor
    last: Tensor
    diagonal: bool

    @staticmethod
    def of(shape: _Shape, Q: Matrix, R: Matrix, S: Tensor | None, QN: Matrix | None) -> _Cost:
        x, u = shape.states, shape.inputs
        diagonal = all(isinstance(part, Diagonal) for part in (Q, R, Q if QN is None else QN)) and S is None

        def of(name: str, part: Matrix, size: int, stages: int | None = None) -> Tensor:
            if isinstance(part, Diagonal):
                d = shape.of(name, part.d, size, stages=stages)
                return d if diagonal else torch.diag_embed(d)
            return shape.of(name, part, size, size, stages=stages)

        q, r = of("Q", Q, x), of("R", R, u)
        last = (q[..., -1:, :] if diagonal else q[..., -1:, :, :]) if QN is None else of("QN", QN, x, 1)
        if diagonal:
            return _Cost(shape, torch.cat(shape.alike(q, r, core=2), -1), last, True)
        s = shape.of("S", S, x, u)
        above, below = shape.join("Q, S", q, s), shape.join("S, R", s.mT, r)
        return _Cost(shape, torch.cat(shape.alike(above, below, core=3), -2), last, False)

    def matrix(self) -> Diagonal | Sparse:
        """Q of the programme."""
        shape, core = self.shape, 2 if self.diagonal else 3
        flat = [part.flatten(-core) for part in (self.stages, self.last)]
        values = torch.cat(shape.alike(*flat), -1)
        if self.diagonal:
            return Diagonal(values)
        row, column = [], []
        for first, size in (
            (shape.first(shape.horizon), shape.size),
            (shape.first(shape.horizon + 1)[-1:], shape.states),
        ):
            place = torch.arange(size, device=shape.device)
            row.append((first + place[:, None]).expand(-1, -1, size).flatten())
            column.append((first + place).expand(-1, size, -1).flatten())
        return Sparse(torch.cat(row), torch.cat(column), values, (shape.n, shape.n))

    def linear(self, x_ref: Tensor, u_ref: Tensor) -> tuple[Tensor, Tensor]:
        """p = -Q z_ref (..., n) and 1/2 z_ref^T Q z_ref (...)."""
        shape = self.shape
        x_stages, x_last = x_ref[..., :-1, :], x_ref[..., -1:, :]
        reference = torch.cat(shape.alike(x_stages, u_ref, core=2), -1)
        pulls = []
        for matrix, point in ((self.stages, reference), (self.last, x_last)):
            symmetric = matrix if self.diagonal else 0.5 * (matrix + matrix.mT)
            pull = symmetric * point if self.diagonal else torch.matmul(symmetric, point.unsqueeze(-1)).squeeze(-1)
            pulls.append((pull.flatten(-2), 0.5 * (pull * point).sum((-2, -1))))
        (p, constant), (p_last, constant_last) = pulls
        return -torch.cat(shape.alike(p, p_last), -1), constant + constant_last


def _rows(
    shape: _Shape, G_x: Tensor | None, G_u: Tensor | None, h: Tensor | None, G_N: Tensor | None, h_N: Tensor | None
) -> dict[str, Any]:
    """G and h, if there are any."""
    for matrices, right, names in (((G_x, G_u), h, "G_x or G_u, and h"), ((G_N,), h_N, "G_N and h_N")):
        if (right is None) != all(part is None for part in matrices):
            raise ValueError(f"{names}: expected both or neither.")
    values, row, column, rights, m = [], [], [], [], 0
    if h is not None:
        m = h.shape[-1]
        g = shape.join("G_x, G_u", shape.of("G_x", G_x, m, shape.states), shape.of("G_u", G_u, m, shape.inputs))
        values.append(g.flatten(-3))
        place = torch.arange(shape.size, device=shape.device)
        column.append((shape.first(shape.horizon) + place).expand(-1, m, -1).flatten())
        row.append(torch.repeat_interleave(torch.arange(shape.horizon * m, device=shape.device), shape.size))
        rights.append(shape.of("h", h, m).flatten(-2))
    if G_N is not None and h_N is not None:
        check_same_kind("G_N", check_float_tensor("G_N", G_N), "x0", shape.like)
        last = h_N.shape[-1]
        if G_N.shape[-2:] != (last, shape.states):
            raise ValueError(f"G_N: expected shape (..., {last}, {shape.states}), got {tuple(G_N.shape)}.")
        values.append(G_N.flatten(-2))
        place = torch.arange(shape.n - shape.states, shape.n, device=shape.device)
        column.append(place.repeat(last))
        numbers = torch.arange(last, device=shape.device) + shape.horizon * m
        row.append(torch.repeat_interleave(numbers, shape.states))
        rights.append(h_N)
    if not values:
        return {}
    size = sum(part.shape[-1] for part in rights)
    G = Sparse(torch.cat(row), torch.cat(column), torch.cat(shape.alike(*values), -1), (size, shape.n))
    return {"G": G, "h": torch.cat(shape.alike(*rights), -1)}


def _bounds(
    shape: _Shape, given: tuple[tuple[str, Tensor | float | None], tuple[str, Tensor | float | None]], none: float
) -> Tensor | None:
    """(..., n), or None if both are None; x_0 has none."""
    if all(value is None for _, value in given):
        return None
    parts = []
    for (name, value), size in zip(given, (shape.states, shape.inputs), strict=True):
        value = none if value is None else value
        bound = value if isinstance(value, Tensor) else shape.like.new_tensor(value)
        parts.append(shape.of(name, bound.expand(size) if bound.dim() == 0 else bound, size))
    states, inputs = shape.alike(*parts, core=2)
    start = torch.full_like(states[..., :1, :], none)
    body = torch.cat((torch.cat((start, states[..., :-1, :]), -2), inputs), -1)
    return torch.cat((body.flatten(-2), states[..., -1, :]), -1)
