"""One table of families of quadratic programmes. Tests walk it: a new entry gets the whole suite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.qp import Diagonal
from icnn_rl.solution import Status
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_references import Array, Data

INF = float("inf")
Arguments = dict[str, Any]
Build = Callable[[int, int], Arguments]


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        build: (seed, batch) -> arguments of ``solve_qp``, tensors in float64; the last row of the batch is as hard as
            the first, rows are independent draws.
        batch: how many rows the quick suite solves.
        status: what every row must come out as.
    """

    name: str
    build: Build
    batch: int = 4
    status: Status = Status.SUCCESS

    def __repr__(self) -> str:
        return self.name


@functools.cache
def instance(family: Family, seed: int = 0) -> tuple[Arguments, Data]:
    """The arguments and the same as arrays. Neither may be changed."""
    arguments = family.build(seed, family.batch)
    return arguments, references.dense(arguments)


@functools.cache
def answers(family: Family, seed: int = 0) -> list[references.Reference]:
    """The reference of every row."""
    _, data = instance(family, seed)
    return [references.solve(data[row]) for row in range(family.batch)]


def _normal(seed: int) -> Callable[..., Array]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


def _tensors(**arrays: Any) -> Arguments:
    return {name: torch.as_tensor(x) if isinstance(x, np.ndarray) else x for name, x in arrays.items()}


def _definite(normal: Callable[..., Array], batch: int, n: int, rank: int | None = None) -> Array:
    """R R' / n of rank n, or of a lower one, plus a little on the diagonal if it is n."""
    root = normal(batch, n, n if rank is None else rank)
    product: Array = root @ root.swapaxes(-1, -2) / n + (0.1 * np.eye(n) if rank is None else 0.0)
    return product


# feasible, most of them regular


def dense_rows(n: int, m: int, q: int, tightness: float) -> Build:
    """Q, G, A of normal numbers and a feasible point whose slacks shrink with ``tightness``: more rows are active."""

    def build(seed: int, batch: int) -> Arguments:
        normal = _normal(seed)
        inside = normal(batch, n)
        G, A = normal(batch, m, n), normal(batch, q, n)
        h = references.times(G, inside) + np.abs(normal(batch, m)) / tightness
        blocks = {"Q": _definite(normal, batch, n), "p": normal(batch, n) * np.sqrt(n)}
        blocks |= {"G": G, "h": h} if m > 0 else {}
        blocks |= {"A": A, "b": references.times(A, inside)} if q > 0 else {}
        return _tensors(**blocks)

    return build


def _everything(seed: int, batch: int) -> Arguments:
    """Rows, equations and bounds together."""
    arguments = dense_rows(12, 16, 3, 5.0)(seed, batch)
    normal = _normal(seed + 1000)
    inside = np.random.default_rng(seed).standard_normal((batch, 12))
    lb, ub = inside - np.abs(normal(batch, 12)), inside + np.abs(normal(batch, 12))
    return {**arguments, **_tensors(lb=lb, ub=ub)}


def _ill_conditioned(seed: int, batch: int) -> Arguments:
    arguments = dense_rows(10, 8, 2, 1.0)(seed, batch)
    basis, _ = np.linalg.qr(_normal(seed + 1)(batch, 10, 10))
    Q = (basis * np.logspace(-8, 0, 10)) @ basis.swapaxes(-1, -2)
    return {**arguments, **_tensors(Q=0.5 * (Q + Q.swapaxes(-1, -2)), lb=-10.0, ub=10.0)}


def _nearly_flat(seed: int, batch: int) -> Arguments:
    """The same Q, and an answer of size 1 away from most bounds: found to eight digits less than the rest."""
    arguments = _ill_conditioned(seed, batch)
    p = references.times(arguments["Q"].numpy(), _normal(seed + 2)(batch, 10))
    return {**arguments, "p": torch.as_tensor(p)}


