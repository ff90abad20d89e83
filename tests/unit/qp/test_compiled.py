"""The compiled kernel of tiny problems against torch: the same answers, sets, statuses, derivatives and constants."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import (
    Diagonal,
    NonConvexError,
    PrimalDual,
    QPSolution,
    active_set,
    certificates,
    constants,
    driver,
    problem,
    solve_qp,
)
from icnn_rl.qp.kernel import dispatch
from icnn_rl.qp.linear import primal
from icnn_rl.testing.qp_families import FAMILIES, INF, Arguments, Family, dense_rows, instance

kernel = pytest.importorskip(
    "icnn_rl.qp.kernel.tiny", reason="the compiled kernel needs numba: pip install -e '.[fast]'"
)

DOUBLE = torch.float64
#: Sets that more than one choice of multipliers belongs to, or no clear set at all.
UNDETERMINED = {
    "duplicate_rows",
    "too_many_at_a_vertex",
    "no_strict_complementarity",
    "one_point",
    "fixed",
    "redundant",
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the kernel left to torch; -1: all, for some Q was not definite."""
    calls: list[int] = []
    solve = kernel.solve_blocks
    monkeypatch.setattr(kernel, "solve_blocks", lambda *arguments: calls.append(solve(*arguments)) or calls[-1])
    return calls


def both(arguments: Arguments, **options: Any) -> tuple[QPSolution, QPSolution]:
    return tuple(  # type: ignore[return-value]
        solve_qp(**arguments, solver=PrimalDual(compiled=on, dense=False), throw=False, **options)
        for on in (True, False)
    )


def assert_same(one: QPSolution, other: QPSolution, *, multipliers: bool = True) -> None:
    """To 1e-12, relative to the largest number of a field in a row; finite numbers of failed rows may differ."""
    assert torch.equal(one.status, other.status)
    names = ["value", "fun", "slack"] + ["dual_ineq", "dual_lb", "dual_ub"] * multipliers
    solved = one.status == Status.SUCCESS
    for name in names:
        a, b = getattr(one, name)[solved], getattr(other, name)[solved]
        size = b.nan_to_num(0.0, 0.0, 0.0).abs()
        size = size.amax(-1, keepdim=True).clamp(min=1.0) if b.dim() > 1 and b.shape[-1] else size.clamp(min=1.0)
        torch.testing.assert_close(a / size, b / size, rtol=0.0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    for name in ("residual", "primal_residual", "dual_residual", "gap"):
        assert torch.equal(getattr(one, name).isnan(), getattr(other, name).isnan()), name


def random_rows(seed: int, batch: int, n: int, m: int, tightness: float = 3.0) -> Arguments:
    return dense_rows(n, m, 0, tightness)(seed, batch)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_agrees_on_every_family(family: Family) -> None:
    arguments, _ = instance(family)
    one, other = both(arguments)
    assert_same(one, other, multipliers=family.name not in UNDETERMINED)


@pytest.mark.parametrize("shared", [False, True], ids=["a_g_each", "shared"])
@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (2, 64), (6, 24), (7, 5), (16, 48), (6, 65), (3, 128), (16, 96), (16, 128)]
)
def test_agrees_on_random_rows(n: int, m: int, shared: bool, counted: list[int]) -> None:
    arguments = random_rows(n + m, 50, n, m)
    if shared:
        arguments = {**arguments, "Q": arguments["Q"][0], "G": arguments["G"][0], "h": arguments["h"].abs()}
    one, other = both(arguments)
    assert counted == [0]
    assert_same(one, other)
    assert torch.equal(one.active.ineq, other.active.ineq)


