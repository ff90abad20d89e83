"""Proofs that boxes and rows have no point in common, against linear programmes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from icnn_rl import Status
from icnn_rl.qp import interior_point, solve_qp
from icnn_rl.qp.kernel import dispatch

EMPTY, SOLVED = int(Status.PRIMAL_INFEASIBLE), int(Status.SUCCESS)


def is_empty(G: np.ndarray, h: np.ndarray, lb: np.ndarray, ub: np.ndarray) -> bool:
    if (lb > ub).any():
        return True
    found = optimize.linprog(np.zeros(len(lb)), G, h, bounds=list(zip(lb, ub, strict=True)))
    return int(found.status) == 2


@pytest.mark.parametrize("seed", range(40))
def test_empty_sets_come_with_a_proof(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, m, batch = int(random.integers(1, 6)), int(random.integers(1, 10)), 4
    G = random.standard_normal((batch, m, n)) * 10.0 ** random.integers(-3, 4, (batch, m, 1))
    h = np.linalg.norm(G, axis=-1) * (random.standard_normal((batch, m)) - random.integers(0, 2))
    lb, ub = -np.ones((batch, n)), np.ones((batch, n))
    if seed % 8 == 0:
        ub[0, 0] = -2.0
    p, rows = (torch.tensor(t, requires_grad=True) for t in (random.standard_normal((batch, n)), G))
    found = solve_qp(1.0, p, rows, torch.tensor(h), lb=torch.tensor(lb), ub=torch.tensor(ub), throw=False)
    found.value.sum().backward()  # type: ignore[no-untyped-call]
    assert p.grad is not None
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())
    for i in range(batch):
        empty = is_empty(G[i], h[i], lb[i], ub[i])
        assert int(found.status[i]) == (EMPTY if empty else SOLVED)
        if empty:
            z, low, high = (part[i].detach().numpy() for part in (found.dual_ineq, found.dual_lb, found.dual_ub))
            assert min(z.min(), low.min(), high.min()) >= 0.0
            np.testing.assert_allclose(
                G[i].T @ z - low + high, 0.0, atol=1e-9 * (np.abs(G[i].T) @ z + low + high).max()
            )
            assert h[i] @ z - lb[i] @ low + ub[i] @ high < 0.0
            assert not p.grad[i].any()


@pytest.mark.skipif(not dispatch.available(), reason="without the kernel")
def test_an_empty_set_takes_no_second_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interior_point, "follow_central_path", lambda *_: pytest.fail("the second line was called"))
    G, h = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[-3.0], [1.0]], dtype=torch.float64)
    p = torch.tensor([[-2.0, -1.0], [-2.0, -1.0]], dtype=torch.float64)
    found = solve_qp(1.0, p, G, h, lb=-2.0, ub=2.0, throw=False)
    assert found.status.tolist() == [EMPTY, SOLVED]
    assert float(found.value[0, 0]) == pytest.approx(-2.0)  # breaks the row least
