"""Problems in stages: the same answers and gradients as without, and work that follows the number of stages."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import Diagonal, NonConvexError, PrimalDual, Sparse, inputs, solve_qp
from icnn_rl.qp.linear import select, stagewise
from icnn_rl.qp.linear.base import Triple
from icnn_rl.qp.linear.stagewise import Stagewise
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.stages import find_stages, layout_of

DOUBLE = torch.float64
BATCH, SIZE, STAGES = 3, 4, 16
N = SIZE * STAGES
BLOCKS = [SIZE] * STAGES


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def tridiagonal(rows: int, columns: int, *, below: bool = False) -> Tensor:
    """(STAGES * rows, STAGES * columns): ones in the diagonal blocks, those to their right, and to their left."""
    near = torch.eye(STAGES) + torch.diag(torch.ones(STAGES - 1), 1)
    near = near + torch.diag(torch.ones(STAGES - 1), -1) if below else near
    return torch.kron(near, torch.ones(rows, columns)).double()


def chain(*, coupled: bool = True, singular: bool = False, batched: bool = True) -> dict[str, Any]:
    """Two equations and three inequalities a stage, most of which reach into the next; bounds."""
    batch = (BATCH,) if batched else ()
    root = draw(0, *batch, N, N) * torch.kron(torch.eye(STAGES), torch.ones(SIZE, SIZE)).double()
    if coupled:
        root = root * torch.kron(torch.eye(STAGES), torch.ones(SIZE, SIZE)).double() + 0.3 * tridiagonal(SIZE, SIZE)
        root = root.triu() if not singular else root
    Q = root @ root.mT
    if singular:
        gone = torch.arange(N) % SIZE < 2
        Q = Q * ~gone[:, None] * ~gone
        Q = Q * (tridiagonal(SIZE, SIZE, below=True) > 0)
    A = draw(1, *batch, 2 * STAGES, N) * tridiagonal(2, SIZE)
    G = draw(2, *batch, 3 * STAGES, N) * tridiagonal(3, SIZE)
    inside = draw(3, BATCH, N)
    b, h = (A @ inside.unsqueeze(-1)).squeeze(-1), (G @ inside.unsqueeze(-1)).squeeze(-1) + 0.2
    return {
        "Q": Q,
        "p": 3.0 * draw(4, BATCH, N),
        "G": G,
        "h": h,
        "A": A,
        "b": b,
        "lb": inside - 0.4,
        "ub": inside + 1.0,
    }


def sparse(matrix: Tensor, pattern: Tensor) -> Sparse:
    row, column = pattern.nonzero().unbind(-1)
    return Sparse(row, column, matrix[..., row, column], (matrix.shape[-2], matrix.shape[-1]))


def as_sparse(arguments: dict[str, Any]) -> dict[str, Any]:
    patterns = {"Q": tridiagonal(SIZE, SIZE, below=True), "A": tridiagonal(2, SIZE), "G": tridiagonal(3, SIZE)}
    return {**arguments, **{name: sparse(arguments[name], pattern) for name, pattern in patterns.items()}}


def staged(arguments: dict[str, Any], blocks: list[int] | None = None) -> Problem:
    problem, _ = inputs.build(inputs.Arguments(**arguments), torch.Size([BATCH]), blocks)
    assert problem.stage is not None
    return problem.with_norms()


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(stagewise, "_kernel", lambda: None)
        monkeypatch.setattr(stagewise, "_CALLS", 0.0)
    else:
        pytest.importorskip("numba")
    return str(request.param)


def dense_solve(problem: Problem, active: Tensor, rx: Tensor, ra: Tensor, rc: Tensor) -> Triple:
    """Row by row, the equations of an active set written out."""
    whole, q = problem.dense(), problem.b.shape[-1]
    assert isinstance(whole.A, Tensor)
    C, out = whole.constraint_matrix(), []
    for i in range(BATCH):
        rows = torch.cat((whole.A[i], C[i][active[i]]))
        zeros = torch.zeros(len(rows), len(rows), dtype=DOUBLE)
        matrix = torch.cat((torch.cat((whole.Q[i], rows.mT), 1), torch.cat((rows, zeros), 1)))
        found = torch.linalg.solve(matrix, torch.cat((rx[i], ra[i], rc[i][active[i]])))
        z = torch.zeros_like(rc[i])
        z[active[i]] = found[N + q :]
        out.append((found[:N], found[N : N + q], z))
    x, nu, z = (torch.stack(parts) for parts in zip(*out, strict=True))
    return x, nu, z


@pytest.mark.parametrize("coupled", [False, True])
def test_solves_the_equations_of_an_active_set(coupled: bool, way: str) -> None:
    problem = staged(chain(coupled=coupled), BLOCKS)
    active = torch.zeros_like(problem.d, dtype=torch.bool)
    active[:, [1, 8, problem.m + 2, problem.m + 9]] = True
    q, k = problem.b.shape[-1], problem.d.shape[-1]
    right = draw(5, BATCH, N), draw(6, BATCH, q), draw(7, BATCH, k)
    expected = dense_solve(problem, active, *right)
    for system, corrections in ((Stagewise.of(problem, False), 3), (Stagewise.of(problem, False).in_single(), 30)):
        factored = system.with_inner(system.inner.factored(torch.where(active, 0.0, torch.inf)))
        for found, exact in zip(factored.refined(*right, corrections), expected, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)


def test_both_ways_factor_alike() -> None:
    pytest.importorskip("numba")
    system = Stagewise.of(staged(chain(), BLOCKS), False)
    compiled = system.factored(draw(8, *system.problem.d.shape).exp())
    assert compiled.factor is not None
    bounds = system.problem.on_diagonal(compiled.factor.w)
    assert bounds is not None
    chol, pivots = system._factored_by_torch(compiled.factor.w, bounds)
    torch.testing.assert_close(compiled.factor.chol, chol, rtol=1e-9, atol=1e-9)
    assert torch.equal(compiled.factor.pivots, pivots)  # type: ignore[arg-type]  # an LU factor has pivots


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_answers_are_those_of_the_dense_form(coupled: bool, singular: bool, way: str) -> None:
    arguments = chain(coupled=coupled, singular=singular)
    expected = solve_qp(**arguments)
    for found in (solve_qp(**arguments, blocks=BLOCKS), solve_qp(**as_sparse(arguments))):
        for name in ("value", "fun", "slack"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)
        again = solve_qp(**arguments, blocks=BLOCKS, warm_start=found.warm_start)
        torch.testing.assert_close(again.value, expected.value, rtol=1e-9, atol=1e-9)
        assert singular or again.num_steps.max() <= 2


@pytest.mark.parametrize("form", ["blocks", "sparse", "shared"])
def test_gradients_are_those_of_the_dense_form(form: str, way: str) -> None:
    arguments = chain(batched=form != "shared")

    def gradients(*, structured: bool) -> list[Tensor]:
        live = {name: part.clone().requires_grad_() for name, part in arguments.items()}
        given = as_sparse(live) if structured and form == "sparse" else live
        solution = solve_qp(**given, blocks=BLOCKS if structured and form != "sparse" else None)
        weight = draw(9, BATCH, N)
        loss = (weight * solution.value).sum() + solution.fun.sum() + solution.dual_eq.square().sum()
        return list(torch.autograd.grad(loss, [*live.values()]))

    masks = {"Q": tridiagonal(SIZE, SIZE, below=True), "A": tridiagonal(2, SIZE), "G": tridiagonal(3, SIZE)}
    for name, found, exact in zip(arguments, gradients(structured=True), gradients(structured=False), strict=True):
        kept = masks.get(name, torch.ones(()))
        torch.testing.assert_close(found * kept, exact * kept, rtol=1e-7, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_second_derivatives(way: str) -> None:
    arguments = as_sparse(chain())
    p, values = arguments["p"][:1], arguments["A"].values[:1]
    others = {name: part[:1] for name, part in arguments.items() if name in ("h", "b", "lb", "ub")}
    Q, G = (dataclasses.replace(arguments[name], values=arguments[name].values[:1]) for name in ("Q", "G"))

    def solve(p: Tensor, values: Tensor) -> Tensor:
        A = dataclasses.replace(arguments["A"], values=values)
        return solve_qp(Q, p, G=G, A=A, **others).value[:, :4]

    inputs_ = p.clone().requires_grad_(), values.clone().requires_grad_()
    assert torch.autograd.gradcheck(solve, inputs_, fast_mode=True, atol=1e-5)
    assert torch.autograd.gradgradcheck(solve, inputs_, fast_mode=True, atol=1e-4)


def test_mapped_values() -> None:
    """torch.func sees values of one pattern."""
    arguments = as_sparse(chain())
    A = arguments.pop("A")

    def solve(values: Tensor, p: Tensor) -> Tensor:
        rest = {name: part for name, part in arguments.items() if name != "p"}
        only = {name: part[0] for name, part in rest.items() if isinstance(part, Tensor)}
        single = {n: dataclasses.replace(m, values=m.values[0]) for n, m in rest.items() if isinstance(m, Sparse)}
        return solve_qp(A=dataclasses.replace(A, values=values), p=p, **{**only, **single}).value

    values, p = A.values[:1].expand(2, -1), arguments["p"][:2] * 0.5
    found = torch.func.vmap(solve)(values, p)
    for i in range(2):
        torch.testing.assert_close(found[i], solve(values[i], p[i]), rtol=1e-9, atol=1e-9)
    jacobian = torch.func.jacrev(solve, argnums=1)(values[0], p[0])
    expected = torch.autograd.functional.jacobian(lambda p: solve(values[0], p), p[0])
    torch.testing.assert_close(jacobian, expected, rtol=1e-7, atol=1e-7)


def test_a_batch_of_torchs_sparse_tensors() -> None:
    arguments = chain(coupled=False)
    arguments["A"][1, 0, 0] = 0.0  # patterns differ
    expected = solve_qp(**arguments)
    matrices = {name: arguments[name].to_sparse() for name in ("Q", "G", "A")}
    found = solve_qp(**{**arguments, **matrices})
    torch.testing.assert_close(found.value, expected.value, rtol=1e-9, atol=1e-9)


def test_stages_are_found_in_any_order() -> None:
    rows = tridiagonal(2, SIZE)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    pattern = sparse(rows[:, order], rows[:, order])
    stage = find_stages(N, [pattern])
    assert stage is not None
    count = torch.bincount(stage[0])
    assert count.max() <= 2 * SIZE
    reach = [stage[0][row > 0] for row in rows[:, order]]
    assert all(touched.max() - touched.min() <= 1 for touched in reach)


def test_parts_that_do_not_touch_follow_each_other() -> None:
    places = torch.arange(6)
    stage = find_stages(6, [Sparse(places, places, torch.ones(6), (6, 6))])
    assert stage is not None
    assert stage.unique().numel() == 6


def test_memory_is_linear_in_the_stages() -> None:
    def length(number: int) -> int:
        places = torch.arange(3 * number - 3)
        row, column = torch.cat((places, places)), torch.cat((places, places + 3))
        A = inputs._rows(Sparse(row, column, torch.ones(len(row)), (3 * number - 3, 3 * number)), torch.Size())
        stage = torch.repeat_interleave(torch.arange(number), 3)[None]
        return layout_of(stage, A, None, None).length

    assert length(400) == 4 * length(100)


def test_the_structure_pays_or_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    of = Stagewise.of
    monkeypatch.setattr(Stagewise, "of", lambda *args: built.append(1) or of(*args))
    pytest.importorskip("numba")
    solve_qp(**chain(), blocks=BLOCKS)
    assert built == [1]
    solve_qp(**chain(), blocks=[N])
    assert built == [1]


@pytest.mark.parametrize("name", ["Q", "A", "G"])
@pytest.mark.parametrize("as_entries", [False, True])
def test_an_entry_that_reaches_too_far_is_named(name: str, as_entries: bool) -> None:
    arguments = chain()
    far = {"Q": (0, 2 * SIZE), "A": (0, 2 * SIZE), "G": (3, N - 1)}[name]
    arguments[name][0, far[0], far[1]] = 1.0
    if as_entries:
        arguments[name] = arguments[name].to_sparse()
    with pytest.raises(ValueError, match=rf"{name}: entry \({far[0]}, {far[1]}\)"):
        solve_qp(**arguments, blocks=BLOCKS)


def test_blocks_are_checked() -> None:
    with pytest.raises(ValueError, match=r"blocks: expected sizes that add up to 64"):
        solve_qp(**chain(), blocks=[SIZE])
    with pytest.raises(ValueError, match=r"blocks\[1\]"):
        solve_qp(**chain(), blocks=[N, 0])


def test_sparse_is_checked() -> None:
    arguments = as_sparse(chain())
    A = arguments["A"]
    for wrong, said in (
        (dataclasses.replace(A, row=A.row[:-1]), "A: expected row and column"),
        (dataclasses.replace(A, column=A.column + N), "A: expected column in"),
        (dataclasses.replace(A, values=A.values.float()), "A.values: dtype"),
        (dataclasses.replace(A, shape=(A.shape[0], N + 1)), "A: expected shape"),
    ):
        with pytest.raises(ValueError, match=said):
            solve_qp(**{**arguments, "A": wrong})


def test_entries_at_one_place_are_added_up() -> None:
    arguments = as_sparse(chain())
    A = arguments["A"]
    twice = Sparse(A.row.repeat(2), A.column.repeat(2), torch.cat((0.25 * A.values, 0.75 * A.values), -1), A.shape)
    found = solve_qp(**{**arguments, "A": twice})
    torch.testing.assert_close(found.value, solve_qp(**arguments).value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("coupled", [False, True])
def test_a_negative_eigenvalue_is_found(coupled: bool) -> None:
    arguments = chain(coupled=coupled)
    lowest = torch.linalg.eigvalsh(arguments["Q"][1])[0]
    arguments["Q"][1] -= (lowest + 0.01) * torch.eye(N, dtype=DOUBLE)
    with pytest.raises(NonConvexError, match=r"-0\.01 in row 1"):
        solve_qp(**arguments, blocks=BLOCKS)


def test_failures_are_told(way: str) -> None:
    """A row without a feasible point, one that is unbounded, one that is solved; proofs as in the dense form."""
    arguments = chain(coupled=False, singular=True)
    free = {"Q": arguments["Q"], "p": arguments["p"], "A": arguments["A"][:, :2], "b": arguments["b"][:, :2]}
    arguments["b"][1, 4] += 100.0
    solution = solve_qp(**arguments, blocks=BLOCKS, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.PRIMAL_INFEASIBLE, Status.SUCCESS]
    y = [getattr(solution, f"dual_{name}")[1] for name in ("ineq", "eq", "lb", "ub")]
    G, A = arguments["G"][1], arguments["A"][1]
    assert (G.mT @ y[0] + A.mT @ y[1] - y[2] + y[3]).abs().max() <= 1e-7
    sides = [arguments[name][1] for name in ("h", "b", "lb", "ub")]
    assert sides[0] @ y[0] + sides[1] @ y[1] - sides[2] @ y[2] + sides[3] @ y[3] < -1e-3
    unbounded = solve_qp(**free, blocks=BLOCKS, throw=False)
    assert unbounded.status.tolist() == [Status.DUAL_INFEASIBLE] * BATCH
    ray = unbounded.ray.unsqueeze(-1)
    assert max((free[name] @ ray).abs().max() for name in ("Q", "A")) <= 1e-7
    assert ((free["p"] * unbounded.ray).sum(-1) < 0).all()


def test_not_a_number_stays_in_its_row() -> None:
    arguments = as_sparse(chain())
    expected = solve_qp(**arguments).value
    for name in ("Q", "A", "G"):
        values = arguments[name].values.clone()
        values[1, 5] = torch.nan
        live = values.requires_grad_()
        solution = solve_qp(**{**arguments, name: dataclasses.replace(arguments[name], values=live)}, throw=False)
        assert solution.status.tolist() == [Status.SUCCESS, Status.NONFINITE_INPUT, Status.SUCCESS]
        torch.testing.assert_close(solution.value[[0, 2]], expected[[0, 2]], rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(solution.value[[0, 2]].sum() + solution.fun[[0, 2]].sum(), live)
        assert torch.isfinite(gradient).all()
        assert not gradient[1].any()


def test_float32() -> None:
    arguments = {name: part.float() for name, part in chain().items()}
    expected = solve_qp(**arguments)
    for solver in (PrimalDual(), PrimalDual(dtype="input")):
        found = solve_qp(**arguments, blocks=BLOCKS, solver=solver)
        torch.testing.assert_close(found.value, expected.value, rtol=1e-5, atol=1e-5)


def test_a_large_matrix_that_is_written_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 6000
    values = torch.ones(n, dtype=DOUBLE)
    row = Sparse(torch.zeros(n, dtype=torch.int64), torch.arange(n), values, (1, n))
    shape = torch.Size([1])
    problem, _ = inputs.build(inputs.Arguments(Diagonal(values), values[None], row, values[:1]), shape)
    monkeypatch.setattr(select, "_LARGE", 0.01)
    with pytest.warns(UserWarning, match="writes sparse matrices out, 0 MB"):
        select._written_out(problem)


@pytest.mark.parametrize("both_sides", [False, True])
def test_elastic_rows_stay_in_stages(both_sides: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slack belongs to where its row ends."""
    pytest.importorskip("numba")
    arguments = chain()
    del arguments["lb"], arguments["ub"]
    arguments["h"] = arguments["h"] - 3.0
    sides = {"h_low": arguments["h"] - 0.1} if both_sides else {}
    expected = solve_qp(**arguments, **sides, elastic=2.0)
    assert expected.violation_ineq.max() > 0.1
    built: list[int] = []
    of = Stagewise.of
    monkeypatch.setattr(Stagewise, "of", lambda *args: built.append(1) or of(*args))
    for found in (
        solve_qp(**arguments, **sides, elastic=2.0, blocks=BLOCKS),
        solve_qp(**as_sparse(arguments), **sides, elastic=2.0),
    ):
        torch.testing.assert_close(found.value, expected.value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.violation_ineq, expected.violation_ineq, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.fun, expected.fun, rtol=1e-9, atol=1e-9)
    assert built == [1, 1]


@pytest.mark.parametrize("traced", [False, True])
def test_solves_are_compiled_whoever_asks(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(torch.linalg, "lu_solve", lambda *_: pytest.fail("torch solves"))
    arguments = chain()
    arguments["p"].requires_grad_(traced)
    solution = solve_qp(**arguments, blocks=BLOCKS)
    if traced:
        solution.value.sum().backward()
