"""The optimal value: derivatives of either order against finite differences, the solves that they take, bad rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl.qp import Diagonal, PrimalDual, solve_qp
from icnn_rl.qp.kernel.dispatch import DenseFactor, KernelFactor
from icnn_rl.qp.linear.base import Refined
from tests.unit.qp.test_qp_gradients import BUILDS, NAMES, leaves, smooth

DOUBLE = torch.float64
PAIRS = [(case, name) for case, build in BUILDS.items() for name in NAMES if name in build(0, 2)]


def value_of(case: str, name: str) -> tuple[Any, Tensor]:
    arguments = smooth(case)
    diagonal = isinstance(arguments["Q"], Diagonal)

    def function(value: Tensor) -> Tensor:
        if name == "Q":
            value = Diagonal(value) if diagonal else 0.5 * (value + value.mT) if value.ndim > 1 else value
        return solve_qp(**{**arguments, name: value}).fun

    _, found = leaves({name: arguments[name]})
    return function, found[name]


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=str)
def test_finite_differences(case: str, name: str) -> None:
    if (case, name) == ("semidefinite", "Q"):
        pytest.skip("a step of finite differences makes Q indefinite")
    function, value = value_of(case, name)
    assert torch.autograd.gradcheck(function, value)
    assert torch.autograd.gradgradcheck(function, value)


def test_the_hessian_is_that_of_the_value_function() -> None:
    """Second differences of the value itself, in p and h at once."""
    arguments = smooth("everything")
    one = {name: part[0] for name, part in arguments.items()}
    n = one["p"].shape[-1]

    def value(parts: Tensor) -> Tensor:
        return solve_qp(**{**one, "p": parts[:n], "h": parts[n:]}).fun

    at = torch.cat((one["p"], one["h"]))
    found = torch.autograd.functional.hessian(value, at)
    step, steps = 1e-4, 1e-4 * torch.eye(len(at), dtype=DOUBLE)

    def second(u: Tensor, v: Tensor) -> Tensor:
        return (value(at + u + v) - value(at + u - v) - value(at - u + v) + value(at - u - v)) / (4 * step**2)

    expected = torch.stack([torch.stack([second(u, v) for v in steps]) for u in steps])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
def test_multipliers_are_the_sensitivities(compiled: bool) -> None:
    arguments, found = leaves(smooth("everything"))
    solution = solve_qp(**arguments, solver=PrimalDual(compiled=compiled))
    solution.fun.sum().backward()
    z = solution.value.detach()
    expected = {
        "p": z,
        "Q": 0.5 * z.unsqueeze(-1) * z.unsqueeze(-2),
        "G": solution.dual_ineq.unsqueeze(-1) * z.unsqueeze(-2),
        "h": -solution.dual_ineq,
        "A": solution.dual_eq.unsqueeze(-1) * z.unsqueeze(-2),
        "b": -solution.dual_eq,
        "lb": solution.dual_lb,
        "ub": -solution.dual_ub,
    }
    for name, part in expected.items():
        assert torch.equal(found[name].grad, part.detach()), name


@pytest.mark.parametrize("compiled", [True, False])
def test_the_gradient_takes_no_solve(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    solves = 0

    def counted(kind: type) -> None:
        refined = kind.refined

        def wrapped(*arguments: Any) -> Any:
            nonlocal solves
            solves += 1
            return refined(*arguments)

        monkeypatch.setattr(kind, "refined", wrapped)

    counted(Refined)
    counted(KernelFactor)
    counted(DenseFactor)
    arguments, found = leaves(smooth("rows_only"))
    solver = PrimalDual(compiled=compiled)
    solve_qp(**arguments, solver=solver).fun.sum().backward()
    assert solves == 0
    assert all(leaf.grad is not None for leaf in found.values())
    solve_qp(**arguments, solver=solver).value.sum().backward()
    assert solves == 1
    # both at once: one solve, and their sum
    for leaf in found.values():
        leaf.grad = None
    solution = solve_qp(**arguments, solver=solver)
    (solution.fun.sum() + 0.0 * solution.value.sum()).backward()
    assert solves == 2
    torch.testing.assert_close(found["p"].grad, solution.value.detach())
    # a second derivative is a solve
    (slope,) = torch.autograd.grad(solve_qp(**arguments, solver=solver).fun.sum(), arguments["p"], create_graph=True)
    assert solves == 2
    slope.sum().backward()
    assert solves == 3


def test_multipliers_that_are_not_unique() -> None:
    """The gradient is made of the multipliers that are reported, whichever they are."""
    G = torch.tensor([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]], dtype=DOUBLE)
    h = torch.tensor([1.0, 1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    solution = solve_qp(1.0, torch.tensor([-2.0, -1.0], dtype=DOUBLE), G, h)
    solution.fun.backward()
    assert torch.equal(h.grad, -solution.dual_ineq.detach())
    torch.testing.assert_close(solution.dual_ineq.detach() @ G, torch.ones(2, dtype=DOUBLE))


@pytest.mark.parametrize("name", ["p", "Q", "h", "b", "ub"])
def test_function_transforms(name: str) -> None:
    arguments = smooth("everything")

    def value(part: Tensor, row: int) -> Tensor:
        one = {key: t[row] for key, t in arguments.items()}
        part = 0.5 * (part + part.mT) if name == "Q" else part
        return solve_qp(**{**one, name: part}).fun

    part = arguments[name]
    leaf = part[1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf, 1), leaf)
    torch.testing.assert_close(torch.func.grad(value)(part[1], 1), expected)
    hessian = torch.func.jacrev(torch.func.grad(value))(part[1], 1)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda t: value(t, 1), part[1]))

    def row(p: Tensor, part: Tensor) -> Tensor:
        one = {key: t[1] for key, t in arguments.items()}
        return solve_qp(**{**one, "p": p, **({name: part} if name != "p" else {})}).fun

    p = torch.stack([arguments["p"][1], arguments["p"][1] + 0.01])
    slopes = torch.func.vmap(torch.func.grad(row), in_dims=(0, None))(p, part[1])
    for slope, one in zip(slopes, p, strict=True):
        torch.testing.assert_close(slope, torch.func.grad(row)(one, part[1]))
    if name != "p":  # mapped inside, differentiated outside
        outside = part[1].clone().requires_grad_()
        torch.func.vmap(row, in_dims=(0, None))(p, outside).sum().backward()
        each = sum(torch.func.grad(row, argnums=1)(one, part[1]) for one in p)
        torch.testing.assert_close(outside.grad, each)


@pytest.mark.parametrize("shared", [True, False])
def test_rows_that_failed_pass_nothing_on(shared: bool) -> None:
    arguments = smooth("rows_only")
    p, h = arguments["p"].clone(), arguments["h"].clone()
    p[0, 0] = torch.nan
    Q = arguments["Q"][1] if shared else arguments["Q"].clone()
    if not shared:
        Q[0] = torch.nan
    Q, p, h = Q.requires_grad_(), p.requires_grad_(), h.requires_grad_()
    solution = solve_qp(Q, p, arguments["G"], h, throw=False)
    assert solution.fun[0].isnan()
    solution.fun[1].backward(retain_graph=True)
    first = [leaf.grad.clone() for leaf in (Q, p, h)]
    for leaf in (Q, p, h):
        leaf.grad = None
    solution.fun.sum().backward()
    for leaf, grad in zip((Q, p, h), first, strict=True):
        assert torch.equal(leaf.grad, grad)
        assert leaf.grad.isfinite().all()
    assert not p.grad[0].any()


def test_sparse_rows_and_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(4, 6, generator=generator) * (torch.rand(4, 6, generator=generator) > 0.5)
    p, h = 3 * torch.randn(5, 6, generator=generator), torch.full((4,), 0.5)
    Q = Diagonal(torch.ones(6))
    entries = dense.to_sparse_coo().requires_grad_()
    solution = solve_qp(Q, p, entries, h)
    assert solution.fun.dtype == torch.float32
    solution.fun.sum().backward()
    expected = (solution.dual_ineq.detach().mT @ solution.value.detach()) * (dense != 0)
    torch.testing.assert_close(entries.grad.to_dense(), expected)
