"""What is particular to projected Newton: steps, damping, precision, settings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icnn_rl import Box, Status, minimize
from icnn_rl.solvers import ProjectedNewton
from icnn_rl.testing.minimisation import CASES, Exponential, Quadratic, answer, draw

DOUBLE = torch.float64


def test_a_diagonal_quadratic_takes_one_step() -> None:
    centre = 2 * draw(0, 8, 5).double()
    energy = Quadratic(torch.diag(torch.linspace(0.5, 3.0, 5, dtype=DOUBLE)), centre)
    solution = minimize(energy, ProjectedNewton(tol=1e-12), torch.zeros_like(centre), domain=Box(-1.0, 1.0))
    assert (solution.num_steps <= 1).all()
    torch.testing.assert_close(solution.value, centre.clamp(-1, 1))


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (DOUBLE, 1e-12)])
def test_the_promised_precision_is_reached(dtype: torch.dtype, tol: float) -> None:
    for case in CASES:
        if case.smooth:
            problem = case.build(dtype)
            solution = minimize(
                problem.energy, ProjectedNewton(tol=tol), problem.y0, domain=problem.domain, adjoint=None, throw=False
            )
            assert solution.success.all(), case


@pytest.mark.parametrize("start", [-20.0, 0.0, 20.0])
def test_damping_tames_steep_energies(start: float) -> None:
    """Undamped Newton overshoots on log cosh, and exp overflows: neither may end in NaN."""
    y0 = torch.full((1, 1), start, dtype=DOUBLE)
    cosh = minimize(
        lambda y: torch.log(torch.cosh(y)).sum(-1), ProjectedNewton(max_steps=100), y0, domain=Box(-30.0, 40.0)
    )
    assert abs(cosh.value.item()) < 1e-2
    energy = Exponential(torch.ones(1, dtype=DOUBLE), torch.full((1,), 5.0, dtype=DOUBLE))
    steep = minimize(energy, ProjectedNewton(tol=1e-14, max_steps=100), y0, domain=Box(-30.0, 30.0))
    assert abs(steep.value.item() - torch.tensor(5.0).log().item()) < 1e-2


@pytest.mark.parametrize("ridge", [-0.9, -0.3, 0.4, 0.99])
def test_a_ridge_on_the_way_is_found_from_both_of_its_sides(ridge: float) -> None:
    """f falls gently towards a bend and rises behind it, which the Hessian tells from neither side: steps that failed
    were once cut again and again, up to 29 times."""

    def energy(y: Tensor) -> Tensor:
        along = y[..., 0] - ridge
        return 3.0 * torch.sqrt(along * along + 1e-2) - along + 0.1 * (y * y).sum(-1)

    y0 = torch.tensor([[-8.0, 2.0], [8.0, 2.0], [1.0, -1.0]], dtype=DOUBLE)
    solution = minimize(energy, ProjectedNewton(tol=1e-10), y0, domain=Box(-10.0, 10.0), adjoint=None)
    assert solution.num_steps.max() <= 9, solution.num_steps


def test_ill_conditioned_rows_are_not_given_up_in_float32() -> None:
    """The model's active set may cycle and come back with a step that goes nowhere; that was once taken for the end of
    float32, with an error of 0.18 left in f."""
    case = next(case for case in CASES if case.name == "correlated_1e5")
    problem, reference = case.build(torch.float32), answer(case)
    solution = minimize(problem.energy, ProjectedNewton(), problem.y0, domain=problem.domain, adjoint=None, throw=False)
    assert solution.success.all()
    torch.testing.assert_close(solution.fun.double(), reference.fun, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solves", [1, 2, 3, 8])
def test_any_number_of_model_solves_ends_at_the_minimum(seed: int, solves: int) -> None:
    """Twelve correlated coordinates, most of them on a bound: more than two or three solves can settle."""
    root = draw(seed, 8, 12, 12).double()
    h = root @ root.mT + 0.01 * torch.eye(12, dtype=DOUBLE)
    energy = Quadratic(h, 3 * draw(seed + 10, 8, 12).double())
    solution = minimize(
        energy,
        ProjectedNewton(tol=1e-10, model_solves=solves, max_steps=200),
        torch.zeros(8, 12, dtype=DOUBLE),
        domain=Box(-1.0, 1.0),
        adjoint=None,
        throw=False,
    )
    assert solution.success.all(), (solution.status, solution.num_steps)


def test_f_never_rises() -> None:
    case = next(case for case in CASES if case.name == "exponential")
    problem = case.build(DOUBLE)
    previous = problem.energy(torch.clamp(problem.y0, *problem.bounds()))
    for steps in range(1, 9):
        solution = minimize(
            problem.energy,
            ProjectedNewton(tol=1e-14, max_steps=steps),
            problem.y0,
            domain=problem.domain,
            adjoint=None,
            throw=False,
        )
        assert (solution.fun <= previous + 1e-12).all()
        previous = solution.fun


def test_a_concave_energy_is_not_called_solved() -> None:
    solution = minimize(
        lambda y: -(y**2).sum(-1),
        ProjectedNewton(max_steps=5),
        torch.full((1, 2), 0.1, dtype=DOUBLE),
        throw=False,
        adjoint=None,
    )
    assert not solution.success.any()


def test_an_energy_that_leaves_its_domain_is_survived() -> None:
    """-log is infinite below 0: a trial there is rejected, the row goes on."""

    def barrier(y: Tensor) -> Tensor:
        return (4.0 * y - torch.log(y)).sum(-1)

    y0 = torch.full((2, 2), 3.0, dtype=DOUBLE)
    solution = minimize(barrier, ProjectedNewton(tol=1e-12), y0, domain=Box(-1.0, 5.0), adjoint=None, throw=False)
    torch.testing.assert_close(solution.value, torch.full((2, 2), 0.25, dtype=DOUBLE), rtol=0, atol=1e-5)
    assert (solution.status != Status.NONFINITE_INPUT).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0.0}, r"ProjectedNewton\.tol: expected a number in \(0"),
        ({"tol": 2.0}, r"ProjectedNewton\.tol"),
        ({"tol": float("nan")}, r"ProjectedNewton\.tol"),
        ({"tol": True}, r"ProjectedNewton\.tol: expected a number, got True"),
        ({"max_steps": 0}, r"ProjectedNewton\.max_steps: expected an integer >= 1, got 0"),
        ({"max_steps": 2.0}, r"ProjectedNewton\.max_steps"),
        ({"model_solves": -1}, r"ProjectedNewton\.model_solves"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectedNewton(**arguments)  # type: ignore[arg-type]