@pytest.mark.parametrize("q", [2.0, Diagonal(torch.linspace(0.5, 2.0, 6, dtype=DOUBLE))], ids=["number", "diagonal"])
@pytest.mark.parametrize("bounds", [("lb",), ("ub",), ("lb", "ub")], ids="+".join)
@pytest.mark.parametrize("m", [0, 9, 64, 116])
def test_agrees_with_bounds_and_infinities(m: int, bounds: tuple[str, ...], q: Any, counted: list[int]) -> None:
    generator = torch.Generator().manual_seed(m)
    arguments = random_rows(0, 40, 6, max(m, 9))
    arguments["h"] = arguments["h"].abs() + 0.1
    distance = {name: torch.rand(40, 6, generator=generator, dtype=DOUBLE) for name in bounds}
    limits = {name: torch.where(d < 0.3, INF, d) * (-1.0 if name == "lb" else 1.0) for name, d in distance.items()}
    arguments["h"] = torch.where(torch.rand(arguments["h"].shape, generator=generator) < 0.3, INF, arguments["h"])
    arguments["h"][0] = INF
    rows = {name: arguments[name] for name in ("G", "h")} if m else {}
    one, other = both({"Q": q, "p": 5.0 * arguments["p"], **rows, **limits})
    assert counted == [0]
    assert_same(one, other)


@pytest.mark.parametrize("change", [0.0, 0.02, 5.0])
def test_agrees_from_a_warm_start(change: float, counted: list[int]) -> None:
    arguments = random_rows(3, 60, 6, 24)
    start = solve_qp(**arguments).warm_start
    generator = torch.Generator().manual_seed(1)
    arguments["p"] = arguments["p"] + change * torch.randn(60, 6, generator=generator, dtype=DOUBLE)
    counted.clear()
    one, other = both(arguments, warm_start=start)
    assert counted == [0]
    assert_same(one, other)
    if change == 0.0:
        assert int(one.num_steps.max()) == 1


def test_rows_stand_alone(counted: list[int]) -> None:
    """NaN, an infinite p, h = -inf and an empty feasible set end in the rows that have them."""
    arguments = random_rows(5, 21, 5, 12)
    good = solve_qp(**arguments)
    broken = {name: value.clone() for name, value in arguments.items()}
    broken["p"][2, 1] = torch.nan
    broken["p"][3, 1] = INF
    broken["G"][7, 3, 0] = torch.nan
    broken["h"][11, 0] = torch.nan
    broken["h"][13, 2] = -INF
    broken["G"][17, 1], broken["h"][17, :2] = -broken["G"][17, 0], torch.tensor([-1.0, -1.0])
    counted.clear()
    one, other = both(broken)
    assert counted == [6]
    status = torch.zeros(21, dtype=torch.int64)
    status[[2, 3, 7, 11]] = int(Status.NONFINITE_INPUT)
    status[[13, 17]] = int(Status.PRIMAL_INFEASIBLE)
    assert torch.equal(one.status, status)
    assert_same(one, other)
    torch.testing.assert_close(one.value[status == 0], good.value[status == 0], rtol=0.0, atol=1e-13)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Nor on its place in a block."""
    arguments = random_rows(8, 19, 6, 24)
    whole = solve_qp(**arguments)
    part = solve_qp(**{name: value[4:] for name, value in arguments.items()})
    torch.testing.assert_close(whole.value[4:], part.value, rtol=0.0, atol=1e-13)
    assert torch.equal(whole.num_steps[4:], part.num_steps)


@pytest.mark.parametrize("max_steps", [1, 3, 7, 8, 12])
def test_stops_where_torch_stops(max_steps: int) -> None:
    """A row that the kernel does not finish in time is torch's, which finds it unfinished too, or not."""
    arguments = random_rows(9, 30, 6, 24)
    solution = solve_qp(**arguments, solver=PrimalDual(max_steps=max_steps), throw=False)
    assert set(solution.status.tolist()) <= {int(Status.SUCCESS), int(Status.MAX_STEPS)}
    assert int(solution.num_steps.max()) <= max(max_steps, 2)


