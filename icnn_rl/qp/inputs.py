"""From the arguments of ``solve_qp`` to a :class:`Problem`: checks, broadcasting, float64."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_positive_int, check_same_kind
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.qp.sparse import Sparse, SparseRows, entries_of, sum_at
from icnn_rl.qp.stages import check_reach, fill_blocks, find_stages

__all__ = [
    "Arguments",
    "Form",
    "as_batch",
    "batch_shape",
    "build",
    "check",
    "check_like",
    "is_number",
    "nonfinite",
    "stack_active",
]

_SOLVERS = (PrimalDual, External)


class Arguments(NamedTuple):
    """What :func:`icnn_rl.qp.solve_qp` is told of a problem, under the names that it has there."""

    Q: Tensor | Sparse | Diagonal | float
    p: Tensor
    G: Tensor | Sparse | None = None
    h: Tensor | None = None
    A: Tensor | Sparse | None = None
    b: Tensor | None = None
    lb: Tensor | float | None = None
    ub: Tensor | float | None = None
    h_low: Tensor | None = None


class Form(NamedTuple):
    """How the user's blocks lie in a :class:`Problem`.

    Its rows of G are those of G z <= h, then those of G z >= h_low. Of an elastic problem the variables are z, a slack
    for each row of G if these are elastic, and two for each equation if these are: see :mod:`.elastic`.

    Attributes:
        n, m, q: variables, rows of G and equations, as the user counts them.
        high, low: whether there is an h, an h_low.
        soft_ineq, soft_eq: whether rows of G and equations have prices.
    """

    n: int
    m: int
    q: int
    high: bool
    low: bool
    soft_ineq: bool = False
    soft_eq: bool = False

    @property
    def extra(self) -> int:
        """How many slacks there are."""
        return self.m * self.soft_ineq + 2 * self.q * self.soft_eq


def check(given: Arguments, solver: object) -> None:
    """Kinds, dtypes, devices and core shapes."""
    Q, p, G, h, A, b, lb, ub, h_low = given
    check_float_tensor("p", p)
    check_like("p", p, p)
    if p.dim() == 0:
        raise ValueError("p: expected shape (..., n), got a number. Give it at least one dimension.")
    if not isinstance(solver, _SOLVERS):
        raise ValueError(f"solver: expected PrimalDual(...) or External(...), got {solver!r}.")
    n = p.shape[-1]
    if n == 0:
        raise ValueError(f"p: expected at least one variable, got shape {tuple(p.shape)}.")
    _check_q(Q, p, n)
    _check_rows(p, "G", G, {"h": h} if h_low is None else {"h": h, "h_low": h_low})
    _check_rows(p, "A", A, {"b": b})
    for name, bound in (("lb", lb), ("ub", ub)):
        if bound is None:
            continue
        if isinstance(bound, Tensor):
            check_like(name, bound, p)
            if bound.dim() > 0 and bound.shape[-1] not in (1, n):
                raise ValueError(f"{name}: expected shape (..., {n}) or a number, got {tuple(bound.shape)}.")
        elif not is_number(bound):
            raise ValueError(f"{name}: expected a number or a tensor of shape (..., {n}), got {type(bound).__name__}.")


def _check_rows(p: Tensor, name: str, matrix: object, sides: dict[str, object]) -> None:
    """G with h and h_low, or A with b."""
    given = [side for side, right in sides.items() if right is not None]
    if matrix is None and not given:
        return
    if (matrix is None) != (not given):
        missing = name if matrix is None else " or ".join(sides)
        raise ValueError(f"{missing}: missing. {name} and {(given or [*sides])[0]} go together; give both or neither.")
    if matrix is None:
        return
    shape, n = tuple(_check_matrix(name, matrix, p).shape), p.shape[-1]
    if len(shape) < 2 or shape[-1] != n:
        raise ValueError(f"{name}: expected shape (..., rows, {n}) as p has {n} variables, got {shape}.")
    for side in given:
        right = check_like(side, sides[side], p)
        if right.dim() == 0 or right.shape[-1] != shape[-2]:
            raise ValueError(
                f"{side}: expected shape (..., {shape[-2]}), a number for each row of {name}, got {tuple(right.shape)}."
            )


def is_number(value: object) -> bool:
    """Python's and NumPy's, but no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_q(Q: object, p: Tensor, n: int) -> None:
    if isinstance(Q, Diagonal):
        d = check_like("Q", Q.d, p)
        if d.dim() == 0 or d.shape[-1] != n:
            raise ValueError(f"Q: expected Diagonal(d) with d of shape (..., {n}), got {tuple(d.shape)}.")
    elif isinstance(Q, Sparse):
        if tuple(_check_matrix("Q", Q, p).shape) != (n, n):
            raise ValueError(f"Q: expected shape ({n}, {n}), got {tuple(Q.shape)}.")
    elif isinstance(Q, Tensor):
        _check_matrix("Q", Q, p)
        if Q.dim() > 0 and (Q.dim() < 2 or Q.shape[-2:] != (n, n)):
            hint = " A vector is no matrix: wrap it in Diagonal(...)." if Q.dim() == 1 else ""
            raise ValueError(f"Q: expected a number, Diagonal(d) or shape (..., {n}, {n}), got {tuple(Q.shape)}.{hint}")
    elif not is_number(Q):
        raise ValueError(f"Q: expected a tensor, Sparse(...), Diagonal(d) or a number, got {type(Q).__name__}.")


