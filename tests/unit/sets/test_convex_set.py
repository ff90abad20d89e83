"""Convex sets against Clarabel's cones and HiGHS; derivatives against finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from icnn_rl import SolveError, Status
from icnn_rl.sets import ConvexSet, Ellipsoid
from icnn_rl.sets.deepest import nearest_to_center
from icnn_rl.sets.rows import row_violation
from icnn_rl.testing import cone_references as cones

DOUBLE = torch.float64
INF = float("inf")
EMPTY, SOLVED, NONFINITE = (int(s) for s in (Status.PRIMAL_INFEASIBLE, Status.SUCCESS, Status.NONFINITE_INPUT))


def normal(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=DOUBLE)


def polytope(seed: int, batch: int, n: int, m: int, rows: float = 1.0, length: float = 1.0) -> ConvexSet:
    """Around a random point, in units of ``length``."""
    random = normal(seed)
    inside, G = random(batch, n), rows * random(batch, m, n)
    h = (G @ inside.unsqueeze(-1)).squeeze(-1) + rows * random(batch, m).abs()
    return ConvexSet(G, length * h, lb=length * (inside - 1.0), ub=length * (inside + 1.0))


def spread(seed: int, batch: int, n: int, condition: float) -> Tensor:
    """Positive definite matrices with eigenvalues from 1 to ``condition``."""
    basis, _ = torch.linalg.qr(normal(seed)(batch, n, n))
    M = basis * torch.logspace(0.0, float(np.log10(condition)), n, dtype=DOUBLE) @ basis.mT
    return 0.5 * (M + M.mT)


def with_ellipsoid(seed: int, batch: int, n: int, m: int, condition: float, size: float = 1.0) -> ConvexSet:
    """With its centre near the polytope: some are empty."""
    flat, random = polytope(seed, batch, n, m), normal(seed + 1)
    center = 0.5 * (flat.lb + flat.ub) + 0.5 * random(batch, n)  # type: ignore[operator]
    ellipsoid = Ellipsoid(spread(seed, batch, n, condition), center, torch.tensor(size, dtype=DOUBLE))
    return ConvexSet(flat.G, flat.h, lb=flat.lb, ub=flat.ub, ellipsoid=ellipsoid)


def assert_minimises(s: ConvexSet, Q: Tensor, p: Tensor, tol: float) -> None:
    """No point of the set is better by more than tol, and the point is in it; statuses are those of the reference."""
    found = s.minimise(Q, p, throw=False)
    for i in range(len(p)):
        q = (Q[i] if Q.dim() > 2 else Q).numpy()
        best = cones.minimiser(s, q, p[i].numpy(), i)
        assert int(found.status[i]) == (EMPTY if best is None else SOLVED), i
        if best is not None:
            y, price = found.value[i].numpy(), p[i].numpy()
            scale = 0.5 * np.abs(best) @ np.abs(q) @ np.abs(best) + np.abs(price) @ np.abs(best)
            assert 0.5 * y @ q @ y + price @ y <= 0.5 * best @ q @ best + price @ best + tol * scale, i
    good = found.status == SOLVED
    length = found.value[good].abs().amax().clamp(min=1.0)
    assert float(s.violation(found.value)[good].amax()) <= tol * length


@pytest.mark.parametrize(("rows", "length"), [(1.0, 1.0), (1e-6, 1.0), (1e6, 1.0), (1.0, 1e-6), (1e6, 1e6)])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (3, 8), (6, 24)])
def test_projects_onto_polytopes(n: int, m: int, rows: float, length: float) -> None:
    s, point = polytope(n, 6, n, m, rows, length), 3.0 * length * normal(n)(6, n)
    found = s.project(point)
    for i in range(6):
        unit = ConvexSet(s.G[i] / rows, s.h[i] / rows / length, lb=s.lb[i] / length, ub=s.ub[i] / length)  # type: ignore[index]
        best = cones.minimiser(unit, np.eye(n), -point[i].numpy() / length)
        np.testing.assert_allclose(found.value[i].numpy() / length, best, atol=1e-6)
    assert float(s.violation(found.value).amax()) <= 1e-12 * length


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 0), (6, 10)])
def test_minimises_over_ellipsoid_and_polytope(n: int, m: int, condition: float) -> None:
    s, p = with_ellipsoid(5 * n + m, 8, n, m, condition), 5.0 * normal(n)(8, n)
    assert_minimises(s, torch.eye(n, dtype=DOUBLE), p, 1e-7 if condition > 1e4 else 1e-9)
    assert_minimises(s, spread(3, 8, n, 30.0), p, 1e-7 if condition > 1e4 else 1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e8])
def test_projects_onto_ellipsoids(condition: float) -> None:
    """Alone, where the multiplier's equation can be solved in the ellipsoid's axes."""
    n, batch = 3, 20
    M, random = spread(0, batch, n, condition), normal(1)
    center, point = 10.0 * random(batch, n), random(batch, n)
    value = ConvexSet(ellipsoid=Ellipsoid(M, center, torch.tensor(2.0, dtype=DOUBLE))).project(point).value
    axes, V = torch.linalg.eigh(M)
    w = (V.mT @ (point - center).unsqueeze(-1)).squeeze(-1)
    low, high = torch.zeros(batch, 1, dtype=DOUBLE), torch.full((batch, 1), 1e12, dtype=DOUBLE)
    for _ in range(200):
        middle = torch.where(low < 1.0, 0.5 * (low + high), (low * high).sqrt())
        over = (axes * (w / (1.0 + middle * axes)).square()).sum(-1, keepdim=True) > 2.0
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    expected = center + (V @ (w / (1.0 + high * axes)).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(value, expected, rtol=0.0, atol=1e-15 * condition + 1e-10)


def test_linear_objective_over_a_ball() -> None:
    ellipsoid = Ellipsoid(torch.eye(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE), torch.tensor(4.0, dtype=DOUBLE))
    found = ConvexSet(ellipsoid=ellipsoid).minimise(0.0, torch.tensor([3.0, 4.0], dtype=DOUBLE))
    torch.testing.assert_close(found.value, torch.tensor([-0.2, -0.6], dtype=DOUBLE))
    torch.testing.assert_close(found.multiplier, torch.tensor(2.5, dtype=DOUBLE))


@pytest.mark.parametrize(("gap", "status"), [(0.0, SOLVED), (1e-6, EMPTY), (-1e-6, SOLVED), (3.0, EMPTY)])
def test_ball_that_barely_touches_a_row(gap: float, status: int) -> None:
    row, radius = torch.tensor([[0.6, 0.8]], dtype=DOUBLE), 2.0
    ellipsoid = Ellipsoid(torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE), torch.tensor(4.0, dtype=DOUBLE))
    s = ConvexSet(row, torch.tensor([-radius - gap], dtype=DOUBLE), ellipsoid=ellipsoid)
    found = s.project(torch.tensor([[0.3, -0.2]], dtype=DOUBLE), throw=False)
    assert found.status.tolist() == [status]
    width = (2.0 * radius * abs(gap)) ** 0.5
    torch.testing.assert_close(found.value, -radius * row, rtol=0.0, atol=1e-5 + 1.1 * width + abs(gap))
    assert (float(s.interior(found.value).depth) >= 0) == (gap <= 0)


def duplicate(G: Tensor, h: Tensor) -> ConvexSet:
    return ConvexSet(torch.cat((G, G)), torch.cat((h, h)))


ADVERSARIAL: dict[str, tuple[ConvexSet, bool]] = {}


def _adversarial() -> None:
    t = lambda *x: torch.tensor(x, dtype=DOUBLE)  # noqa: E731
    G, h = normal(4)(5, 3), normal(5)(5).abs()
    ADVERSARIAL.update(
        duplicate=(duplicate(G, h), True),
        nearly_duplicate=(ConvexSet(torch.cat((G, G + 1e-9)), torch.cat((h, h))), True),
        parallel=(ConvexSet(torch.cat((G, 2.0 * G)), torch.cat((h, 2.0 * h + 1.0))), True),
        zero_rows=(ConvexSet(torch.cat((G, 0.0 * G)), torch.cat((h, 0.0 * h))), True),
        zero_row_that_fails=(ConvexSet(torch.zeros(1, 3, dtype=DOUBLE), t(-1.0)), False),
        no_rows=(ConvexSet(torch.zeros(0, 3, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE)), True),
        equality_pair=(ConvexSet(torch.cat((G[:1], -G[:1])), torch.cat((h[:1], -h[:1]))), True),
        thin=(ConvexSet(torch.cat((G[:1], -G[:1])), torch.cat((h[:1], -h[:1] + 1e-9))), True),
        apart=(ConvexSet(torch.cat((G[:1], -G[:1])), torch.cat((h[:1], -h[:1] - 1e-3))), False),
        point=(ConvexSet(lb=t(0.5, 0.5, 0.5), ub=t(0.5, 0.5, 0.5)), True),
        crossed_bounds=(ConvexSet(lb=t(0.5, 0.5, 0.5), ub=t(0.5, 0.4, 0.5)), False),
        rows_against_bounds=(ConvexSet(t(-1.0, -1.0, -1.0).unsqueeze(0), t(-4.0), ub=1.0), False),
        corner=(ConvexSet(t(-1.0, -1.0, -1.0).unsqueeze(0), t(-3.0), ub=1.0), True),
        mixed_rows=(ConvexSet(G * t(1e-6, 1e-3, 1.0, 1e3, 1e6)[:, None], h * t(1e-6, 1e-3, 1.0, 1e3, 1e6)), True),
        equation=(ConvexSet(A=G[:2], b=h[:2], lb=-9.0, ub=9.0), True),
        infinite=(ConvexSet(G, t(INF, INF, INF, INF, INF), lb=-INF, ub=INF), True),
        impossible=(ConvexSet(G, t(1.0, -INF, 1.0, 1.0, 1.0)), False),
    )


_adversarial()


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_adversarial_sets(name: str, dtype: torch.dtype) -> None:
    """The projection, the sign of the depth, and where that is empty the point that violates least."""
    s, feasible = ADVERSARIAL[name]
    if dtype == torch.float32 and name in ("thin", "nearly_duplicate"):
        pytest.skip("not representable")
    s, tol = s.to(torch.zeros(1, dtype=dtype)), 1e-6 if dtype == DOUBLE else 1e-5
    point = (3.0 * normal(6)(4, 3)).to(dtype)
    found, inner = s.project(point, throw=False), s.interior(point)
    assert found.status.tolist() == [SOLVED if feasible else EMPTY] * 4
    for i in range(4 * feasible):
        best = cones.minimiser(s, np.eye(3), -point[i].double().numpy())
        np.testing.assert_allclose(found.value[i].double().numpy(), best, atol=tol)
    expected = cones.depth(s, 3)
    assert bool(((inner.depth >= 0) == feasible).all())
    np.testing.assert_allclose(inner.depth.double().numpy(), expected, atol=1e-5 if dtype == torch.float32 else 1e-9)
    if feasible and s.A is None:
        assert bool((s.violation(inner.point) <= -inner.depth + tol).all())
    if not feasible and np.isfinite(expected):
        least = cones.depth(s, 3, soft=False)
        least = least if np.isfinite(least) else expected
        worst = s.violation(s.least_violating(point)).double().numpy()
        np.testing.assert_allclose(worst, -least, atol=1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e8])
@pytest.mark.parametrize(("n", "m"), [(2, 0), (3, 5), (6, 10)])
def test_interior_points_hold_their_depth(n: int, m: int, condition: float) -> None:
    s = with_ellipsoid(n + m, 20, n, m, condition)
    inner, random = s.interior(torch.zeros(20, n, dtype=DOUBLE)), normal(3)
    for i in range(20):
        reference = cones.minimiser(s, np.eye(n), np.zeros(n), i)
        assert (float(inner.depth[i]) >= 0) == (reference is not None)
    inside = inner.depth >= 0
    assert float((inner.depth > 0).double().mean()) > 0.2
    directions = torch.nn.functional.normalize(random(200, 1, n), dim=-1)
    worst = s.violation(inner.point + directions * (1.0 - 1e-9) * inner.depth.clamp(min=0.0).unsqueeze(-1))
    assert float(worst[:, inside].amax()) <= 1e-12


def test_rows_of_a_batch_stand_alone() -> None:
    for s in (polytope(0, 9, 4, 6), with_ellipsoid(0, 9, 4, 6, 1e2)):
        point = 3.0 * normal(1)(9, 4)
        whole, inner = s.project(point, throw=False), s.interior(point)
        for i in range(9):
            one = s.rows(torch.tensor([i]))
            alone = one.project(point[i : i + 1], throw=False)
            torch.testing.assert_close(alone.value[0], whole.value[i], rtol=0.0, atol=1e-9)
            assert alone.status[0] == whole.status[i]
            torch.testing.assert_close(one.interior(point[i : i + 1]).depth[0], inner.depth[i], rtol=0.0, atol=1e-9)
            torch.testing.assert_close(one.violation(point[i : i + 1])[0], s.violation(point)[i])


def test_takes_one_row_without_batch() -> None:
    s = with_ellipsoid(0, 4, 3, 2, 10.0).rows(torch.tensor([0]))
    ellipsoid = Ellipsoid(s.ellipsoid.M[0], s.ellipsoid.center[0], s.ellipsoid.size)  # type: ignore[union-attr]
    flat = ConvexSet(s.G[0], s.h[0], lb=s.lb[0], ub=s.ub[0], ellipsoid=ellipsoid)  # type: ignore[index]
    point = normal(1)(3)
    assert flat.project(point).value.shape == flat.interior(point).point.shape == (3,)
    assert flat.violation(point).shape == flat.interior(point).depth.shape == ()
    torch.testing.assert_close(flat.project(point).value, s.project(point[None]).value[0], rtol=0.0, atol=1e-12)


def test_points_inside_stay_and_the_border_is_kept() -> None:
    s = with_ellipsoid(2, 10, 3, 4, 10.0)
    inner = s.interior(torch.zeros(10, 3, dtype=DOUBLE))
    inside = inner.point[inner.depth > 0]
    s = s.rows((inner.depth > 0).nonzero().squeeze(-1))
    torch.testing.assert_close(s.project(inside).value, inside, rtol=0.0, atol=1e-14)
    border = s.project(inside + 5.0).value
    torch.testing.assert_close(s.project(border).value, border, rtol=0.0, atol=1e-7)


def test_float32_is_solved_in_float64() -> None:
    s, point = with_ellipsoid(0, 12, 4, 6, 1e2), 3.0 * normal(1)(12, 4)
    single, double = s.to(torch.zeros(1)), s.to(torch.zeros(1)).to(point)
    found, expected = single.project(point.float(), throw=False), double.project(point.float().double(), throw=False)
    assert found.value.dtype == found.multiplier.dtype == found.solution.dual_lb.dtype == torch.float32
    assert torch.equal(found.status, expected.status)
    torch.testing.assert_close(found.value, expected.value.float(), rtol=2e-7, atol=1e-7)


def test_nan_is_reported() -> None:
    base = with_ellipsoid(0, 3, 2, 2, 1.0, size=100.0)
    good = base.project(torch.zeros(3, 2, dtype=DOUBLE))
    for field in ("G", "h", "lb", "ub", "M", "center", "size"):
        part = base.ellipsoid._replace(size=torch.full((3,), 100.0, dtype=DOUBLE))  # type: ignore[union-attr]
        parts: dict[str, Tensor] = {name: getattr(base, name).clone() for name in ("G", "h", "lb", "ub")}
        parts |= {name: t.clone() for name, t in part._asdict().items()}
        parts[field][1] = torch.nan
        s = ConvexSet(
            parts["G"], parts["h"], lb=parts["lb"], ub=parts["ub"],
            ellipsoid=Ellipsoid(parts["M"], parts["center"], parts["size"]),
        )  # fmt: skip
        found = s.project(torch.zeros(3, 2, dtype=DOUBLE), throw=False)
        assert found.status.tolist() == [SOLVED, NONFINITE, SOLVED], field
        assert bool(found.value[1].isnan().all()), field
        torch.testing.assert_close(found.value[::2], good.value[::2], rtol=0.0, atol=1e-12)
        assert s.violation(found.value[[0, 0, 2]]).isnan().tolist() == [False, True, False], field


def test_raises_with_the_solution() -> None:
    ellipsoid = Ellipsoid(torch.eye(2), torch.zeros(2), torch.tensor(1.0))
    with pytest.raises(SolveError, match="PRIMAL_INFEASIBLE") as caught:
        ConvexSet(lb=2.0, ellipsoid=ellipsoid).project(torch.zeros(1, 2))
    torch.testing.assert_close(caught.value.solution.value, torch.tensor([[2.0, 2.0]]))


def test_violation_is_a_distance() -> None:
    G, h = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([5.0, 1.0])
    y = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert row_violation(G, h, y).tolist() == [[4.0, -INF], [-1.0, -INF]]
    assert row_violation(G, -h, y)[:, 1].tolist() == [INF, INF]
    assert ConvexSet(G, h, ub=2.0).violation(y).tolist() == [4.0, -1.0]
    assert ConvexSet(A=G[:1], b=h[:1]).violation(y).tolist() == [4.0, 1.0]
    assert ConvexSet().violation(y).tolist() == [-INF, -INF]
    center = Ellipsoid(torch.eye(2), torch.zeros(2), torch.tensor(4.0)).violation(y)
    assert center.tolist() == [3.0, -2.0]
    huge = ConvexSet(torch.full((1, 2), 1e30), torch.tensor([-1e30]), lb=-1e30, ub=INF)
    assert not huge.violation(torch.tensor([[1e30, -1e30], [-3e38, 3e38]])).isnan().any()
    with pytest.raises(ValueError, match="auxiliary variables"):
        ConvexSet(lifted=1).violation(y)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_violation_of_no_constraint_is_none_or_not_a_number(dtype: torch.dtype) -> None:
    y = torch.tensor([[1.0, -INF], [float("nan"), INF]], dtype=dtype)
    for s in (ConvexSet(), ConvexSet(G=torch.zeros(0, 2, dtype=dtype), h=torch.zeros(0, dtype=dtype))):
        expected = torch.tensor([-INF, float("nan")], dtype=dtype)
        torch.testing.assert_close(s.violation(y), expected, equal_nan=True)


@pytest.mark.parametrize("lifted", [False, True])
def test_change_of_units(lifted: bool) -> None:
    scale, offset = torch.tensor([2.0, 0.5, 10.0], dtype=DOUBLE), torch.tensor([1.0, -1.0, 0.3], dtype=DOUBLE)
    s = with_ellipsoid(3, 30, 3, 4, 10.0)
    if lifted:
        G = torch.nn.functional.pad(s.G, (0, 1))  # type: ignore[arg-type]
        s = ConvexSet(G, s.h, lb=-1.0, ub=3.0, lifted=1, ellipsoid=s.ellipsoid)
    p = normal(4)(30, 3)
    found = s.minimise(1.0, p, throw=False)
    moved = s.affine(scale, offset).minimise(torch.diag(scale**2), scale * (p + offset), throw=False)
    assert torch.equal(found.status, moved.status)
    good = found.status == SOLVED
    torch.testing.assert_close(offset + scale * moved.value[good], found.value[good], rtol=0.0, atol=1e-9)


# derivatives


def leaves(seed: int, batch: int, n: int, m: int) -> list[Tensor]:
    s = with_ellipsoid(seed, batch, n, m, 4.0, size=1.5)
    sizes = torch.full((batch,), 1.5, dtype=DOUBLE)
    parts = [3.0 * normal(seed)(batch, n), s.G, s.h + 0.3, s.lb, s.ub, s.ellipsoid.M, s.ellipsoid.center, sizes]  # type: ignore[operator,union-attr]
    return [part.clone().requires_grad_() for part in parts]  # type: ignore[union-attr]


def projected(
    point: Tensor, G: Tensor, h: Tensor, lb: Tensor, ub: Tensor, M: Tensor, center: Tensor, size: Tensor
) -> Tensor:
    ellipsoid = Ellipsoid(0.5 * (M + M.mT), center, size)
    return ConvexSet(G, h, lb=lb, ub=ub, ellipsoid=ellipsoid).project(point).value


@pytest.mark.parametrize("seed", [1, 4])
def test_gradients_with_everything(seed: int) -> None:
    assert torch.autograd.gradcheck(projected, leaves(seed, 3, 3, 3), eps=1e-6, atol=1e-5)


def test_gradients_in_float32() -> None:
    double = leaves(1, 3, 3, 3)
    single = [part.detach().float().requires_grad_() for part in double]
    for parts in (single, double):
        projected(*parts).square().sum().backward()  # type: ignore[no-untyped-call]
    for one, other in zip(single, double, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


def test_gradients_are_elements_of_the_jacobian() -> None:
    """Of the projection onto a box: I inside, a row less on a facet, 0 at a vertex, and between these on a kink."""
    s = ConvexSet(lb=torch.zeros(2, dtype=DOUBLE), ub=torch.ones(2, dtype=DOUBLE))
    cases = [
        ([0.5, 0.5], [1.0, 1.0]),
        ([2.0, 0.5], [0.0, 1.0]),
        ([2.0, 3.0], [0.0, 0.0]),
        ([1.0, 0.5], [None, 1.0]),
        ([1.0, 1.0], [None, None]),
    ]
    for point, diagonal in cases:
        J = torch.autograd.functional.jacobian(lambda x: s.project(x).value, torch.tensor(point, dtype=DOUBLE))
        assert bool(torch.isfinite(J).all())
        assert float(J[0, 1].abs() + J[1, 0].abs()) < 1e-12
        for found, expected in zip(J.diagonal().tolist(), diagonal, strict=True):
            assert -1e-9 <= found <= 1.0 + 1e-9 if expected is None else abs(found - expected) < 1e-9


def test_second_derivatives_on_the_border_of_a_ball_are_refused() -> None:
    """First ones are x / |x|'s; a second one raises, with any loss and in torch.func, and none is missed inside."""
    ball = Ellipsoid(torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))
    s = ConvexSet(ellipsoid=ball)

    def nearest(point: Tensor) -> Tensor:
        return s.project(point).value

    point = torch.tensor([3.0, 4.0], dtype=DOUBLE, requires_grad=True)
    J = torch.func.jacrev(nearest)(point.detach())
    unit = torch.tensor([0.6, 0.8], dtype=DOUBLE)
    torch.testing.assert_close(J, (torch.eye(2, dtype=DOUBLE) - torch.outer(unit, unit)) / 5.0)
    for loss in (lambda y: y[0], lambda y: y.sin().sum()):
        (once,) = torch.autograd.grad(loss(nearest(point)), point, create_graph=True)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(once.detach(), torch.func.grad(lambda x, f=loss: f(nearest(x)))(point.detach()))
        with pytest.raises(RuntimeError, match="second derivatives"):
            torch.autograd.grad(once.sum() + point.square().sum(), point)
        with pytest.raises(RuntimeError, match="second derivatives"):
            torch.func.jacrev(torch.func.grad(lambda x, f=loss: f(nearest(x))))(point.detach())
    inside = (0.1 * point.detach()).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: nearest(x).sin(), inside)


