"""``solve_qp``: checks, broadcasting, dtype, and the two autograd functions between the numbers and the user."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from icnn_rl._checks import check_float_tensor, check_same_kind
from icnn_rl.qp import driver
from icnn_rl.qp.driver import NonConvexError, Outcome
from icnn_rl.qp.external import External
from icnn_rl.qp.functorch import transformed
from icnn_rl.qp.gradients import differentiable
from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.kkt import Mixed, System, spread
from icnn_rl.qp.problem import Diagonal, Problem
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.qp.sparse import SparseRows, split
from icnn_rl.qp.tensor_tree import leaves, map_tensors, pick, rebuild
from icnn_rl.solution import SolveError, Status

__all__ = ["solve_qp"]


def solve_qp(
    Q: Tensor | Diagonal | float,
    p: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    lb: Tensor | float | None = None,
    ub: Tensor | float | None = None,
    *,
    solver: PrimalDual | External | None = None,
    warm_start: ActiveSet | None = None,
    throw: bool = True,
) -> QPSolution:
    """Solve a batch of convex quadratic programmes, differentiably.

        min_z  1/2 z^T Q z + p^T z    subject to    G z <= h,  A z = b,  lb <= z <= ub.

    Leading batch dimensions broadcast; what lacks them is shared by all rows, and its gradient is the sum over the
    rows. None drops a block. Every row is solved and judged on its own.

    Args:
        Q: positive semidefinite: (..., n, n), of which only the symmetric part matters; ``Diagonal(d)`` with d
            (..., n); or a number (a tensor without dimensions may carry a gradient), the multiple of the identity.
        p: (..., n), float32 or float64.
        G, h: (..., m, n) and (..., m); +inf in h: no constraint. G and A may be sparse tensors with two dimensions:
            time and memory follow their entries where Q is diagonal and positive.
        A, b: (..., q, n) and (..., q). Dependent rows are welcome as long as they agree.
        lb, ub: (..., n) or numbers; -inf and +inf: no bound. lb = ub fixes a variable.
        solver: settings; ``PrimalDual()`` by default. ``External(name)`` has another package find the solution.
        warm_start: ``solution.warm_start`` of a similar problem with the same shapes. It is tried first and
            changes nothing but the time.
        throw: raise if any row failed; otherwise look at ``solution.status``.

    Returns:
        A :class:`QPSolution` in the dtype that came. Where a constraint is active with a zero multiplier the solution
        has a kink, and the gradient is the one on the side of the active set found. Failed rows pass no gradient on.

    Raises:
        ValueError: a wrong argument; NonConvexError, a ValueError, where Q has a negative eigenvalue.
        SolveError: some row failed and ``throw`` is set; carries the solution.

    Example:
        >>> solve_qp(1.0, torch.tensor([-1.0, -3.0]), lb=0.0, ub=2.0).value
        tensor([1., 2.])

    References:
        B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017.
    """
    solver = PrimalDual() if solver is None else solver
    _check(Q, p, G, h, A, b, lb, ub, solver)
    shape = _batch_shape(p=p, Q=Q, G=G, h=h, A=A, b=b, lb=lb, ub=ub)
    problem = _problem(Q, p, G, h, A, b, lb, ub, shape)
    guess = None if warm_start is None else _stack_active(warm_start, problem, shape)
    call = _Call(solver, throw, shape, p.dtype)
    outcome, system = _numbers(call, problem, guess)
    point = found = (outcome.x, outcome.nu, outcome.z)
    good = None
    if _traced(problem):
        good = None if call.solved and not transformed() else (outcome.status == Status.SUCCESS).unsqueeze(-1)
        if good is not None:
            found = (
                torch.where(good, found[0], 0.0),
                torch.where(good, found[1], 0.0),
                torch.where(good, found[2], 0.0),
            )
        point = differentiable(found, system, problem)
        if good is not None:
            x, nu, z = point
            point = (
                torch.where(good, x, outcome.x),
                torch.where(good, nu, outcome.nu),
                torch.where(good, z, outcome.z),
            )
    return _report(problem, outcome, point, shape, p.dtype, good)


def _check(
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


def _batch_shape(**arguments: Any) -> torch.Size:
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


def _problem(
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
    """The live problem; what is infinite in its d is left to :func:`_finite`."""
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


def _traced(problem: Problem) -> bool:
    """Whether somebody may want derivatives."""
    return transformed() or (torch.is_grad_enabled() and any(t.requires_grad for t in leaves(problem)))


def _stack_active(warm_start: ActiveSet, problem: Problem, shape: torch.Size) -> Tensor:
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


class _Call:
    """What the numbers need besides tensors; takes the form of the answer back."""

    def __init__(self, solver: PrimalDual | External, throw: bool, shape: torch.Size, dtype: torch.dtype) -> None:
        self.solver, self.throw, self.shape, self.dtype = solver, throw, shape, dtype
        self.patterns: tuple[SparseRows | None, ...] = (None, None)
        self.solved = False
        self.answer: tuple[Outcome, System]


def _numbers(call: _Call, problem: Problem, guess: Tensor | None) -> tuple[Outcome, System]:
    """:func:`_solve_rows` without a graph; torch.func sees one operation."""
    if not transformed():
        with torch.no_grad():
            answer = _answer(call, map_tensors(lambda t: t.detach() if t.requires_grad else t, problem), guess)
        return answer
    (g, pattern_g), (a, pattern_a) = split(problem.G), split(problem.A)
    call.patterns = pattern_g, pattern_a
    parts = (problem.Q, problem.p, g, a, problem.b, problem.d, guess)
    tensors = iter(_Numbers.apply(call, problem.lower, problem.upper, *parts))  # type: ignore[no-untyped-call]
    outcome, system = call.answer
    return rebuild(outcome, tensors), rebuild(system, tensors)


def _answer(call: _Call, problem: Problem, guess: Tensor | None) -> tuple[Outcome, System]:
    """The outcome; an error where rows failed and the caller wants to hear of it."""
    if not problem.diagonal and not torch.equal(problem.Q, problem.Q.mT):
        problem = dataclasses.replace(problem, Q=0.5 * (problem.Q + problem.Q.mT))
    outcome, system = _solve_rows(problem, call.solver, call.dtype, guess)
    call.solved = not bool(outcome.status.any())  # SUCCESS is 0
    if call.throw and not call.solved:
        raise SolveError(_report(problem, outcome, (outcome.x, outcome.nu, outcome.z), call.shape, call.dtype))
    return outcome, system


class _Numbers(torch.autograd.Function):
    """The tensors of the outcome and of the factored system; nothing is differentiable."""

    @staticmethod
    def forward(call: _Call, lower: bool, upper: bool, *parts: Tensor | None) -> tuple[Tensor, ...]:
        q, p, g, a, b, d, guess = parts
        assert q is not None
        assert p is not None
        assert b is not None
        assert d is not None
        rows_g, rows_a = (_with_pattern(pattern, part) for pattern, part in zip(call.patterns, (g, a), strict=True))
        outcome, system = _answer(call, Problem(q, p, rows_g, rows_a, b, d, lower, upper, None), guess)
        call.answer = outcome, spread(system)  # what is mapped has a row for each of the batch
        return tuple(t.clone() if t._is_view() else t for part in call.answer for t in leaves(part))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        return (None,) * 10

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: _Call, lower: bool, upper: bool, *parts: Any) -> Any:
        """The mapped dimension joins the batch."""
        size = info.batch_size
        batch = max(_rows(part, dim) for part, dim in zip(parts, in_dims[3:], strict=True) if part is not None)
        matrices = (0, 2, 3)  # only Q, G and A may be shared
        merged = [
            _merge(part, dim, size, batch, share=i in matrices)
            for i, (part, dim) in enumerate(zip(parts, in_dims[3:], strict=True))
        ]
        call.shape = torch.Size((size, *call.shape))
        flat = _Numbers.apply(call, lower, upper, *merged)  # type: ignore[no-untyped-call]
        shared = [t.shape[0] == 1 and size * batch > 1 for t in flat]
        out = tuple(t if alone else t.reshape(size, batch, *t.shape[1:]) for t, alone in zip(flat, shared, strict=True))
        return out, tuple(None if alone else 0 for alone in shared)


def _with_pattern(pattern: SparseRows | None, values: Tensor | None) -> Tensor | SparseRows | None:
    """Sparse rows of these values; a dense matrix as it is."""
    if pattern is None:
        return values
    assert values is not None
    if values.shape[0] > 1:
        raise ValueError(
            "Sparse G and A: expected one matrix for all rows of the batch, got a mapped one; use dense ones."
        )
    return dataclasses.replace(pattern, values=values)


def _rows(part: Tensor, dim: int | None) -> int:
    return part.shape[0] if dim is None else part.movedim(dim, 0).shape[1]


def _merge(part: Tensor | None, dim: int | None, size: int, batch: int, *, share: bool) -> Tensor | None:
    """(size, 1|batch, ...) or, if not mapped, (1|batch, ...) -> (size * batch, ...), or (1, ...) if all share it."""
    if part is None or (share and dim is None and part.shape[0] == 1):
        return part
    part = part.unsqueeze(0) if dim is None else part.movedim(dim, 0)
    return part.expand(size, batch, *part.shape[2:]).reshape(size * batch, *part.shape[2:])


def _solve_rows(
    problem: Problem, solver: PrimalDual | External, data: torch.dtype, guess: Tensor | None
) -> tuple[Outcome, System]:
    """Tiny problems are solved by the compiled kernel; what it leaves, and all other problems, by torch."""
    quick = None
    if isinstance(solver, PrimalDual) and dispatch.fits(problem, solver, data):
        quick = dispatch.solve(problem, solver, guess)
    if quick is None:
        return _solve_finite(problem, solver, data, guess)
    outcome, system, left = quick
    if left is None:
        return outcome, system
    guess = None if guess is None else guess[left]
    others, second = _solve_finite(pick(left, problem), solver, data, guess)
    if len(left) == len(outcome.x):
        return others, second
    return driver.put(outcome, left, others), Mixed(_sound(problem, left, second.problem), system, left, second)


def _sound(problem: Problem, left: Tensor, finite: Problem) -> Problem:
    """The problem with the matrices of the rows at ``left`` taken from ``finite``: a NaN in one of them, times the
    gradient 0 of a failed row, would be a NaN in what all rows share."""
    g = problem.G
    if isinstance(g, Tensor) and isinstance(finite.G, Tensor):
        g = _with_rows(g, left, finite.G)
    return dataclasses.replace(problem, Q=_with_rows(problem.Q, left, finite.Q), G=g)


def _with_rows(whole: Tensor, index: Tensor, part: Tensor) -> Tensor:
    """``whole`` with these rows replaced; what all rows share stays."""
    return whole if whole.shape[0] == 1 else whole.index_copy(0, index, part.expand(len(index), *part.shape[1:]))


def _finite(problem: Problem) -> tuple[Problem, Tensor]:
    """The problem without constraints whose right-hand side is infinite, and the rows where no point can meet one."""
    infinite = torch.isinf(problem.d)
    if not bool(infinite.any()):
        return problem, torch.zeros_like(problem.p[:, 0], dtype=torch.bool)
    d, present = torch.where(infinite, 0.0, problem.d), (~infinite).double()
    return dataclasses.replace(problem, d=d, present=present), (infinite & (problem.d < 0)).any(-1)


def _solve_finite(
    given: Problem, solver: PrimalDual | External, data: torch.dtype, guess: Tensor | None
) -> tuple[Outcome, System]:
    """:func:`driver.solve` for the rows that can be solved; copies of one of them stand in for the others."""
    problem, impossible = _finite(given)
    bad = torch.zeros_like(impossible)
    for tensor in leaves(problem):
        bad = bad | ~torch.isfinite(tensor.flatten(1).sum(-1))  # one pass, unlike isfinite of all
    if bool(bad.any()):
        bad = torch.zeros_like(impossible)
        for tensor in leaves(problem):
            bad = bad | ~torch.isfinite(tensor).flatten(1).all(-1)
    excluded = bad | impossible
    some = bool(excluded.any())
    rows = torch.arange(excluded.shape[0], device=excluded.device)
    if some and bool(excluded.all()):
        problem, guess = _neutral(problem), None
    elif some:
        rows = rows.where(~excluded, (~excluded).nonzero()[0])
        problem = pick(rows, problem)
    try:
        outcome, system = driver.solve(problem, solver, data, guess)
    except NonConvexError as error:  # it counts the stand-ins
        raise NonConvexError(int(rows[error.row]), error.eigenvalue) from None
    outcome = _set_aside(outcome, bad, impossible) if some else outcome
    if some or problem.present is not None:
        outcome = dataclasses.replace(outcome, s=given.d - given.Cx(outcome.x))
    if bool((outcome.status != Status.SUCCESS).any()):
        # a failed row gets no gradient, but 0 times a factor that is NaN would be one
        system = map_tensors(lambda t: torch.nan_to_num(t, 0.0, 0.0, 0.0) if t.is_floating_point() else t, system)
    return outcome, system


def _set_aside(outcome: Outcome, bad: Tensor, impossible: Tensor) -> Outcome:
    """What rows that were not solved report instead of their stand-in's answer: NaN where a number of theirs is none,
    and 0, infinitely far from the set, where no point can meet a constraint."""
    value = torch.where(bad, torch.nan, 0.0)
    off = torch.where(bad, torch.nan, torch.inf)
    excluded = bad | impossible
    row = excluded.unsqueeze(-1)
    x, nu, z = (torch.where(row, value.unsqueeze(-1), part) for part in (outcome.x, outcome.nu, outcome.z))
    status = torch.where(impossible, int(Status.PRIMAL_INFEASIBLE), outcome.status)
    return dataclasses.replace(
        outcome,
        x=x,
        nu=nu,
        z=z,
        active=outcome.active & ~row,
        residuals=map_tensors(lambda t: torch.where(excluded, off, t), outcome.residuals),
        steps=torch.where(excluded, 0, outcome.steps),
        status=torch.where(bad, int(Status.NONFINITE_INPUT), status),
        ray=torch.where(row, 0.0, outcome.ray),
    )


def _neutral(problem: Problem) -> Problem:
    """A problem of the same form that is solved by 0."""
    ones = torch.ones_like(problem.Q) if problem.diagonal else torch.eye(problem.n).to(problem.Q).expand_as(problem.Q)
    # sparse rows keep their places: at one place, all their entries would meet
    zeros = map_tensors(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, problem)
    return dataclasses.replace(zeros, Q=ones)


def _report(
    problem: Problem,
    outcome: Outcome,
    point: tuple[Tensor, ...],
    shape: torch.Size,
    dtype: torch.dtype,
    good: Tensor | None = None,
) -> QPSolution:
    """The solution in the user's shapes and dtype. ``point`` carries the graph of the rows that were solved, marked in
    ``good`` (B, 1); None: all of them, or there is no graph."""
    x, nu, z = point

    def out(t: Tensor) -> Tensor:
        t = t if len(shape) == 1 else t.reshape((*shape, *t.shape[1:]))
        return t if t.dtype == dtype or not t.is_floating_point() else t.to(dtype)

    z_g, z_lower, z_upper = problem.blocks(z)
    on_g, on_lower, on_upper = problem.blocks(outcome.active)
    none = torch.zeros_like(outcome.x)
    off = none > 0
    return QPSolution(
        value=out(x),
        fun=out(_objective(problem, x, outcome.x, good)),
        gap=out(outcome.residuals.duality),
        status=out(outcome.status),
        num_steps=out(outcome.steps),
        residual=out(outcome.residuals.largest),
        dual_ineq=out(z_g),
        dual_eq=out(nu),
        dual_lb=out(z_lower if problem.lower else none),
        dual_ub=out(z_upper if problem.upper else none),
        slack=out(outcome.s[:, : problem.m]),
        primal_residual=out(outcome.residuals.primal),
        dual_residual=out(outcome.residuals.dual),
        active=ActiveSet(out(on_g), out(on_lower if problem.lower else off), out(on_upper if problem.upper else off)),
        ray=out(outcome.ray),
    )


def _objective(problem: Problem, x: Tensor, found: Tensor, good: Tensor | None) -> Tensor:
    """1/2 x^T Q x + p^T x; of rows that are not good without a graph, and without the NaN that their data may hold."""
    if good is None:
        return problem.objective(x)
    with torch.no_grad():
        value = problem.objective(found)
    q = problem.Q
    if q.shape[0] > 1:
        q = torch.where(good if problem.diagonal else good.unsqueeze(-1), q, 0.0)
    kept = dataclasses.replace(problem, Q=q, p=torch.where(good, problem.p, 0.0))
    return torch.where(good.squeeze(-1), kept.objective(torch.where(good, x, 0.0)), value)
