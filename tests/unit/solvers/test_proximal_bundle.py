"""The proximal bundle method on energies with kinks, against linear programmes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from icnn_rl import Box, Polytope, Simplex, Status, minimize
from icnn_rl.nn import PICNN
from icnn_rl.sets import Ball, ConvexSet, Domain
from icnn_rl.solvers import Implicit, ProjectedNewton, ProximalBundle
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64
B, N, PIECES = 5, 4, 12
SOLVER = ProximalBundle(tol=1e-9, max_steps=200)


class Pieces:
    """max_k a_k . y + b_k."""

    separable = True

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def __call__(self, y: Tensor) -> Tensor:
        return ((self.a @ y.unsqueeze(-1)).squeeze(-1) + self.b).amax(-1)

    def rows(self, index: Tensor) -> Pieces:
        return Pieces(self.a[index], self.b[index])


def pieces(dtype: torch.dtype = DOUBLE, batch: int = B) -> Pieces:
    return Pieces(draw(41, batch, PIECES, N).to(dtype), draw(42, batch, PIECES).to(dtype))


G, H = draw(11, B, 6, N).double(), 0.1 + 0.5 * draw(12, B, 6).abs().double()
DOMAINS: dict[str, Domain] = {
    "box": Box(-1.0, 1.0),
    "polytope": Polytope(G, H, lb=-1.0, ub=1.0),
    "equation": Polytope(A=torch.ones(1, N, dtype=DOUBLE), b=torch.full((1,), 0.3, dtype=DOUBLE), lb=-1.0, ub=1.0),
    "simplex": Simplex(2.0),
}


def minimum(energy: Pieces, domain: Domain, row: int) -> float:
    """min v: a y + b <= v over the set, by HiGHS."""
    rows, right = [np.hstack([energy.a[row].numpy(), -np.ones((PIECES, 1))])], [-energy.b[row].numpy()]
    bounds: list[tuple[float | None, float | None]] = [(-1.0, 1.0)] * N
    equations, values = None, None
    if isinstance(domain, Simplex):
        equations, values, bounds = np.ones((1, N)), np.full(1, domain.total), [(0.0, None)] * N
    if isinstance(domain, Polytope) and domain.G is not None and domain.h is not None:
        rows.append(np.hstack([domain.G[row].numpy(), np.zeros((6, 1))]))
        right.append(domain.h[row].numpy())
    if isinstance(domain, Polytope) and domain.A is not None and domain.b is not None:
        equations, values = domain.A.numpy(), domain.b.numpy()
    if equations is not None:
        equations = np.hstack([equations, np.zeros((1, 1))])
    found = optimize.linprog(
        [0.0] * N + [1.0], np.vstack(rows), np.concatenate(right), equations, values, [*bounds, (None, None)]
    )
    return float(found.fun)


@pytest.mark.parametrize("where", DOMAINS)
def test_piecewise_linear(where: str) -> None:
    energy, domain = pieces(), DOMAINS[where]
    solution = minimize(energy, SOLVER, 0.1 * draw(1, B, N).double(), domain=domain)
    expected = torch.tensor([minimum(energy, domain, row) for row in range(B)], dtype=DOUBLE)
    torch.testing.assert_close(solution.fun, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(energy(solution.value), solution.fun)
    assert (solution.gap >= solution.fun - expected - 1e-12).all()


@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize("where", DOMAINS)
def test_certificate_holds_at_every_step(where: str, steps: int) -> None:
    energy, domain = pieces(), DOMAINS[where]
    early = minimize(
        energy, ProximalBundle(tol=1e-9, max_steps=steps), 0.1 * draw(1, B, N).double(), domain=domain, throw=False
    )
    for row in range(B):
        assert float(early.gap[row]) >= float(early.fun[row]) - minimum(energy, domain, row) - 1e-12


@pytest.mark.parametrize("cuts", [3, 6, 30])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_few_cuts_are_enough(cuts: int, dtype: torch.dtype) -> None:
    energy, domain = pieces(dtype), Box(-1.0, 1.0)
    solver = ProximalBundle(tol=2e-3 if cuts == 3 else 1e-5, max_steps=200, max_cuts=cuts)
    solution = minimize(energy, solver, torch.zeros(B, N, dtype=dtype), domain=domain)
    for row in range(B):
        fun = minimum(pieces(), domain, row)
        assert -1e-5 <= float(solution.fun[row]) - fun <= float(solution.gap[row]) + 1e-5


def test_smooth_energies_too_and_their_gradient() -> None:
    torch.manual_seed(0)
    net = PICNN(3, N, context=(32,), hidden=(16,), activation="softplus").double()
    x = draw(7, B, 3).double().requires_grad_()
    found = []
    for solver in (ProximalBundle(tol=1e-7, max_steps=500), ProjectedNewton(tol=1e-12)):
        solution = minimize(net.bind(x), solver, torch.zeros(B, N, dtype=DOUBLE), domain=DOMAINS["polytope"])
        found.append((solution.fun, torch.autograd.grad(solution.value.sum(), x)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-2)


def test_largest_coordinate_on_a_ball() -> None:
    """min max_j y_j over a ball: -radius / sqrt(n)."""
    solution = minimize(lambda y: y.amax(-1), SOLVER, draw(3, 2, N).double(), domain=Ball(2.0))
    torch.testing.assert_close(solution.fun, torch.full((2,), -1.0, dtype=DOUBLE), rtol=0, atol=1e-8)


def test_batch_is_a_loop_over_rows() -> None:
    batch = 40
    energy, y0 = pieces(batch=batch), 0.1 * draw(1, batch, N).double()
    together = minimize(energy, SOLVER, y0, domain=Box(-1.0, 1.0))
    for row in (0, 17, 39):
        index = torch.tensor([row])
        alone = minimize(energy.rows(index), SOLVER, y0[index], domain=Box(-1.0, 1.0))
        torch.testing.assert_close(alone.fun[0], together.fun[row], rtol=0, atol=1e-9)


def test_rows_that_fail_leave_the_others_alone() -> None:
    energy = pieces()
    energy.b = energy.b.clone()
    energy.b[1] = torch.nan
    rows, right = G.clone(), H.clone()
    rows[3, 1], right[3, :2] = -rows[3, 0], -0.5
    solution = minimize(energy, SOLVER, torch.zeros(B, N, dtype=DOUBLE), domain=ConvexSet(rows, right, lb=-1.0, ub=1.0),
                        throw=False)  # fmt: skip
    assert solution.status.tolist() == [0, int(Status.NONFINITE_INPUT), 0, int(Status.PRIMAL_INFEASIBLE), 0]
    for row in (0, 2, 4):
        assert float(solution.fun[row]) == pytest.approx(minimum(pieces(), DOMAINS["polytope"], row), abs=1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProximalBundle(tol=0.0), r"ProximalBundle\.tol"),
        (lambda: ProximalBundle(max_steps=0), r"ProximalBundle\.max_steps"),
        (lambda: ProximalBundle(max_cuts=2), r"ProximalBundle\.max_cuts: expected at least 3, got 2"),
        (lambda: minimize(pieces(), SOLVER, torch.zeros(B, N, dtype=DOUBLE)), "needs a bounded domain"),
        (
            lambda: minimize(
                pieces(), SOLVER, torch.zeros(B, N, dtype=DOUBLE), domain=Box(-1.0, 1.0), adjoint=Implicit()
            ),
            "needs second derivatives",
        ),
    ],
)
def test_wrong_use_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