def test_what_is_not_for_the_kernel(counted: list[int]) -> None:
    arguments = random_rows(0, 4, 6, 10)
    single = {name: value.float() for name, value in arguments.items()}
    solve_qp(**single, solver=PrimalDual(dtype="input"), throw=False)
    solve_qp(**arguments, A=torch.ones(1, 6, dtype=DOUBLE), b=torch.zeros(1, dtype=DOUBLE), throw=False)
    solve_qp(**random_rows(0, 4, 17, 10))
    solve_qp(**random_rows(0, 4, 6, 129))
    solve_qp(**random_rows(0, 4, 6, 117), lb=-9.0, ub=9.0)
    solve_qp(arguments["Q"], arguments["p"])
    assert counted == []
    solve_qp(**single)
    assert counted == [0]
    q = arguments["Q"].clone()
    q[2] = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], dtype=DOUBLE))
    solve_qp(**{**arguments, "Q": q}, throw=False)
    assert counted == [0, -1]
    q[2, 5, 5] = -1.0
    with pytest.raises(NonConvexError, match="row 2"):
        solve_qp(**{**arguments, "Q": q})


def test_reports_the_residuals_that_torch_finds() -> None:
    arguments = random_rows(4, 30, 6, 24)
    solution = solve_qp(**arguments)
    data = problem.Problem(
        arguments["Q"], arguments["p"], arguments["G"], None, arguments["p"][:, :0], arguments["h"], False, False, None
    )
    x, nu, z = solution.value, solution.dual_eq, solution.dual_ineq
    fit = certificates.residuals(data, certificates.Yardstick.of(data), x, nu, z, data.products(x, nu, z))
    torch.testing.assert_close(solution.residual, fit.largest, rtol=0.0, atol=2e-15)
    torch.testing.assert_close(solution.gap, fit.duality, rtol=0.0, atol=1e-13)
    torch.testing.assert_close(solution.slack, arguments["h"] - data.Cx(x), rtol=0.0, atol=1e-14)
    # and of a point that is far from the solution, where rounding does not hide a wrong formula
    loose = solve_qp(**arguments, solver=PrimalDual(tol=0.9, max_steps=7), throw=False)
    x, z = loose.value, loose.dual_ineq
    fit = certificates.residuals(data, certificates.Yardstick.of(data), x, nu, z, data.products(x, nu, z))
    torch.testing.assert_close(loose.residual, fit.largest, rtol=1e-6, atol=2e-15)


def test_shares_its_constants_with_the_torch_path() -> None:
    dense = importlib.import_module("icnn_rl.qp.kernel.dense")
    parts = [importlib.import_module(f"{dense.__name__}.{part.name}") for part in pkgutil.iter_modules(dense.__path__)]
    users = [active_set, certificates, driver, primal, kernel, *parts]
    for name in (name for name in vars(constants) if name.isupper()):
        holders = [user for user in users if hasattr(user, name)]
        assert len(holders) > 1, name
        assert all(getattr(user, name) is getattr(constants, name) for user in holders)
    assert kernel._SIGN is constants.SIGN[DOUBLE]


# derivatives


def small(shared: bool = False) -> list[Tensor]:
    """Q, p, G, h, lb, ub, three rows far from every kink."""
    arguments = random_rows(12, 3, 4, 5)
    generator = torch.Generator().manual_seed(3)
    low, high = (0.2 + torch.rand(3, 4, generator=generator, dtype=DOUBLE) for _ in range(2))
    parts = [arguments["Q"], 3.0 * arguments["p"], arguments["G"], arguments["h"].abs() + 0.1, -low, high]
    if shared:
        parts = [part if i == 1 else part[0] for i, part in enumerate(parts)]
    return [part.clone().requires_grad_() for part in parts]


def answer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, lb: Tensor, ub: Tensor) -> tuple[Tensor, ...]:
    s = solve_qp(Q, p, G, h, lb=lb, ub=ub, solver=PrimalDual(dense=False))
    return s.value, s.fun, s.dual_ineq, s.dual_lb, s.dual_ub


@pytest.mark.parametrize("shared", [False, True], ids=["a_row_each", "shared"])
def test_gradients(shared: bool, counted: list[int]) -> None:
    assert torch.autograd.gradcheck(answer, small(shared))
    assert set(counted) == {0}
    assert torch.autograd.gradgradcheck(lambda *parts: answer(*parts)[0], small(shared))


