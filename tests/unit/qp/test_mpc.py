"""Model-predictive control against Riccati's recursion, dense solves and another solver."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import ActiveSet, Diagonal, External, MPCProblem, Sparse, mpc_problem, solve_qp

DOUBLE = torch.float64
BATCH, X, U, M = 3, 3, 2, 2


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def definite(seed: int, *shape: int) -> Tensor:
    root = draw(seed, *shape, shape[-1])
    return root @ root.mT + 0.1 * torch.eye(shape[-1], dtype=DOUBLE)


def plant(seed: int, radius: float) -> tuple[Tensor, Tensor]:
    """A of this spectral radius, and B."""
    A = draw(seed, X, X)
    return radius * A / torch.linalg.eigvals(A).abs().max(), draw(seed + 1, X, U)


def everything(horizon: int, *, varying: bool = False, batched: bool = False) -> dict[str, Any]:
    """All arguments at once."""
    stages = (BATCH,) * batched + (horizon if varying else 1,) * (varying or batched)
    W = definite(2, *stages, X + U)
    A, B = plant(0, 1.1)
    vectors = {"c": (4, X, 0.1), "x_ref": (5, X, 0.3), "u_ref": (6, U, 0.3)}
    wiggle = 0.05 * draw(7, *stages, X, X)
    arguments = {
        "A": A + wiggle,
        "B": B + 0.05 * draw(8, *stages, X, U),
        "Q": W[..., :X, :X],
        "R": W[..., X:, X:],
        "S": W[..., :X, X:],
        "QN": definite(9, X),
        "x0": draw(3, BATCH, X),
        "x_min": draw(10, X) * 0.1 - 4.0,
        "x_max": torch.full((X,), 4.0, dtype=DOUBLE),
        "u_min": torch.full((U,), -0.8, dtype=DOUBLE),
        "u_max": torch.full((U,), 0.9, dtype=DOUBLE),
        "G_x": draw(11, *stages, M, X),
        "G_u": draw(12, *stages, M, U),
        "h": torch.full((M,), 5.0, dtype=DOUBLE),
        "G_N": draw(13, 1, X),
        "h_N": torch.full((1,), 2.0, dtype=DOUBLE),
    }
    return arguments | {
        name: size * draw(seed, *stages, n) for name, (seed, n, size) in vectors.items() if name != "x_ref"
    }


def written_out(problem: MPCProblem) -> dict[str, Any]:
    """The same programme in dense matrices, without stages."""

    def dense(part: Any) -> Any:
        if not isinstance(part, Sparse):
            return part
        zeros = part.values.new_zeros(*part.values.shape[:-1], part.shape[0] * part.shape[1])
        whole = zeros.index_add(-1, part.row * part.shape[1] + part.column, part.values)
        return whole.reshape(*part.values.shape[:-1], *part.shape)

    return {name: dense(part) for name, part in problem.arguments.items() if name != "blocks"}


def cost(states: Tensor, inputs: Tensor, data: dict[str, Any], horizon: int) -> Tensor:
    """Written down as in the docstring, stage by stage."""

    def at(name: str, t: int, core: int) -> Tensor:
        value = data[name]
        return value if value.dim() == core else value[..., min(t, value.shape[-core - 1] - 1), *[slice(None)] * core]

    total = torch.zeros(BATCH, dtype=DOUBLE)
    for t in range(horizon):
        dx, du = states[..., t, :], inputs[..., t, :] - at("u_ref", t, 1)
        for left, name, right, weight in ((dx, "Q", dx, 0.5), (du, "R", du, 0.5), (dx, "S", du, 1.0)):
            total = total + weight * torch.einsum("...i,...ij,...j->...", left, at(name, t, 2), right)
    last = states[..., -1, :]
    return total + 0.5 * torch.einsum("...i,...ij,...j->...", last, at("QN", 0, 2), last)


@pytest.mark.parametrize("horizon", [1, 30])
def test_without_constraints_it_is_riccatis_recursion(horizon: int) -> None:
    (A, B), Q, R, x0 = plant(0, 1.3), definite(1, X), definite(2, U), draw(3, BATCH, X)
    problem = mpc_problem(A, B, Q, R, horizon, x0=x0)
    solution = solve_qp(**problem.arguments)
    states, inputs = problem.unpack(solution.value)
    P, gains = Q, []
    for _ in range(horizon):
        K = torch.linalg.solve(R + B.mT @ P @ B, B.mT @ P @ A)
        P = Q + A.mT @ P @ (A - B @ K)
        gains.append(K)
    x = x0
    for t, K in enumerate(reversed(gains)):
        torch.testing.assert_close(states[:, t], x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(inputs[:, t], -x @ K.mT, rtol=1e-9, atol=1e-9)
        x = x @ A.mT + inputs[:, t] @ B.mT
    torch.testing.assert_close(solution.fun, 0.5 * torch.einsum("bi,ij,bj->b", x0, P, x0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_all_arguments_mean_what_they_say(varying: bool, batched: bool) -> None:
    horizon = 12
    data = everything(horizon, varying=varying, batched=batched)
    problem = mpc_problem(horizon=horizon, **data)
    solution = solve_qp(**problem.arguments)
    states, inputs = problem.unpack(solution.value)
    assert states.shape == (BATCH, horizon + 1, X)
    assert inputs.shape == (BATCH, horizon, U)
    torch.testing.assert_close(states[:, 0], data["x0"])

    def at(name: str) -> Tensor:
        return data[name] if data[name].dim() > 2 or name in ("c", "u_ref") else data[name][None]

    moved = (at("A") @ states[:, :-1, :, None] + at("B") @ inputs[..., None]).squeeze(-1) + data["c"]
    torch.testing.assert_close(states[:, 1:], moved, rtol=1e-9, atol=1e-9)
    rows = (at("G_x") @ states[:, :-1, :, None] + at("G_u") @ inputs[..., None]).squeeze(-1)
    assert (rows <= data["h"] + 1e-9).all()
    assert (states[:, -1] @ data["G_N"].mT <= data["h_N"] + 1e-9).all()
    for part, name in ((states[:, 1:], "x"), (inputs, "u")):
        assert ((part >= data[f"{name}_min"] - 1e-9) & (part <= data[f"{name}_max"] + 1e-9)).all()
    expected = cost(states, inputs, data, horizon)
    torch.testing.assert_close(solution.fun + problem.constant, expected, rtol=1e-9, atol=1e-9)
    dense = solve_qp(**written_out(problem))
    torch.testing.assert_close(solution.value, dense.value, rtol=1e-9, atol=1e-9)
    assert solution.active.lower.any()


def test_another_solver_agrees() -> None:
    pytest.importorskip("qpsolvers")
    problem = mpc_problem(horizon=12, **everything(12, varying=True))
    solution = solve_qp(**problem.arguments)
    other = solve_qp(**problem.arguments, solver=External("clarabel"))
    torch.testing.assert_close(solution.value, other.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.dual_ineq, other.dual_ineq, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("batched", [False, True])
def test_gradients_are_those_of_the_dense_form(batched: bool) -> None:
    data = everything(8, batched=batched)

    def gradients(*, dense: bool) -> list[Tensor]:
        live = {name: value.clone().requires_grad_() for name, value in data.items()}
        problem = mpc_problem(horizon=8, **live)
        solution = solve_qp(**(written_out(problem) if dense else problem.arguments))
        loss = (draw(20, *solution.value.shape) * solution.value).sum() + (solution.fun + problem.constant).sum()
        return list(torch.autograd.grad(loss, list(live.values())))

    for name, found, exact in zip(data, gradients(dense=False), gradients(dense=True), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_are_those_of_finite_differences() -> None:
    (A, B), R = plant(0, 1.1), definite(2, U)

    def first_input(x0: Tensor, A: Tensor, B: Tensor, q: Tensor, u_max: Tensor) -> Tensor:
        problem = mpc_problem(A, B, torch.diag(q), R, 6, x0=x0, u_max=u_max, u_min=-u_max)
        return problem.unpack(solve_qp(**problem.arguments).value)[1][..., :2, :]

    arguments = draw(3, 2, X), A, B, draw(4, X).exp(), torch.full((U,), 0.7, dtype=DOUBLE)
    assert torch.autograd.gradcheck(first_input, [part.requires_grad_() for part in arguments])


def test_diagonal_costs() -> None:
    (A, B), q, r, x0 = plant(0, 1.1), draw(1, X).exp(), draw(2, U).exp(), draw(3, BATCH, X)
    bounds = {"u_min": -0.5, "u_max": 0.5}
    problem = mpc_problem(A, B, Diagonal(q), Diagonal(r), 10, x0=x0, x_ref=draw(4, 11, X), **bounds)
    same = mpc_problem(A, B, torch.diag(q), Diagonal(r), 10, x0=x0, x_ref=draw(4, 11, X), **bounds)
    assert isinstance(problem.arguments["Q"], Diagonal)
    found, expected = solve_qp(**problem.arguments), solve_qp(**same.arguments)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.fun + problem.constant, expected.fun + same.constant, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radius", [0.9, 1.2, 1.5])
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_long_horizons_and_unstable_plants(radius: float, seed: int) -> None:
    """States that cost nothing, so that Q is singular, but for the last one."""
    A, B = plant(seed, radius)
    Q, R = Diagonal(torch.zeros(X, dtype=DOUBLE)), Diagonal(torch.ones(U, dtype=DOUBLE))
    x0 = 0.2 * draw(seed + 2, BATCH, X)
    QN = Diagonal(torch.ones(X, dtype=DOUBLE))
    problem = mpc_problem(A, B, Q, R, 100, x0=x0, QN=QN, x_min=-2.0, x_max=2.0, u_min=-1.0, u_max=1.0)
    solution = solve_qp(**problem.arguments, throw=False)
    states, inputs = problem.unpack(solution.value)
    feasible = solution.status == Status.SUCCESS
    assert feasible.any()
    assert ((solution.status == Status.PRIMAL_INFEASIBLE) | feasible).all()
    moved = (states[:, :-1] @ A.mT + inputs @ B.mT - states[:, 1:])[feasible]
    assert moved.abs().max() <= 1e-9
    assert solution.residual[feasible].max() <= 1e-9


def test_a_hopeless_state_is_told_and_proven() -> None:
    (A, B), horizon = plant(0, 1.5), 30
    x0 = draw(3, 2, X) * torch.tensor([[0.1], [1e3]], dtype=DOUBLE)
    Q, R = torch.eye(X, dtype=DOUBLE), torch.eye(U, dtype=DOUBLE)
    problem = mpc_problem(A, B, Q, R, horizon, x0=x0, x_min=-5.0, x_max=5.0, u_min=-1.0, u_max=1.0)
    solution = solve_qp(**problem.arguments, throw=False)
    assert solution.status.tolist() == [Status.SUCCESS, Status.PRIMAL_INFEASIBLE]
    dense = written_out(problem)
    nu, low, high = (getattr(solution, f"dual_{name}")[1] for name in ("eq", "lb", "ub"))
    size = max(nu.abs().max(), low.max(), high.max())
    assert (nu @ dense["A"] - low + high).abs().max() <= 1e-8 * size
    bounded = torch.isfinite(dense["ub"])
    gap = dense["b"][1] @ nu - (dense["lb"] * low)[bounded].sum() + (dense["ub"] * high)[bounded].sum()
    assert gap < -1e-3 * size
    assert not low[~bounded].any()
    assert not high[~bounded].any()


def test_steps_of_a_receding_horizon() -> None:
    """The shifted active set is the next problem's, but for its end: few factorisations, and the same answer."""
    (A, B), Q, R = plant(0, 1.05), torch.eye(X, dtype=DOUBLE), torch.eye(U, dtype=DOUBLE)
    problem = mpc_problem(
        A,
        B,
        Q,
        R,
        30,
        x0=draw(3, BATCH, X),
        u_min=-0.3,
        u_max=0.3,
        G_x=draw(4, 1, X),
        h=torch.ones(1, dtype=DOUBLE) * 4,
    )
    solution = solve_qp(**problem.arguments)
    assert solution.active.upper.any()
    steps = []
    for _ in range(4):
        states, _ = problem.unpack(solution.value)
        problem = problem.starting_from(states[:, 1])
        cold = solve_qp(**problem.arguments)
        solution = solve_qp(**problem.arguments, warm_start=problem.shift(solution.active))
        torch.testing.assert_close(solution.value, cold.value, rtol=1e-9, atol=1e-9)
        steps.append((solution.num_steps.sum(), cold.num_steps.sum()))
    assert 2 * sum(warm for warm, _ in steps) <= sum(cold for _, cold in steps)