def test_gradient_at_a_degenerate_vertex_is_a_projection() -> None:
    """Three rows through one point of the plane, two of them nearly carrying it."""
    G = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    s = ConvexSet(G, torch.tensor([1.0, 1.0, 2.0], dtype=DOUBLE))
    for point in ([2.0, 3.0], [1.5, 1.5], [1.0, 2.0], [1.0, 1.0]):
        J = torch.autograd.functional.jacobian(lambda x: s.project(x).value, torch.tensor(point, dtype=DOUBLE))
        eigenvalues = torch.linalg.eigvalsh(0.5 * (J + J.mT))
        assert bool(((eigenvalues > -1e-8) & (eigenvalues < 1.0 + 1e-8)).all()), point
        torch.testing.assert_close(J, J.mT, rtol=0.0, atol=1e-9)


def test_failed_rows_pass_no_gradient_on() -> None:
    parts = leaves(1, 3, 3, 3)
    with torch.no_grad():
        parts[6][1] += 100.0  # the ellipsoid leaves the polytope
    ellipsoid = Ellipsoid(0.5 * (parts[5] + parts[5].mT), parts[6], parts[7])
    found = ConvexSet(parts[1], parts[2], lb=parts[3], ub=parts[4], ellipsoid=ellipsoid).project(parts[0], throw=False)
    assert found.status.tolist() == [SOLVED, EMPTY, SOLVED]
    found.value.sum().backward()  # type: ignore[no-untyped-call]
    for part in parts:
        assert part.grad is not None
        assert bool(torch.isfinite(part.grad).all())
        assert not bool(part.grad[1].any())


