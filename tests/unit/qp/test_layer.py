"""QPLayer: the parametrisations against their formulas, its answers against solve_qp and numbers worked out by hand."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from icnn_rl.qp import Diagonal, PrimalDual, QPLayer, solve_qp
from icnn_rl.solution import SolveError, Status
from icnn_rl.testing.minimisation import draw

INF = float("inf")
EVERYTHING = ("Q", "p", "G", "h", "A", "b")
#: One free variable, one with each kind of bound, one that is fixed.
LOWER, UPPER = torch.tensor([-INF, 0.0, -INF, -1.0, 2.0]), torch.tensor([INF, INF, 1.0, 3.0, 2.0])


def _everything(**options):
    torch.manual_seed(0)
    return QPLayer(5, n_ineq=4, n_eq=2, learn=EVERYTHING, lb=LOWER, ub=UPPER, dtype=torch.float64, **options)


def _shake(layer, seed, size):
    """Other values for all parameters."""
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            parameter.copy_(size * draw(seed + i, *parameter.shape))


def test_a_layer_without_learned_parts_by_hand():
    # the minimiser of 1/2 z^2 + p z over z >= 0 is max(-p, 0); with Q = 2, half of it
    p = torch.tensor([[1.0, -2.0], [-3.0, 0.5]])
    close = torch.testing.assert_close
    close(QPLayer(2, learn=(), lb=0.0)(p), torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    close(QPLayer(2, learn=(), Q=2.0, lb=0.0)(p), torch.tensor([[0.0, 1.0], [1.5, 0.0]]))
    # z = -(p + 1) / (1, 4)
    layer = QPLayer(2, learn=(), Q=Diagonal(torch.tensor([1.0, 4.0])), p=torch.ones(2))
    close(layer(p), torch.tensor([[-2.0, 0.25], [2.0, -0.375]]))


def test_rows_by_hand():
    # the nearest point to (2, 2) with z_1 + z_2 <= 2 is (1, 1); with z_1 = 0 as well, (0, 2)
    half_space = {"G": torch.ones(1, 2), "h": torch.tensor([2.0])}
    p = torch.full((2,), -2.0)
    torch.testing.assert_close(QPLayer(2, n_ineq=1, learn=(), **half_space)(p), torch.tensor([1.0, 1.0]))
    line = {"A": torch.tensor([[1.0, 0.0]]), "b": torch.zeros(1)}
    torch.testing.assert_close(
        QPLayer(2, n_ineq=1, n_eq=1, learn=(), **half_space, **line)(p), torch.tensor([0.0, 2.0])
    )


def test_the_parts_follow_their_formulas():
    layer = _everything(eps=0.5)
    _shake(layer, 1, 2.0)
    lower = layer.L.detach().clone()
    lower[0, 1:] = 0.0  # whatever is above the diagonal does not count
    lower = lower.tril()
    torch.testing.assert_close(layer.Q, lower @ lower.T + 0.5 * torch.eye(5).double())
    assert (layer.s0 >= 0).all()
    torch.testing.assert_close(layer.h, layer.G @ layer.z0 + layer.s0)
    torch.testing.assert_close(layer.b, layer.A @ layer.z0)
    assert ((layer.z0 >= LOWER) & (layer.z0 <= UPPER)).all()
    p = draw(2, 3, 5).double()
    mine = solve_qp(layer.Q, p + layer.p, layer.G, layer.h, layer.A, layer.b, LOWER.double(), UPPER.double())
    assert torch.equal(layer(p), mine.value)


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_is_learned_there_is_a_solution(size, dtype):
    for seed in range(5):
        layer = _everything().to(dtype)
        _shake(layer, 10 * seed, size)
        _, solution = layer(draw(seed, 6, 5).to(dtype), return_solution=True)
        assert (solution.status == Status.SUCCESS).all()


def test_gradients_of_everything():
    layer = _everything(solver=PrimalDual(tol=1e-8))
    _shake(layer, 3, 1.0)
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["L", "p", "G", "A", "z0_free", "s0_free"]

    def call(p, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (p,))

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(call, (draw(4, 3, 5).double().requires_grad_(), *values))


@pytest.mark.parametrize("part", EVERYTHING)
def test_each_part_alone_is_learned(part):
    torch.manual_seed(1)
    fixed = {"G": draw(5, 3, 4), "A": draw(6, 1, 4)}
    fixed = {name: value for name, value in fixed.items() if name != part}
    layer = QPLayer(4, n_ineq=3, n_eq=1, learn=(part,), **fixed)
    (layer(3 * draw(7, 8, 4)) * draw(8, 8, 4)).sum().backward()
    expected = {"Q": {"L"}, "h": {"z0_free", "s0_free"}, "b": {"z0_free"}}.get(part, {part})
    assert {name for name, _ in layer.named_parameters()} == expected
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("rows", [{"n_ineq": 3}, {"n_eq": 2}, {"n_ineq": 3, "n_eq": 1}, {"lb": -1.0}, {}], ids=str)
def test_many_gradients_in_one_backward_pass(rows):
    torch.manual_seed(0)
    layer = QPLayer(4, learn=("Q", "p", "G", "h", "A", "b"), **rows)
    z, parameters = layer(torch.randn(5, 4)), list(layer.parameters())
    directions = torch.randn(3, *z.shape)
    together = torch.autograd.grad(z, parameters, directions, retain_graph=True, is_grads_batched=True)
    alone = [torch.autograd.grad(z, parameters, direction, retain_graph=True) for direction in directions]
    for many, one in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(many, torch.stack(one))


def test_what_it_starts_from():
    Q = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    G, A, p = draw(1, 3, 2), draw(2, 1, 2), draw(3, 2)
    z0, s0 = torch.tensor([0.25, 7.0]), torch.tensor([1e-3, 1.0, 50.0])
    layer = QPLayer(2, 3, 1, EVERYTHING, Q=Q, p=p, G=G, A=A, z0=z0, s0=s0, lb=0.0, ub=torch.tensor([1.0, INF]))
    torch.testing.assert_close(layer.Q, Q)
    torch.testing.assert_close(layer.h, G @ z0 + s0)
    torch.testing.assert_close(layer.b, A @ z0)
    assert torch.equal(layer.G, G)
    assert torch.equal(layer.A, A)
    assert torch.equal(layer.p, p)
    with torch.no_grad():
        layer.G.zero_()
    assert G.abs().max() > 0  # the layer has a copy
    torch.testing.assert_close(QPLayer(3).Q, torch.eye(3))
    torch.testing.assert_close(QPLayer(2, Q=Diagonal(torch.tensor([2.0, 3.0]))).Q, torch.diag(torch.tensor([2.0, 3.0])))


def test_the_sudoku_layer():
    torch.manual_seed(0)
    layer = QPLayer(64, n_eq=40, learn=("A", "b"), Q=0.1, lb=0.0)
    assert {name: tuple(t.shape) for name, t in layer.named_parameters()} == {"A": (40, 64), "z0_free": (64,)}
    z = layer(-torch.rand(10, 64))
    assert z.min() > -1e-6
    torch.testing.assert_close(z @ layer.A.T, layer.b.expand(10, -1))
    z.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_it_learns_a_projection():
    # data: the nearest point of the half-space z_1 + z_2 <= 1
    torch.manual_seed(0)
    x = 2 * draw(1, 64, 2)
    y = solve_qp(1.0, -x, torch.ones(1, 2), torch.ones(1)).value
    layer = QPLayer(2, n_ineq=1, learn=("G", "h"))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(100):
        loss = (layer(-x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
    torch.testing.assert_close(layer.G / layer.h, torch.ones(1, 2), atol=0.05, rtol=0.0)


def test_the_offset_stands_for_the_input():
    layer = QPLayer(2, learn=("p",), p=torch.tensor([-1.0, 2.0]), lb=0.0)
    torch.testing.assert_close(layer(), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(layer(torch.tensor([[-1.0, 1.0], [-1.0, -3.0]])), torch.tensor([[2.0, 0.0], [2.0, 1.0]]))
    layer().sum().backward()
    torch.testing.assert_close(layer.p.grad, torch.tensor([-1.0, 0.0]))
    with pytest.raises(ValueError, match="p: missing"):
        QPLayer(2)()


def test_a_call_may_bring_what_is_not_learned():
    layer = QPLayer(2, n_ineq=1, n_eq=1, learn=("Q",), s0=torch.tensor([0.5]))
    p, G, A = draw(1, 4, 2), draw(2, 4, 1, 2), torch.tensor([[1.0, -1.0]])
    h, b = torch.tensor([2.0]), torch.tensor([0.25])
    expected = solve_qp(layer.Q, p, G, h, A, b).value
    torch.testing.assert_close(layer(p, G=G, h=h, A=A, b=b), expected)
    # without h and b they follow: z_0 = 0
    expected = solve_qp(layer.Q, p, G, torch.tensor([0.5]), A, torch.zeros(1)).value
    torch.testing.assert_close(layer(p, G=G, A=A), expected)
    constant = QPLayer(2, learn=(), Q=3.0)
    torch.testing.assert_close(constant(p, Q=Diagonal(torch.tensor([1.0, 2.0]))), -p / torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="G: missing"):
        layer(p, A=A)
    with pytest.raises(ValueError, match="G: dtype"):
        layer(p, G=G.double(), A=A)
    with pytest.raises(ValueError, match="Q: this layer learns it"):
        layer(p, Q=1.0, G=G, A=A)
    with pytest.raises(ValueError, match=r"A: expected shape \(\.\.\., 1, 2\), got \(2, 2\)"):
        layer(p, G=G, A=torch.eye(2))


def test_constants_given_as_numbers_do_not_follow():
    G, h = draw(1, 3, 2), torch.tensor([1.0, 2.0, 3.0])
    layer = QPLayer(2, n_ineq=3, learn=("G",), G=G, h=h)
    assert torch.equal(layer.h, h)
    assert set(layer.state_dict()) == {"G", "Q_constant", "h_constant"}
    with pytest.raises(RuntimeError, match="this layer has none"):
        _ = layer.z0


def test_same_seed_same_layer():
    first, second = _everything(), _everything()
    torch.manual_seed(1)
    third = QPLayer(5, n_ineq=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(third.G.double(), first.G)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_survives(dtype):
    layer = _everything().to(dtype)
    _shake(layer, 1, 1.0)
    p = draw(2, 3, 5).to(dtype)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = QPLayer(5, 4, 2, EVERYTHING, lb=torch.full((5,), -9.0), ub=torch.full((5,), 9.0), dtype=dtype)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(p), layer(p))
    assert torch.equal(copy.deepcopy(layer)(p), layer(p))
    assert layer(p).dtype == dtype


def test_a_call_returns_its_solution_and_starts_from_another():
    layer = _everything()
    p = draw(1, 3, 5).double()
    z, solution = layer(p, return_solution=True)
    assert torch.equal(z, solution.value)
    again, warm = layer(p, warm_start=solution.warm_start, return_solution=True)
    torch.testing.assert_close(again, z)
    assert (warm.num_steps <= solution.num_steps).all()


def _boxed(**options):
    """A layer whose bounds and rows are all learned, both sides."""
    torch.manual_seed(0)
    learn = ("Q", "G", "h", "h_low", "lb", "ub")
    return QPLayer(4, n_ineq=3, learn=learn, dtype=torch.float64, **options)


def test_learned_bounds_and_lower_sides_follow_their_formulas():
    layer = _boxed()
    _shake(layer, 1, 2.0)
    softplus = torch.nn.functional.softplus
    torch.testing.assert_close(layer.lb, layer.z0 - softplus(layer.lb_free))
    torch.testing.assert_close(layer.ub, layer.z0 + softplus(layer.ub_free))
    torch.testing.assert_close(layer.h_low, layer.G @ layer.z0 - softplus(layer.s_low_free))
    assert ((layer.lb <= layer.z0) & (layer.z0 <= layer.ub)).all()
    p = 5 * draw(2, 6, 4).double()
    expected = solve_qp(layer.Q, p, layer.G, layer.h, lb=layer.lb, ub=layer.ub, h_low=layer.h_low)
    assert torch.equal(layer(p), expected.value)
    assert (expected.dual_lb > 0).any()
    assert (expected.dual_ub > 0).any()
    assert (expected.dual_ineq_low > 0).any()


@pytest.mark.parametrize("size", [1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_bounds_are_learned_there_is_a_solution(size, dtype):
    for seed in range(5):
        layer = _boxed().to(dtype)
        _shake(layer, 10 * seed, size)
        _, solution = layer(draw(seed, 6, 4).to(dtype), return_solution=True)
        assert (solution.status == Status.SUCCESS).all()


def test_gradients_of_bounds_and_lower_sides():
    layer = _boxed()
    _shake(layer, 3, 1.0)
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["L", "G", "z0_free", "s0_free", "s_low_free", "lb_free", "ub_free"]

    def call(p, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (p,))

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(call, ((5 * draw(4, 3, 4)).double().requires_grad_(), *values))


def test_what_learned_bounds_start_from():
    lb, z0 = torch.tensor([-1.0, 0.0, -5.0]), torch.tensor([0.0, 0.5, 1.0])
    layer = QPLayer(3, learn=("lb", "ub"), lb=lb, ub=7.0, z0=z0)
    torch.testing.assert_close(layer.lb, lb)
    torch.testing.assert_close(layer.ub, torch.full((3,), 7.0))
    torch.testing.assert_close(layer.z0, z0)
    # one side alone: the other stays as it is, and by default a bound starts 1 from z_0
    layer = QPLayer(2, learn=("ub",), lb=0.0)
    assert torch.equal(layer.lb, torch.tensor(0.0))
    torch.testing.assert_close(layer.ub, layer.z0 + 1.0)
    layer = QPLayer(2, n_ineq=2, learn=("h_low",), G=torch.eye(2), s0=0.25)
    torch.testing.assert_close(layer.h_low, torch.full((2,), -0.25))
    torch.testing.assert_close(layer.h, torch.full((2,), 0.25))


def test_it_learns_a_box():
    # data: the nearest point of -0.5 <= z_1 <= 1, 0 <= z_2 <= 0.25
    x = 2 * draw(1, 64, 2)
    low, high = torch.tensor([-0.5, 0.0]), torch.tensor([1.0, 0.25])
    layer = QPLayer(2, learn=("lb", "ub"))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(400):
        loss = (layer(-x) - x.clamp(low, high)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.lb, low, atol=0.02, rtol=0.0)
    torch.testing.assert_close(layer.ub, high, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_call_may_bring_bounds_and_lower_sides(dtype):
    layer = QPLayer(
        2, n_ineq=2, learn=("Q",), G=torch.eye(2), h=torch.ones(2), h_low=-torch.ones(2), lb=-3.0, dtype=dtype
    )
    p = torch.tensor([[4.0, -4.0], [-4.0, 4.0]], dtype=dtype)
    torch.testing.assert_close(layer(p), torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=dtype))
    lower = torch.tensor([[-0.5, -0.25], [-0.75, 0.0]], dtype=dtype, requires_grad=True)
    z, solution = layer(p, lb=lower, ub=0.5, return_solution=True)
    torch.testing.assert_close(z, torch.tensor([[-0.5, 0.5], [0.5, 0.0]], dtype=dtype))
    assert solution.dual_lb.dtype == dtype
    z.sum().backward()
    torch.testing.assert_close(lower.grad, torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype))
    sides = torch.tensor([[0.25, -1.0], [-1.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(layer(p, h_low=sides), torch.tensor([[0.25, 1.0], [1.0, 0.0]], dtype=dtype))
    with pytest.raises(ValueError, match="lb: this layer learns it"):
        QPLayer(2, learn=("lb",), dtype=dtype)(p, lb=0.0)
    with pytest.raises(ValueError, match="ub: expected dtype float32 or float64"):
        QPLayer(2, dtype=dtype)(p, ub=torch.ones(2, dtype=torch.float16))


def test_float32_numbers_are_solved_as_what_they_are():
    """Marginals that agree to float32's rounding; cast to float64, they contradict each other."""
    side = 5
    eye, ones = torch.eye(side), torch.ones(1, side)
    layer = QPLayer(
        side * side,
        n_eq=2 * side,
        learn=(),
        Q=0.05,
        A=torch.cat((torch.kron(eye, ones), torch.kron(ones, eye))),
        lb=0.0,
    )
    rows, columns = (torch.softmax(2 * draw(seed, 16, side), -1) for seed in (1, 2))
    assert (rows.double().sum(-1) != columns.double().sum(-1)).any()
    plan, solution = layer(draw(3, 16, side * side), b=torch.cat((rows, columns), -1), return_solution=True)
    assert solution.success.all()
    plan = plan.reshape(16, side, side)
    torch.testing.assert_close(plan.sum(-1), rows)
    torch.testing.assert_close(plan.sum(-2), columns)


