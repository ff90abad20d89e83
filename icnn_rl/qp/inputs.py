"""From the arguments of ``solve_qp`` to a :class:`Problem`: checks, broadcasting, float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icnn_rl._checks import check_float_tensor, check_positive_int, check_same_kind
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.qp.sparse import Sparse, SparseRows, entries_of, sum_at
from icnn_rl.qp.stages import check_reach, fill_blocks, find_stages

__all__ = ["batch_shape", "build", "check", "stack_active"]


def check(
    Q: object, p: object, G: object, h: object, A: object, b: object, lb: object, ub: object, solver: object
) -> None:
    """Kinds, dtypes, devices and core shapes."""
    p = check_float_tensor("p", p)
    _check_like("p", p, p)
    if p.dim() == 0:
        raise ValueError("p: expected shape (..., n), got a number. Give it at least one dimension.")
    if not isinstance(solver, PrimalDual | External):
        raise ValueError(f"solver: expected PrimalDual(...) or External(...), got {solver!r}.")
    n = p.shape[-1]
    if n == 0:
        raise ValueError(f"p: expected at least one variable, got shape {tuple(p.shape)}.")
    _check_q(Q, p, n)
    for (name, matrix), (right_name, right) in ((("G", G), ("h", h)), (("A", A), ("b", b))):
        if (matrix is None) != (right is None):
            missing = name if matrix is None else right_name
            raise ValueError(f"{missing}: missing. {name} and {right_name} go together; give both or neither.")
        if matrix is None:
            continue
        matrix, right = _check_matrix(name, matrix, p), _check_like(right_name, right, p)
        shape = tuple(matrix.shape)
        if len(shape) < 2 or shape[-1] != n:
            raise ValueError(f"{name}: expected shape (..., rows, {n}) as p has {n} variables, got {shape}.")
        if right.dim() == 0 or right.shape[-1] != shape[-2]:
            raise ValueError(
                f"{right_name}: expected shape (..., {shape[-2]}), a number for each row of {name}, got "
                f"{tuple(right.shape)}."
            )
    for name, bound in (("lb", lb), ("ub", ub)):
        if isinstance(bound, Tensor):
            _check_like(name, bound, p)
            if bound.dim() > 0 and bound.shape[-1] not in (1, n):
                raise ValueError(f"{name}: expected shape (..., {n}) or a number, got {tuple(bound.shape)}.")
        elif bound is not None and not isinstance(bound, int | float):
            raise ValueError(f"{name}: expected a number or a tensor of shape (..., {n}), got {type(bound).__name__}.")


def _check_q(Q: object, p: Tensor, n: int) -> None:
    if isinstance(Q, Diagonal):
        d = _check_like("Q", Q.d, p)
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
    elif isinstance(Q, bool) or not isinstance(Q, int | float):
        raise ValueError(f"Q: expected a tensor, Sparse(...), Diagonal(d) or a number, got {type(Q).__name__}.")


def _check_matrix(name: str, matrix: object, p: Tensor) -> Tensor | Sparse:
    """Q, G or A."""
    if not isinstance(matrix, Sparse):
        tensor = _check_like(name, matrix, p)
        if tensor.layout != torch.strided and tensor.dim() > 3:
            raise ValueError(
                f"{name}: expected a sparse tensor with one batch dimension at most, got shape {tuple(tensor.shape)}. "
                "Sparse(...) takes any."
            )
        return tensor
    row, column = matrix.row, matrix.column
    values = _check_like(f"{name}.values", matrix.values, p)
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


def _check_like(name: str, value: object, p: Tensor) -> Tensor:
    tensor = check_float_tensor(name, value)
    if tensor.layout != torch.strided and name not in ("Q", "G", "A"):
        raise ValueError(f"{name}: expected a dense tensor, got a sparse one; only Q, G and A may be sparse.")
    check_same_kind(name, tensor, "p", p)
    return tensor


def batch_shape(**arguments: Any) -> torch.Size:
    """The common batch shape."""
    core = {"Q": 2, "G": 2, "A": 2}
    shapes = {}
    for name, value in arguments.items():
        tensor = value.d if isinstance(value, Diagonal) else value
        if isinstance(value, Sparse):
            shapes[name] = value.values.shape[:-1]
            continue
        if isinstance(tensor, Tensor) and tensor.dim() > 0:
            dims = 1 if isinstance(value, Diagonal) else core.get(name, 1)
            shapes[name] = tensor.shape[: tensor.dim() - dims]
    if len(found := set(shapes.values()) - {torch.Size()}) <= 1:  # torch's function takes as long as a small solve
        return found.pop() if found else torch.Size()
    try:
        return torch.Size(torch.broadcast_shapes(*shapes.values()))  # type: ignore[no-untyped-call]
    except RuntimeError:
        came = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"Batch dimensions do not broadcast: {came}. Leave them out for what all rows share."
        ) from None


def _flat(t: Tensor, core: int, shape: torch.Size) -> Tensor:
    """In float64, with one batch dimension: B, or 1 where all rows share the tensor."""
    t = t.double()
    outside, inside = t.shape[: t.dim() - core], t.shape[t.dim() - core :]
    if len(outside) == 1 and outside in (shape, (1,)):
        return t  # as it is in most calls, and a view has its price in the backward pass
    if math.prod(outside) == 1:
        return t.reshape(1, *inside)
    return t.expand(*shape, *inside).reshape(-1, *inside)


def _rows(matrix: Tensor | Sparse, shape: torch.Size) -> SparseRows:
    entries = entries_of(matrix)
    return SparseRows(entries.row[None], entries.column[None], _flat(entries.values, 1, shape), entries.shape)


def _matrix(matrix: Tensor | Sparse, shape: torch.Size) -> Tensor | SparseRows:
    """G or A: sparse rows stay sparse."""
    dense = isinstance(matrix, Tensor) and matrix.layout == torch.strided
    return _flat(matrix, 2, shape) if dense else _rows(matrix, shape)  # type: ignore[arg-type]  # a tensor if dense


def _quadratic(Q: Tensor | Sparse | Diagonal | float, p: Tensor, shape: torch.Size) -> tuple[Tensor, SparseRows | None]:
    """Q, or its diagonal and its other entries if it is sparse, symmetric."""
    if isinstance(Q, Diagonal):
        return _flat(Q.d, 1, shape), None
    if isinstance(Q, Sparse) or (isinstance(Q, Tensor) and Q.layout != torch.strided):
        return _halves(_rows(Q, shape), p)
    if isinstance(Q, Tensor) and Q.dim() > 0:
        return _flat(Q, 2, shape), None
    return torch.as_tensor(Q, dtype=p.dtype, device=p.device).double().expand(1, p.shape[-1]), None


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


def build(
    Q: Tensor | Sparse | Diagonal | float,
    p: Tensor,
    G: Tensor | Sparse | None,
    h: Tensor | None,
    A: Tensor | Sparse | None,
    b: Tensor | None,
    lb: Tensor | float | None,
    ub: Tensor | float | None,
    shape: torch.Size,
    blocks: Sequence[int] | None = None,
) -> Problem:
    """The live problem; what is infinite in its d is left to :mod:`.driver`."""
    n, batch = p.shape[-1], math.prod(shape)

    def vector(t: Tensor | float, size: int) -> Tensor:
        t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=p.dtype, device=p.device)
        if t.dim() == 0 or t.shape[-1] != size:
            t = t.expand(size) if t.dim() == 0 else t.expand(*t.shape[:-1], size)
        t = _flat(t, 1, shape)
        return t if t.shape[0] == batch else t.expand(batch, -1)

    q, coupling = _quadratic(Q, p, shape)
    g, a = (None if part is None or part.shape[-2] == 0 else _matrix(part, shape) for part in (G, A))
    flat_p = vector(p, n)
    right = [vector(h, h.shape[-1])] if h is not None and g is not None else []
    right += [-vector(lb, n)] if lb is not None else []
    right += [vector(ub, n)] if ub is not None else []
    none = flat_p.new_empty(batch, 0)
    d = right[0] if len(right) == 1 else (torch.cat(right, -1) if right else none)
    flat_b = vector(b, b.shape[-1]) if b is not None and a is not None else none
    problem = Problem(q, flat_p, g, a, flat_b, d, lb is not None, ub is not None, None, coupling=coupling)
    return _stages(blocks, problem)


def stack_active(warm_start: ActiveSet, problem: Problem, shape: torch.Size) -> Tensor:
    """An active set as (B, k) bool."""
    if not isinstance(warm_start, ActiveSet):
        raise ValueError(f"warm_start: expected `solution.warm_start`, an ActiveSet, got {type(warm_start).__name__}.")
    parts = [warm_start.ineq] if problem.m else []
    parts += ([warm_start.lower] if problem.lower else []) + ([warm_start.upper] if problem.upper else [])
    sizes = ([problem.m] if problem.m else []) + [problem.n] * (problem.lower + problem.upper)
    for part, size in zip(parts, sizes, strict=True):
        if not isinstance(part, Tensor) or part.dtype != torch.bool or part.shape != (*shape, size):
            came = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"warm_start: expected bool tensors ineq {(*shape, problem.m)}, lower and upper {(*shape, problem.n)}, "
                f"got {came}. Take `solution.warm_start` of a problem with the same shapes."
            )
    return torch.cat(parts, -1).reshape(-1, sum(sizes)) if parts else problem.d > 0
