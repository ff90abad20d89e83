"""Heads: answers by hand, gradients against finite differences, failures reported."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.autograd import gradcheck

from icnn_rl.constraints import ActionProjection, EmptySetError, OptNetHead, ball, box, l1_ball, linear, power_limit
from icnn_rl.qp import solve_qp
from icnn_rl.solution import Status
from icnn_rl.testing.minimisation import draw

DOUBLE = torch.float64
NO_OBS = torch.zeros(1, 0)


def half_plane(obs):
    """x_1 + x_2 <= obs_1."""
    return obs[..., :1]


def crossed(obs):
    """-1, or more than the upper bound of 1 where obs_1 > 1."""
    return torch.where(obs[..., :1] > 1, 2.0, -1.0).expand(*obs.shape[:-1], 2)


TRIANGLE = linear([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_projection_by_hand(dtype):
    raw = torch.tensor([[0.2, 0.3], [1.0, 1.0], [-1.0, 0.5], [3.0, 0.0], [-1.0, -2.0]], dtype=dtype)
    expected = torch.tensor([[0.2, 0.3], [0.5, 0.5], [0.0, 0.5], [1.0, 0.0], [0.0, 0.0]], dtype=dtype)
    layer = ActionProjection(TRIANGLE)
    out = layer(torch.zeros(5, 3), raw, return_output=True)
    assert out.action.dtype == dtype
    torch.testing.assert_close(out.action, expected)
    torch.testing.assert_close(out.moved, (expected - raw).norm(dim=-1))
    assert torch.equal(out.action[0], raw[0])  # untouched where it was inside
    assert (out.status == 0).all()
    assert (layer.rows, layer.moved, layer.failed) == (5, 4, 0)


def test_bounds_of_the_action_space_count_where_the_constraint_alone_would_push_an_action_out():
    # the nearest point of x_1 >= 2 x_2 + 1 to (1, 1) is (1.4, 0.2); with x_1 <= 1 as well, (1, 0)
    layer = ActionProjection(linear([[-1.0, 2.0]], [-1.0]), low=-1.0, high=1.0)
    action = layer(NO_OBS, torch.tensor([[1.0, 1.0]], dtype=DOUBLE))
    torch.testing.assert_close(action, torch.tensor([[1.0, 0.0]], dtype=DOUBLE))


def test_scaled_actions_satisfy_the_constraint_in_the_environments_units():
    low, high = torch.tensor([-2.0, 1.0], dtype=DOUBLE), torch.tensor([4.0, 3.0], dtype=DOUBLE)
    layer = ActionProjection(linear([[1.0, 1.0]], [3.0]), low, high, scaled=True)
    x = draw(0, 50, 2).double().clamp(-1, 1)
    y = layer(torch.zeros(50, 1), x)
    a = low + (y + 1) * (high - low) / 2
    assert (a.sum(-1) <= 3 + 1e-9).all()
    assert (y.abs() <= 1 + 1e-9).all()
    # in scaled units the row is 3 x_1 + x_2 <= 0, after a = (1, 2) + (3, 1) x
    expected = x - torch.relu(x @ torch.tensor([3.0, 1.0]).double()).unsqueeze(-1) * torch.tensor([0.3, 0.1]).double()
    free = (expected.abs() <= 1).all(-1)
    assert free.sum() > 10
    torch.testing.assert_close(y[free], expected[free])


PLACES = {
    "inside": [0.2, 0.3],
    "on one row": [0.9, 0.8],
    "on a bound": [-0.7, 0.4],
    "in a corner": [2.5, 0.1],
    "in the right corner": [-1.0, -1.5],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("constraint", [TRIANGLE, TRIANGLE & ball(0.9)], ids=["rows", "rows and ball"])
def test_gradients_of_a_projection(place, constraint):
    layer = ActionProjection(constraint, low=-0.5, high=2.0)
    raw = torch.tensor([PLACES[place]], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda a: layer(torch.zeros(1, 1), a), raw, atol=1e-5)
    single = raw.detach().float().requires_grad_()
    jacobian32 = torch.autograd.functional.jacobian(lambda a: layer(torch.zeros(1, 1), a), single)
    jacobian64 = torch.autograd.functional.jacobian(lambda a: layer(torch.zeros(1, 1), a), raw)
    torch.testing.assert_close(jacobian32.double(), jacobian64, atol=1e-5, rtol=0)


def test_gradients_reach_what_the_constraint_makes_of_the_observation():
    layer = ActionProjection(linear([[1.0, 1.0]], half_plane), low=-1.0, high=1.0)
    obs, raw = torch.tensor([[0.4]], dtype=DOUBLE), torch.tensor([[0.9, 0.6]], dtype=DOUBLE)
    assert gradcheck(layer, (obs.requires_grad_(), raw.requires_grad_()))


@pytest.mark.parametrize(
    ("rows", "right", "raw"),
    [
        ([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [1.0, 0.5, 0.5], [2.0, 2.0]),  # three rows in one point of the plane
        ([[1.0, 0.0], [1.0, 0.0]], [0.5, 0.5], [2.0, 0.0]),  # a row twice
        ([[1.0, 1.0]], [1.0], [0.5, 0.5]),  # on the border already
        ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [0.0, 1.0]),  # multiplier 0 of an active row
        ([[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0], [1.0, 1.0]),  # no interior
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_degenerate_points_have_a_gradient_of_the_generalised_jacobian(rows, right, raw, dtype):
    layer = ActionProjection(linear(rows, right))
    at = torch.tensor([raw], dtype=dtype)
    J = torch.autograd.functional.jacobian(lambda a: layer(NO_OBS, a), at)[0, :, 0].double()
    # each is an orthogonal projector or a convex combination of such
    torch.testing.assert_close(J, J.mT, atol=1e-5, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(J)
    assert eigenvalues.min() > -1e-5
    assert eigenvalues.max() < 1 + 1e-5
    slope = (layer(NO_OBS, at + 1e-3) - layer(NO_OBS, at - 1e-3)) / 2e-3  # between the two sides of a kink
    assert slope.isfinite().all()


def test_a_batch_is_its_rows():
    layer = ActionProjection(power_limit(slice(0, 3), 0.7), low=-1.0, high=1.0)
    obs, raw = draw(1, 40, 3).double(), draw(2, 40, 3).double()
    whole = layer(obs, raw)
    for i in range(40):
        torch.testing.assert_close(layer(obs[i : i + 1], raw[i : i + 1])[0], whole[i], atol=1e-10, rtol=0)


def test_constraints_with_auxiliary_variables():
    constraint = power_limit(slice(0, 8), 0.5)
    layer = ActionProjection(constraint, low=-2.0, high=2.0, scaled=True)
    obs, raw = draw(3, 20, 8).double(), draw(4, 20, 8).double().clamp(-1, 1)
    out = layer(obs, raw.requires_grad_(), return_output=True)
    assert (out.status == 0).all()
    assert constraint.violation(obs, 2 * out.action).max() < 1e-6
    (grad,) = torch.autograd.grad(out.action.sum(), raw)
    assert grad.isfinite().all()


@pytest.mark.parametrize("head", ["projection", "optnet"])
def test_states_without_a_feasible_action_get_the_fallback_and_no_gradient(head):
    constraint = box(crossed, 1.0)
    obs = torch.tensor([[0.0], [5.0], [0.0]])
    raw = torch.tensor([[3.0, 0.0], [3.0, 0.2], [0.5, 0.5]], requires_grad=True)

    def make(**options):
        if head == "projection":
            return ActionProjection(constraint, **options)
        return OptNetHead(4, 2, constraint, linear=False, **options)

    def run(layer):
        found = layer(obs, raw, return_output=True) if head == "projection" else None
        return found or layer(torch.ones(3, 4), obs, raw, return_output=True)

    layer = make(low=-4.0, high=4.0)
    out = run(layer)
    assert out.status.tolist() == [0, Status.PRIMAL_INFEASIBLE, 0]
    torch.testing.assert_close(out.action[1], torch.tensor([1.5, 1.5]))  # as far beyond 1 as it falls short of 2
    (grad,) = torch.autograd.grad(out.action.sum(), raw, retain_graph=True)
    assert grad[1].tolist() == [0.0, 0.0]
    assert layer.failed == 1
    backup = run(make(low=-4.0, high=4.0, scaled=True, fallback=[2.0, -4.0]))
    torch.testing.assert_close(backup.action[1], torch.tensor([0.5, -1.0]))
    with pytest.raises(EmptySetError, match="no action satisfies it in 1 of 3"):
        run(make(fallback="error"))


def test_a_row_that_is_not_finite_is_reported_and_leaves_the_others_alone():
    layer = ActionProjection(TRIANGLE)
    raw = torch.tensor([[float("nan"), 0.0], [1.0, 1.0]], requires_grad=True)
    out = layer(torch.zeros(2, 1), raw, return_output=True)
    assert out.status.tolist() == [Status.NONFINITE_INPUT, 0]
    torch.testing.assert_close(out.action[1], torch.tensor([0.5, 0.5]))
    assert out.action[0].isnan().all()
    (grad,) = torch.autograd.grad(out.action.sum(), raw)
    assert grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("head", ["projection", "optnet", "optnet with rows"])
def test_nan_is_never_turned_into_a_number(head):
    raw = torch.tensor([[float("nan"), 0.0], [1.0, 1.0]], requires_grad=True)
    if head == "projection":
        layer = ActionProjection(TRIANGLE, -1.0, 1.0, penalty=0.1)
        action = layer(torch.zeros(2, 1), raw)
    else:
        rows = 2 if "rows" in head else 0
        layer = OptNetHead(3, 2, TRIANGLE, -1.0, 1.0, linear=False, n_ineq=rows, penalty=0.1)
        action = layer(torch.ones(2, 3), torch.zeros(2, 1), raw)
    assert action[0].isnan().all()
    assert action[1].isfinite().all()
    assert layer.failed == 1
    (grad,) = torch.autograd.grad(action.sum(), raw)
    assert grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("fallback", ["least_violation", "error", [0.25, 0.25]])
@pytest.mark.parametrize("head", ["projection", "optnet"])
def test_an_observation_with_nan_is_no_empty_set(head, fallback):
    constraint = power_limit([0, 1], 0.1)
    obs = torch.tensor([[1.0, 1.0], [float("nan"), 1.0]])
    raw = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    if head == "projection":
        out = ActionProjection(constraint, -1.0, 1.0, fallback=fallback)(obs, raw, return_output=True)
    else:
        layer = OptNetHead(4, 2, constraint, -1.0, 1.0, linear=False, quadratic="diagonal", fallback=fallback)
        out = layer(torch.ones(2, 4), obs, raw, return_output=True)
    assert out.status.tolist() == [0, Status.NONFINITE_INPUT]
    assert out.action[0].isfinite().all()
    assert out.action[1].isnan().all()
    (grad,) = torch.autograd.grad(out.action.sum(), raw)
    assert grad[0].isfinite().all()
    assert grad[1].tolist() == [0.0, 0.0]


def test_a_backup_action_is_for_empty_sets_alone():
    """Rows: found, empty, stopped short outside of the set, stopped short inside."""
    layer = ActionProjection(box(crossed, 1.0), -4.0, 4.0, fallback=[-3.0, -3.0])
    obs, proposal = torch.tensor([[0.0], [5.0], [0.0], [0.0]]), torch.full((4, 2), 3.0, dtype=DOUBLE)
    found = layer.actions.at(obs, proposal)
    value = torch.tensor([[1.0, 1.0], [3.0, 3.0], [1.5, 1.0], [0.5, 0.5]], dtype=DOUBLE)
    status = torch.tensor([0, int(Status.PRIMAL_INFEASIBLE), int(Status.MAX_STEPS), int(Status.NUMERICAL)])
    settled = layer.actions.settle(found, obs, value, proposal, status, torch.zeros(4, dtype=torch.bool))
    expected = [[1.0, 1.0], [-3.0, -3.0], [1.0, 1.0], [0.5, 0.5]]
    torch.testing.assert_close(settled, torch.tensor(expected, dtype=DOUBLE), rtol=0.0, atol=1e-8)


def test_the_fallback_is_near_the_raw_action_and_within_the_action_space():
    nothing = linear([[0.0, 0.0], [1.0, 0.0]], [-1.0, -0.5])
    raw = torch.tensor([[0.9, 0.8]], dtype=DOUBLE)
    action = ActionProjection(nothing, -1.0, 1.0)(NO_OBS, raw)
    torch.testing.assert_close(action, torch.tensor([[-0.5, 0.8]], dtype=DOUBLE), atol=1e-8, rtol=0)
    action = ActionProjection(nothing, -1.0, 1.0, fallback=[5.0, -0.3])(NO_OBS, raw)
    torch.testing.assert_close(action, torch.tensor([[1.0, -0.3]], dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"fallback: expected shape \(2,\) or \(1, 2\), got \(1,\)"):
        ActionProjection(nothing, fallback=[5.0])(NO_OBS, raw)


@pytest.mark.parametrize("inside", [False, True])
def test_the_penalty_in_the_backward_pass_is_that_of_the_explicit_loss(inside):
    raw = (0.1 if inside else 2.0) * draw(5, 30, 2).double().abs()
    target, obs = draw(6, 30, 2).double(), torch.zeros(30, 1)
    silent, plain = ActionProjection(TRIANGLE, penalty=0.3), ActionProjection(TRIANGLE)
    one, other = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    action = silent(obs, one)
    loss = ((action - target) ** 2).sum(-1).mean()
    loss.backward()
    projected = plain(obs, other)
    explicit = ((projected - target) ** 2).sum(-1).mean() + 0.3 * ((other - projected) ** 2).sum(-1).mean()
    explicit.backward()
    torch.testing.assert_close(one.grad, other.grad)
    assert torch.equal(action, projected)
    with torch.no_grad():
        assert torch.equal(silent(obs, raw), projected)


def _shaken(head, seed, size=1.0):
    with torch.no_grad():
        for i, parameter in enumerate(head.parameters()):
            parameter.add_(size * draw(seed + i, *parameter.shape).to(parameter))
    return head


@pytest.mark.parametrize("quadratic", ["cholesky", "diagonal"])
def test_optnet_solves_the_programme_that_it_states(quadratic):
    torch.manual_seed(0)
    head = _shaken(OptNetHead(4, 3, l1_ball(0.8), -1.0, 1.0, quadratic=quadratic, eps=0.2).double(), 7)
    features = draw(8, 25, 4).double()
    numbers = head.net(features)
    p, free = numbers[:, :3], numbers[:, 3:]
    positive = torch.nn.functional.softplus(free + math.log(math.e - 1))
    if quadratic == "diagonal":
        Q = torch.diag_embed(positive + 0.2)
    else:
        L = torch.zeros(25, 3, 3).double()
        for k, (i, j) in enumerate([(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]):
            L[:, i, j] = positive[:, k] if i == j else free[:, k]
        Q = L @ L.mT + 0.2 * torch.eye(3)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    expected = solve_qp(Q, p, signs, torch.full((8,), 0.8, dtype=DOUBLE), lb=-1.0, ub=1.0).value
    torch.testing.assert_close(head(features, torch.zeros(25, 1)), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("rows", [(3, 0), (0, 1), (3, 1), (12, 2)])
def test_learned_rows_never_empty_the_set_of_a_state_dependent_constraint(rows):
    torch.manual_seed(1)
    constraint = linear([[1.0, 1.0, 0.0]], half_plane)
    head = _shaken(OptNetHead(4, 3, constraint, -1.0, 1.0, n_ineq=rows[0], n_eq=rows[1]), 9, 2.0)
    obs, features = draw(10, 60, 1).clamp(-1.9, 2), 3 * draw(11, 60, 4)
    out = head(features, obs, return_output=True)
    assert (out.status == 0).all(), out.status
    assert constraint.violation(obs, out.action.detach()).max() < 1e-5
    assert out.action.abs().max() <= 1 + 1e-6
    loss = out.action.square().sum()
    grads = torch.autograd.grad(loss, list(head.parameters()))
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("place", ["inside", "border", "corner"])
@pytest.mark.parametrize("quadratic", ["cholesky", "diagonal"])
@pytest.mark.parametrize("rows", [(0, 0), (2, 1)])
def test_gradients_of_optnet(place, quadratic, rows):
    torch.manual_seed(2)
    right = {"inside": 50.0, "border": 0.3, "corner": -1.5}[place]
    constraint = linear([[1.0, 1.0, 0.5]], [right])
    bound = 60.0 if place == "inside" else 1.0
    head = OptNetHead(
        3, 3, constraint, -bound, bound, quadratic=quadratic, n_ineq=rows[0], n_eq=rows[1], linear=False
    ).double()
    features, centre = draw(12, 2, 3).double(), draw(13, 2, 3).double() + 1.0
    weight, bias = (p.detach().clone().requires_grad_() for p in head.parameters())

    def run(weight, bias, features, centre):
        values = {"net.weight": weight, "net.bias": bias}
        return torch.func.functional_call(head, values, (features, torch.zeros(2, 1), centre))

    inputs = (weight, bias, features.requires_grad_(), centre.requires_grad_())
    assert gradcheck(run, inputs, atol=1e-5, rtol=1e-3, fast_mode=True)


def test_optnet_with_a_centre_inside_is_the_identity():
    head = OptNetHead(2, 2, l1_ball(1.0), linear=False)
    centre = torch.tensor([[0.2, -0.3]], requires_grad=True)
    action = head(torch.randn(1, 2), NO_OBS, centre)
    torch.testing.assert_close(action, centre, atol=1e-6, rtol=0)
    assert (head.rows, head.moved, head.failed) == (1, 0, 0)
    J = torch.autograd.functional.jacobian(lambda c: head(torch.zeros(1, 2), NO_OBS, c), centre)
    torch.testing.assert_close(J[0, :, 0], torch.eye(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("constant", [box(-0.5, 0.5), l1_ball(0.5), linear([[1.0, 0.0]], [0.5]), ball(0.5)])
def test_constraints_that_read_nothing_do_not_mind_dict_observations(constant):
    reading = linear([[1.0, 1.0]], half_plane).reading("x")
    obs = {"image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "x": torch.tensor([[0.1], [9.0]])}
    raw = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    for constraint in (constant, constant & reading, reading & constant):
        action = ActionProjection(constraint)(obs, raw)
        if constraint is not constant:
            assert action[0].sum() <= 0.1 + 1e-6
        torch.testing.assert_close(action[1], torch.tensor([0.5, 0.0]))


def test_heads_move_and_pickle():
    head = OptNetHead(3, 2, TRIANGLE, [-1.0, -1.0], [1.0, 1.0], scaled=True)
    features = torch.randn(4, 3)
    again = pickle.loads(pickle.dumps(head))
    assert torch.equal(again(features, torch.zeros(4, 1)), head(features, torch.zeros(4, 1)))
    assert list(head.state_dict()) == ["net.weight", "net.bias"]


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"constraint: expected an ActionConstraint of icnn_rl.constraints, got float"):
        ActionProjection(1.0)
    with pytest.raises(ValueError, match=r"low, high: scaled actions need finite bounds"):
        ActionProjection(TRIANGLE, scaled=True)
    with pytest.raises(ValueError, match=r"fallback: expected 'least_violation', 'error'"):
        ActionProjection(TRIANGLE, fallback="nothing")
    with pytest.raises(ValueError, match=r"obs: missing"):
        ActionProjection(linear([[1.0, 1.0]], half_plane))(None, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"action: expected shape \(B, n\)"):
        ActionProjection(TRIANGLE)(None, torch.zeros(2))
    with pytest.raises(ValueError, match=r"quadratic: expected one of"):
        OptNetHead(3, 2, quadratic="full")
    with pytest.raises(ValueError, match=r"n_eq: expected fewer than the 2 actions"):
        OptNetHead(3, 2, n_eq=2)
    with pytest.raises(ValueError, match=r"centre: expected exactly where"):
        OptNetHead(3, 2)(torch.zeros(1, 3), None, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"penalty: it is on the distance from a centre"):
        OptNetHead(3, 2, penalty=1.0)


@pytest.mark.parametrize("k", [1e-170, 1e160])
def test_rows_whose_squares_are_no_numbers(k: float) -> None:
    head = ActionProjection(linear([[k, k]], [-k]), low=-1.0, high=1.0)
    found = head(None, torch.ones(1, 2, dtype=torch.float64), return_output=True)
    torch.testing.assert_close(found.action, torch.full((1, 2), -0.5, dtype=torch.float64))
    assert head.moved == 1
