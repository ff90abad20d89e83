"""Tolerances that follow the dtype, data rounded to float32, and Q whose negative eigenvalues are rounding."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from icnn_rl import Status
from icnn_rl.qp import Diagonal, External, NonConvexError, PrimalDual, solve_qp
from icnn_rl.qp.rounding import reconciled
from tests.unit.qp.test_two_sided_rows import two_sided

DOUBLE = torch.float64


def transport(seed: int, side: int, batch: int = 16, **parts: Any) -> dict[str, Any]:
    """Plans between softmax marginals in float32, 1/2 eps |z|^2 + cost: one of the 2 side equations is redundant."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.softmax(2 * torch.randn(batch, side, generator=generator), -1) for _ in range(2))
    eye, ones = torch.eye(side), torch.ones(1, side)
    return {
        "Q": 0.05,
        "p": torch.rand(batch, side * side, generator=generator),
        "A": torch.cat((torch.kron(eye, ones), torch.kron(ones, eye))),
        "b": torch.cat((rows, columns), -1),
        "lb": 0.0,
        **parts,
    }


# tolerances


def test_the_tolerance_follows_the_data() -> None:
    assert PrimalDual().tol is None
    assert PrimalDual().for_data(DOUBLE).tol == 1e-9
    assert PrimalDual(max_steps=7).for_data(torch.float32) == PrimalDual(tol=1e-6, max_steps=7)
    explicit = PrimalDual(tol=1e-4)
    assert explicit.for_data(torch.float32) is explicit
    assert [PrimalDual().tolerance, explicit.tolerance] == [1e-9, 1e-4]
    assert External("clarabel").for_data(torch.float32).tol == 1e-6
    assert External("clarabel", tol=0.1).for_data(torch.float32).tol == 0.1


@pytest.mark.parametrize("compiled", [True, False])
def test_what_counts_as_solved(compiled: bool) -> None:
    """A tolerance below rounding is met by nobody; the one that is given is the one that counts."""
    strict = PrimalDual(tol=1e-30, compiled=compiled)
    for dtype in (DOUBLE, torch.float32):
        arguments = two_sided(0, dtype=dtype)
        assert (solve_qp(**arguments, solver=strict, throw=False).status != Status.SUCCESS).any()
        assert solve_qp(**arguments, solver=PrimalDual(compiled=compiled)).success.all()


# float32


@pytest.mark.parametrize("side", [3, 8, 12])
@pytest.mark.parametrize("eps", [1.0, 0.05, 0.0])
def test_transport_between_rounded_marginals(side: int, eps: float) -> None:
    for seed in range(3):
        arguments = transport(seed, side, Q=eps)
        sums = arguments["b"].double().reshape(16, 2, side).sum(-1)
        assert (sums[:, 0] != sums[:, 1]).any()
        solution = solve_qp(**arguments)
        assert solution.success.all()
        torch.testing.assert_close(solution.value @ arguments["A"].mT, arguments["b"])
        assert solution.dual_eq.abs().max() < 1e3  # they grow without end where equations contradict each other
        # next to the answer for marginals that do agree
        exact = {name: part.double() if isinstance(part, Tensor) else part for name, part in arguments.items()}
        marginals = exact["b"].reshape(16, 2, side)
        exact["b"] = (marginals / marginals.sum(-1, keepdim=True)).flatten(1)
        if eps > 0:
            torch.testing.assert_close(solution.value, solve_qp(**exact).value.float(), rtol=1e-4, atol=1e-5)


def test_transport_one_matrix_a_row_and_sparse() -> None:
    arguments = transport(5, 4)
    expected = solve_qp(**arguments).value
    own = {**arguments, "A": arguments["A"].expand(16, -1, -1).clone()}
    torch.testing.assert_close(solve_qp(**own).value, expected)
    sparse = {**arguments, "A": arguments["A"].to_sparse_coo(), "Q": Diagonal(torch.full((16,), 0.05))}
    torch.testing.assert_close(solve_qp(**sparse).value, expected)


def test_gradients_of_rounded_marginals() -> None:
    arguments = transport(6, 4)
    b = arguments["b"].clone().requires_grad_()
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    (solve_qp(**{**arguments, "b": b}).value * weight).sum().backward()
    exact = arguments["b"].double().reshape(16, 2, 4)
    exact = (exact / exact.sum(-1, keepdim=True)).flatten(1).requires_grad_()
    parts = {name: part.double() if isinstance(part, Tensor) else part for name, part in arguments.items()}
    (solve_qp(**{**parts, "b": exact}).value * weight).sum().backward()
    torch.testing.assert_close(b.grad, exact.grad.float(), rtol=1e-3, atol=1e-3)