def test_parameters_are_contiguous(tmp_path):
    Q = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 3.0]])
    layer = QPLayer(3, n_ineq=2, learn=("Q", "G", "h", "lb"), Q=Q)
    assert all(parameter.is_contiguous() for parameter in layer.parameters())
    vector = parameters_to_vector(layer.parameters())
    vector_to_parameters(2 * vector, layer.parameters())
    torch.testing.assert_close(parameters_to_vector(layer.parameters()), 2 * vector)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = QPLayer(3, n_ineq=2, learn=("Q", "G", "h", "lb"))
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    p = draw(1, 8, 3)
    assert torch.equal(other(p), layer(p))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=5)

    def loss():
        optimizer.zero_grad()
        total = (layer(p) - 0.1).square().sum()
        total.backward()
        return total

    before = loss().detach()
    optimizer.step(loss)
    assert loss() < before


def test_failure_is_said():
    apart = {"G": torch.tensor([[1.0], [-1.0]]), "h": torch.tensor([0.0, -1.0])}  # z <= 0 and z >= 1
    with pytest.raises(SolveError, match="PRIMAL_INFEASIBLE"):
        QPLayer(1, n_ineq=2, learn=(), **apart)(torch.ones(2, 1))
    _, solution = QPLayer(1, n_ineq=2, learn=(), throw=False, **apart)(torch.ones(2, 1), return_solution=True)
    assert (solution.status == Status.PRIMAL_INFEASIBLE).all()


