"""A training step of the Sudoku layer (forward, loss, backward, Adam) beside the same model on qpth's QPFunction.

    python -m benchmarks.sudoku_step

Needs qpth (`make bench-qp` says how it is installed). Processor time, the median of some steps, one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from qpth.qp import QPFunction
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from icnn_rl.supervised.sudoku import SudokuDataset, SudokuModule, one_hot


class OnQpth(nn.Module):
    """The authors' layer, in float64, as qpth wants it: shared matrices, z >= 0 as rows of G."""

    def __init__(self, box: int, n_constraints: int, q_penalty: float) -> None:
        super().__init__()
        n = box**6
        self.Q = q_penalty * torch.eye(n, dtype=torch.float64)
        self.G, self.h = -torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.A = nn.Parameter(torch.rand(n_constraints, n, dtype=torch.float64) / n**0.5)
        self.log_z0 = nn.Parameter(torch.full((n,), 1.0 / box**2, dtype=torch.float64).log())

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        puzzles, solutions = (one_hot(boards).flatten(1).double() for boards in batch)
        z = QPFunction(verbose=-1)(self.Q, -puzzles, self.G, self.h, self.A, self.A @ self.log_z0.exp())
        return mse_loss(z, solutions)


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """One update, as a function without arguments."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()  # type: ignore[operator, no-untyped-call]
        optimizer.step()

    return run


def seconds(function: Callable[[], None], rounds: int) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    print("| boards | batch | equations | qpth | ours | qpth / ours |\n|---|---|---|---|---|---|")
    for box, batch, n_constraints, clues, rounds in (
        (2, 150, 40, (4, 8), (7, 15)),
        (3, 8, 249, (30, 40), (2, 7)),
        (3, 8, 324, (30, 40), (2, 7)),
    ):
        data = SudokuDataset.generate(batch, box, clues, seed=0)
        torch.manual_seed(0)
        theirs = seconds(step(OnQpth(box, n_constraints, 0.1), data.tensors), rounds[0])
        torch.manual_seed(0)
        ours = seconds(step(SudokuModule(box, n_constraints), data.tensors), rounds[1])
        times = f"{1000 * theirs:.0f} ms | {1000 * ours:.0f} ms"
        print(f"| {box**2} x {box**2} | {batch} | {n_constraints} | {times} | {theirs / ours:.0f} |", flush=True)


if __name__ == "__main__":
    main()