def test_contradictions_beyond_rounding_remain() -> None:
    arguments = transport(7, 4)
    arguments["b"][3, 0] += 1e-3
    solution = solve_qp(**arguments, throw=False)
    assert solution.status[3] == Status.PRIMAL_INFEASIBLE
    assert solution.success.sum() == 15
    # and in float64 nothing is rounding
    double = {name: part.double() if isinstance(part, Tensor) else part for name, part in transport(7, 4).items()}
    assert not solve_qp(**double, throw=False).success.all()


def test_a_contradiction_is_moved_no_further_than_needed() -> None:
    from icnn_rl.qp import inputs

    arguments = transport(8, 4, batch=3)
    arguments["b"][1] = torch.nan
    problem, _ = inputs.build(inputs.Arguments(**arguments), torch.Size((3,)))
    moved = reconciled(problem)
    assert moved.b[1].isnan().all()
    a = arguments["A"].double()
    nearest = arguments["b"].double() @ torch.linalg.pinv(a).mT @ a.mT
    torch.testing.assert_close(moved.b[[0, 2]], nearest[[0, 2]], rtol=0, atol=1e-14)
    # independent equations stay
    independent = {**arguments, "A": arguments["A"][:-1], "b": arguments["b"][:, :-1]}
    problem, _ = inputs.build(inputs.Arguments(**independent), torch.Size((3,)))
    assert reconciled(problem) is problem


# convexity


def indefinite(lowest: float, dtype: torch.dtype = DOUBLE) -> dict[str, Any]:
    """Row 2 of four has this eigenvalue, its largest is 5."""
    spectrum = torch.tensor([[1.0, 2.0, 5.0]], dtype=DOUBLE).repeat(4, 1)
    spectrum[2, 0] = lowest
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE))
    Q = basis @ torch.diag_embed(spectrum) @ basis.mT
    p = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    return {"Q": (0.5 * (Q + Q.mT)).to(dtype), "p": p.to(dtype), "lb": -1.0, "ub": 1.0}


@pytest.mark.parametrize("diagonal", [True, False])
def test_the_error_says_how_negative_and_what_to_do(diagonal: bool) -> None:
    arguments = indefinite(-2e-8)
    if diagonal:
        arguments["Q"] = Diagonal(
            torch.tensor([[1.0, 5.0, 1.0]] * 2 + [[-2e-8, 5.0, 1.0], [0.0, 5.0, 1.0]], dtype=DOUBLE)
        )
    with pytest.raises(NonConvexError) as caught:
        solve_qp(**arguments)
    error = caught.value
    assert error.row == 2
    assert error.eigenvalue == pytest.approx(-2e-8, rel=1e-4)
    assert error.largest == pytest.approx(5.0)
    text = str(error)
    assert "eigenvalue -2e-08 in row 2 of the batch, 4e-09 of the largest" in text
    assert "solver=PrimalDual(convex='assume')" in text
    # the multiple of the identity that it names is enough
    multiple = float(re.search(r"add (\S+) times the identity", text)[1])  # type: ignore[index]
    Q = arguments["Q"]
    lifted = Diagonal(Q.d + multiple) if isinstance(Q, Diagonal) else Q + multiple * torch.eye(3, dtype=DOUBLE)
    assert solve_qp(**{**arguments, "Q": lifted}).success.all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("lowest", [-1e-7, -1e-3])
def test_assumed_convex(lowest: float, dtype: torch.dtype, compiled: bool) -> None:
    arguments = indefinite(lowest, dtype)
    solution = solve_qp(**arguments, solver=PrimalDual(convex="assume", compiled=compiled))
    assert solution.success.all()
    Q = arguments["Q"].double()
    eigenvalues = torch.linalg.eigvalsh(Q)[:, :1, None]
    lifted = Q - eigenvalues.clamp(max=0.0) * torch.eye(3, dtype=DOUBLE)
    gradient = (lifted @ solution.value.double().unsqueeze(-1)).squeeze(-1) + arguments["p"].double()
    gradient = gradient - solution.dual_lb.double() + solution.dual_ub.double()
    assert gradient.abs().max() <= (1e-9 if dtype == DOUBLE else 1e-5)
    # the others are what they are without the word
    others = torch.tensor([0, 1, 3])
    rest = {name: part[others] if isinstance(part, Tensor) else part for name, part in arguments.items()}
    torch.testing.assert_close(solution.value[others], solve_qp(**rest).value)


def test_assumed_convex_in_vain_for_convex_problems() -> None:
    arguments = two_sided(3)
    assumed = solve_qp(**arguments, solver=PrimalDual(convex="assume"))
    assert torch.equal(assumed.value, solve_qp(**arguments).value)


def test_wrong_words_are_named() -> None:
    with pytest.raises(ValueError, match=r"PrimalDual\.convex: expected one of 'check', 'assume', got 'yes'"):
        PrimalDual(convex="yes")
