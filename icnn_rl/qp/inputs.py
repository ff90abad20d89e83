"""From the arguments of ``solve_qp`` to a :class:`Problem`: checks, broadcasting, float64."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl._checks import check_float_tensor, check_same_kind
from icnn_rl.qp.external import External
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.qp.sparse import SparseRows

__all__ = ["Form", "batch_shape", "build", "check", "check_like", "flat", "is_number", "nonfinite", "stack_active"]

_SOLVERS = (PrimalDual, External)


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


def check(
    Q: object,
    p: object,
    G: object,
    h: object,
    A: object,
    b: object,
    lb: object,
    ub: object,
    h_low: object,
    solver: object,
) -> None:
    """Kinds, dtypes, devices and core shapes."""
    p = check_float_tensor("p", p)
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
    matrix, n = check_like(name, matrix, p), p.shape[-1]
    if matrix.dim() < 2 or matrix.shape[-1] != n:
        raise ValueError(f"{name}: expected shape (..., rows, {n}) as p has {n} variables, got {tuple(matrix.shape)}.")
    for side in given:
        right = check_like(side, sides[side], p)
        if right.dim() == 0 or right.shape[-1] != matrix.shape[-2]:
            raise ValueError(
                f"{side}: expected shape (..., {matrix.shape[-2]}), a number for each row of {name}, got "
                f"{tuple(right.shape)}."
            )


def is_number(value: object) -> bool:
    """Python's and NumPy's, but no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_q(Q: object, p: Tensor, n: int) -> None:
    if isinstance(Q, Diagonal):
        d = check_like("Q", Q.d, p)
        if d.dim() == 0 or d.shape[-1] != n:
            raise ValueError(f"Q: expected Diagonal(d) with d of shape (..., {n}), got {tuple(d.shape)}.")
    elif isinstance(Q, Tensor):
        check_like("Q", Q, p)
        if Q.dim() > 0 and (Q.dim() < 2 or Q.shape[-2:] != (n, n)):
            hint = " A vector is no matrix: wrap it in Diagonal(...)." if Q.dim() == 1 else ""
            raise ValueError(f"Q: expected a number, Diagonal(d) or shape (..., {n}, {n}), got {tuple(Q.shape)}.{hint}")
    elif not is_number(Q):
        raise ValueError(f"Q: expected a tensor, Diagonal(d) or a number, got {type(Q).__name__}.")


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


def batch_shape(**arguments: Any) -> torch.Size:
    """The common batch shape."""
    shapes = {}
    for name, value in arguments.items():
        tensor = value.d if isinstance(value, Diagonal) else value
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


def flat(t: Tensor, core: int, shape: torch.Size) -> Tensor:
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


def _matrix(matrix: Tensor, q: Tensor, shape: torch.Size) -> Tensor | SparseRows:
    """G or A: sparse rows stay sparse next to a diagonal Q, where their structure saves time."""
    if matrix.layout == torch.strided:
        return flat(matrix, 2, shape)
    if q.dim() == 2 and matrix.dim() == 2:
        return SparseRows.of(matrix)
    return flat(matrix.to_dense(), 2, shape)


def build(
    Q: Tensor | Diagonal | float,
    p: Tensor,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
    lb: Tensor | float | None,
    ub: Tensor | float | None,
    h_low: Tensor | None,
    shape: torch.Size,
) -> tuple[Problem, Form]:
    """The live problem, and where its parts come from; what is infinite in its d is left to :mod:`.driver`."""
    n, batch = p.shape[-1], math.prod(shape)

    def vector(t: Tensor | float, size: int) -> Tensor:
        t = t if isinstance(t, Tensor) else torch.as_tensor(float(t), dtype=p.dtype, device=p.device)
        if t.dim() == 0 or t.shape[-1] != size:
            t = t.expand(size) if t.dim() == 0 else t.expand(*t.shape[:-1], size)
        t = flat(t, 1, shape)
        return t if t.shape[0] == batch else t.expand(batch, -1)

    if isinstance(Q, Diagonal):
        q = flat(Q.d, 1, shape)
    elif isinstance(Q, Tensor) and Q.dim() > 0:
        q = flat(Q if Q.layout == torch.strided else Q.to_dense(), 2, shape)
    else:
        number = Q if isinstance(Q, Tensor) else torch.as_tensor(float(Q), dtype=p.dtype, device=p.device)
        q = number.double().expand(1, n)
    g, a = (None if part is None or part.shape[-2] == 0 else _matrix(part, q, shape) for part in (G, A))
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
    return Problem(q, flat_p, g, a, flat_b, d, lb is not None, ub is not None, None), form


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
    parts = [("Q", problem.Q), ("p", problem.p[:, :n]), ("elastic", problem.p[:, n:]), ("G", problem.G)]
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