@pytest.mark.parametrize("rank", [4, 2, 0])
def test_an_ellipsoid_alone_by_the_eigenvalues_and_by_the_search(rank: int) -> None:
    """Two ways to one answer; Q singular too, where y without the ellipsoid is unbounded; inside and on the border."""
    n, random = 4, normal(rank)
    s = dataclasses.replace(with_ellipsoid(rank, 40, n, 0, 100.0), lb=None, ub=None)
    root = random(40, n, max(rank, 1)) * float(rank > 0)
    Q, p = root @ root.mT, random(40, n) * torch.logspace(-3, 2, 40, dtype=DOUBLE).unsqueeze(-1)
    assert s.ellipsoid is not None
    p[:5] = -(Q[:5] @ s.ellipsoid.center[:5].unsqueeze(-1)).squeeze(-1)  # the centre is a minimiser
    direct = s.minimise(Q, p)
    searched = s.minimise(Q, p.clone().requires_grad_())  # whoever wants derivatives
    torch.testing.assert_close(direct.solution.fun, searched.solution.fun.detach(), rtol=1e-9, atol=1e-9)
    first = 5 if rank < n else 0  # where Q is singular and does not pull, there are many minimisers
    torch.testing.assert_close(direct.value[first:], searched.value[first:].detach(), rtol=1e-7, atol=1e-8)
    assert float(s.violation(direct.value).amax()) <= 1e-12
    assert float(direct.solution.residual.amax()) <= 1e-12
    on = s.violation(direct.value) >= -1e-9
    assert torch.equal(on, direct.multiplier > 0)
    assert on[5:].any()
    assert not on[:5].any()
    assert s.minimise(Q, torch.full_like(p, torch.nan), throw=False).status.tolist() == [Status.NONFINITE_INPUT] * 40