def scaled(build: Build, rows: float = 1.0, objective: float = 1.0, length: float = 1.0) -> Build:
    """The same programme in other units: x times ``length``, objective and rows times a number."""

    def scaled_build(seed: int, batch: int) -> Arguments:
        arguments = build(seed, batch)
        factors = {
            "Q": objective / length**2,
            "p": objective / length,
            "G": rows / length,
            "h": rows,
            "A": rows / length,
            "b": rows,
            "lb": length,
            "ub": length,
        }
        return {name: value * factors[name] for name, value in arguments.items()}

    return scaled_build


def _all_data_times(factor: float) -> Build:
    """All but the bounds: the same answer and the same multipliers of rows."""
    return scaled(_everything, rows=factor, objective=factor)


def _bounds_only(seed: int, batch: int) -> Arguments:
    normal = _normal(seed)
    lb = -np.abs(normal(batch, 8))
    return _tensors(
        Q=_definite(normal, batch, 8), p=2 * normal(batch, 8), lb=lb, ub=lb + 0.1 + np.abs(normal(batch, 8))
    )


def _number_bounds(seed: int, batch: int) -> Arguments:
    normal = _normal(seed)
    return _tensors(Q=_definite(normal, batch, 8), p=2 * normal(batch, 8), lb=-0.5, ub=0.75)


def _diagonal_q(seed: int, batch: int) -> Arguments:
    arguments = dense_rows(9, 12, 2, 3.0)(seed, batch)
    return {**arguments, "Q": Diagonal(torch.as_tensor(np.exp(_normal(seed + 1)(batch, 9))))}


def _diagonal_box(seed: int, batch: int) -> Arguments:
    """Separable: the answer is clip(-p / d, lb, ub)."""
    normal = _normal(seed)
    d, p = np.exp(normal(batch, 7)), 2 * normal(batch, 7)
    return {"Q": Diagonal(torch.as_tensor(d)), "p": torch.as_tensor(p), "lb": -1.0, "ub": 0.5}


def _number_q(seed: int, batch: int) -> Arguments:
    return {**dense_rows(9, 12, 2, 3.0)(seed, batch), "Q": 0.7}


def _shared(seed: int, batch: int) -> Arguments:
    """Q, G and A shared by the batch, p, h and b a row each."""
    normal = _normal(seed)
    n, m, q = 8, 10, 2
    G, A, inside = normal(m, n), normal(q, n), normal(batch, n)
    h = references.times(G, inside) + 0.3 * np.abs(normal(batch, m))
    return _tensors(Q=_definite(normal, 1, n)[0], p=2 * normal(batch, n), G=G, h=h, A=A, b=references.times(A, inside))


def _semidefinite(seed: int, batch: int) -> Arguments:
    """Rank n / 2; a box keeps the rest bounded and, p being generic, unique."""
    arguments = dense_rows(10, 6, 2, 1.0)(seed, batch)
    return {**arguments, **_tensors(Q=_definite(_normal(seed + 1), batch, 10, 5), lb=-4.0, ub=4.0)}


def _linear(seed: int, batch: int) -> Arguments:
    """Q = 0 in a box with rows: a vertex."""
    return {
        **dense_rows(8, 10, 2, 1.0)(seed, batch),
        "Q": torch.zeros(8, 8, dtype=torch.float64),
        "lb": -4.0,
        "ub": 4.0,
    }


def _linear_number(seed: int, batch: int) -> Arguments:
    return {**_linear(seed, batch), "Q": 0.0}


def _fixed(seed: int, batch: int) -> Arguments:
    """Some variables fixed, lb = ub."""
    arguments = _everything(seed, batch)
    inside = np.random.default_rng(seed).standard_normal((batch, 12))
    lb, ub = arguments["lb"].clone(), arguments["ub"].clone()
    for bound in (lb, ub):
        bound[:, [2, 7]] = torch.as_tensor(inside[:, [2, 7]])
    return {**arguments, "lb": lb, "ub": ub}