def _check_matrix(name: str, matrix: object, p: Tensor) -> Tensor | Sparse:
    """Q, G or A."""
    if not isinstance(matrix, Sparse):
        tensor = check_like(name, matrix, p)
        if tensor.layout != torch.strided and tensor.dim() > 3:
            raise ValueError(
                f"{name}: expected a sparse tensor with one batch dimension at most, got shape {tuple(tensor.shape)}. "
                "Sparse(...) takes any."
            )
        return tensor
    row, column = matrix.row, matrix.column
    values = check_like(f"{name}.values", matrix.values, p)
    entries = values.shape[-1] if values.dim() else 0
    if row.shape != column.shape or row.shape != (entries,) or row.dtype != torch.int64 or column.dtype != torch.int64:
        raise ValueError(
            f"{name}: expected row and column of shape ({entries},), int64, next to values {tuple(values.shape)}, got "
            f"{tuple(row.shape)} {row.dtype} and {tuple(column.shape)} {column.dtype}."
        )
    for what, place, size in (("row", row, matrix.shape[0]), ("column", column, matrix.shape[1])):
        if entries and not 0 <= int(place.min()) <= int(place.max()) < size:
            raise ValueError(f"{name}: expected {what} in [0, {size}), got {int(place.min())} to {int(place.max())}.")
    return matrix


def check_like(name: str, value: object, p: Tensor) -> Tensor:
    if (  # what comes as a rule, at a fifth of the time
        isinstance(value, Tensor)
        and value.dtype == p.dtype
        and value.device == p.device
        and value.layout == torch.strided
    ):
        return value
    tensor = check_float_tensor(name, value)
    if tensor.layout != torch.strided and name not in ("Q", "G", "A"):
        raise ValueError(f"{name}: expected a dense tensor, got a sparse one; only Q, G and A may be sparse.")
    check_same_kind(name, tensor, "p", p)
    return tensor


def batch_shape(given: Arguments, **costs: Any) -> torch.Size:
    """The common batch shape."""
    shapes = {}
    for name, value in (*zip(Arguments._fields, given, strict=True), *costs.items()):
        tensor = value.d if isinstance(value, Diagonal) else value
        if isinstance(value, Sparse):
            if value.values.dim() > 1:
                shapes[name] = value.values.shape[:-1]
            continue
        if isinstance(tensor, Tensor):
            dims = 2 if name in ("Q", "G", "A") and tensor is value else 1
            if tensor.dim() > dims:  # fewer: a number
                shapes[name] = tensor.shape[:-dims]
    # torch's function takes as long as a small solve
    if not shapes:
        return torch.Size()
    if len(found := set(shapes.values())) == 1:
        return found.pop()
    try:
        return torch.Size(torch.broadcast_shapes(*shapes.values()))  # type: ignore[no-untyped-call]
    except RuntimeError:
        came = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"Batch dimensions do not broadcast: {came}. Leave them out for what all rows share."
        ) from None


def as_batch(t: Tensor, core: int, shape: torch.Size) -> Tensor:
    """In float64, with one batch dimension: B, or 1 where all rows share the tensor."""
    t = t if t.dtype == torch.float64 else t.double()
    if t.dim() == core:
        return t.unsqueeze(0)
    outside, inside = t.shape[:-core], t.shape[-core:]
    if len(outside) == 1 and outside in (shape, (1,)):
        return t  # as it is in most calls, and a view has its price in the backward pass
    if math.prod(outside) == 1:
        return t.reshape(1, *inside)
    return t.expand(*shape, *inside).reshape(-1, *inside)


def _rows(matrix: Tensor | Sparse, shape: torch.Size) -> SparseRows:
    entries = entries_of(matrix)
    return SparseRows(entries.row[None], entries.column[None], as_batch(entries.values, 1, shape), entries.shape)


