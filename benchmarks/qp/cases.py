"""The quadratic programmes that the packages are compared on, as arguments of ``solve_qp``: seeded, float64.

    min_z  1/2 z^T Q z + p^T z    subject to    G z <= h,  A z = b,  lb <= z <= ub

What the rows of a batch share has no batch dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from icnn_rl.qp import Diagonal

Arguments = dict[str, Any]
DTYPE = torch.float64


@dataclass(frozen=True)
class Case:
    """A problem: ``arguments(batch)``, and what besides p has a gradient to be computed.

    Attributes:
        wanted: "p" and the matrices that a layer of this kind learns.
        rounds: of measurement, at most.
    """

    title: str
    build: Callable[[int], Arguments]
    batch: int
    wanted: tuple[str, ...]
    rounds: int = 20

    def arguments(self, batch: int | None = None) -> Arguments:
        return self.build(self.batch if batch is None else batch)


class _Random:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=DTYPE)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=DTYPE)

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)


def projection(batch: int) -> Arguments:
    """Projection of 6 actions onto 24 halfspaces that depend on the state."""
    random = _Random(0)
    G, inside = random.normal(batch, 24, 6), 0.3 * random.normal(batch, 6)
    h = (G @ inside[..., None]).squeeze(-1) + random.uniform(batch, 24)
    return {"Q": 1.0, "p": 3.0 * random.normal(batch, 6), "G": G, "h": h}


def dense(batch: int) -> Arguments:
    """OptNet's benchmark: 100 variables, 100 inequalities, every row its own matrices."""
    random = _Random(1)
    root, G = random.normal(batch, 100, 100), random.normal(batch, 100, 100)
    inside, slack = random.normal(batch, 100), random.uniform(batch, 100)
    Q = root @ root.mT + 1e-3 * torch.eye(100, dtype=DTYPE)
    return {"Q": Q, "p": random.normal(batch, 100), "G": G, "h": (G @ inside[..., None]).squeeze(-1) + slack}


def _learned_equations(seed: int, batch: int, variables: int, equations: int) -> Arguments:
    """OptNet's Sudoku layer at its random start: A and z_0 learned, b = A z_0; p = -clues, a quarter of them ones."""
    random = _Random(seed)
    A, z_0 = random.uniform(equations, variables), random.uniform(variables)
    p = -(random.uniform(batch, variables) < 0.25).to(DTYPE)
    return {"Q": 0.1, "p": p, "A": A, "b": A @ z_0, "lb": 0.0}


def sudoku_4(batch: int) -> Arguments:
    """64 variables, as many bounds, 40 equations."""
    return _learned_equations(2, batch, 64, 40)


def sudoku_9(batch: int) -> Arguments:
    """729 variables, as many bounds, 324 equations."""
    return _learned_equations(3, batch, 729, 324)


def sudoku_rules(batch: int) -> Arguments:
    """The layer with the true rules: 324 equations of rank 249; 30 clues of a valid board a row."""
    random = _Random(4)
    cell = torch.arange(729).reshape(9, 9, 9)  # row, column, digit
    boxes = cell.reshape(3, 3, 3, 3, 9).transpose(1, 2).reshape(9, 9, 9)
    groups = [cell, cell.permute(0, 2, 1), cell.permute(1, 2, 0), boxes.permute(0, 2, 1)]
    A = torch.zeros(324, 729, dtype=DTYPE)
    A.scatter_(1, torch.cat([group.reshape(81, 9) for group in groups]), 1.0)
    p = torch.zeros(batch, 729, dtype=DTYPE)
    for row in p:
        clues = random.permutation(81)[:30]
        row[9 * clues + _board(random).flatten()[clues]] = -1.0
    return {"Q": 0.1, "p": p, "A": A, "b": torch.ones(324, dtype=DTYPE), "lb": 0.0}


