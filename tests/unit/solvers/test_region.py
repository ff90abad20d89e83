"""Minimising over polytopes, simplices, balls and convex sets: against slow references, and against themselves."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from icnn_rl import Box, Polytope, Simplex, SolveError, Status, Unconstrained, minimize
from icnn_rl.constraints import power_limit
from icnn_rl.nn import ICNN, PICNN
from icnn_rl.sets import Ball, ConvexSet, Domain, Ellipsoid
from icnn_rl.solvers import BundleEntropy, Implicit, ProjectedGradient, ProjectedNewton, Unrolled
from icnn_rl.solvers.problem import Problem
from icnn_rl.solvers.region import Region
from icnn_rl.testing import qp_references
from icnn_rl.testing.minimisation import draw
from icnn_rl.testing.minimisation_references import Array, numpy_function

DOUBLE = torch.float64
B, N = 5, 4
NEWTON = ProjectedNewton(tol=1e-10, max_steps=100)
SINGLE = ProjectedNewton(tol=1e-5)

Energy = Callable[[Tensor], Tensor]


class Quadratic:
    """1/2 y^T H y + p . y with a row of p for every row of the batch."""

    smooth, separable = True, True

    def __init__(self, H: Tensor, p: Tensor) -> None:
        self.H, self.p = H, p

    def __call__(self, y: Tensor) -> Tensor:
        return (y * (0.5 * y @ self.H.mT + self.p)).sum(-1)

    def rows(self, index: Tensor) -> Quadratic:
        return Quadratic(self.H, self.p[index])


def quadratic(dtype: torch.dtype = DOUBLE, seed: int = 0, batch: int = B, n: int = N) -> Quadratic:
    root = draw(seed, n, n)
    H = root @ root.mT + 0.1 * torch.eye(n)
    return Quadratic(H.to(dtype), 3.0 * draw(seed + 1, batch, n).to(dtype))


def icnn(dtype: torch.dtype = DOUBLE, n: int = N) -> Energy:
    torch.manual_seed(0)
    return ICNN(n, hidden=(16, 16), activation="softplus").to(dtype)


def picnn(dtype: torch.dtype = DOUBLE, batch: int = B, n: int = N) -> Energy:
    torch.manual_seed(0)
    net = PICNN(3, n, context=(32,), hidden=(16,), activation="squareplus", ensemble=2).to(dtype)
    with torch.no_grad():
        return net.bind(3.0 * draw(7, batch, 3).to(dtype), reduction="mean")


def rows(dtype: torch.dtype = DOUBLE, m: int = 6, batch: int = B, n: int = N) -> tuple[Tensor, Tensor]:
    return draw(11, batch, m, n).to(dtype), (0.1 + 0.5 * draw(12, batch, m).abs()).to(dtype)


def power(dtype: torch.dtype, n: int = 8) -> ConvexSet:
    limit = power_limit(slice(0, n), 2.0)
    return limit.at(2.0 * draw(13, B, n).to(dtype), n)


def signs(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)))


def ellipsoid(dtype: torch.dtype, size: float = 0.5, n: int = N) -> Ellipsoid:
    root = draw(14, n, n)
    M = (root @ root.mT + 0.5 * torch.eye(n)).to(dtype)
    return Ellipsoid(M, 0.2 * draw(15, B, n).to(dtype), torch.full((B,), size, dtype=dtype))


DOMAINS: dict[str, Callable[[torch.dtype], Domain]] = {
    "rows and bounds": lambda t: Polytope(*rows(t), lb=-1.0, ub=1.0),
    "shared rows": lambda t: Polytope(rows(t)[0][0], rows(t)[1][0], lb=-1.0),
    "rows that bound": lambda t: Polytope(signs(N).to(t), torch.ones(2**N, dtype=t)),
    "rows that do not bound": lambda t: Polytope(*rows(t, m=3)),
    "equations": lambda t: Polytope(A=draw(16, 1, N).to(t), b=torch.zeros(1, dtype=t), lb=-1.0, ub=1.0),
    "no rows": lambda t: Polytope(lb=-0.3, ub=torch.full((N,), 0.3, dtype=t)),
    "simplex": lambda t: Simplex(),
    "large simplex": lambda t: Simplex(20.0),
    "ball": lambda t: Ball(0.7),
    "balls": lambda t: Ball(0.5, draw(17, B, N).to(t)),
    "ellipsoid and rows": lambda t: ConvexSet(*rows(t), ellipsoid=ellipsoid(t)),
    "ellipsoid and bounds": lambda t: ConvexSet(lb=-0.4, ub=0.4, ellipsoid=ellipsoid(t)),
    "twice the same rows": lambda t: Polytope(rows(t)[0].repeat(1, 2, 1), rows(t)[1].repeat(1, 2), lb=-1.0, ub=1.0),
    "thin": lambda t: Polytope(
        torch.tensor([[1.0, 1.0, 0.0, 1.0], [-1.0, -1.0, 0.0, -1.0]]).to(t),
        torch.tensor([0.1, -0.1]).to(t),
        lb=-1.0,
        ub=1.0,
    ),
    "lifted": lambda t: power(t, N),
}
ENERGIES: dict[str, Callable[[torch.dtype], Energy]] = {"quadratic": quadratic, "icnn": icnn, "picnn": picnn}


def violation(domain: Domain, y: Tensor) -> Tensor:
    """Largest violation, relative to the sizes at hand; of a lifted set through its projection."""
    s = domain.as_set(y)
    if s.lifted:
        return (s.project(y).value - y).abs().amax(-1)
    return s.violation(y)


def reference(energy: Energy, domain: Domain, like: Tensor, row: int) -> tuple[float, Array]:
    """SLSQP to the end of float64, over the auxiliary variables as well."""
    s = domain.as_set(like)
    n, k = like.shape[-1], s.lifted
    pick = Region.of(s, like).rows(torch.tensor([row])).set
    function = numpy_function(energy, row, like)
    constraints = []

    def one(part: Tensor | float | None, size: int, core: int) -> Array | None:
        if part is None:
            return None
        t = torch.as_tensor(part, dtype=DOUBLE)
        t = t.expand(size) if t.dim() == 0 else t
        return t.reshape(t.shape[-core:]).numpy() if t.dim() > 0 else t.numpy()

    G, h, A, b = one(pick.G, 0, 2), one(pick.h, 0, 1), one(pick.A, 0, 2), one(pick.b, 0, 1)
    if G is not None:
        constraints.append({"type": "ineq", "fun": lambda x: h - G @ x, "jac": lambda x: -G})
    if A is not None:
        constraints.append({"type": "eq", "fun": lambda x: b - A @ x, "jac": lambda x: -A})
    if pick.ellipsoid is not None:
        M, c, size = (
            t.reshape(t.shape[-d:] if d else ()).numpy() for t, d in zip(pick.ellipsoid, (2, 1, 0), strict=True)
        )
        constraints.append(
            {"type": "ineq", "fun": lambda x: size - (x - c) @ M @ (x - c), "jac": lambda x: -2 * M @ (x - c)}
        )
    lb, ub = one(pick.lb, n + k, 1), one(pick.ub, n + k, 1)
    bounds = optimize.Bounds(-np.inf if lb is None else lb, np.inf if ub is None else ub)

    def fun(x: Array) -> tuple[float, Array]:
        f, g = function(x[:n])
        return f, np.concatenate([g, np.zeros(k)])

    start = pick.minimise(1.0, torch.zeros(1, n, dtype=DOUBLE)).solution.value[0].numpy()
    best = None
    for _ in range(2):
        found = optimize.minimize(
            fun, start, jac=True, method="SLSQP", bounds=bounds, constraints=constraints,
            options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        start = found.x
        best = found if best is None or found.fun < best.fun else best
    assert best is not None
    return float(best.fun), best.x[:n]


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("where", DOMAINS)
def test_minimiser(name: str, where: str) -> None:
    if (name, where) == ("icnn", "rows that do not bound"):
        pytest.skip("has no minimum")
    energy, domain, y0 = ENERGIES[name](DOUBLE), DOMAINS[where](DOUBLE), 0.3 * draw(2, B, N).double()
    solution = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    assert (violation(domain, solution.value) <= 1e-9).all()
    torch.testing.assert_close(energy(solution.value), solution.fun)
    for row in (1, 4):
        fun, _ = reference(energy, domain, y0, row)
        scale = 1e-7 * (1.0 + abs(fun))
        assert abs(float(solution.fun[row]) - fun) <= scale
        assert float(solution.gap[row]) >= float(solution.fun[row]) - fun - scale


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("where", DOMAINS)
def test_float32(name: str, where: str) -> None:
    if (name, where) == ("icnn", "rows that do not bound"):
        pytest.skip("has no minimum")
    y0 = 0.3 * draw(2, B, N)
    exact = minimize(ENERGIES[name](DOUBLE), NEWTON, y0.double(), domain=DOMAINS[where](torch.float32), adjoint=None)
    domain = DOMAINS[where](torch.float32)
    solution = minimize(ENERGIES[name](torch.float32), SINGLE, y0, domain=domain, adjoint=None)
    assert solution.value.dtype == torch.float32
    assert (violation(domain, solution.value) <= 2e-6).all()
    excess = solution.fun.double() - exact.fun
    rounding = 1e-5 * (1 + exact.fun.abs())
    assert (excess >= -rounding).all()
    assert (excess <= torch.where(torch.isfinite(solution.gap), solution.gap, 0.0) + rounding).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("where", DOMAINS)
def test_certificate_holds_at_every_step(where: str, steps: int) -> None:
    energy, domain, y0 = picnn(), DOMAINS[where](DOUBLE), 0.3 * draw(2, B, N).double()
    best = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    early = minimize(energy, ProjectedNewton(tol=1e-12, max_steps=steps), y0, domain=domain, adjoint=None, throw=False)
    assert (early.gap >= early.fun - best.fun - 1e-12 * (1 + best.fun.abs())).all()
    assert (violation(domain, early.value) <= 1e-9).all()
    unbounded = where == "rows that do not bound"
    assert unbounded or (best.gap <= 1e-8 * (1 + best.fun.abs())).all()


@pytest.mark.parametrize("where", DOMAINS)
def test_batch_is_a_loop_over_rows(where: str) -> None:
    energy, y0 = quadratic(), 0.3 * draw(2, B, N).double()
    domain = DOMAINS[where](DOUBLE)
    together = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    whole = domain.as_set(y0)
    for row in range(B):
        index = torch.tensor([row])
        alone = minimize(energy.rows(index), NEWTON, y0[index], domain=whole.rows(index), adjoint=None)
        torch.testing.assert_close(alone.value[0], together.value[row], rtol=1e-9, atol=1e-9)
        assert alone.num_steps[0] == together.num_steps[row]


@pytest.mark.parametrize("where", ["rows and bounds", "lifted", "ellipsoid and rows", "simplex"])
def test_quadratic_is_solved_as_the_quadratic_programme(where: str) -> None:
    energy, domain, y0 = quadratic(), DOMAINS[where](DOUBLE), torch.zeros(B, N, dtype=DOUBLE)
    solution = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    expected = domain.as_set(y0).minimise(energy.H, energy.p).value
    torch.testing.assert_close(solution.value, expected, rtol=0, atol=1e-8)


def test_quadratic_over_rows_against_a_polished_reference() -> None:
    energy, (G, h) = quadratic(), rows()
    solution = minimize(energy, NEWTON, torch.zeros(B, N, dtype=DOUBLE), domain=Polytope(G, h, lb=-1.0), adjoint=None)
    for row in range(B):
        data = qp_references.Data(
            energy.H.numpy(), energy.p[row].numpy(), G[row].numpy(), h[row].numpy(), np.zeros((0, N)), np.zeros(0),
            np.full(N, -1.0), np.full(N, np.inf),
        )  # fmt: skip
        np.testing.assert_allclose(solution.value[row].numpy(), qp_references.solve(data).point.x, atol=1e-8)


def test_a_polytope_without_rows_is_the_box() -> None:
    energy, y0 = picnn(), 2.0 * draw(2, B, N).double()
    box = minimize(energy, NEWTON, y0, domain=Box(-0.3, 0.3), adjoint=None)
    polytope = minimize(energy, NEWTON, y0, domain=Polytope(lb=-0.3, ub=0.3), adjoint=None)
    torch.testing.assert_close(polytope.value, box.value, rtol=0, atol=1e-10)
    everywhere = minimize(energy, NEWTON, y0, domain=Unconstrained(), adjoint=None)
    nowhere = minimize(energy, NEWTON, y0, domain=Polytope(), adjoint=None)
    torch.testing.assert_close(nowhere.value, everywhere.value, rtol=0, atol=1e-8)


def test_power_limit_with_auxiliary_variables_is_the_one_with_sign_patterns() -> None:
    n = 8
    energy, y0, w = picnn(n=n), torch.zeros(B, n, dtype=DOUBLE), 2.0 * draw(13, B, n).double()
    lifted = minimize(energy, NEWTON, y0, domain=power(DOUBLE), adjoint=None)
    patterns = Polytope(signs(n).double() * w.unsqueeze(-2), torch.full((B, 2**n), 2.0, dtype=DOUBLE))
    written_out = minimize(energy, NEWTON, y0, domain=patterns, adjoint=None)
    torch.testing.assert_close(lifted.value, written_out.value, rtol=0, atol=1e-7)
    assert ((lifted.value * w).abs().sum(-1) <= 2.0 + 1e-9).all()


def test_vertex_solutions() -> None:
    """A linear energy ends in a corner: as many rows as variables."""
    price = draw(21, 6, 3).double()
    octahedron = Polytope(signs(3).double(), torch.ones(8, dtype=DOUBLE), lb=-2.0, ub=2.0)
    start = torch.zeros(6, 3, dtype=DOUBLE)
    solution = minimize(lambda y: (price * y).sum(-1), NEWTON, start, domain=octahedron, adjoint=None)
    torch.testing.assert_close(solution.fun, -price.abs().amax(-1))
    assert (solution.gap <= 1e-9).all()


def test_warm_start_gives_the_same_answer_sooner() -> None:
    energy, domain, y0 = picnn(), DOMAINS["rows and bounds"](DOUBLE), draw(2, B, N).double()
    cold = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    warm = minimize(energy, NEWTON, y0, domain=domain, adjoint=None, warm_start=cold.warm_start)
    torch.testing.assert_close(warm.fun, cold.fun, rtol=0, atol=1e-9)
    assert (warm.num_steps <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("kind", ["rows", "bounds", "equations", "ellipsoid"])
def test_empty_sets_do_not_disturb_their_neighbours(kind: str, dtype: torch.dtype) -> None:
    G, h = rows(dtype)
    A, b = torch.ones(B, 1, N, dtype=dtype), torch.zeros(B, 1, dtype=dtype)
    lb, ub = torch.full((B, N), -1.0, dtype=dtype), torch.ones(B, N, dtype=dtype)
    body = ellipsoid(dtype)
    good = ConvexSet(G, h, A, b, lb, ub, ellipsoid=body if kind == "ellipsoid" else None)
    if kind == "rows":
        G = G.clone()
        G[1, 1], h = -G[1, 0], h.index_put((torch.tensor(1), torch.tensor([0, 1])), torch.tensor(-0.5, dtype=dtype))
    elif kind == "bounds":
        lb = lb.index_put((torch.tensor(1),), torch.tensor(2.0, dtype=dtype))
    elif kind == "equations":
        b = b.index_put((torch.tensor(1),), torch.tensor(10.0, dtype=dtype))
    else:
        body = body._replace(center=body.center.index_put((torch.tensor(1),), torch.tensor(50.0, dtype=dtype)))
    bad = ConvexSet(G, h, A, b, lb, ub, ellipsoid=body if kind == "ellipsoid" else None)
    energy, y0 = picnn(dtype), torch.zeros(B, N, dtype=dtype)
    solver = NEWTON if dtype == DOUBLE else SINGLE
    expected = minimize(energy, solver, y0, domain=good, adjoint=None)
    solution = minimize(energy, solver, y0, domain=bad, adjoint=None, throw=False)
    assert solution.status.tolist() == [0, int(Status.PRIMAL_INFEASIBLE), 0, 0, 0]
    others = torch.tensor([0, 2, 3, 4])
    tol = 1e-8 if dtype == DOUBLE else 1e-3
    torch.testing.assert_close(solution.value[others], expected.value[others], rtol=0, atol=tol)
    assert torch.isfinite(solution.value).all()
    assert solution.fun[1].isnan()
    assert solution.gap[1] == float("inf")
    with pytest.raises(SolveError, match="PRIMAL_INFEASIBLE"):
        minimize(energy, solver, y0, domain=bad, adjoint=None)


def test_rows_that_are_not_finite_do_not_disturb_their_neighbours() -> None:
    G, h = rows()
    G = G.clone()
    G[2, 0, 0], p = torch.nan, torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    net = picnn()
    solution = minimize(
        lambda y: p * net(y), NEWTON, torch.zeros(B, N, dtype=DOUBLE), domain=Polytope(G, h, lb=-1.0), throw=False
    )
    assert solution.status.tolist() == [0, 0, int(Status.NONFINITE_INPUT), 0, 0]
    assert torch.equal(solution.value[2], torch.zeros(N, dtype=DOUBLE))
    (gradient,) = torch.autograd.grad(solution.value.sum(), p)
    assert torch.isfinite(gradient)


def test_infinite_right_hand_sides_do_not_constrain() -> None:
    G, h = rows()
    energy, y0 = quadratic(), torch.zeros(B, N, dtype=DOUBLE)
    h = h.clone()
    h[:, 3:] = torch.inf
    some = minimize(energy, NEWTON, y0, domain=Polytope(G, h, lb=-1.0, ub=1.0), adjoint=None)
    fewer = minimize(energy, NEWTON, y0, domain=Polytope(G[:, :3], h[:, :3], lb=-1.0, ub=1.0), adjoint=None)
    torch.testing.assert_close(some.value, fewer.value, rtol=0, atol=1e-9)
    assert torch.isfinite(some.gap).all()


def test_leading_dimensions_and_none() -> None:
    (G, h), energy = rows(), lambda y: torch.nn.functional.softplus(2 * y - 1).sum(-1) + (y**2).sum(-1)
    y0 = draw(2, 2, B, N).double()
    domain = Polytope(G, h, lb=-1.0, ub=1.0)
    many = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    flat = minimize(energy, NEWTON, y0[1], domain=domain, adjoint=None)
    torch.testing.assert_close(many.value[1], flat.value, rtol=0, atol=1e-8)
    one = minimize(energy, NEWTON, y0[0, 0], domain=Polytope(G[0], h[0], lb=-1.0, ub=1.0), adjoint=None)
    torch.testing.assert_close(many.value[0, 0], one.value, rtol=0, atol=1e-8)


def test_finished_rows_leave_a_large_batch() -> None:
    batch = 96
    energy, (G, h) = quadratic(batch=batch), rows(batch=batch)
    curved = Quadratic(energy.H, energy.p)
    solution = minimize(curved, NEWTON, torch.zeros(batch, N, dtype=DOUBLE), domain=Polytope(G, h, lb=-1.0))
    expected = ConvexSet(G, h, lb=-1.0).minimise(energy.H, energy.p).value
    torch.testing.assert_close(solution.value, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["accelerated", "momentum"])
@pytest.mark.parametrize("where", ["rows and bounds", "simplex", "ball", "lifted"])
def test_projected_gradient(where: str, method: str) -> None:
    energy, domain, y0 = picnn(), DOMAINS[where](DOUBLE), torch.zeros(B, N, dtype=DOUBLE)
    best = minimize(energy, NEWTON, y0, domain=domain, adjoint=None)
    solver = ProjectedGradient(method, lr=None if method == "accelerated" else 0.1, tol=1e-3, max_steps=40)
    solution = minimize(energy, solver, y0, domain=domain, adjoint=None, throw=False)
    assert (violation(domain, solution.value) <= 1e-9).all()
    assert (solution.gap >= solution.fun - best.fun - 1e-10).all()
    assert (solution.fun - best.fun <= 0.02 * (1 + best.fun.abs())).all()


def live_set(where: str, parts: tuple[Tensor, ...]) -> Domain:
    if where == "polytope":
        return Polytope(parts[0], parts[1], lb=parts[2], ub=1.0)
    if where == "simplex":
        return Polytope(A=parts[0], b=parts[1], lb=0.0)
    return ConvexSet(parts[0], parts[1], ellipsoid=Ellipsoid(0.5 * (parts[2] + parts[2].mT), *parts[3:]))


@pytest.mark.parametrize("where", ["polytope", "simplex", "ellipsoid"])
@pytest.mark.parametrize("pull", [0.05, 1.0, 6.0])
def test_implicit_gradient(where: str, pull: float) -> None:
    """From the interior to the corners, in what the energy depends on and in what describes the set: against central
    differences along a direction in each."""
    n, batch = 3, 4
    root = draw(31, n, n).double()
    H = root @ root.mT + torch.eye(n, dtype=DOUBLE)
    p = (pull * draw(32, batch, n)).double()
    G, h = draw(33, batch, 5, n).double(), 0.3 + draw(34, batch, 5).abs().double()
    parts: tuple[Tensor, ...] = (p, G, h, torch.full((n,), -0.7, dtype=DOUBLE))
    if where == "simplex":
        parts = p, 1.0 + 0.3 * draw(35, 1, n).double(), torch.ones(1, dtype=DOUBLE)
    if where == "ellipsoid":
        parts = p, G, h, H, 0.1 * draw(36, n).double(), torch.tensor(0.3, dtype=DOUBLE)
    weights = draw(37, batch, n).double()

    def value(parts: tuple[Tensor, ...]) -> Tensor:
        def energy(y: Tensor) -> Tensor:
            return 0.5 * ((y @ H) * y).sum(-1) + (parts[0] * y).sum(-1) + 0.1 * (y**4).sum(-1)

        domain, start = live_set(where, parts[1:]), torch.zeros(batch, n, dtype=DOUBLE)
        found = minimize(energy, ProjectedNewton(tol=1e-13), start, domain=domain, adjoint=Implicit(damping=0.0))
        return (weights * found.value).sum()

    live = tuple(part.clone().requires_grad_() for part in parts)
    gradients = torch.autograd.grad(value(live), live, materialize_grads=True)  # 0 where the ellipsoid does not bind
    for i, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        direction = draw(40 + i, *part.shape, 1).squeeze(-1).double()
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                ends.append(float(value((*parts[:i], part + sign * 1e-5 * direction, *parts[i + 1 :]))))
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6), i


def test_implicit_gradient_of_a_network_and_value_unchanged() -> None:
    torch.manual_seed(0)
    net = PICNN(3, N, context=(16,), hidden=(16,), activation="softplus").double()
    x = draw(7, B, 3).double().requires_grad_()
    domain = DOMAINS["rows and bounds"](DOUBLE)
    y0 = torch.zeros(B, N, dtype=DOUBLE)
    solver = ProjectedNewton(tol=1e-13)
    live = minimize(net.bind(x), solver, y0, domain=domain)
    assert torch.equal(live.value.detach(), minimize(net.bind(x), solver, y0, domain=domain, adjoint=None).value)
    weights, direction = draw(8, B, N).double(), draw(9, B, 3).double()
    (gradient,) = torch.autograd.grad((weights * live.value).sum(), x)
    ends = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            found = minimize(net.bind(x + sign * 1e-5 * direction), solver, y0, domain=domain)
        ends.append(float((weights * found.value).sum()))
    assert float((gradient * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7)


def test_float32_gradient() -> None:
    domain, y0 = DOMAINS["rows and bounds"], torch.zeros(B, N)
    gradients = []
    for dtype, solver in ((torch.float32, SINGLE), (DOUBLE, NEWTON)):
        energy = quadratic(dtype)
        energy.p.requires_grad_()
        value = minimize(energy, solver, y0.to(dtype), domain=domain(dtype)).value
        gradients.append(torch.autograd.grad(value.sum(), energy.p)[0].double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_failed_rows_pass_no_gradient_on() -> None:
    G, h = rows()
    G, h = G.clone(), h.clone()
    G[1, 1], h[1, :2] = -G[1, 0], -0.5
    energy = quadratic()
    energy.p.requires_grad_()
    solution = minimize(
        energy, NEWTON, torch.zeros(B, N, dtype=DOUBLE), domain=Polytope(G, h, lb=-1.0, ub=1.0), throw=False
    )
    (gradient,) = torch.autograd.grad(solution.value.sum(), energy.p)
    assert torch.equal(gradient[1], torch.zeros(N, dtype=DOUBLE))
    assert torch.isfinite(gradient).all()


def test_an_energy_that_is_not_convex_is_survived() -> None:
    solution = minimize(
        lambda y: -(y**2).sum(-1), ProjectedNewton(max_steps=5), torch.full((2, N), 0.1, dtype=DOUBLE),
        domain=Polytope(torch.ones(1, N, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE), lb=-1.0, ub=1.0),
        adjoint=None, throw=False,
    )  # fmt: skip
    assert torch.isfinite(solution.value).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polytope(G=torch.ones(1, 3)), r"Polytope\.h: missing\. G and h go together"),
        (lambda: Polytope(b=torch.ones(1)), r"Polytope\.A: missing"),
        (lambda: Polytope(torch.ones(2, 3), torch.ones(3)), r"Polytope\.h: expected shape \(\.\.\., 2\)"),
        (lambda: Polytope(torch.ones(3), torch.ones(3)), r"expected tensors of shape \(\.\.\., m, n\)"),
        (lambda: Simplex(0.0), r"Simplex\.total"),
        (lambda: Ball(-1.0), r"Ball\.radius"),
        (lambda: Ball(True), r"Ball\.radius: expected a number"),
    ],
)
def test_wrong_domains_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (
            Polytope(torch.ones(2, 5), torch.ones(2)),
            r"Polytope\.G: expected shape \(\.\.\., m, 4\) for y \(5, 4\), got",
        ),
        (Polytope(torch.ones(3, 2, N), torch.ones(2)), r"Polytope\.G: batch dimensions \(3,\) do not broadcast"),
        (Polytope(lb=torch.ones(3)), r"Polytope\.lb: expected shape \(\.\.\., 4\)"),
        (Polytope(ub=float("nan")), r"Polytope\.ub: contains NaN"),
        (Ball(1.0, torch.zeros(3)), r"Ball\.ellipsoid\.center: expected shape \(\.\.\., 4\)"),
        (ConvexSet(torch.ones(1, N), torch.ones(1), lifted=2), r"ConvexSet\.G: expected shape \(\.\.\., m, 6\)"),
        ((-1.0, 1.0), r"domain: expected Box"),
    ],
    ids=str,
)
def test_domains_that_do_not_fit_are_refused(domain: Domain, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimize(quadratic(torch.float32), SINGLE, torch.zeros(B, N), domain=domain)


def test_methods_for_boxes_say_what_to_use_instead() -> None:
    energy, y0 = quadratic(torch.float32), torch.zeros(B, N)
    with pytest.raises(ValueError, match=r"BundleEntropy works on a box.*ProximalBundle"):
        minimize(energy, BundleEntropy(), y0, domain=Simplex())
    with pytest.raises(ValueError, match=r"adam scales every coordinate on its own.*accelerated"):
        minimize(energy, ProjectedGradient("adam", lr=0.1), y0, domain=Simplex())
    with pytest.raises(ValueError, match=r"Unrolled\(\) goes through the steps on a box.*Implicit"):
        minimize(energy, ProjectedGradient("momentum", lr=0.1), y0, domain=Simplex(), adjoint=Unrolled())


def test_sets_are_plain_settings() -> None:
    assert pickle.loads(pickle.dumps(Simplex(2.0))) == Simplex(2.0)
    assert pickle.loads(pickle.dumps(Ball(2.0))) == Ball(2.0)
    assert "lb=-1.0" in repr(Polytope(lb=-1.0))


def test_bounds_that_rows_imply() -> None:
    """Auxiliary variables of the power limit, the octahedron written as rows, an ellipsoid."""
    y = torch.zeros(B, N, dtype=DOUBLE)
    lifted = Problem(quadratic(), power(DOUBLE, N), y)
    assert lifted.region is not None
    assert torch.isfinite(lifted.region.upper).all()
    octahedron = Problem(quadratic(), DOMAINS["rows that bound"](DOUBLE), y)
    torch.testing.assert_close(octahedron.upper.expand_as(y), torch.ones_like(y), rtol=0, atol=1e-6)
    assert (octahedron.upper >= 1.0).all()
    ball = Problem(quadratic(), Ball(0.5, 1.0), y)
    torch.testing.assert_close(ball.lower.expand_as(y), torch.full_like(y, 0.5))


@pytest.mark.parametrize("bounded", [False, True])
def test_minimises_over_a_cylinder(bounded: bool) -> None:
    """(J y)^2 <= 1/4, without end in the kernel of J: J t, and nothing else of t, is brought back to +-1/2."""
    generator = torch.Generator().manual_seed(0)
    J, t = (torch.randn(6, *shape, 3, generator=generator, dtype=torch.float64) for shape in ((1,), ()))
    size, side = torch.tensor(0.25, dtype=torch.float64), 50.0 if bounded else None
    tube = ConvexSet(
        lb=None if side is None else -side, ub=side, ellipsoid=Ellipsoid(J.mT @ J, torch.zeros_like(t), size)
    )

    def energy(y: Tensor) -> Tensor:
        return 0.5 * ((y - t) ** 2).sum(-1)

    found = minimize(energy, ProjectedNewton(tol=1e-10), torch.zeros_like(t), domain=tube)
    along = (J.squeeze(-2) * t).sum(-1, keepdim=True)
    excess = along - along.clamp(-0.5, 0.5)
    expected = t - excess * J.squeeze(-2) / J.square().sum(-1)
    torch.testing.assert_close(found.value, expected, rtol=0.0, atol=1e-7)