# what SUCCESS promises


def assert_honest(s: ConvexSet, Q: Tensor, p: Tensor, tol: float, most_failed: int = 0) -> None:
    """Every SUCCESS is in the set and as good as the reference; few rows fail otherwise."""
    found = s.minimise(Q, p, throw=False)
    failed = 0
    for i in range(len(p)):
        q, status, price = (Q[i] if Q.dim() > 2 else Q).numpy(), int(found.status[i]), p[i].numpy()
        best = cones.minimiser(s, q, price, i)
        failed += status not in (SOLVED, EMPTY)
        assert status != (SOLVED if best is None else EMPTY), i
        if status == SOLVED and best is not None:
            y = found.value[i].numpy()
            scale = 0.5 * np.abs(best) @ np.abs(q) @ np.abs(best) + np.abs(price) @ np.abs(best)
            assert 0.5 * y @ q @ y + price @ y <= 0.5 * best @ q @ best + price @ best + tol * scale, i
    good = found.status == SOLVED
    assert float(s.violation(found.value)[good].amax()) <= tol
    assert failed <= most_failed


@pytest.mark.parametrize("rank", [4, 2, 1])
@pytest.mark.parametrize("condition", [1e2, 1e9, 1e12])
def test_success_is_feasible_and_optimal(rank: int, condition: float) -> None:
    random, s = normal(rank), with_ellipsoid(2, 8, 4, 5, condition, size=0.5)
    root = random(8, 4, rank)
    p = random(8, 4) * torch.logspace(-3, 2, 8, dtype=DOUBLE).unsqueeze(-1)
    # the form is known to eps times the condition number
    assert_honest(s, root @ root.mT, p, 1e-9 + 1e-16 * condition, 0 if condition < 1e12 else 1)


