"""From the arguments of ``solve_qp`` to a :class:`Problem`: checks, broadcasting, float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from icnn_rl._checks import check_float_tensor, check_same_kind
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.qp.sparse import SparseRows

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
        matrix, right = _check_like(name, matrix, p), _check_like(right_name, right, p)
        if matrix.dim() < 2 or matrix.shape[-1] != n:
            raise ValueError(
                f"{name}: expected shape (..., rows, {n}) as p has {n} variables, got {tuple(matrix.shape)}."
            )
        if right.dim() == 0 or right.shape[-1] != matrix.shape[-2]:
            raise ValueError(
                f"{right_name}: expected shape (..., {matrix.shape[-2]}), a number for each row of {name}, got "
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
    elif isinstance(Q, Tensor):
        _check_like("Q", Q, p)
        if Q.dim() > 0 and (Q.dim() < 2 or Q.shape[-2:] != (n, n)):
            hint = " A vector is no matrix: wrap it in Diagonal(...)." if Q.dim() == 1 else ""
            raise ValueError(f"Q: expected a number, Diagonal(d) or shape (..., {n}, {n}), got {tuple(Q.shape)}.{hint}")
    elif isinstance(Q, bool) or not isinstance(Q, int | float):
        raise ValueError(f"Q: expected a tensor, Diagonal(d) or a number, got {type(Q).__name__}.")


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


def _matrix(matrix: Tensor, q: Tensor, shape: torch.Size) -> Tensor | SparseRows:
    """G or A: sparse rows stay sparse next to a diagonal Q, where their structure saves time."""
    if matrix.layout == torch.strided:
        return _flat(matrix, 2, shape)
    if q.dim() == 2 and matrix.dim() == 2:
        return SparseRows.of(matrix)
    return _flat(matrix.to_dense(), 2, shape)


def build(
    Q: Tensor | Diagonal | float,
    p: Tensor,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
    lb: Tensor | float | None,
    ub: Tensor | float | None,
    shape: torch.Size,
) -> Problem:
    """The live problem; what is infinite in its d is left to :mod:`.driver`."""
    n, batch = p.shape[-1], math.prod(shape)

    def vector(t: Tensor | float, size: int) -> Tensor:
        t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=p.dtype, device=p.device)
        if t.dim() == 0 or t.shape[-1] != size:
            t = t.expand(size) if t.dim() == 0 else t.expand(*t.shape[:-1], size)
        t = _flat(t, 1, shape)
        return t if t.shape[0] == batch else t.expand(batch, -1)

    if isinstance(Q, Diagonal):
        q = _flat(Q.d, 1, shape)
    elif isinstance(Q, Tensor) and Q.dim() > 0:
        q = _flat(Q if Q.layout == torch.strided else Q.to_dense(), 2, shape)
    else:
        q = torch.as_tensor(Q, dtype=p.dtype, device=p.device).double().expand(1, n)
    g, a = (None if part is None or part.shape[-2] == 0 else _matrix(part, q, shape) for part in (G, A))
    flat_p = vector(p, n)
    right = [vector(h, h.shape[-1])] if h is not None and g is not None else []
    right += [-vector(lb, n)] if lb is not None else []
    right += [vector(ub, n)] if ub is not None else []
    none = flat_p.new_empty(batch, 0)
    d = right[0] if len(right) == 1 else (torch.cat(right, -1) if right else none)
    flat_b = vector(b, b.shape[-1]) if b is not None and a is not None else none
    return Problem(q, flat_p, g, a, flat_b, d, lb is not None, ub is not None, None)


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