def _board(random: _Random) -> Tensor:
    """A valid board, 9 x 9 digits from 0: a pattern, its digits, rows and columns shuffled within the rules."""

    def order() -> Tensor:
        return torch.cat([3 * band + random.permutation(3) for band in random.permutation(3)])

    rows, columns = order(), order()
    pattern = (3 * (rows % 3) + rows // 3)[:, None] + columns
    return random.permutation(9)[pattern % 9]


SAMPLES, PENALTY = 100, 13.0


def signals(batch: int) -> Tensor:
    """(batch, 100): pieces of constant height 10 to 99, and noise of 10."""
    random = _Random(5)
    y = torch.empty(batch, SAMPLES, dtype=DTYPE)
    for row in y:
        inner = random.permutation(SAMPLES - 1)[: int(random.integer(1, 10, 1))] + 1
        ends = [0, *sorted(inner.tolist()), SAMPLES]
        for start, end in pairwise(ends):
            row[start:end] = float(random.integer(10, 100, 1))
    return y + 10.0 * random.normal(batch, SAMPLES)


def denoising(batch: int, slack_weight: float = 1e-3) -> Arguments:
    """Total variation as a programme: slacks above |z_{i+1} - z_i|, with a small weight so that Q is definite."""
    edges = SAMPLES - 1
    step = torch.eye(edges, SAMPLES, dtype=DTYPE).roll(1, -1) - torch.eye(edges, SAMPLES, dtype=DTYPE)
    slack = -torch.eye(edges, dtype=DTYPE)
    G = torch.cat([torch.cat([step, slack], 1), torch.cat([-step, slack], 1)])
    weights = torch.cat([torch.ones(SAMPLES, dtype=DTYPE), torch.full((edges,), slack_weight, dtype=DTYPE)])
    p = torch.cat([-signals(batch), torch.full((batch, edges), PENALTY, dtype=DTYPE)], 1)
    return {"Q": Diagonal(weights), "p": p, "G": G, "h": torch.zeros(2 * edges, dtype=DTYPE)}


def total_variation(batch: int) -> Arguments:
    """The same without the weight, what ``icnn_rl.qp.total_variation`` solves: Q is semidefinite."""
    return denoising(batch, 0.0)


CASES = {
    "a": Case("RL projection, 6 variables, 24 rows, Q = I", projection, 256, ("p", "G")),
    "b1": Case("OptNet's benchmark, 100 variables, 100 rows", dense, 1, ("p", "Q", "G")),
    "b128": Case("OptNet's benchmark, 100 variables, 100 rows", dense, 128, ("p", "Q", "G"), 8),
    "c": Case("Sudoku 4 x 4, 64 variables >= 0, 40 learned equations", sudoku_4, 150, ("p", "A"), 12),
    "d": Case("TV denoising, 100 samples and 99 slacks, 198 rows", denoising, 50, ("p",), 6),
    "tv": Case("TV denoising without a weight on the slacks", total_variation, 50, ("p",), 6),
    "e": Case("Sudoku 9 x 9, 729 variables >= 0, 324 learned equations", sudoku_9, 8, ("p", "A"), 3),
    "e-rules": Case("Sudoku 9 x 9, 729 variables >= 0, the rules (324, rank 249)", sudoku_rules, 8, ("p",), 3),
}


def perturbed(arguments: Arguments) -> Arguments:
    """p changed by one per cent: the next problem of a sequence."""
    noise = _Random(6).normal(*arguments["p"].shape)
    return {**arguments, "p": arguments["p"] * (1.0 + 0.01 * noise)}


@dataclass(frozen=True)
class Dense:
    """A case for packages that know Q, G and A as matrices only: bounds are rows of G. Absent blocks have no rows."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


def as_dense(arguments: Arguments) -> Dense:
    Q, p = arguments["Q"], arguments["p"]
    n = p.shape[-1]
    eye = torch.eye(n, dtype=p.dtype, device=p.device)
    if isinstance(Q, Diagonal):
        Q = torch.diag_embed(Q.d)
    elif not isinstance(Q, Tensor):
        Q = Q * eye
    empty = p.new_zeros(0)
    G, h = arguments.get("G", eye[:0]), arguments.get("h", empty)
    if "lb" in arguments:
        assert G.dim() == 2
        lb = torch.as_tensor(arguments["lb"], dtype=p.dtype, device=p.device).expand(n)
        G, h = torch.cat([G, -eye]), torch.cat([h, -lb])
    return Dense(Q, p, G, h, arguments.get("A", eye[:0]), arguments.get("b", empty))