def _matrix(matrix: Tensor | Sparse, shape: torch.Size) -> Tensor | SparseRows:
    """G or A: sparse rows stay sparse."""
    dense = isinstance(matrix, Tensor) and matrix.layout == torch.strided
    return as_batch(matrix, 2, shape) if dense else _rows(matrix, shape)  # type: ignore[arg-type]  # a tensor if dense


def _quadratic(Q: Tensor | Sparse | Diagonal | float, p: Tensor, shape: torch.Size) -> tuple[Tensor, SparseRows | None]:
    """Q, or its diagonal and its other entries if it is sparse, symmetric."""
    if isinstance(Q, Diagonal):
        return as_batch(Q.d, 1, shape), None
    if isinstance(Q, Sparse) or (isinstance(Q, Tensor) and Q.layout != torch.strided):
        return _halves(_rows(Q, shape), p)
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return as_batch(Q, 2, shape), None
    number = Q if isinstance(Q, Tensor) else torch.as_tensor(float(Q), dtype=p.dtype, device=p.device)
    return number.double().expand(1, p.shape[-1]), None


def _halves(q: SparseRows, p: Tensor) -> tuple[Tensor, SparseRows | None]:
    """The diagonal of a sparse matrix, and its symmetric part off it."""
    n = p.shape[-1]
    row, column, on = q.row[0], q.column[0], q.row[0] == q.column[0]
    diagonal = sum_at(row[on][None], q.values[:, on], n)
    if bool(on.all()):
        return diagonal, None
    row, column, values = row[~on], column[~on], 0.5 * q.values[:, ~on]
    both = Sparse(torch.cat((row, column)), torch.cat((column, row)), torch.cat((values, values), -1), (n, n))
    off = entries_of(both)
    return diagonal, SparseRows(off.row[None], off.column[None], off.values, off.shape)


def _stages(blocks: Sequence[int] | None, problem: Problem) -> Problem:
    """The problem with its stages: those that are given, with all its matrices sparse, or those found in a problem
    whose matrices are all sparse; without any if there are none."""
    if blocks is not None:
        return _in_blocks(blocks, problem)
    sparse = [part for part in (problem.A, problem.G, problem.coupling) if isinstance(part, SparseRows)]
    given = sum(part is not None for part in (problem.A, problem.G))
    if problem.Q.dim() == 3 or not sparse or len(sparse) < given + (problem.coupling is not None):
        return problem
    return dataclasses.replace(problem, stage=find_stages(problem.n, sparse))


def _in_blocks(blocks: Sequence[int], problem: Problem) -> Problem:
    sizes = [check_positive_int(f"blocks[{i}]", size) for i, size in enumerate(blocks)]
    if sum(sizes) != problem.n:
        raise ValueError(f"blocks: expected sizes that add up to {problem.n}, the variables of p, got {sum(sizes)}.")
    stage = torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes)).to(problem.p.device)

    def sparse(name: str, part: Tensor | SparseRows | None) -> SparseRows | None:
        if part is None:
            return None
        if isinstance(part, SparseRows):
            check_reach(name, part.row[0], part.column[0], stage, symmetric=name == "Q")
            return part
        row, column = (part.detach() != 0).any(0).nonzero().unbind(-1)
        check_reach(name, row, column, stage, symmetric=name == "Q")
        k, n = part.shape[-2:]
        row, column = fill_blocks(row, column, k, stage, symmetric=name == "Q")
        return SparseRows(row[None], column[None], part[:, row, column], (k, n))

    diagonal, coupling = problem.Q, problem.coupling
    if problem.Q.dim() == 3:
        q = sparse("Q", problem.Q)
        assert q is not None
        diagonal, coupling = _halves(q, problem.p)
    elif coupling is not None:
        sparse("Q", coupling)
    a, g = sparse("A", problem.A), sparse("G", problem.G)
    return dataclasses.replace(problem, Q=diagonal, coupling=coupling, A=a, G=g, stage=stage[None])


