"""Ten thousand small programmes with wild entries: each is solved, proven to have no solution, or honestly given up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icnn_rl import Status
from icnn_rl.qp import QPSolution, solve_qp
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_references import Array, Data
from tests.unit.qp.test_solve_qp import farkas, wrong_with_ray

#: n, rows of G, rows of A
SHAPES = [(1, 2, 0), (2, 3, 1), (3, 5, 0), (3, 0, 2), (4, 6, 1), (4, 8, 2), (5, 3, 3), (6, 10, 2)]
ROWS = 1250
ANSWERS = [int(Status.SUCCESS), int(Status.PRIMAL_INFEASIBLE), int(Status.DUAL_INFEASIBLE)]


def wild(rng: np.random.Generator, tame: Array, share: float) -> Array:
    """Some entries replaced by 0, some times 1e12 or 1e-12."""
    kind = rng.random(tame.shape)
    factor = np.select([kind < 0.5 * share, kind < 0.75 * share, kind < share], [0.0, 1e12, 1e-12], 1.0)
    result: Array = tame * factor
    return result


def draw(seed: int, n: int, m: int, q: int, share: float) -> Data:
    """Q = R'R of any rank; half of the rows of the batch have a feasible point, the others whatever comes; duplicates,
    zero rows, fixed variables and infinite ends among them."""
    rng = np.random.default_rng(seed)
    inside = rng.standard_normal((ROWS, n)) * (rng.random((ROWS, n)) < 0.8)
    roots = wild(rng, rng.standard_normal((ROWS, n, n)), share) * (rng.random((ROWS, n, 1)) < 0.7)
    Q, p = roots.swapaxes(-1, -2) @ roots, wild(rng, rng.standard_normal((ROWS, n)), share)
    G, A = wild(rng, rng.standard_normal((ROWS, m, n)), share), wild(rng, rng.standard_normal((ROWS, q, n)), share)
    if m > 1:
        twice = rng.random(ROWS) < 0.2
        G[twice, -1] = G[twice, 0] * rng.choice([-1.0, 1.0, 2.0], (int(twice.sum()), 1))
    if q > 1:
        A[rng.random(ROWS) < 0.1, -1] = 0.0
    lb, ub = inside - wild(rng, rng.random((ROWS, n)), share), inside + wild(rng, rng.random((ROWS, n)), share)
    lb[rng.random(lb.shape) < 0.5], ub[rng.random(ub.shape) < 0.5] = -np.inf, np.inf
    same = rng.random(lb.shape) < 0.05
    lb[same], ub[same] = inside[same], inside[same]
    h, b = references.times(G, inside) + wild(rng, rng.random((ROWS, m)), share), references.times(A, inside)
    anything = rng.random(ROWS) < 0.5
    h[anything], b[anything] = (wild(rng, rng.standard_normal(x[anything].shape), share) for x in (h, b))
    h[rng.random(h.shape) < 0.1] = np.inf
    return Data(0.5 * (Q + Q.swapaxes(-1, -2)), p, G, h, A, b, lb, ub)


def solve(data: Data) -> QPSolution:
    return solve_qp(
        *(torch.as_tensor(np.array(getattr(data, name))) for name in ("Q", "p", "G", "h", "A", "b", "lb", "ub")),
        throw=False,
    )


def faults(data: Data, solution: QPSolution) -> list[str]:
    """The claims of the rows that do not hold."""
    status, point = solution.status.numpy(), references.point_of(solution)
    solved = status == Status.SUCCESS
    numbers = [*point, *(getattr(solution, name).numpy()[:, None] for name in ("fun", "residual", "gap"))]
    finite = np.all([np.isfinite(part).all(-1) for part in numbers], axis=0)
    found = [f"{row}: solved with numbers that are not finite" for row in np.flatnonzero(solved & ~finite)]
    good = np.flatnonzero(solved & finite)
    worst = references.kkt_residuals(data[good], point.at(good)).worst
    found += [f"{row}: solved to {error:.1e}" for row, error in zip(good, worst, strict=True) if error > 1e-9]
    for row in np.flatnonzero(status == Status.PRIMAL_INFEASIBLE):
        error, value = farkas(data[row], point.at(row))
        found += [f"{row}: infeasible, error {error:.1e}, value {value:.1e}"] if error > 1e-7 or value >= 0 else []
    for row in np.flatnonzero(status == Status.DUAL_INFEASIBLE):
        complaint = wrong_with_ray(data[row], solution.ray[row].numpy(), 1e-7)
        found += [f"{row}: unbounded, {complaint}"] if complaint else []
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wild_programmes_are_solved_or_honestly_given_up(shape: tuple[int, int, int]) -> None:
    data = draw(sum(shape), *shape, share=0.3)
    solution = solve(data)
    found = faults(data, solution)
    assert found == []
    assert Status.NONFINITE_INPUT not in solution.status.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tame_programmes_all_get_an_answer(shape: tuple[int, int, int]) -> None:
    """The same with zeros, duplicates and infinite ends, but without extreme numbers: nothing may be given up."""
    data = draw(100 + sum(shape), *shape, share=0.0)
    solution = solve(data)
    found = faults(data, solution)
    assert found == []
    status = solution.status.numpy()
    given_up = [f"{row}: {Status(status[row]).name}" for row in np.flatnonzero(~np.isin(status, ANSWERS))]
    assert given_up == []


@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_gradients_of_wild_programmes_are_not_nan(shape: tuple[int, int, int]) -> None:
    data = draw(200 + sum(shape), *shape, share=0.2)
    arguments = [
        torch.as_tensor(np.array(getattr(data, name))).requires_grad_()
        for name in ("Q", "p", "G", "h", "A", "b", "lb", "ub")
    ]
    solution = solve_qp(*arguments, throw=False)
    gradients = torch.autograd.grad(solution.value, arguments, torch.ones_like(solution.value), allow_unused=True)
    for gradient in gradients:
        assert gradient is None or not torch.isnan(gradient).any()


def test_clarabel_agrees_on_tame_programmes() -> None:
    """Status and objective of two hundred of them."""
    data = draw(7, 4, 6, 1, share=0.0)[:200]
    solution = solve(data)
    expected = {
        "solved": Status.SUCCESS,
        "primal_infeasible": Status.PRIMAL_INFEASIBLE,
        "dual_infeasible": Status.DUAL_INFEASIBLE,
    }
    for row in range(200):
        answer = references.solve(data[row])
        if answer.status == "unknown":
            continue
        assert int(solution.status[row]) == expected[answer.status], row
        if answer.status == "solved":
            best = references.objective(data[row], answer.point.x)
            scale = max(float(references.objective_scale(data[row], answer.point.x)), 1e-12)
            assert abs(float(solution.fun[row]) - best) <= 1e-8 * scale, row