def _infinite(seed: int, batch: int) -> Arguments:
    """Infinite entries in h, lb and ub, not the same in every row."""
    arguments = _everything(seed, batch)
    rng = np.random.default_rng(seed + 7)
    for name, sign in (("h", 1.0), ("lb", -1.0), ("ub", 1.0)):
        value = arguments[name].clone()
        value[torch.as_tensor(rng.random(value.shape) < 0.4)] = sign * INF
        arguments = {**arguments, name: value}
    return arguments


def _all_infinite(seed: int, batch: int) -> Arguments:
    """Constraints in name only, but for one row of the batch."""
    arguments = _infinite(seed, batch)
    for name, sign in (("h", 1.0), ("lb", -1.0), ("ub", 1.0)):
        arguments[name][1:] = sign * INF
    return {name: value for name, value in arguments.items() if name not in ("A", "b")}


def _far_bounds(seed: int, batch: int) -> Arguments:
    """Bounds of +-1e8 that never matter, and sides of a cone that do: the answer has the size 1."""
    arguments = _cone(seed, batch)
    return {**arguments, "p": arguments["p"] - 1.0, "lb": -1e8, "ub": 1e8}


# degenerate, still solvable


def _cone(seed: int, batch: int) -> Arguments:
    """All right-hand sides are 0 and every second p is drawn so that the origin is the answer."""
    normal = _normal(seed)
    G, A = normal(batch, 5, 8), normal(batch, 2, 8)
    p = normal(batch, 8)
    p[::2] = -references.transposed_times(G, np.abs(normal(batch, 5)))[::2]
    return _tensors(Q=_definite(normal, batch, 8), p=p, G=G, h=np.zeros((batch, 5)), A=A, b=np.zeros((batch, 2)))


def _origin(seed: int, batch: int) -> Arguments:
    """p = 0 and room on all sides: the answer is 0, and so are all multipliers."""
    arguments = _everything(seed, batch)
    p, b = torch.zeros_like(arguments["p"]), torch.zeros_like(arguments["b"])
    return {**arguments, "p": p, "b": b, "h": arguments["h"].abs() + 0.1, "lb": -1.0, "ub": 2.0}


def _fixed_at_the_origin(seed: int, batch: int) -> Arguments:
    """Every variable but one fixed at 0, and an equation that fixes that one."""
    normal = _normal(seed)
    lb, ub = np.zeros((batch, 4)), np.zeros((batch, 4))
    lb[:, 3], ub[:, 3] = -1.0, 1.0
    A, b = np.abs(normal(batch, 1, 4)) + 0.1, np.zeros((batch, 1))
    return _tensors(Q=_definite(normal, batch, 4), p=normal(batch, 4), A=A, b=b, lb=lb, ub=ub)


def _zero_rows(seed: int, batch: int) -> Arguments:
    """0'x = 0 and 0'x <= 0."""
    arguments = _everything(seed, batch)
    nothing = {"G": (-2, 1), "A": (-2, 1), "h": (-1, 1), "b": (-1, 1)}
    padded = {}
    for name, (dim, size) in nothing.items():
        value = arguments[name]
        padded[name] = torch.cat([value, torch.zeros_like(value.narrow(dim, 0, size))], dim)
    return {**arguments, **padded}


def _duplicate_rows(seed: int, batch: int) -> Arguments:
    arguments = dense_rows(8, 10, 0, 5.0)(seed, batch)
    return {**arguments, "G": torch.cat([arguments["G"]] * 2, -2), "h": torch.cat([arguments["h"]] * 2, -1)}


def _dependent_equations(seed: int, batch: int) -> Arguments:
    """Five equations of rank 3."""
    arguments = dense_rows(8, 6, 3, 1.0)(seed, batch)
    mix = torch.as_tensor(_normal(seed + 1)(2, 3))
    A, b = arguments["A"], arguments["b"]
    return {**arguments, "A": torch.cat([A, mix @ A], -2), "b": torch.cat([b, b @ mix.mT], -1)}