def test_repr():
    layer = QPLayer(3, n_ineq=1, learn=("G", "h"), Q=Diagonal(torch.ones(3)), lb=0.0, ub=torch.ones(3))
    assert repr(layer) == (
        "QPLayer(n=3, n_ineq=1, n_eq=0, learn=('G', 'h'), Q=Diagonal(3), lb=0, ub=(3), "
        "solver=PrimalDual(tol=None, max_steps=100, dtype='float64', compiled=True, dense=True, convex='check'), "
        "throw=True)"
    )
    assert "learn=('Q',), eps=0.01, solver=" in repr(QPLayer(3, learn=("Q",), eps=0.01))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected an integer >= 1"),
        ({"n_ineq": -1}, "n_ineq: expected an integer"),
        ({"learn": ("z",)}, "learn: expected one of 'Q', 'p', 'G', 'h', 'A', 'b', 'h_low', 'lb', 'ub', got 'z'"),
        ({"Q": torch.ones(2)}, r"Q: expected shape \(2, 2\), got \(2,\)"),
        ({"Q": -1.0}, "Q: expected eigenvalues above eps = 0.0001"),
        ({"eps": 0.0}, "eps"),
        ({"G": torch.ones(2, 2)}, r"G: expected shape \(1, 2\), got \(2, 2\)"),
        ({"learn": ("h",), "h": torch.ones(1)}, "h: it is learned as a function of z0"),
        ({"lb": 0.0, "z0": torch.zeros(2)}, "z0: expected numbers strictly within the bounds"),
        ({"s0": 0.0}, "s0: expected numbers strictly within"),
        ({"h": torch.ones(1), "z0": torch.ones(2)}, "z0: neither h nor b"),
        ({"learn": ("lb",), "lb": 0.0}, "lb: it is learned, so expected finite numbers below z0, got 0.0"),
        ({"learn": ("ub",), "ub": INF}, "ub: it is learned, so expected finite numbers above z0, got inf"),
        ({"learn": ("h_low",), "h_low": torch.ones(1)}, "h_low: it is learned as a function of z0"),
        ({"h_low": torch.ones(2)}, r"h_low: expected shape \(1,\), got \(2,\)"),
        ({"lb": torch.zeros(3)}, r"lb: expected shape \(2,\), got \(3,\)"),
        ({"dtype": torch.float16}, "dtype: expected dtype float32 or float64"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        QPLayer(**{"n": 2, "n_ineq": 1, **options})


def test_wrong_input():
    layer = QPLayer(2)
    with pytest.raises(ValueError, match=r"p: expected shape \(\.\.\., 2\), got \(4, 3\)"):
        layer(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"p: dtype torch\.float64 differs from the layer's torch\.float32"):
        layer(torch.ones(4, 2).double())
