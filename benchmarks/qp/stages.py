"""Model-predictive control next to PIQP's sparse solver, row by row: ``python -m benchmarks.qp.stages``.

4 states, 2 inputs, bounds on all of them, an unstable plant; milliseconds of one thread, the best of a few runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import piqp
import torch
from scipy import sparse

from icnn_rl.qp import Diagonal, Sparse, mpc_problem, solve_qp

CASES = ((20, 64), (100, 64), (200, 1), (500, 1))


def settings(horizon: int, batch: int, *, diagonal: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    A = draw(4, 4)
    q, r = torch.ones(4, dtype=torch.float64), torch.full((2,), 0.1, dtype=torch.float64)
    return {
        "A": 1.05 * A / torch.linalg.eigvals(A).abs().max(),
        "B": draw(4, 2),
        "Q": Diagonal(q) if diagonal else torch.diag(q) + 0.1,
        "R": Diagonal(r) if diagonal else torch.diag(r),
        "horizon": horizon,
        "x0": draw(batch, 4),
        "u_min": -0.4,
        "u_max": 0.4,
        "x_min": -4.0,
        "x_max": 4.0,
    }


def milliseconds(function: Callable[[], Any], runs: int = 7) -> tuple[float, Any]:
    """The best of a few runs, and what came out."""
    answer, best = function(), float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        answer = function()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best, answer


def by_piqp(arguments: dict[str, Any]) -> Callable[[], np.ndarray[Any, Any]]:
    """Matrices are converted once."""

    def matrix(part: Sparse | Diagonal) -> Any:
        if isinstance(part, Diagonal):
            return sparse.diags(part.d.numpy()).tocsc()
        return sparse.csc_matrix((part.values.numpy(), (part.row.numpy(), part.column.numpy())), shape=part.shape)

    Q, A = matrix(arguments["Q"]), matrix(arguments["A"])
    b, lb, ub = (arguments[name].numpy() for name in ("b", "lb", "ub"))
    p = arguments["p"].expand(len(b), -1).numpy()

    def run() -> np.ndarray[Any, Any]:
        answers = []
        for i in range(len(b)):
            solver = piqp.SparseSolver()
            solver.settings.eps_abs = solver.settings.eps_rel = 1e-9
            solver.setup(Q, p[i], A, b[i], None, None, None, lb, ub)
            solver.solve()
            answers.append(solver.result.x.copy())
        return np.array(answers)

    return run


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| horizon, batch, cost | solve_qp | and gradients | warm start | PIQP, a loop | difference |\n|" + "---|" * 6
    )
    for horizon, batch in CASES:
        for diagonal in (True, False):
            given = settings(horizon, batch, diagonal=diagonal)
            arguments = mpc_problem(**given).arguments
            live = {**given, **{name: given[name].clone().requires_grad_() for name in ("A", "x0")}}
            cold, solution = milliseconds(lambda a=arguments: solve_qp(**a))
            both, _ = milliseconds(lambda g=live: solve_qp(**mpc_problem(**g).arguments).value.sum().backward())
            warm, _ = milliseconds(lambda a=arguments, s=solution: solve_qp(**a, warm_start=s.active))
            other, answer = milliseconds(by_piqp(arguments), 3)
            off = np.abs(answer - solution.value.numpy()).max()
            cost = "diagonal" if diagonal else "dense"
            print(f"| {horizon}, {batch}, {cost} | {cold:.1f} | {both:.1f} | {warm:.1f} | {other:.1f} | {off:.0e} |")


if __name__ == "__main__":
    main()