def _too_many_at_a_vertex(seed: int, batch: int) -> Arguments:
    """Ten rows through the solution in four dimensions: the multipliers are not unique."""
    normal = _normal(seed)
    vertex, G = normal(batch, 4), normal(batch, 10, 4)
    pull = references.transposed_times(G, np.abs(normal(batch, 10)))
    Q = _definite(normal, batch, 4)
    return _tensors(Q=Q, p=-references.times(Q, vertex) - pull, G=G, h=references.times(G, vertex))


def _no_strict_complementarity(seed: int, batch: int) -> Arguments:
    """Half of the active rows have the multiplier 0: the solution has a kink there."""
    normal = _normal(seed)
    point, G, Q = normal(batch, 8), normal(batch, 6, 8), _definite(normal, batch, 8)
    multipliers = np.abs(normal(batch, 6)) * np.array([1, 1, 0, 0, 0, 0])
    h = references.times(G, point) + np.array([0, 0, 0, 0, 1, 1])
    p = -references.times(Q, point) - references.transposed_times(G, multipliers)
    return _tensors(Q=Q, p=p, G=G, h=h)


def _redundant(seed: int, batch: int) -> Arguments:
    """Sums of pairs of rows are added: implied, and active where both are."""
    arguments = dense_rows(8, 10, 0, 5.0)(seed, batch)
    G, h = arguments["G"], arguments["h"]
    return {
        **arguments,
        "G": torch.cat([G, G[:, :5] + G[:, 5:], torch.zeros_like(G[:, :1])], -2),
        "h": torch.cat([h, h[:, :5] + h[:, 5:], torch.ones_like(h[:, :1])], -1),
    }


def _one_point(seed: int, batch: int) -> Arguments:
    """Two opposite rows and a box of one point: feasible, without interior."""
    normal = _normal(seed)
    point, G = normal(batch, 3), normal(batch, 2, 3)
    G = np.concatenate([G, -G], -2)
    return _tensors(Q=1.0, p=normal(batch, 3), G=G, h=references.times(G, point), lb=point - 1.0, ub=point + 1.0)


def _flat(seed: int, batch: int) -> Arguments:
    """Q of rank 1 and p in its range: many solutions."""
    normal = _normal(seed)
    direction = normal(batch, 5, 1)
    return _tensors(Q=direction @ direction.swapaxes(-1, -2), p=direction[..., 0], lb=-1.0, ub=1.0)


# no solution


def _contradictory_rows(seed: int, batch: int) -> Arguments:
    arguments = dense_rows(6, 4, 0, 1.0)(seed, batch)
    G, h = arguments["G"], arguments["h"]
    return {**arguments, "G": torch.cat([G, -G[:, :1]], -2), "h": torch.cat([h, -h[:, :1] - 0.5], -1)}


def _far_apart_rows(seed: int, batch: int) -> Arguments:
    """No two rows contradict each other, all of them together do."""
    normal = _normal(seed)
    G = normal(batch, 7, 6)
    G[:, -1] = -(np.abs(normal(batch, 6, 1)) * G[:, :-1]).sum(-2)
    return _tensors(Q=_definite(normal, batch, 6), p=normal(batch, 6), G=G, h=-0.1 * np.ones((batch, 7)))


def _crossed_bounds(seed: int, batch: int) -> Arguments:
    arguments = _bounds_only(seed, batch)
    ub = arguments["ub"].clone()
    ub[:, 3] = arguments["lb"][:, 3] - 0.25
    return {**arguments, "ub": ub}


def _inconsistent_equations(seed: int, batch: int) -> Arguments:
    arguments = _dependent_equations(seed, batch)
    b = arguments["b"].clone()
    b[:, -1] += 1.0
    return {**arguments, "b": b}


