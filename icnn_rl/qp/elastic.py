"""Constraints that may be broken at a price.

    min_z  1/2 z^T Q z + p^T z + rho^T max(G z - h, h_low - G z, 0) + sigma^T |A z - b|    subject to    lb <= z <= ub

is a quadratic programme in more variables: a slack s >= 0 for each row of G, one for both of its sides, and two for
each equation,

    min    1/2 z^T Q z + p^T z + rho^T s + sigma^T (u + v)
    s.t.   h_low - s <= G z <= h + s,   A z - u + v = b,   s, u, v >= 0,   lb <= z <= ub.

Its multipliers are those of the first problem, bounded by the prices: lam + lam_low <= rho and |nu| <= sigma. The
penalty is exact (Fletcher 1987, section 12.3): prices above the multipliers of the problem without them change nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn_rl.eager import transformed
from icnn_rl.qp.inputs import Form, as_batch, check_like, is_number
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.sparse import Sparse, SparseRows
from icnn_rl.qp.stages import last_stages

__all__ = ["Elastic", "check_prices", "with_slacks"]


@dataclass(frozen=True)
class Elastic:
    """Prices of violations, for the argument ``elastic`` of :func:`icnn_rl.qp.solve_qp`.

    Args:
        ineq: what a unit of violation of a row of G costs, > 0: a number or (..., m). None: rows of G stay hard.
        eq: likewise for A z = b, (..., q).
    """

    ineq: Tensor | float | None = None
    eq: Tensor | float | None = None


def check_prices(elastic: object, p: Tensor, G: object, A: object) -> Elastic:
    """The prices of either block, each a number, (..., 1) or (..., rows)."""
    if not isinstance(elastic, Elastic):
        price = _check_price("elastic", elastic, p, None)
        price = price.unsqueeze(-1) if isinstance(price, Tensor) and price.dim() else price
        return Elastic(price, price)
    prices: list[Tensor | float | None] = []
    for name, given, matrix in (("ineq", elastic.ineq, G), ("eq", elastic.eq, A)):
        rows = matrix.shape[-2] if isinstance(matrix, Tensor | Sparse) else 0
        prices.append(None if given is None else _check_price(f"elastic.{name}", given, p, rows))
    return Elastic(*prices)


def _check_price(name: str, price: object, p: Tensor, rows: int | None) -> Tensor | float:
    """A price that is > 0; of tensors inside a transform nobody knows."""
    shape = (
        "batch dimensions alone; Elastic(ineq=..., eq=...) takes a price a row" if rows is None else f"(..., {rows})"
    )
    if isinstance(price, Tensor):
        check_like(name, price, p)
        if rows is not None and price.dim() and price.shape[-1] != rows:
            raise ValueError(f"{name}: expected a number or shape {shape}, got {tuple(price.shape)}.")
        bad = not transformed() and bool(((price <= 0) | price.isinf()).any())
    elif is_number(price):
        bad = not 0.0 < float(price) < float("inf")  # type: ignore[arg-type]
    else:
        raise ValueError(f"{name}: expected a number or a tensor of shape {shape}, got {type(price).__name__}.")
    if bad:
        raise ValueError(f"{name}: expected finite prices > 0, got {price}.")
    return price  # type: ignore[return-value]


def with_slacks(problem: Problem, form: Form, prices: Elastic, shape: torch.Size) -> tuple[Problem, Form]:
    """The problem in z, s, u and v."""
    form = form._replace(soft_ineq=prices.ineq is not None and form.m > 0, soft_eq=prices.eq is not None and form.q > 0)
    n, m, q, extra = form.n, form.m, form.q, form.extra
    if extra == 0:
        return problem, form
    batch = problem.p.shape[0]

    def costs(price: Tensor | float, rows: int) -> Tensor:
        if not isinstance(price, Tensor) or price.dim() == 0:
            return torch.as_tensor(price, dtype=problem.p.dtype, device=problem.p.device).expand(batch, rows)
        price = as_batch(price.expand(*price.shape[:-1], rows), 1, shape)
        return price if price.shape[0] == batch else price.expand(batch, -1)

    linear = [problem.p]
    if form.soft_ineq:
        assert prices.ineq is not None
        linear.append(costs(prices.ineq, m))
    if form.soft_eq:
        assert prices.eq is not None
        linear += [costs(prices.eq, q)] * 2
    rows, lower, upper = problem.blocks(problem.d)
    none, zeros = problem.p.new_full((batch, n), torch.inf), problem.p.new_zeros(batch, extra)
    right = [rows, lower if problem.lower else none, zeros]  # s, u and v are bounded from below
    right += [upper, torch.full_like(zeros, torch.inf)] if problem.upper else []
    g, a, off = problem.G, problem.A, problem.coupling
    stage = None if problem.stage is None else _stage_of_slacks(problem, problem.stage, form)
    if g is not None:
        s = torch.arange(problem.m if form.soft_ineq else 0, device=problem.p.device)
        g = _with_columns(g, extra, [(s, s % max(m, 1), -1.0)])
    if a is not None:
        u = torch.arange(q if form.soft_eq else 0, device=problem.p.device)
        a = _with_columns(a, extra, [(u, extra - 2 * q + u, -1.0), (u, extra - q + u, 1.0)] if form.soft_eq else [])
    return (
        Problem(
            Q=pad(problem.Q, (0, extra) if problem.Q.dim() == 2 else (0, extra, 0, extra)),
            p=torch.cat(linear, -1),
            G=g,
            A=a,
            b=problem.b,
            d=torch.cat(right, -1),
            lower=True,
            upper=problem.upper,
            present=None,
            coupling=None if off is None else dataclasses.replace(off, shape=(n + extra, n + extra)),
            stage=stage,
        ),
        form,
    )


def _stage_of_slacks(problem: Problem, stage: Tensor, form: Form) -> Tensor:
    """(1, n + extra): a slack is where its row ends."""
    parts = [stage]
    if form.soft_ineq:
        assert isinstance(problem.G, SparseRows)
        parts.append(last_stages(problem.G, stage)[:, : form.m])
    if form.soft_eq:
        assert isinstance(problem.A, SparseRows)
        parts += [last_stages(problem.A, stage)] * 2
    return torch.cat(parts, -1)


def _with_columns(
    matrix: Tensor | SparseRows, extra: int, entries: list[tuple[Tensor, Tensor, float]]
) -> Tensor | SparseRows:
    """The matrix with so many columns more, which hold the given numbers at (row, column)."""
    if not isinstance(matrix, SparseRows):
        rows = matrix.shape[-2]
        columns = torch.zeros(rows, extra, dtype=matrix.dtype, device=matrix.device)
        for row, column, number in entries:
            columns[row, column] = number
        return torch.cat((matrix, columns.expand(matrix.shape[0], -1, -1)), -1)
    k, n = matrix.shape
    row = torch.cat([matrix.row, *(row[None] for row, _, _ in entries)], -1)
    column = torch.cat([matrix.column, *(n + column[None] for _, column, _ in entries)], -1)
    new = [matrix.values.new_full((matrix.values.shape[0], len(row)), number) for row, _, number in entries]
    return dataclasses.replace(
        matrix, row=row, column=column, values=torch.cat([matrix.values, *new], -1), shape=(k, n + extra)
    )
