"""Networks as linear and quadratic programmes: SciPy, CVXPY, the bundle method and finite differences as references."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from icnn_rl import Ball, Box, Polytope, Simplex, Status, minimize
from icnn_rl.nn import (
    ICNN,
    PICNN,
    ConvexActivation,
    EnsembleEnergy,
    NetworkProgram,
    to_cvxpy,
    to_linear_program,
    to_quadratic_program,
)
from icnn_rl.qp import solve_qp
from icnn_rl.sets import ConvexSet, Domain
from icnn_rl.solvers import ProximalBundle, conjugate
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64
HALF = Polytope(G=torch.tensor([[1.0, 1.0, 1.0]]), h=torch.tensor([-0.5]), lb=-1.0, ub=1.0)
ABSOLUTE = ConvexSet(  # |y_1| + |y_2| + |y_3| <= 1 with u >= |y|
    G=torch.cat((torch.cat((torch.eye(3), -torch.eye(3)), 1), torch.cat((-torch.eye(3), -torch.eye(3)), 1),
                 torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]))),
    h=torch.tensor([0.0] * 6 + [1.0]),
    lb=-2.0,
    ub=2.0,
    lifted=3,
)  # fmt: skip
DOMAINS: dict[str, Domain] = {"box": Box(-1.0, 1.0), "rows": HALF, "simplex": Simplex(), "lifted": ABSOLUTE}


def _energy(kind: str, activation: Any = "relu", hidden: tuple[int, ...] = (6, 5), **settings: Any) -> EnsembleEnergy:
    torch.manual_seed(0)
    if kind == "icnn":
        return ICNN(3, hidden, activation=activation, **settings).double().bind()
    if kind == "mean":
        return ICNN(3, hidden, activation=activation, ensemble=3, **settings).double().bind("mean")
    settings = {"quadratic": False, "strong_convexity": 0.0, **settings}
    return PICNN(2, 3, (8,), hidden, activation=activation, **settings).double().bind(draw(1, 4, 2).double())


def _rows(programme: NetworkProgram) -> list[dict[str, Any]]:
    """The programmes of the rows, as arrays."""
    names = ("c", "constant", "G", "h", "A", "b", "lb", "ub")
    parts = {name: getattr(programme, name) for name in names}
    arrays = {name: None if part is None else part.detach().numpy() for name, part in parts.items()}
    if programme.c.dim() == 1:
        return [arrays]
    return [
        {name: None if part is None else part[row] for name, part in arrays.items()} for row in range(len(programme.c))
    ]


def _by_scipy(programme: NetworkProgram) -> Tensor:
    found = []
    for one in _rows(programme):
        bounds = np.stack((one["lb"], one["ub"]), -1)
        solved = optimize.linprog(one["c"], one["G"], one["h"], one["A"], one["b"], bounds)
        assert solved.success
        found.append(solved.fun + one["constant"])
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("kind", ["icnn", "picnn", "mean"])
def test_three_ways_to_the_same_minimum(kind: str, activation: str, domain: Domain) -> None:
    energy = _energy(kind, activation)
    programme = to_linear_program(energy, domain)
    y0 = torch.zeros(len(energy.linear[0]), 3, dtype=DOUBLE)
    expected = minimize(energy, ProximalBundle(tol=1e-10, max_steps=300), y0, domain=domain).fun
    solution = solve_qp(**programme.arguments)
    found = (solution.fun + programme.constant).reshape(-1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(_by_scipy(programme), expected.detach(), rtol=1e-7, atol=1e-7)
    y = programme.inputs(solution.value)
    torch.testing.assert_close(energy(y.reshape(-1, 3)), found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("hidden", [(), (7,), (6, 5, 4)], ids=str)
def test_at_a_fixed_input_the_minimum_over_the_units_is_the_network(hidden: tuple[int, ...]) -> None:
    for kind in ("icnn", "picnn", "mean"):
        energy = _energy(kind, hidden=hidden)
        for y in draw(2, 3, 3).double():
            programme = to_linear_program(energy, Box(y, y))
            torch.testing.assert_close(_by_scipy(programme), energy(y.expand(len(energy.linear[0]), 3)).detach())


@pytest.mark.parametrize("kind", ["icnn", "picnn", "mean"])
def test_quadratic_terms(kind: str) -> None:
    settings: dict[str, Any] = {"strong_convexity": 0.3}
    if kind == "picnn":
        settings["quadratic"] = True
    energy = _energy(kind, **settings)
    for domain in (None, HALF):
        programme = to_quadratic_program(energy, domain)
        solution = solve_qp(**programme.arguments)
        y = programme.inputs(solution.value).reshape(-1, 3)
        found = (solution.fun + programme.constant).reshape(-1)
        torch.testing.assert_close(found, energy(y), rtol=1e-7, atol=1e-7)
        box = Box(-5.0, 5.0) if domain is None else domain
        expected = minimize(
            energy, ProximalBundle(tol=1e-10, max_steps=500, max_cuts=60), torch.zeros_like(y), domain=box
        )
        torch.testing.assert_close(found, expected.fun, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="f: has a quadratic term"):
        to_linear_program(energy)


def test_a_network_without_a_minimum_has_a_status() -> None:
    net = ICNN(2, (8,), activation="relu").double()
    programme = to_linear_program(net.tilted(100 * draw(0, 5, 2).double()))
    solution = solve_qp(**programme.arguments, throw=False)
    assert (solution.status == Status.DUAL_INFEASIBLE).all()


def test_the_conjugate_of_a_relu_network_on_the_whole_space() -> None:
    torch.manual_seed(0)
    net = ICNN(2, (12, 12), activation="relu").double()
    leaf = draw(0, 6, 2).double().requires_grad_()
    y = net.bind().value_and_grad(leaf)[1].detach()  # slopes that f has: f* is finite there
    y = (0.7 * y + 0.3 * y.flip(0)).requires_grad_()  # and their mixtures, at corners of f
    programme = to_linear_program(net.tilted(y))
    solution = solve_qp(**programme.arguments)
    value = -(solution.fun + programme.constant)
    on_a_box = conjugate(net, y, domain=Box(-50.0, 50.0), solver=ProximalBundle(tol=1e-10, max_steps=300))
    torch.testing.assert_close(value, on_a_box.value, rtol=1e-6, atol=1e-6)
    value.sum().backward()
    torch.testing.assert_close(y.grad, programme.inputs(solution.value).detach())


def test_gradients_reach_the_weights() -> None:
    """Of the minimum over a box, against differences."""
    torch.manual_seed(0)
    net = ICNN(2, (5, 4), activation="relu").double()
    weight = net.passthrough[0].weight

    def least(w: Tensor) -> Tensor:
        energy = net.bind()
        energy.layers[0] = energy.layers[0]._replace(passthrough=w)
        programme = to_linear_program(energy, Box(-1.0, 1.0))
        return solve_qp(**programme.arguments).fun + programme.constant

    assert torch.autograd.gradcheck(least, (weight.detach().clone().requires_grad_(),), rtol=1e-4, atol=1e-6)


def test_activations_of_ones_own() -> None:
    def hinge(x: Tensor) -> Tensor:
        return torch.maximum(0.2 * x - 1, (x - 1).relu())

    def jet(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.where(x > 1, 1.0, torch.where(x < 5, 0.0, 0.2))
        return hinge(x), slope.to(x), torch.zeros_like(x)

    pieces = ((0.2, -1.0), (0.0, 0.0), (1.0, -1.0))
    own = ConvexActivation("hinge", hinge, jet, smooth=False, pieces=pieces)
    for activation in (own, nn.ReLU(), nn.LeakyReLU(0.3), torch.relu):
        energy = _energy("icnn", activation)
        y = draw(0, 3).double()
        programme = to_linear_program(energy, Box(y, y))
        torch.testing.assert_close(_by_scipy(programme), energy(y[None]).detach())
    wrong = ConvexActivation("hinge", hinge, jet, smooth=False, pieces=((0.0, 0.0), (1.0, 0.0)))
    with pytest.raises(ValueError, match="expected pieces"):
        ICNN(2, (3,), activation=wrong)


def test_what_is_no_linear_programme() -> None:
    with pytest.raises(ValueError, match="'softplus' is not known to be piecewise linear"):
        to_linear_program(ICNN(2))
    with pytest.raises(ValueError, match="not known to be piecewise linear"):
        to_linear_program(ICNN(2, activation=lambda x: x.relu()))
    for reduction in ("none", "softmax"):
        with pytest.raises(ValueError, match=f"reduction='{reduction}' of 3 members"):
            to_linear_program(ICNN(2, activation="relu", ensemble=3).bind(reduction))
    with pytest.raises(ValueError, match="domain: has an ellipsoid"):
        to_linear_program(ICNN(2, activation="relu"), Ball(1.0))


@pytest.mark.parametrize(
    ("kind", "activation", "hidden"),
    [
        ("icnn", "relu", (6, 5)),
        ("picnn", "leaky_relu", (6, 5)),
        ("mean", "softplus", (6, 5)),
        ("picnn", "squareplus", (6,)),
        ("soft maximum", "relu", (6,)),
        ("icnn", "relu", ()),
    ],
)
def test_cvxpy_has_the_same_function_and_minimum(kind: str, activation: str, hidden: tuple[int, ...]) -> None:
    cp = pytest.importorskip("cvxpy")
    settings = {"quadratic": True} if kind == "picnn" else {}
    if kind == "soft maximum":
        torch.manual_seed(0)
        net = ICNN(3, hidden, activation=activation, ensemble=3, strong_convexity=0.2).double()
        energy = net.bind("softmax", temperature=0.5)
    else:
        energy = _energy(kind, activation, hidden, strong_convexity=0.2, **settings)
    row = 2 if kind == "picnn" else None
    y = cp.Variable(3)
    expression = to_cvxpy(energy, y, row=row)
    assert expression.is_dcp()
    assert expression.is_convex()
    one = energy if row is None else energy.rows(torch.tensor([row]))
    for point in draw(3, 5, 3).double():
        y.value = point.numpy()
        np.testing.assert_allclose(float(expression.value), float(one(point[None]).detach()), rtol=1e-9)
    cp.Problem(cp.Minimize(expression), [cp.sum(y) <= -0.5, cp.abs(y) <= 1]).solve(solver="CLARABEL")
    expected = minimize(one, ProximalBundle(tol=1e-9, max_steps=500), torch.zeros(1, 3, dtype=DOUBLE), domain=HALF)
    np.testing.assert_allclose(float(expression.value), float(expected.fun.detach()), rtol=1e-5, atol=1e-5)


def test_cvxpy_takes_a_network_as_a_constraint_on_a_slice() -> None:
    cp = pytest.importorskip("cvxpy")
    net, u = ICNN(2, (6,), activation="relu"), cp.Variable((2, 3))
    bounds = [to_cvxpy(net, u[:, t]) <= 1.0 for t in range(3)]
    problem = cp.Problem(cp.Maximize(cp.sum(u[0])), [*bounds, cp.abs(u) <= 5])
    problem.solve(solver="CLARABEL")
    assert problem.status == "optimal"
    assert (net(torch.tensor(u.value.T, dtype=torch.float32)) <= 1 + 1e-4).all()


def test_what_cvxpy_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    cp = pytest.importorskip("cvxpy")
    net, y = ICNN(2, (3,), activation="relu"), cp.Variable(2)
    for wrong in (cp.Variable(3), cp.square(y), torch.zeros(2)):
        with pytest.raises(ValueError, match="y: expected an affine"):
            to_cvxpy(net, wrong)
    with pytest.raises(ValueError, match="no convex form of the activation 'squareplus' in 2 layers"):
        to_cvxpy(ICNN(2, (3, 3), activation="squareplus"), y)
    with pytest.raises(ValueError, match="no convex form"):
        to_cvxpy(ICNN(2, (3,), activation=nn.Softplus(beta=3.0)), y)
    with pytest.raises(ValueError, match="2 members side by side"):
        to_cvxpy(ICNN(2, (3,), activation="relu", ensemble=2).bind(), y)
    energy = PICNN(2, 2, (4,), (3,), activation="relu").bind(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="row: expected one of 3 rows"):
        to_cvxpy(energy, y)
    with pytest.raises(ValueError, match="row: expected a number from 0 to 2, got 3"):
        to_cvxpy(energy, y, row=3)

    def missing(name: str, *rest: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install -e .*cvxpy"):
        to_cvxpy(net, y)