def test_a_quadratic_of_low_rank_whose_minimiser_is_the_centre() -> None:
    s, random = with_ellipsoid(2, 40, 4, 0, 100.0), normal(2)
    root = random(40, 4, 2)
    Q, p = root @ root.mT, random(40, 4) * torch.logspace(-3, 2, 40, dtype=DOUBLE).unsqueeze(-1)
    assert s.ellipsoid is not None
    p[:5] = -(Q[:5] @ s.ellipsoid.center[:5].unsqueeze(-1)).squeeze(-1)
    few = torch.arange(8)
    assert_honest(s.rows(few), Q[few], p[few], 1e-9, 1)


@pytest.mark.parametrize("size", [1e-10, 1e-6, 1e6])
def test_small_and_large_flat_ellipsoids_are_found(size: float) -> None:
    s = with_ellipsoid(4, 10, 3, 3, 1e8, size)
    assert_honest(s, torch.eye(3, dtype=DOUBLE), 3.0 * normal(5)(10, 3), 1e-7)


def test_gradients_over_a_flat_ellipsoid() -> None:
    s = with_ellipsoid(1, 3, 3, 0, 1e8, size=1.5)
    assert s.ellipsoid is not None
    point = (s.ellipsoid.center + normal(3)(3, 3)).requires_grad_()
    free = dataclasses.replace(s, lb=None, ub=None, G=torch.ones(3, 1, 3, dtype=DOUBLE), h=s.h.new_full((3, 1), 9.0))  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(lambda x: free.project(x).value, point, eps=1e-6, atol=1e-4)