def _zero_equation(seed: int, batch: int) -> Arguments:
    """0'x = 0.5 among equations that agree."""
    arguments = _zero_rows(seed, batch)
    b = arguments["b"].clone()
    b[:, -1] = 0.5
    return {**arguments, "b": b}


def _zero_inequality(seed: int, batch: int) -> Arguments:
    """0'x <= -0.5."""
    arguments = _zero_rows(seed, batch)
    h = arguments["h"].clone()
    h[:, -1] = -0.5
    return {**arguments, "h": h}


def _bounds_against_rows(seed: int, batch: int) -> Arguments:
    """sum x >= 5 in a box where it is at most 4."""
    normal = _normal(seed)
    G, h = np.full((1, 8), -1.0), np.full((batch, 1), -5.0)
    return _tensors(Q=_definite(normal, batch, 8), p=normal(batch, 8), G=G, h=h, lb=-1.0, ub=0.5)


def _equations_against_bounds(seed: int, batch: int) -> Arguments:
    normal = _normal(seed)
    A, b = np.abs(normal(batch, 2, 6)) + 0.1, np.full((batch, 2), -1.0)
    return _tensors(Q=1.0, p=normal(batch, 6), A=A, b=b, lb=0.0)


def _impossible_end(name: str, end: float) -> Build:
    def build(seed: int, batch: int) -> Arguments:
        arguments = _everything(seed, batch)
        value = arguments[name].clone()
        value[:, 1] = end
        return {**arguments, name: value}

    return build


def _unbounded_free(seed: int, batch: int) -> Arguments:
    """Rank n / 2 and nothing else."""
    normal = _normal(seed)
    return _tensors(Q=_definite(normal, batch, 6, 3), p=normal(batch, 6))


def _unbounded_linear(seed: int, batch: int) -> Arguments:
    """Q = 0 and a cone of rows that -p looks into."""
    normal = _normal(seed)
    d, G = normal(batch, 5), normal(batch, 4, 5)
    G = np.where(references.times(G, d)[..., None] > 0, -G, G)
    return _tensors(Q=0.0, p=-d, G=G, h=np.abs(normal(batch, 4)))


def _unbounded_with_everything(seed: int, batch: int) -> Arguments:
    """A ray in the null spaces of Q and A that the rows and the one-sided bounds let pass."""
    normal = _normal(seed)
    n, ray = 8, np.abs(normal(batch, 8)) + 0.1
    across = np.eye(n) - ray[..., :, None] * ray[..., None, :] / (ray**2).sum(-1)[..., None, None]
    Q, A, G = across @ _definite(normal, batch, n) @ across, normal(batch, 2, n) @ across, normal(batch, 4, n)
    G = np.where(references.times(G, ray)[..., None] > 0, -G, G)
    inside = np.abs(normal(batch, n))
    h = references.times(G, inside) + 0.1
    Q = 0.5 * (Q + Q.swapaxes(-1, -2))
    return _tensors(Q=Q, p=normal(batch, n) - 3 * ray, G=G, h=h, A=A, b=references.times(A, inside), lb=0.0)


def _unbounded_half_line(seed: int, batch: int) -> Arguments:
    """One variable without curvature and with one bound."""
    normal = _normal(seed)
    d, p = np.abs(normal(batch, 4)) + 0.1, normal(batch, 4)
    d[:, 2], p[:, 2] = 0.0, -1.0
    return {"Q": Diagonal(torch.as_tensor(d)), "p": torch.as_tensor(p), "lb": 0.0}


# the five cases of the benchmarks


def projection(seed: int, batch: int) -> Arguments:
    """Actions of a learning agent projected onto a polytope of 24 half-spaces in 6 dimensions."""
    normal = _normal(seed)
    G = normal(batch, 24, 6)
    G /= np.linalg.norm(G, axis=-1, keepdims=True)
    return _tensors(Q=1.0, p=-2.0 * normal(batch, 6), G=G, h=0.2 + np.abs(normal(batch, 24)))


