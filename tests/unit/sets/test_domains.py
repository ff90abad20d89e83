"""Boxes, and what one gradient certifies on them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from icnn_rl import Box, Status, Unconstrained, minimize
from icnn_rl.nn import ICNN
from icnn_rl.sets import ConvexSet
from icnn_rl.sets.certificate import certificate
from icnn_rl.solvers import ProjectedGradient, ProjectedNewton
from icnn_rl.testing import minimisation_references as references
from icnn_rl.testing.minimisation import draw

INF = float("inf")


def test_bounds_take_the_dtype_of_y() -> None:
    y = torch.zeros(4, 3, dtype=torch.float64)
    for box in (Box(-1.0, 1.0), Box(torch.full((3,), -1.0), 1.0), Box(torch.full((4, 3), -1.0), torch.ones(1, 3))):
        lower, upper = box.bounds(y)
        assert lower.dtype == upper.dtype == torch.float64
        assert torch.equal(lower.expand_as(y), -torch.ones_like(y))
        assert torch.equal(upper.expand_as(y), torch.ones_like(y))
    lower, upper = Unconstrained().bounds(y)
    assert (lower.item(), upper.item()) == (-INF, INF)


def test_bounds_keep_their_gradient() -> None:
    bound = torch.ones(3, requires_grad=True)
    assert Box(-1.0, bound).bounds(torch.zeros(2, 3, dtype=torch.float64))[1].requires_grad


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (1.0, 0.0, r"lower bound exceeds its upper bound \(lower 1\.0, upper 0\.0\)"),
        (torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), r"tensor of shape \(3,\)"),
        (float("nan"), 1.0, "a bound is NaN"),
        (0.0, torch.tensor([1.0, float("nan")]), "a bound is NaN"),
    ],
    ids=str,
)
def test_wrong_boxes_are_refused(lower: object, upper: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Box(lower, upper)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2,), (5, 3), (1, 4, 3)], ids=str)
def test_bounds_that_do_not_fit_y_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Box\.lower: shape .* does not broadcast to y's \(4, 3\)"):
        Box(torch.zeros(shape), 1.0).bounds(torch.zeros(4, 3))


class Band:
    """{ y : |sum_j y_j| <= width }: a set from somewhere else."""

    def __init__(self, width: float) -> None:
        self.width = width

    def as_set(self, y: torch.Tensor) -> ConvexSet:
        ones = y.new_ones(1, y.shape[-1])
        return ConvexSet(G=torch.cat((ones, -ones)), h=y.new_full((2,), self.width))


def test_whatever_says_which_set_it_is_will_do() -> None:
    start = torch.zeros(1, 2, dtype=torch.float64)
    found = minimize(lambda y: ((y - 1.0) ** 2).sum(-1), ProjectedNewton(), start, domain=Band(1.0))
    torch.testing.assert_close(found.value.detach(), torch.full_like(start, 0.5))
    for wrong in (Band, 1.0):
        with pytest.raises(ValueError, match="domain: expected Box"):
            minimize(lambda y: (y**2).sum(-1), ProjectedNewton(), start, domain=wrong)  # type: ignore[arg-type]


def test_domains_are_plain_settings() -> None:
    assert pickle.loads(pickle.dumps(Box(-1.0, 1.0))) == Box(-1.0, 1.0)
    assert Unconstrained() == Unconstrained()
    assert "lower=-1.0" in repr(Box(-1.0, 1.0))


@pytest.mark.parametrize("curved", [False, True])
def test_certificate_is_the_minimum_of_the_tangent(curved: bool) -> None:
    """Compared with a fine grid over every coordinate's interval."""
    grad = draw(0, 6, 3).double()
    low, high = -draw(1, 6, 3).abs().double(), draw(2, 6, 3).abs().double()
    curvature = draw(3, 6, 3).abs().double() if curved else None
    m = np.zeros((6, 3)) if curvature is None else curvature.numpy()
    grid = np.linspace(0.0, 1.0, 20001)[:, None, None]
    d = low.numpy() + grid * (high - low).numpy()
    expected = -(grad.numpy() * d + 0.5 * m * d * d).min(0).sum(-1)
    torch.testing.assert_close(certificate(grad, low, high, curvature), torch.as_tensor(expected), rtol=0, atol=1e-7)


def test_certificate_without_bounds() -> None:
    grad = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    low, high = torch.tensor(-INF), torch.tensor(INF)
    assert certificate(grad, low, high, torch.tensor([1.0, 4.0])).tolist() == [1.0, 0.0]
    assert certificate(grad, low, high, None).tolist() == [INF, 0.0]  # a flat coordinate costs nothing


def test_certificate_with_a_bound_on_one_side() -> None:
    grad = torch.tensor([[1.0], [-1.0]])
    assert certificate(grad, torch.tensor(-2.0), torch.tensor(INF), None).tolist() == [2.0, INF]


def test_a_nan_gradient_certifies_nothing() -> None:
    grad = torch.tensor([[float("nan"), 0.0]])
    assert certificate(grad, torch.tensor(-1.0), torch.tensor(1.0), None).isnan().all()


@pytest.mark.parametrize("domain", [Unconstrained(), Box(-INF, 1.0)], ids=["unconstrained", "half"])
@pytest.mark.parametrize("solver", [ProjectedNewton(max_steps=4), ProjectedGradient(max_steps=4)], ids=str)
def test_no_curvature_and_no_bound_give_an_infinite_gap(domain: Box, solver: ProjectedNewton) -> None:
    """A curvature of 0 times an infinite interval was NaN once, and every row NONFINITE_INPUT."""
    torch.manual_seed(0)
    energy = ICNN(3, hidden=(8,)).double().bind()
    solution = minimize(energy, solver, draw(4, 5, 3).double(), domain=domain, adjoint=None, throw=False)
    assert not solution.gap.isnan().any()
    assert not (solution.status == Status.NONFINITE_INPUT).any()
    assert torch.isfinite(solution.value).all()


def test_the_enumeration_reference_agrees_with_scipy() -> None:
    """The references keep an eye on each other."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        root = rng.normal(size=(3, 3))
        h, g = root @ root.T + 0.1 * np.eye(3), 3 * rng.normal(size=3)
        low, high = -rng.random(3), rng.random(3)
        d = references.box_qp_by_enumeration(h, g, low, high)
        _, other = references.smooth_on_box(
            lambda y, h=h, g=g: (g @ y + 0.5 * y @ h @ y, g + h @ y), low, high, np.zeros(3)
        )
        np.testing.assert_allclose(d, other, atol=1e-6)