def test_no_depth_and_no_success_without_the_auxiliary_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    corner = torch.full((2,), 2.0, dtype=DOUBLE)
    ball = Ellipsoid(torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))
    s = ConvexSet(lb=corner, ub=corner + 1.0, ellipsoid=ball)

    def failing(C: ConvexSet, ellipsoid: Ellipsoid, like: Tensor, *noise: Any) -> Any:
        found, _ = nearest_to_center(C, ellipsoid, like, *noise)
        status = torch.full_like(found.status, int(Status.NUMERICAL))
        inside = dataclasses.replace(found.solution, value=torch.zeros_like(found.value), status=status)
        nothing = torch.full_like(found.status, -INF, dtype=DOUBLE)
        return found._replace(value=torch.zeros_like(found.value), solution=inside), nothing

    for module in ("boundary", "interior"):
        monkeypatch.setattr(f"icnn_rl.sets.{module}.nearest_to_center", failing)
    point = torch.tensor([[2.5, 2.5]], dtype=DOUBLE)
    assert s.project(point, throw=False).status.tolist() != [SOLVED]
    assert not float(s.interior(point).depth) >= 0


def test_ellipsoids_that_are_none() -> None:
    """Indefinite: NUMERICAL in that row, and its neighbours are left alone."""
    base = with_ellipsoid(0, 3, 2, 2, 1.0, size=100.0)
    assert base.ellipsoid is not None
    for bad in ([[1.0, 0.0], [0.0, -1.0]], [[1.0, 1.001], [1.001, 1.0]], [[1.0, 1e-3], [1e-3, 0.0]]):
        M = base.ellipsoid.M.clone()
        M[1] = torch.tensor(bad)
        s = dataclasses.replace(base, ellipsoid=base.ellipsoid._replace(M=M))
        point = torch.zeros(3, 2, dtype=DOUBLE, requires_grad=True)
        found = s.project(point, throw=False)
        assert found.status.tolist() == [SOLVED, int(Status.NUMERICAL), SOLVED]
        assert found.value.isnan().all(-1).tolist() == [False, True, False]
        (grad,) = torch.autograd.grad(found.value.nan_to_num().sum(), point)
        assert grad[1].tolist() == [0.0, 0.0]
        assert (s.interior(point.detach()).depth > 0).tolist() == [True, False, True]
        assert s.least_violating(point.detach()).isfinite().all()