def build(given: Arguments, shape: torch.Size, blocks: Sequence[int] | None = None) -> tuple[Problem, Form]:
    """The live problem, and where its parts come from; what is infinite in its d is left to :mod:`.driver`."""
    Q, p, G, h, A, b, lb, ub, h_low = given
    n, batch = p.shape[-1], math.prod(shape)

    def vector(t: Tensor | float, size: int) -> Tensor:
        t = t if isinstance(t, Tensor) else torch.as_tensor(float(t), dtype=p.dtype, device=p.device)
        if t.dim() == 0 or t.shape[-1] != size:
            t = t.expand(size) if t.dim() == 0 else t.expand(*t.shape[:-1], size)
        t = as_batch(t, 1, shape)
        return t if t.shape[0] == batch else t.expand(batch, -1)

    q, coupling = _quadratic(Q, p, shape)
    g, a = (None if part is None or part.shape[-2] == 0 else _matrix(part, shape) for part in (G, A))
    flat_p = vector(p, n)
    form = Form(n, 0 if g is None else g.shape[-2], 0 if a is None else a.shape[-2], h is not None, h_low is not None)
    right = []
    if g is not None:
        right = [vector(h, form.m)] if h is not None else []
        if h_low is not None:
            right.append(-vector(h_low, form.m))
            g = _both_sides(g) if h is not None else _negated(g)
    right += [-vector(lb, n)] if lb is not None else []
    right += [vector(ub, n)] if ub is not None else []
    none = flat_p.new_empty(batch, 0)
    d = right[0] if len(right) == 1 else (torch.cat(right, -1) if right else none)
    flat_b = vector(b, form.q) if b is not None and a is not None else none
    problem = Problem(q, flat_p, g, a, flat_b, d, lb is not None, ub is not None, None, coupling=coupling)
    return _stages(blocks, problem), form


def _negated(g: Tensor | SparseRows) -> Tensor | SparseRows:
    return dataclasses.replace(g, values=-g.values) if isinstance(g, SparseRows) else -g


def _both_sides(g: Tensor | SparseRows) -> Tensor | SparseRows:
    """[G; -G]."""
    if not isinstance(g, SparseRows):
        return torch.cat((g, -g), -2)
    row, column = torch.cat((g.row, g.row + g.shape[0]), -1), torch.cat((g.column, g.column), -1)
    return SparseRows(row, column, torch.cat((g.values, -g.values), -1), (2 * g.shape[0], g.shape[1]))


def stack_active(warm_start: ActiveSet, problem: Problem, form: Form, shape: torch.Size) -> Tensor:
    """An active set as (B, k) bool."""
    if not isinstance(warm_start, ActiveSet):
        raise ValueError(f"warm_start: expected `solution.warm_start`, an ActiveSet, got {type(warm_start).__name__}.")
    m, n, extra = form.m, form.n, form.extra
    parts: list[tuple[object, int]] = [(warm_start.ineq, m)] if m and form.high else []
    parts += [(warm_start.ineq_low, m)] if m and form.low else []
    parts += [(warm_start.lower, n)] if problem.lower else []
    parts += [(warm_start.held, extra)] if extra else []
    parts += [(warm_start.upper, n)] if problem.upper else []
    found = []
    for part, size in parts:
        if isinstance(part, Tensor) and len(shape) == 1 and part.dim() == 2 and len(part) > shape[0]:
            part = part[: shape[0]]  # the last batch of an epoch may be smaller
        if not isinstance(part, Tensor) or part.dtype != torch.bool or part.shape != (*shape, size):
            came = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            also = f", ineq_low {(*shape, m)}" if form.low else ""
            also += f", held {(*shape, extra)}" if extra else ""
            raise ValueError(
                f"warm_start: expected bool tensors ineq {(*shape, m)}, lower and upper {(*shape, n)}{also}, "
                f"got {came}. Take `solution.warm_start` of a problem with the same shapes."
            )
        found.append(part if len(shape) == 1 else part.reshape(-1, size))
    if extra and problem.upper:
        found.append(torch.zeros_like(found[-1][:, :1]).expand(-1, extra))  # slacks have no upper bound
    return problem.d > 0 if not found else found[0] if len(found) == 1 else torch.cat(found, -1)


def nonfinite(problem: Problem, form: Form) -> str:
    """Which arguments hold a NaN, or an infinite number where none may be, and in which row first; of plain tensors."""
    rows, lower, upper = problem.blocks(problem.d)
    m, n = form.m, form.n
    sides = [("h", rows[:, :m])] if form.high else []
    sides += [("h_low", rows[:, -m:])] if form.low and m else []
    sides += [("lb", lower[:, :n])] if problem.lower else []
    sides += [("ub", upper[:, :n])] if problem.upper else []
    parts = [
        ("Q", problem.Q),
        ("Q", problem.coupling),
        ("p", problem.p[:, :n]),
        ("elastic", problem.p[:, n:]),
        ("G", problem.G),
    ]
    parts += [("A", problem.A), ("b", problem.b)]
    found = []
    for name, part in parts:
        values = part.values if isinstance(part, SparseRows) else part
        if values is not None:
            found.append((name, ~torch.isfinite(values).flatten(1).all(-1)))
    found += [(name, part.isnan().any(-1)) for name, part in sides]  # infinite ones are none, or infeasible
    texts = []
    for name, bad in found:
        if bool(bad.any()):
            where = "" if len(bad) == 1 else f" in row {int(bad.nonzero()[0])}"
            texts.append(f"{name}: not finite{where}")
    return "; ".join(texts) + "." if texts else ""
