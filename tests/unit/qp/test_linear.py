"""Every linear system against a dense solve of the equations of an active set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from icnn_rl.qp.linear.base import Reduction, Triple
from icnn_rl.qp.linear.dual import Dual
from icnn_rl.qp.linear.eliminate import Eliminate
from icnn_rl.qp.linear.mixed import Mixed
from icnn_rl.qp.linear.primal import Primal
from icnn_rl.qp.linear.range import Range
from icnn_rl.qp.linear.scale import Scale
from icnn_rl.qp.linear.schur import Schur
from icnn_rl.qp.linear.select import _CANDIDATES, choose
from icnn_rl.qp.problem import Problem

DOUBLE = torch.float64
BATCH, N, M = 3, 6, 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def problem(q: int, diagonal: bool, n: int = N, m: int = M) -> Problem:
    """q equalities, m rows of G and lower bounds; the second row of the batch lacks a row of G and a bound."""
    root = draw(0, BATCH, n, n)
    Q = draw(1, BATCH, n).exp() if diagonal else root @ root.mT + torch.eye(n, dtype=DOUBLE)
    present = torch.ones(BATCH, m + n, dtype=DOUBLE)
    present[1, [0, m]] = 0.0
    A = draw(2, BATCH, q, n) if q else None
    G = draw(3, BATCH, m, n)
    return Problem(
        Q, draw(4, BATCH, n), G, A, draw(5, BATCH, q), draw(6, BATCH, m + n), True, False, present
    ).with_norms()


def active_set(data: Problem) -> Tensor:
    """A row of G and two bounds."""
    active = torch.zeros_like(data.d, dtype=torch.bool)
    active[:, [1, data.m + 1, data.m + 2]] = True
    return active


def dense_solve(data: Problem, active: Tensor, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
    """Row by row, the equations written out."""
    Q = torch.diag_embed(data.Q) if data.diagonal else data.Q
    C, q, out = data.constraint_matrix(), data.b.shape[-1], []
    for i in range(BATCH):
        A = torch.zeros(0, N, dtype=DOUBLE) if data.A is None else data.A[i]  # type: ignore[index]
        rows = torch.cat((A, C[i][active[i]]))
        zeros = torch.zeros(len(rows), len(rows), dtype=DOUBLE)
        matrix = torch.cat((torch.cat((Q[i], rows.mT), 1), torch.cat((rows, zeros), 1)))
        found = torch.linalg.solve(matrix, torch.cat((rx[i], ra[i], rc[i][active[i]])))
        z = torch.zeros_like(rc[i])
        z[active[i]] = found[N + q :]
        out.append((found[:N], found[N : N + q], z))
    x, nu, z = (torch.stack(parts) for parts in zip(*out, strict=True))
    return x, nu, z


def on_active_set(system: Reduction, active: Tensor) -> Reduction:
    return system.with_inner(system.inner.factored(torch.where(system.guess(active), 0.0, torch.inf)))


def systems(data: Problem) -> list[Reduction]:
    """All that can take the problem."""
    chol = None if data.diagonal else torch.linalg.cholesky(data.Q)
    found = [each.build(data, chol, False) for each in _CANDIDATES if math.isfinite(each.cost(data, False))]
    return [*found, Scale.of(data)]


@pytest.mark.parametrize("diagonal", [False, True], ids=["dense", "diagonal"])
@pytest.mark.parametrize("q", [0, 2], ids=["no_equalities", "equalities"])
def test_solves_the_equations_of_an_active_set(q: int, diagonal: bool) -> None:
    data = problem(q, diagonal)
    active, right = active_set(data), (draw(7, BATCH, N), draw(8, BATCH, q), draw(9, BATCH, M + N))
    expected = dense_solve(data, active, *right)
    kinds = {type(system) for system in systems(data)}
    plain = {Eliminate, Schur} if q else {Primal}
    assert kinds == plain | {Dual, Scale} | ({Range} if diagonal else set())
    for system in systems(data):
        for each, corrections in ((system, 4), (system.in_single(), 30)):
            factored = on_active_set(each, active)
            assert torch.equal(factored.outer(factored.guess(active)), active)
            for found, exact in zip(factored.refined(*right, corrections), expected, strict=True):
                torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8, msg=lambda m, s=each: f"{s}: {m}")


def test_rows_of_two_systems() -> None:
    data = problem(0, diagonal=True)
    active, right = active_set(data), (draw(7, BATCH, N), draw(8, BATCH, 0), draw(9, BATCH, M + N))
    first, second = on_active_set(Primal.of(data, False), active), on_active_set(Range.of(data), active)
    index = torch.tensor([2, 0])
    part = Problem(
        *(t[index] for t in (data.Q, data.p, data.G)),  # type: ignore[index]
        None,
        *(t[index] for t in (data.b, data.d)),
        True,
        False,
        None if data.present is None else data.present[index],
    ).with_norms()
    mixed = Mixed(data, first, index, on_active_set(Range.of(part), active[index]))
    for system in (mixed, mixed.spread()):
        for found, own, other in zip(system.solve(*right), first.solve(*right), second.solve(*right), strict=True):
            torch.testing.assert_close(found[index], other[index], rtol=0.0, atol=1e-13)
            torch.testing.assert_close(found[1], own[1], rtol=0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("q", "diagonal", "n", "m", "kind"),
    [
        (0, False, 6, 60, Primal),
        (4, False, 6, 60, Eliminate),
        (1, False, 60, 60, Schur),
        (5, True, 60, 1, Range),
        (0, True, 6, 60, Primal),
    ],
    ids=["many_rows", "many_equalities", "one_equality", "many_bounds", "diagonal_many_rows"],
)
def test_the_smallest_matrix_is_chosen(q: int, diagonal: bool, n: int, m: int, kind: type) -> None:
    data = problem(q, diagonal, n, m)
    chol = None if diagonal else torch.linalg.cholesky(data.Q)
    assert isinstance(choose(data, chol, False), kind)


def test_few_constraints_on_many_variables_go_to_the_dual() -> None:
    Q = torch.eye(40, dtype=DOUBLE)[None] + 0.1
    data = Problem(Q, draw(0, 1, 40), draw(1, 1, 3, 40), None, draw(2, 1, 0), draw(3, 1, 3), False, False, None)
    assert isinstance(choose(data, torch.linalg.cholesky(Q), False), Dual)
    assert isinstance(choose(data, None, True), Primal)