# rows whose squares over- or underflow


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_the_length_of_rows_does_not_matter(dtype: torch.dtype) -> None:
    """Rows multiplied by numbers from the smallest to the largest."""
    random, most = normal(0), 300.0 if dtype == DOUBLE else 36.0
    tol = 1e-9 if dtype == DOUBLE else 1e-5
    for seed in range(6):
        base = polytope(seed, 4, 3, 5) if seed % 2 else with_ellipsoid(seed, 4, 3, 5, 10.0)
        base = base.to(torch.zeros(1, dtype=dtype))
        assert base.G is not None
        assert base.h is not None
        factor = (
            10.0 ** (most * (2.0 * torch.rand(4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) - 1.0))
        ).to(dtype)
        s = dataclasses.replace(base, G=base.G * factor.unsqueeze(-1), h=base.h * factor)
        if base.ellipsoid is not None:
            M, center, size = base.ellipsoid
            s = dataclasses.replace(s, ellipsoid=Ellipsoid(M * factor[:, :1, None], center, size * factor[:, 0]))
        point = (3.0 * random(4, 3)).to(dtype)
        found, expected = s.project(point, throw=False), base.project(point, throw=False)
        assert found.status.tolist() == expected.status.tolist()
        solved = (found.status == SOLVED).nonzero().squeeze(-1)
        torch.testing.assert_close(found.value[solved], expected.value[solved], rtol=0.0, atol=tol)
        torch.testing.assert_close(s.violation(point), base.violation(point), rtol=tol, atol=tol)
        for one, other in ((s.interior(point), base.interior(point)),):
            torch.testing.assert_close(one.depth, other.depth, rtol=0.0, atol=tol)
        torch.testing.assert_close(s.least_violating(point), base.least_violating(point), rtol=0.0, atol=10 * tol)
        if dtype == DOUBLE:  # the multipliers are those of the rows as they came
            own = (found.solution.dual_ineq * factor)[solved]
            torch.testing.assert_close(own, expected.solution.dual_ineq[solved], rtol=1e-6, atol=1e-6)


# singular matrices: what is computed as J^T J


def semidefinite(seed: int) -> tuple[ConvexSet, Tensor]:
    """A set whose ellipsoid has a kernel, or nearly, and a point to project."""
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 6))
    J = random.standard_normal((random.integers(1, n), n))
    kind = seed % 4
    units = np.diag(10.0 ** random.uniform(-3, 3, n)) if kind == 1 else np.eye(n)
    M = units @ J.T @ J @ units
    if kind == 2:
        M = np.diag(np.append(1.0, 10.0 ** random.uniform(-18, 0, n - 1)))
    if kind == 3:
        M[0], M[:, 0] = 0.0, 0.0
    inside, rows = random.standard_normal(n), int(random.integers(0, 5))
    G, shares = random.standard_normal((rows, n)), random.random(n) < 0.7
    h = G @ inside + 0.3 * np.abs(random.standard_normal(rows))
    size = torch.tensor(float(random.choice([0.01, 0.25, 1.0])) * np.abs(M).max(), dtype=DOUBLE)
    ellipsoid = Ellipsoid(torch.tensor(M), torch.tensor(random.standard_normal(n)), size)
    lower, upper = (np.where(shares, inside + side, side * np.inf) for side in (-1.0, 1.0))
    s = ConvexSet(torch.tensor(G), torch.tensor(h), lb=torch.tensor(lower), ub=torch.tensor(upper), ellipsoid=ellipsoid)
    return s, torch.tensor(inside + 2.0 * random.standard_normal(n))


def off_the_cone(s: ConvexSet, y: Any, pull: Any) -> float:
    """Distance of the pull from the cone of the normals at y: 0 where y is the nearest point."""
    C, d, _, _ = cones.parts(s, 0, len(y))
    length = np.linalg.norm(C, axis=-1)
    normals = list((C / length[:, None])[(C @ y - d) / length >= -1e-7 * (1.0 + np.abs(y).max())])
    assert s.ellipsoid is not None
    M, center, size = (t.numpy() for t in s.ellipsoid)
    slope = M @ (y - center)
    if (y - center) @ slope >= size * (1.0 - 1e-6):
        normals.append(slope / np.linalg.norm(slope))
    return float(optimize.nnls(np.array(normals).T, pull)[1] if normals else np.linalg.norm(pull))


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_singular_ellipsoids(first: int) -> None:
    """Every projection is in the set and optimal, every emptiness real, and none is missed."""
    empty = 0
    for seed in range(first, first + 40):
        s, point = semidefinite(seed)
        found = s.project(point, throw=False)
        reference = cones.minimiser(s, np.eye(len(point)), -point.numpy())
        assert int(found.status) == (EMPTY if reference is None else SOLVED), seed
        if reference is None:
            empty += 1
            continue
        y = found.value.numpy()
        assert float(s.violation(found.value)) <= 1e-8, seed
        pull = point.numpy() - y
        assert off_the_cone(s, y, pull) <= 1e-5 * (1.0 + np.linalg.norm(pull)), seed
    assert 0 < empty < 25