def test_shift_moves_every_kind_of_constraint() -> None:
    problem = mpc_problem(horizon=4, **everything(4))
    solution = solve_qp(**problem.arguments)
    n, rows = solution.value.shape[-1], 4 * M + 1
    marks = torch.zeros(BATCH, n, dtype=torch.bool), torch.zeros(BATCH, rows, dtype=torch.bool)
    marks[0][:, X + U] = True  # x_1, first state
    marks[0][:, 3 * (X + U) + X] = True  # u_3, first input
    marks[1][:, [M, rows - 1]] = True  # first row of stage 1, and the last state's
    shifted = problem.shift(ActiveSet(marks[1], marks[0], marks[0]))
    assert shifted.lower[0].nonzero().squeeze(-1).tolist() == [2 * (X + U) + X, 3 * (X + U) + X]
    assert shifted.ineq[0].nonzero().squeeze(-1).tolist() == [0, rows - 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"A": torch.eye(2, dtype=DOUBLE)}, r"A: expected shape \(3, 3\) or \(..., 5, 3, 3\)"),
        ({"Q": torch.eye(X, dtype=DOUBLE).expand(4, X, X)}, "Q: expected shape"),
        ({"c": torch.zeros(X)}, "c: dtype"),
        ({"h": None}, "G_x or G_u, and h"),
        ({"G_N": torch.eye(X, dtype=DOUBLE)}, "G_N: expected shape"),
        ({"horizon": 0}, "horizon"),
        ({"u_max": torch.ones(X, dtype=DOUBLE)}, "u_max: expected shape"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mpc_problem(**{"horizon": 5, **everything(5), **change})