def sudoku_small(seed: int, batch: int) -> Arguments:
    """A layer of 64 nonnegative variables with 40 random equations shared by the batch: OptNet's 4 x 4 Sudoku."""
    return _sudoku_layer(64, 40)(seed, batch)


def sudoku_large(seed: int, batch: int) -> Arguments:
    """625 nonnegative variables, too many for the dense kernel, and 277 random equations."""
    return _sudoku_layer(625, 277)(seed, batch)


def _sudoku_layer(n: int, q: int) -> Build:
    def build(seed: int, batch: int) -> Arguments:
        rng = np.random.default_rng(seed)
        A, start = rng.standard_normal((q, n)) / np.sqrt(n), rng.random(n)
        return _tensors(Q=0.1, p=-rng.random((batch, n)), A=A, b=A @ start, lb=0.0)

    return build


def sudoku_rules(seed: int, batch: int, order: int = 3) -> Arguments:
    """The true rules: every cell, row, column and block holds every digit once, 324 equations of rank 249 for 9 x 9. p
    is minus the digits given, 30 % of a solved grid with its digits permuted."""
    rng = np.random.default_rng(seed)
    size = order**2
    A = torch.as_tensor(_rules(order))
    row, column = np.divmod(np.arange(size**2), size)
    grid = (order * (row % order) + row // order + column) % size
    p = np.zeros((batch, size**2, size))
    for i in range(batch):
        given = rng.random(size**2) < 0.3
        p[i, given, rng.permutation(size)[grid][given]] = -1.0
    b = torch.ones(A.shape[0], dtype=torch.float64)
    return {"Q": 0.1, "p": torch.as_tensor(p.reshape(batch, -1)), "A": A, "b": b, "lb": 0.0}


def _rules(order: int) -> Array:
    size = order**2
    cell = np.eye(size**3).reshape(size, size, size, size**3)
    blocks = cell.reshape(order, order, order, order, size, size**3).sum((1, 3))
    groups = (cell.sum(2), cell.sum(1), cell.sum(0), blocks)
    return np.concatenate([group.reshape(-1, size**3) for group in groups])


def sudoku_rules_small(seed: int, batch: int) -> Arguments:
    return sudoku_rules(seed, batch, order=2)


def denoising(seed: int, batch: int) -> Arguments:
    """Total variation: min 1/2 |z - y|^2 + 13 |Dz|_1, y piecewise constant with noise, one slack a difference."""
    rng = np.random.default_rng(seed)
    n = 100
    levels = 10.0 * rng.standard_normal((batch, n // 10))
    y = np.repeat(levels, 10, axis=-1) + rng.standard_normal((batch, n))
    D = np.diff(np.eye(n), axis=0)
    G = np.block([[D, -np.eye(n - 1)], [-D, -np.eye(n - 1)]])
    d = np.concatenate([np.ones(n), np.full(n - 1, 1e-4)])
    p = np.concatenate([-y, np.full((batch, n - 1), 13.0)], -1)
    return {"Q": Diagonal(torch.as_tensor(d)), **_tensors(p=p, G=G, h=np.zeros(2 * n - 2))}


SOLVABLE = [
    Family("n_1", dense_rows(1, 2, 0, 1.0)),
    Family("n_2", dense_rows(2, 3, 0, 1.0)),
    Family("few_active", dense_rows(20, 10, 0, 0.2)),
    Family("many_active", dense_rows(20, 40, 3, 20.0)),
    Family("n_300", dense_rows(300, 150, 20, 2.0), batch=2),
    Family("unconstrained", dense_rows(7, 0, 0, 1.0)),
    Family("equations_only", dense_rows(9, 0, 4, 1.0)),
    Family("as_many_equations_as_variables", dense_rows(5, 0, 5, 1.0)),
    Family("everything", _everything),
    Family("ill_conditioned", _ill_conditioned),
    Family("nearly_flat", _nearly_flat),
    Family("tiny_data", _all_data_times(1e-6)),
    Family("huge_data", _all_data_times(1e6)),
    Family("tiny_objective", scaled(_everything, objective=1e-6)),
    Family("huge_objective", scaled(_everything, objective=1e6)),
    Family("tiny_rows", scaled(_everything, rows=1e-6)),
    Family("huge_rows", scaled(_everything, rows=1e6)),
    Family("tiny_lengths", scaled(_everything, length=1e-6)),
    Family("huge_lengths", scaled(_everything, length=1e6)),
    Family("bounds_only", _bounds_only),
    Family("number_bounds", _number_bounds),
    Family("diagonal_q", _diagonal_q),
    Family("diagonal_box", _diagonal_box),
    Family("number_q", _number_q),
    Family("shared", _shared),
    Family("semidefinite", _semidefinite),
    Family("linear", _linear),
    Family("linear_number", _linear_number),
    Family("fixed", _fixed),
    Family("infinite", _infinite),
    Family("all_infinite", _all_infinite),
    Family("far_bounds", _far_bounds),
    Family("cone", _cone),
    Family("origin", _origin),
    Family("fixed_at_the_origin", _fixed_at_the_origin),
    Family("zero_rows", _zero_rows),
    Family("duplicate_rows", _duplicate_rows),
    Family("dependent_equations", _dependent_equations),
    Family("too_many_at_a_vertex", _too_many_at_a_vertex),
    Family("no_strict_complementarity", _no_strict_complementarity),
    Family("redundant", _redundant),
    Family("one_point", _one_point),
    Family("flat", _flat),
    Family("projection", projection, batch=16),
    Family("dense_100", dense_rows(100, 100, 0, 1.0), batch=3),
    Family("sudoku_small", sudoku_small, batch=6),
    Family("sudoku_rules_small", sudoku_rules_small, batch=4),
    Family("denoising", denoising, batch=2),
    Family("sudoku_large", sudoku_large, batch=1),
    Family("sudoku_rules", sudoku_rules, batch=1),
]

INFEASIBLE = [
    Family(name, build, status=Status.PRIMAL_INFEASIBLE)
    for name, build in (
        ("contradictory_rows", _contradictory_rows),
        ("far_apart_rows", _far_apart_rows),
        ("crossed_bounds", _crossed_bounds),
        ("inconsistent_equations", _inconsistent_equations),
        ("zero_equation", _zero_equation),
        ("zero_inequality", _zero_inequality),
        ("bounds_against_rows", _bounds_against_rows),
        ("equations_against_bounds", _equations_against_bounds),
        ("h_minus_infinite", _impossible_end("h", -INF)),
        ("lb_infinite", _impossible_end("lb", INF)),
        ("ub_minus_infinite", _impossible_end("ub", -INF)),
    )
]

UNBOUNDED = [
    Family(f"unbounded_{name}", build, status=Status.DUAL_INFEASIBLE)
    for name, build in (
        ("free", _unbounded_free),
        ("linear", _unbounded_linear),
        ("with_everything", _unbounded_with_everything),
        ("half_line", _unbounded_half_line),
    )
]

FAMILIES = [*SOLVABLE, *INFEASIBLE, *UNBOUNDED]
BY_NAME = {family.name: family for family in FAMILIES}
assert len(BY_NAME) == len(FAMILIES)


def rows(arguments: Arguments, index: int) -> Arguments:
    """One row of arguments whose batch has one dimension, shared ones as they are."""
    sizes = {"Q": 2, "G": 2, "A": 2}
    picked: Arguments = {}
    for name, value in arguments.items():
        if isinstance(value, Diagonal):
            picked[name] = Diagonal(value.d[index] if value.d.ndim > 1 else value.d)
        elif isinstance(value, Tensor) and value.ndim > sizes.get(name, 1):
            picked[name] = value[index if value.shape[0] > 1 else 0]
        else:
            picked[name] = value
    return picked