def test_gradients_agree_with_those_of_torch() -> None:
    grads = []
    for on in (True, False):
        arguments = {name: value.clone().requires_grad_() for name, value in random_rows(2, 50, 6, 24).items()}
        solution = solve_qp(**arguments, solver=PrimalDual(compiled=on))
        (solution.value.sin().sum() + solution.dual_ineq.square().sum()).backward()  # type: ignore[no-untyped-call]
        grads.append([value.grad for value in arguments.values()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_transforms() -> None:
    parts = [part.detach() for part in small()]

    def value(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
        return solve_qp(Q, p, G, h, lb=lb, ub=ub).value

    torch.testing.assert_close(torch.func.vmap(value)(*parts), value(*parts), rtol=0.0, atol=1e-13)
    each = torch.func.vmap(torch.func.jacrev(value, argnums=1))(*parts)
    p = parts[1].clone().requires_grad_()
    together = torch.autograd.functional.jacobian(lambda p: value(parts[0], p, *parts[2:]), p)
    rows = torch.arange(3)
    torch.testing.assert_close(each, together[rows, :, rows, :], rtol=1e-10, atol=1e-12)


def test_failed_rows_pass_no_gradient_on() -> None:
    arguments = random_rows(6, 9, 5, 12)
    arguments["p"][4, 0] = torch.nan
    arguments["G"][6, 1], arguments["h"][6, :2] = -arguments["G"][6, 0], torch.tensor([-1.0, -1.0])
    leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}
    solution = solve_qp(**leaves, throw=False)
    solution.value.nan_to_num().sum().backward()  # type: ignore[no-untyped-call]
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert not leaf.grad[[4, 6]].any()
        assert leaf.grad[[0, 1, 2, 3, 5, 7, 8]].any()


@pytest.mark.parametrize("name", ["Q", "G"])
@pytest.mark.parametrize("every", [False, True], ids=["one_row", "all_rows"])
def test_nan_in_a_matrix_stays_out_of_what_the_rows_share(name: str, every: bool) -> None:
    """The gradients of shared arguments are those of the rows that were solved, alone."""
    arguments = random_rows(7, 6, 4, 9)
    arguments["h"] = arguments["h"][0].abs() + 0.1
    shared = "Q" if name == "G" else "G"
    arguments[shared] = arguments[shared][0]
    bad = list(range(6)) if every else [2]
    arguments[name][bad, 0, 0] = torch.nan
    good = [row for row in range(6) if row not in bad]
    leaves = {key: value.clone().requires_grad_() for key, value in arguments.items()}
    solution = solve_qp(**leaves, throw=False)
    assert solution.status.tolist() == [int(Status.NONFINITE_INPUT if row in bad else 0) for row in range(6)]
    found = dict(zip(leaves, torch.autograd.grad(solution.value.nansum(), list(leaves.values())), strict=True))
    own = {k: v.clone() if k in (shared, "h") else v[good].clone() for k, v in arguments.items()}
    own = {key: value.requires_grad_() for key, value in own.items()}
    if every:
        assert all(not gradient.any() for gradient in found.values())
        return
    alone = torch.autograd.grad(solve_qp(**own).value.sum(), list(own.values()))
    for key, expected in zip(own, alone, strict=True):
        gradient = found[key] if key in (shared, "h") else found[key][good]
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)
        assert key in (shared, "h") or not found[key][bad].any()


def test_works_without_numba(monkeypatch: pytest.MonkeyPatch, counted: list[int]) -> None:
    monkeypatch.setattr(dispatch, "available", lambda: False)
    arguments = random_rows(1, 5, 6, 24)
    assert bool((solve_qp(**arguments).status == Status.SUCCESS).all())
    assert counted == []


def test_switch_is_a_setting_like_the_others() -> None:
    assert dataclasses.replace(PrimalDual(), compiled=False) == PrimalDual(compiled=False)
