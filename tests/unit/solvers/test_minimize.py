"""Every solver on every problem of the tables: the answer, the certificate, the status, rows, dtypes."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Solution, SolveError, Status, minimize
from icnn_rl.solvers import (
    Bundle,
    BundleEntropy,
    DualKKT,
    Implicit,
    ProjectedGradient,
    ProjectedNewton,
    ProximalBundle,
    Solver,
    Unrolled,
)
from icnn_rl.testing.minimisation import CASES, METHODS, Answer, Case, Instance, Method, Plain, Quadratic, answer, draw

DOUBLE = torch.float64
PAIRS = [(method, case) for method in METHODS for case in CASES]
SOLVABLE = [(method, case) for method, case in PAIRS if method.cannot_solve(case) is None]
RUNNABLE = [(method, case) for method, case in PAIRS if method.cannot_run(case) is None]
# one of each kind, for the tests that vary something else than the problem
SAMPLE = [
    (method, case)
    for method, case in SOLVABLE
    if method.name in ("newton", "accelerated", "bundle_tau_1")
    and case.name in ("per_row_bounds", "correlated_1e2", "softplus_picnn", "unconstrained_icnn", "relu_picnn")
]


def run(method: Method, case: Case, dtype: torch.dtype = DOUBLE, max_steps: int | None = None) -> Solution:
    problem = case.build(dtype)
    solver = method.build(case, method.tol if dtype == DOUBLE else method.tol_single, max_steps)
    return minimize(problem.energy, solver, problem.y0, domain=problem.domain, adjoint=None, throw=False)


def regularised(problem: Instance, y: Tensor, tau: float) -> Tensor:
    """f - tau H at y, written out."""
    f = problem.energy(y)
    lower, upper = problem.bounds()
    if tau == 0:
        return f
    moving = upper > lower
    w = torch.where(moving, (y - lower) / torch.where(moving, upper - lower, 1.0), 0.5)
    h = -(torch.xlogy(w, w) + torch.xlogy(1 - w, 1 - w)) * moving
    return f - tau * h.sum(-1)


def scale_of(reference: Answer) -> Tensor:
    return 1.0 + reference.fun.abs()


@pytest.mark.parametrize(("method", "case"), PAIRS, ids=str)
def test_pairs_that_make_no_sense_are_listed_with_a_reason(method: Method, case: Case) -> None:
    reason = method.cannot_solve(case)
    assert reason is None or len(reason) > 10


@pytest.mark.parametrize(("method", "case"), SOLVABLE, ids=str)
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["float64", "float32"])
def test_finds_the_minimum(method: Method, case: Case, dtype: torch.dtype) -> None:
    problem, reference = case.build(dtype), answer(case, method.tau)
    solution = run(method, case, dtype)
    tol = method.tol if dtype == DOUBLE else method.tol_single
    assert solution.success.all(), solution
    assert solution.value.dtype == dtype
    assert not solution.value.requires_grad
    # the status means what it says
    rounding = 64 * torch.finfo(dtype).eps * scale_of(reference)
    assert ((solution.residual <= tol) | (solution.gap <= rounding)).all()
    # inside the box
    lower, upper = problem.bounds()
    assert ((solution.value >= lower) & (solution.value <= upper)).all()
    # fun is the value of what was minimised, and within the certificate of the reference
    accuracy = (1e-9 if dtype == DOUBLE else 3e-6) * scale_of(reference)
    torch.testing.assert_close(
        solution.fun.double(),
        regularised(case.build(DOUBLE), solution.value.double(), method.tau),
        rtol=0,
        atol=float(accuracy.max()),
    )
    # without bounds there is no certificate, but a stationary point
    gap = torch.where(torch.isfinite(solution.gap), solution.gap.double(), 10 * tol * scale_of(reference))
    assert (solution.fun - reference.fun <= gap + accuracy).all()
    assert (solution.fun - reference.fun >= -accuracy).all()
    if case.unique:  # f is at least quadratic: an error e in f is one of about sqrt(e) in y
        error = (solution.fun.double() - reference.fun).clamp(min=0.0).amax() + accuracy.max()
        assert (solution.value - reference.value).abs().max() <= 4.0 * float(error) ** 0.5 + 1e-6


@pytest.mark.parametrize(("method", "case"), RUNNABLE, ids=str)
def test_the_gap_is_a_certificate_however_early_the_solver_stops(method: Method, case: Case) -> None:
    reference = answer(case, method.tau)
    for dtype, rounding in ((DOUBLE, 1e-8), (torch.float32, 3e-6)):
        slack = rounding * scale_of(reference)
        previous: Tensor | None = None
        for max_steps in (1, 2, 3, 5, 9):
            solution = run(method, case, dtype, max_steps)
            assert (solution.gap >= 0).all()
            assert not solution.gap.isnan().any()
            assert (solution.fun - solution.gap <= reference.fun + slack).all()
            assert (solution.fun >= reference.fun - slack).all()
            assert (solution.num_steps <= max_steps).all()
            assert (solution.success | (solution.num_steps == max_steps) | solution.failed).all()
            if previous is not None:  # the best point is kept
                assert (solution.fun <= previous + slack).all()
            previous = solution.fun


@pytest.mark.parametrize(("method", "case"), SAMPLE, ids=str)
def test_a_batch_is_its_rows(method: Method, case: Case) -> None:
    problem, whole = case.build(DOUBLE), run(method, case)
    solver = method.build(case, method.tol, None)

    for row in range(len(problem.y0)):

        def alone(y: Tensor, row: int = row) -> Tensor:
            """The energy of one row, its neighbours replaced by copies of y."""
            return problem.energy(y.expand_as(problem.y0))[row : row + 1]

        lower, upper = problem.bounds()
        single = minimize(
            alone,
            solver,
            problem.y0[row : row + 1],
            domain=Box(lower[row : row + 1], upper[row : row + 1]),
            adjoint=None,
            throw=False,
        )
        # without closed forms the derivatives round differently, so a step more or less is possible
        assert single.success.all()
        torch.testing.assert_close(
            single.fun[0], whole.fun[row], rtol=0, atol=2 * float(torch.nan_to_num(whole.gap, posinf=1e-9)[row]) + 1e-9
        )


@pytest.mark.parametrize(("method", "case"), SAMPLE, ids=str)
def test_a_bad_row_does_not_touch_its_neighbours(method: Method, case: Case) -> None:
    problem = case.build(DOUBLE)
    solver = method.build(case, method.tol, None)
    poison = torch.zeros(len(problem.y0), dtype=DOUBLE)
    poison[1], poison[-1] = float("nan"), float("inf")

    def energy(y: Tensor) -> Tensor:
        return problem.energy(y) + poison

    clean = minimize(Plain(problem.energy), solver, problem.y0, domain=problem.domain, adjoint=None)
    dirty = minimize(energy, solver, problem.y0, domain=problem.domain, adjoint=None, throw=False)
    bad = ~torch.isfinite(poison)
    assert (dirty.status[bad] == Status.NONFINITE_INPUT).all()
    assert (dirty.num_steps[bad] == 0).all()
    assert dirty.failed.tolist() == bad.tolist()
    start = torch.clamp(problem.y0, *problem.bounds())
    assert torch.equal(dirty.value[bad], start[bad])
    assert not torch.isfinite(dirty.fun[bad]).any()
    for name in ("value", "fun", "gap", "status", "num_steps", "residual"):
        torch.testing.assert_close(
            getattr(dirty, name)[~bad], getattr(clean, name)[~bad], rtol=0, atol=1e-12, equal_nan=False, msg=name
        )


@pytest.mark.parametrize(("method", "case"), SAMPLE, ids=str)
def test_a_starting_point_that_is_nan_is_reported(method: Method, case: Case) -> None:
    problem = case.build(DOUBLE)
    y0 = problem.y0.clone()
    y0[0, 0] = float("nan")
    solver = method.build(case, method.tol, None)
    solution = minimize(problem.energy, solver, y0, domain=problem.domain, adjoint=None, throw=False)
    clean = run(method, case)
    lower, _ = problem.bounds()
    assert solution.status[0] == Status.NONFINITE_INPUT
    assert solution.fun[0].isnan()
    assert solution.success[1:].all()
    assert (solution.value[1:] >= lower[1:]).all()
    torch.testing.assert_close(solution.fun[1:], clean.fun[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("method", "case"), SAMPLE, ids=str)
def test_rows_that_are_done_stay_as_they_are(method: Method, case: Case) -> None:
    solution = run(method, case)
    fewest = int(solution.num_steps.min())
    if fewest == 0:
        pytest.skip("a row starts at its solution: nothing to cut short")
    early = run(method, case, max_steps=fewest)
    done = early.success
    assert done.any()
    # the row that is done first has the same value, whether or not the others go on; matrix products of another size
    # round otherwise
    for name in ("value", "fun", "gap", "num_steps", "residual"):
        torch.testing.assert_close(getattr(early, name)[done], getattr(solution, name)[done], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("method", "case"), SOLVABLE, ids=str)
def test_a_warm_start_takes_no_more_steps(method: Method, case: Case) -> None:
    problem, cold = case.build(DOUBLE), run(method, case)
    solver = method.build(case, method.tol, None)
    warm = minimize(
        problem.energy,
        solver,
        problem.y0,
        domain=problem.domain,
        adjoint=None,
        throw=False,
        warm_start=cold.warm_start,
    )
    assert warm.success.all()
    assert (warm.num_steps <= cold.num_steps).all(), (cold.num_steps, warm.num_steps)
    slack = 1e-9 * scale_of(answer(case, method.tau))
    assert (warm.fun <= cold.fun + slack).all()


@pytest.mark.parametrize("name", ["newton", "accelerated", "bundle_tau_1"])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_tolerance_is_relative(name: str, factor: float, shift: float) -> None:
    """c f + d has the same minimiser, found to the same accuracy, whatever c and d."""
    method = next(method for method in METHODS if method.name == name)
    case = next(case for case in CASES if case.name == "softplus_picnn")
    problem = case.build(DOUBLE)
    solver = method.build(case, 1e-7, None)
    plain = minimize(Plain(problem.energy), solver, problem.y0, domain=problem.domain, adjoint=None)
    if isinstance(solver, BundleEntropy):
        solver = dataclasses.replace(solver, entropy=factor * method.tau)
    scaled = minimize(
        lambda y: factor * (problem.energy(y) + shift),
        solver,
        problem.y0,
        domain=problem.domain,
        adjoint=None,
    )
    assert (scaled.num_steps <= plain.num_steps + 3).all()
    torch.testing.assert_close(scaled.value, plain.value, rtol=0, atol=3e-3)
    torch.testing.assert_close(scaled.fun / factor - shift, plain.fun, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["newton", "accelerated", "bundle_tau_1"])
def test_the_step_limit_is_reported(name: str) -> None:
    method = next(method for method in METHODS if method.name == name)
    case = next(case for case in CASES if case.name == "exponential")
    problem = case.build(DOUBLE)
    solver = method.build(case, method.tol, 2)
    with pytest.raises(SolveError, match=r"4 of 4 rows: MAX_STEPS\. .*[Rr]aise max_steps") as caught:
        minimize(problem.energy, solver, problem.y0, domain=problem.domain)
    solution = caught.value.solution
    assert (solution.status == Status.MAX_STEPS).all()
    assert (solution.num_steps == 2).all()
    assert not solution.failed.any()
    quiet = minimize(problem.energy, solver, problem.y0, domain=problem.domain, adjoint=None, throw=False)
    assert torch.equal(quiet.value, solution.value)


def test_the_error_counts_rows_per_status() -> None:
    poison = torch.tensor([0.0, float("nan"), 0.0], dtype=DOUBLE)
    with pytest.raises(SolveError, match=r"^1 of 3 rows: NONFINITE_INPUT\. The objective or a derivative") as caught:
        minimize(lambda y: (y**2).sum(-1) + poison, ProjectedNewton(), torch.ones(3, 2, dtype=DOUBLE))
    assert caught.value.solution.success.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["newton", "accelerated", "bundle_tau_1"])
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (1, 2, 1)], ids=str)
def test_any_number_of_batch_dimensions(name: str, shape: tuple[int, ...]) -> None:
    method = next(method for method in METHODS if method.name == name)
    case = CASES[0]
    y0 = draw(40, *shape, 3).to(DOUBLE)
    centre = 2 * draw(41, *shape, 3).to(DOUBLE)
    energy = Quadratic(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)), centre)
    solution = minimize(energy, method.build(case, 1e-7, None), y0, domain=Box(-1.0, 1.0), adjoint=None)
    assert solution.value.shape == (*shape, 3)
    for item in (solution.fun, solution.gap, solution.status, solution.num_steps, solution.residual):
        assert item.shape == shape
    if method.tau == 0:
        torch.testing.assert_close(solution.value, centre.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["newton", "accelerated", "momentum", "adam", "bundle_tau_1"])
def test_an_empty_batch_has_an_empty_answer(name: str) -> None:
    method = next(method for method in METHODS if method.name == name)
    solver = method.build(CASES[0], 1e-6, 3)
    solution = minimize(lambda y: (y**2).sum(-1), solver, torch.zeros(0, 2), domain=Box(-1.0, 1.0), adjoint=None)
    assert solution.value.shape == (0, 2)
    assert solution.status.shape == (0,)


@pytest.mark.parametrize("name", ["newton", "accelerated", "bundle_tau_1"])
def test_a_constant_is_at_its_minimum_everywhere(name: str) -> None:
    method = next(method for method in METHODS if method.name == name)
    solver = method.build(CASES[0], 1e-6, None)
    solution = minimize(lambda y: 0.0 * y.sum(-1) + 3.0, solver, draw(42, 4, 3), domain=Box(-1.0, 1.0), adjoint=None)
    assert solution.success.all()
    assert torch.isfinite(solution.value).all()
    if method.tau == 0:
        assert (solution.num_steps == 0).all()
        assert (solution.gap == 0).all()
    else:  # f - tau H has its minimum in the middle
        torch.testing.assert_close(solution.value, torch.zeros(4, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["newton", "accelerated"])
def test_a_linear_energy_ends_in_a_corner(name: str) -> None:
    method = next(method for method in METHODS if method.name == name)
    slope = draw(43, 5, 3).to(DOUBLE)
    solution = minimize(
        lambda y: (slope * y).sum(-1),
        method.build(CASES[0], 1e-9, None),
        torch.zeros(5, 3, dtype=DOUBLE),
        domain=Box(-1.0, 2.0),
        adjoint=None,
    )
    torch.testing.assert_close(solution.value, torch.where(slope > 0, -1.0, 2.0).to(DOUBLE))


def test_the_warm_start_replaces_y0() -> None:
    energy = Quadratic(torch.eye(2, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE))
    y0, warm = torch.full((1, 2), 5.0, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE)
    solution = minimize(energy, ProjectedNewton(), y0, warm_start=warm, adjoint=None)
    assert solution.num_steps.item() == 0
    assert not solution.warm_start.requires_grad


def test_a_smaller_batch_takes_the_first_rows_of_a_warm_start() -> None:
    centre = draw(3, 5, 2)
    before = minimize(lambda y: ((y - centre) ** 2).sum(-1), ProjectedNewton(), torch.zeros(5, 2))
    last = lambda y: ((y - centre[:3]) ** 2).sum(-1)  # noqa: E731
    after = minimize(last, ProjectedNewton(), torch.zeros(3, 2), warm_start=before.warm_start)
    torch.testing.assert_close(after.value, centre[:3])
    assert (after.num_steps <= 1).all()
    with pytest.raises(
        ValueError, match=r"warm_start: expected y0's shape \(3, 2\), or one with more rows, got \(2, 2\)"
    ):
        minimize(last, ProjectedNewton(), torch.zeros(3, 2), warm_start=before.warm_start[:2])


def test_closed_forms_and_autograd_agree() -> None:
    for method, case in SAMPLE:
        if case.name not in ("softplus_picnn", "relu_picnn"):
            continue
        problem, closed = case.build(DOUBLE), run(method, case)
        solver = method.build(case, method.tol, None)
        plain = minimize(Plain(problem.energy), solver, problem.y0, domain=problem.domain, adjoint=None)
        slack = 10 * float(torch.maximum(plain.gap, closed.gap).max()) + 1e-10
        torch.testing.assert_close(plain.fun, closed.fun, rtol=0, atol=slack)


# the arguments


def _bowl(y: Tensor) -> Tensor:
    return (y**2).sum(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy": 3.0}, r"energy: expected a callable.*float"),
        ({"solver": ProjectedNewton}, r"solver: expected a solver object"),
        ({"solver": "newton"}, r"solver: expected a solver object.*'newton'"),
        ({"domain": (-1.0, 1.0)}, r"domain: expected Box"),
        ({"y0": [0.0, 1.0]}, r"y0: expected a torch\.Tensor, got list"),
        ({"y0": torch.zeros(2, 3, dtype=torch.int64)}, r"y0: expected dtype float32 or float64, got torch\.int64"),
        ({"y0": torch.zeros(2, 3, dtype=torch.float16)}, r"y0: expected dtype"),
        ({"y0": torch.tensor(1.0)}, r"y0: expected shape \(\.\.\., n\), got a number"),
        ({"warm_start": torch.zeros(2, 3, dtype=DOUBLE)}, r"warm_start: dtype torch\.float64 differs from y0's"),
        (
            {"warm_start": torch.zeros(1, 3)},
            r"warm_start: expected y0's shape \(2, 3\), or one with more rows, got \(1, 3\)",
        ),
        ({"warm_start": [0.0]}, r"warm_start: expected a torch\.Tensor"),
        ({"energy": lambda y: y}, r"energy: expected one number a row, shape \(2,\) for y0 \(2, 3\), got \(2, 3\)"),
        ({"energy": lambda y: y.sum()}, r"energy: expected one number a row.*got \(\)"),
        (
            {"energy": lambda y: (y - torch.zeros(5)).sum(-1)},
            r"energy: cannot be evaluated at y0 of shape \(2, 3\): The size of tensor a",
        ),
        ({"energy": lambda x, y: y.sum(-1)}, r"energy: cannot be evaluated.*bound to x first: net\.bind\(x\)"),
        ({"energy": lambda y: 0.0}, r"energy: expected one number a row.*got float"),
        ({"adjoint": "implicit"}, r"adjoint: expected 'auto'.*'implicit'"),
        ({"adjoint": DualKKT()}, r"adjoint: DualKKT belongs to BundleEntropy, not to ProjectedNewton"),
        ({"adjoint": Unrolled()}, r"adjoint: Unrolled\(\) needs ProjectedGradient, got ProjectedNewton"),
        ({"domain": Box(torch.zeros(4), torch.ones(4))}, r"Box\.lower: shape \(4,\) does not broadcast"),
        ({"domain": Box(0.0, torch.ones(4))}, r"Box\.upper: shape \(4,\) does not broadcast"),
        ({"solver": BundleEntropy()}, r"BundleEntropy needs a finite box"),
        ({"solver": BundleEntropy(), "domain": Box(0.0, float("inf"))}, r"BundleEntropy needs a finite box"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"energy": _bowl, "solver": ProjectedNewton(), "y0": torch.ones(2, 3), **change}
    with pytest.raises(ValueError, match=message):
        minimize(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_solvers_are_plain_settings(method: Method) -> None:
    """Printed, compared, hashed, pickled; not changed."""
    solver = method.build(CASES[0], 1e-6, 7)
    again = pickle.loads(pickle.dumps(solver))
    assert again == solver
    assert hash(again) == hash(solver)
    assert "max_steps=7" in repr(solver)
    assert method.build(CASES[0], 1e-6, 8) != solver
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.tol = 1.0  # type: ignore[misc]


def test_adjoints_are_plain_settings() -> None:
    for adjoint in (Implicit(), DualKKT(), Unrolled(), Implicit(damping=1e-6)):
        assert pickle.loads(pickle.dumps(adjoint)) == adjoint
        assert type(adjoint).__name__ in repr(adjoint)


def test_state_is_for_the_bundle_only() -> None:
    for method in METHODS:
        solution = run(method, CASES[0], max_steps=2)
        assert isinstance(solution.state, Bundle) == (method.tau > 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_on_a_cuda_device(method: Method) -> None:
    centre = draw(44, 5, 3)
    domain = Box(torch.full((3,), -1.0), 1.0)
    solver = method.build(CASES[0], method.tol_single, None)
    here = minimize(Quadratic(torch.eye(3), centre), solver, torch.zeros(5, 3), domain=domain, adjoint=None)
    there = minimize(
        Quadratic(torch.eye(3).cuda(), centre.cuda()), solver, torch.zeros(5, 3).cuda(), domain=domain, adjoint=None
    )
    assert there.value.is_cuda
    torch.testing.assert_close(there.fun.cpu(), here.fun, rtol=1e-4, atol=1e-3)


def test_projected_gradient_reports_max_steps_on_a_kink() -> None:
    """Gradients alone do not settle where pieces meet, and the solver says so instead of returning a number."""
    solution = minimize(
        lambda y: y.abs().sum(-1),
        ProjectedGradient("momentum", lr=0.3, max_steps=50),
        torch.full((1, 2), 0.77, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        adjoint=None,
        throw=False,
    )
    assert solution.status.item() == Status.MAX_STEPS
    assert solution.gap.item() >= solution.fun.item()


# energies that autograd or floating point would misjudge


@pytest.mark.parametrize("solver", [ProjectedNewton(), ProjectedGradient(), ProximalBundle()], ids=repr)
def test_inference_mode_changes_nothing(solver: Solver) -> None:
    def energy(y: Tensor) -> Tensor:
        return ((y - 0.25) ** 2).sum(-1)

    y0, domain = torch.zeros(2, 2, dtype=DOUBLE), Box(-1.0, 1.0)
    with torch.inference_mode():
        found = minimize(energy, solver, torch.zeros(2, 2, dtype=DOUBLE), domain=domain)
    torch.testing.assert_close(found.value, minimize(energy, solver, y0, domain=domain).value)
    torch.testing.assert_close(found.value, torch.full_like(y0, 0.25), rtol=0, atol=1e-3)


def test_an_energy_that_hides_its_dependence_is_refused_and_a_constant_one_is_not() -> None:
    def hidden(y: Tensor) -> Tensor:
        with torch.no_grad():
            return (y * y).sum(-1)

    with pytest.raises(ValueError, match="energy: its value changes with y, but autograd sees no dependence"):
        minimize(hidden, ProjectedNewton(), torch.zeros(1, 2), domain=Box(-1.0, 1.0))
    constant = minimize(lambda y: torch.ones(len(y)), ProjectedNewton(), torch.zeros(3, 2), domain=Box(-1.0, 1.0))
    assert constant.fun.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "solver",
    [
        ProximalBundle(),
        BundleEntropy(entropy=1e-3),
        ProjectedGradient("adam", lr=150.0),
        ProjectedGradient("momentum", lr=50.0),
        ProjectedGradient(lr=50.0),
        ProjectedGradient(),
    ],
    ids=repr,
)
def test_an_overflow_on_the_way_does_not_pass_for_success(solver: Solver) -> None:
    def energy(y: Tensor) -> Tensor:
        return (torch.exp(y) - 5.0 * y).sum(-1)  # infinite above 88.7; least at log 5

    found = minimize(energy, solver, torch.zeros(1, 1), domain=Box(-1000.0, 1000.0), adjoint=None, throw=False)
    assert not bool(found.success) or float(found.value) == pytest.approx(math.log(5.0), abs=0.1)
    assert bool(torch.isfinite(found.residual).all())


def test_an_infinite_hessian_at_the_start_is_named() -> None:
    def energy(y: Tensor) -> Tensor:
        return (y**1.5 - y).sum(-1)

    y0 = torch.tensor([[0.0], [0.5]])
    found = minimize(energy, ProjectedNewton(), y0, domain=Box(0.0, 1.0), throw=False)
    assert found.status.tolist() == [Status.NONFINITE_INPUT, Status.SUCCESS]
    assert found.value[1].item() == pytest.approx(4 / 9, abs=1e-5)


def test_a_wrong_adjoint_is_named_without_gradients_too() -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="adjoint: expected 'auto', None, Implicit"):
        minimize(lambda y: (y * y).sum(-1), ProjectedNewton(), torch.zeros(1, 2), adjoint="bogus")