def test_singular_and_definite_rows_of_a_batch_stand_alone() -> None:
    t = lambda *x: torch.tensor(x, dtype=DOUBLE)  # noqa: E731
    J = t([1.0, 2.0, 0.5])
    matrices = torch.stack(
        (torch.eye(3, dtype=DOUBLE), J.mT @ J, torch.zeros(3, 3, dtype=DOUBLE), torch.diag(t(1, 0, 0)))
    )
    point = t(0.3, 2.0, -1.0).expand(4, 3)
    for bounds in ({}, {"lb": -1.5, "ub": 1.5}):
        s = ConvexSet(ellipsoid=Ellipsoid(matrices, torch.zeros(3, dtype=DOUBLE), t(0.25)[0]), **bounds)
        found = s.project(point)
        for i in range(4):
            alone = s.rows(torch.tensor([i])).project(point[i])
            torch.testing.assert_close(found.value[i], alone.value.reshape(3), rtol=0.0, atol=1e-9)
    free = ConvexSet(ellipsoid=Ellipsoid(matrices, torch.zeros(3, dtype=DOUBLE), t(0.25)[0])).project(point).value
    pull = J[0] / J.norm()  # onto |J y| <= 1/2: along J alone
    expected = point[1] - (pull @ point[1] - 0.5 / J.norm()) * pull
    torch.testing.assert_close(free[1], expected, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(free[2:], point[2:], rtol=0.0, atol=1e-12)


def test_a_cylinder_that_only_touches_leaves_its_axis_free() -> None:
    t = lambda *x: torch.tensor(x, dtype=DOUBLE)  # noqa: E731
    ellipsoid = Ellipsoid(t([1.0, 0.0], [0.0, 0.0]), t(0.0, 0.0), t(0.25)[0])
    for right, status in ((-0.5, SOLVED), (-0.5 - 1e-6, EMPTY)):
        found = ConvexSet(t([-1.0, 0.0]), t(right), lb=-3.0, ub=3.0, ellipsoid=ellipsoid).project(
            t(0.9, 0.8), throw=False
        )
        assert int(found.status) == status
    assert float(ConvexSet(ellipsoid=ellipsoid).violation(t(0.25, 1e6))) == -0.25


def test_gradients_over_singular_ellipsoids() -> None:
    """Of the point and of J, in J^T J."""
    random = normal(3)
    J, point = (random(4, 2, 3)).requires_grad_(), (3.0 * random(4, 3)).requires_grad_()
    size, zero = torch.tensor(0.3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)

    def nearest(J: Tensor, point: Tensor) -> Tensor:
        s = ConvexSet(
            torch.ones(1, 3, dtype=DOUBLE), 2.0 * size[None], lb=-2.0, ub=2.0, ellipsoid=Ellipsoid(J.mT @ J, zero, size)
        )
        return s.project(point).value

    assert torch.autograd.gradcheck(nearest, (J, point), eps=1e-6, atol=1e-5)


# rows that nothing can help


@pytest.mark.parametrize("right", [-1.0, -1e-12])
@pytest.mark.parametrize("ball", [False, True])
def test_rows_of_zeros_that_fail_do_not_say_where(right: float, ball: bool) -> None:
    t = lambda *x: torch.tensor(x, dtype=DOUBLE)  # noqa: E731
    round_ = Ellipsoid(torch.eye(2, dtype=DOUBLE), t(0.0, 0.0), t(4.0).squeeze()) if ball else None
    s = ConvexSet(t([0.0, 0.0], [1.0, 0.0]), t(right, -0.5), ellipsoid=round_)
    point = t([0.9, 0.8])
    assert s.project(point, throw=False).status.tolist() == [EMPTY]
    assert s.interior(point).depth.tolist() == [-INF]
    torch.testing.assert_close(s.least_violating(point), t([-0.5, 0.8]), rtol=0.0, atol=1e-8)


def test_the_least_violating_point_is_near_the_proposal() -> None:
    t = lambda *x: torch.tensor(x, dtype=DOUBLE)  # noqa: E731
    apart = ConvexSet(t([1.0, 0.0], [-1.0, 0.0]), t(-0.5, -0.5), lb=-1.0, ub=1.0)  # x_1 <= -0.5 and >= 0.5
    torch.testing.assert_close(apart.least_violating(t([0.9, 0.8], [3.0, -7.0])), t([0.0, 0.8], [0.0, -1.0]))
    assert apart.least_violating(t([float("nan"), 0.8])).isfinite().all()
    crossed = ConvexSet(lb=t(0.5, -INF), ub=t(-0.5, INF))
    torch.testing.assert_close(crossed.least_violating(t([0.9, 0.8])), t([0.0, 0.8]))
