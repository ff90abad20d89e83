"""The batched quadratic programme on a box, against enumeration of every active set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icnn_rl.solvers.box_qp import box_qp, times
from icnn_rl.testing import minimisation_references as references
from icnn_rl.testing.minimisation import draw


def _model(d: torch.Tensor, g: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return (g * d).sum(-1) + 0.5 * torch.einsum("bi,bij,bj->b", d, h, d)


def _batch(seed: int, n: int, rows: int = 16) -> tuple[torch.Tensor, ...]:
    root = draw(seed, rows, n, n).double()
    h = root @ root.mT + 0.3 * torch.eye(n, dtype=torch.float64)
    return (
        2 * draw(seed + 1, rows, n).double(),
        h,
        -draw(seed + 2, rows, n).abs().double(),
        draw(seed + 3, rows, n).abs().double(),
    )


def _reference(g: torch.Tensor, h: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    rows = zip(h.numpy(), g.numpy(), low.numpy(), high.numpy(), strict=True)
    return torch.as_tensor(np.stack([references.box_qp_by_enumeration(*row) for row in rows]))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_matches_enumeration_where_the_sets_settle(n: int) -> None:
    g, h, low, high = _batch(10 * n, n)
    d, residual = box_qp(g, h, low, high, solves=25)
    expected = _reference(g, h, low, high)
    assert ((d >= low - 1e-12) & (d <= high + 1e-12)).all()
    torch.testing.assert_close(residual, -(g + times(h, d)))
    same = (d - expected).abs().amax(-1) < 1e-9
    # the method may stop short on a few: it ends with the first set that leaves no free coordinate outside
    assert same.double().mean() >= 0.8, same
    assert (_model(d, g, h) >= _model(expected, g, h) - 1e-9).all()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_diagonal_models_are_exact_at_once(seed: int, n: int) -> None:
    g, h, low, high = _batch(seed, n, rows=3)
    h = torch.diag_embed(h.diagonal(dim1=-2, dim2=-1))
    d, _ = box_qp(g, h, low, high, solves=1)
    torch.testing.assert_close(d, torch.clamp(-g / h.diagonal(dim1=-2, dim2=-1), low, high))


def test_infinite_and_empty_intervals() -> None:
    g, h, low, high = _batch(50, 3)
    inf = torch.full_like(low, float("inf"))
    d, _ = box_qp(g, h, -inf, inf, solves=3)
    torch.testing.assert_close(d, torch.linalg.solve(h, -g.unsqueeze(-1)).squeeze(-1))
    d, _ = box_qp(g, h, torch.zeros_like(low), torch.zeros_like(high), solves=3)
    assert (d == 0).all()


@pytest.mark.parametrize("n", [2, 6])
def test_a_budget_too_small_still_ends_in_the_box(n: int) -> None:
    g, h, low, high = _batch(60, n, rows=64)
    for solves in (1, 2):
        d, residual = box_qp(g, h, low, high, solves)
        assert ((d >= low - 1e-12) & (d <= high + 1e-12)).all()
        torch.testing.assert_close(residual, -(g + times(h, d)))


def test_rows_do_not_see_a_singular_or_broken_neighbour() -> None:
    g, h, low, high = _batch(70, 3, rows=4)
    alone, _ = box_qp(g[:1], h[:1], low[:1], high[:1], solves=25)
    h[1], h[2] = 0.0, float("nan")
    d, _ = box_qp(g, h, low, high, solves=25)
    torch.testing.assert_close(d[:1], alone)
