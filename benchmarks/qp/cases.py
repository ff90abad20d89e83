"""The quadratic programmes that the packages are compared on, as arguments of ``solve_qp``: seeded, float64.

    min_z  1/2 z^T Q z + p^T z    subject to    G z <= h,  A z = b,  lb <= z <= ub

What the rows of a batch share has no batch dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.qp import mpc
from icnn_rl.qp import Diagonal

Arguments = dict[str, Any]
DTYPE = torch.float64


@dataclass(frozen=True)
class Case:
    """A problem: ``arguments(batch)``, and what besides p has a gradient to be computed.

    Attributes:
        wanted: "p" and the matrices that a layer of this kind learns.
        rounds: of measurement, at most.
        definite: whether Q is, which some packages ask for.
    """

    title: str
    build: Callable[[int], Arguments]
    batch: int
    wanted: tuple[str, ...]
    rounds: int = 20
    definite: bool = True

    def arguments(self, batch: int | None = None) -> Arguments:
        return self.build(self.batch if batch is None else batch)


class Random:
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
    random = Random(0)
    G, inside = random.normal(batch, 24, 6), 0.3 * random.normal(batch, 6)
    h = (G @ inside[..., None]).squeeze(-1) + random.uniform(batch, 24)
    return {"Q": 1.0, "p": 3.0 * random.normal(batch, 6), "G": G, "h": h}


def dense(batch: int) -> Arguments:
    """OptNet's benchmark: 100 variables, 100 inequalities, every row its own matrices."""
    random = Random(1)
    root, G = random.normal(batch, 100, 100), random.normal(batch, 100, 100)
    inside, slack = random.normal(batch, 100), random.uniform(batch, 100)
    Q = root @ root.mT + 1e-3 * torch.eye(100, dtype=DTYPE)
    return {"Q": Q, "p": random.normal(batch, 100), "G": G, "h": (G @ inside[..., None]).squeeze(-1) + slack}


def _learned_equations(seed: int, batch: int, variables: int, equations: int) -> Arguments:
    """OptNet's Sudoku layer at its random start: A and z_0 learned, b = A z_0; p = -clues, a quarter of them ones."""
    random = Random(seed)
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
    random = Random(4)
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


def _board(random: Random) -> Tensor:
    """A valid board, 9 x 9 digits from 0: a pattern, its digits, rows and columns shuffled within the rules."""

    def order() -> Tensor:
        return torch.cat([3 * band + random.permutation(3) for band in random.permutation(3)])

    rows, columns = order(), order()
    pattern = (3 * (rows % 3) + rows // 3)[:, None] + columns
    return random.permutation(9)[pattern % 9]


SAMPLES, PENALTY = 100, 13.0


def signals(batch: int) -> Tensor:
    """(batch, 100): pieces of constant height 10 to 99, and noise of 10."""
    random = Random(5)
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


def portfolio(batch: int) -> Arguments:
    """Mean and variance of 200 assets: ten factors and what is an asset's own, all money invested, 5 % an asset."""
    random = Random(7)
    loadings, own = 0.2 * random.normal(batch, 200, 10), 0.01 + 0.03 * random.uniform(batch, 200)
    Q = loadings @ loadings.mT + torch.diag_embed(own)
    p = -0.05 * random.normal(batch, 200)
    return {
        "Q": Q,
        "p": p,
        "A": torch.ones(1, 200, dtype=DTYPE),
        "b": torch.ones(1, dtype=DTYPE),
        "lb": 0.0,
        "ub": 0.05,
    }


def _support_vectors(batch: int, seed: int, kernel: Callable[[Tensor], Tensor]) -> Arguments:
    """The dual of a support vector machine: 300 points with ten features, of two classes that overlap."""
    random = Random(seed)
    label = torch.where(random.uniform(batch, 300) < 0.5, -1.0, 1.0).to(DTYPE)
    points = random.normal(batch, 300, 10) + 0.4 * label[..., None]
    Q = label[..., None] * kernel(points) * label[:, None]
    b = torch.zeros(1, dtype=DTYPE)
    return {"Q": Q, "p": -torch.ones(batch, 300, dtype=DTYPE), "A": label[:, None], "b": b, "lb": 0.0, "ub": 1.0}


def svm_rbf(batch: int) -> Arguments:
    return _support_vectors(batch, 8, lambda x: torch.exp(-0.05 * torch.cdist(x, x).square()))


def svm_linear(batch: int) -> Arguments:
    """Q has rank 10. The solution is unique all the same: only so many points lie on the margin."""
    return _support_vectors(batch, 9, lambda x: x @ x.mT)


def _masses(batch: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Where the mass is, and a path that it should follow: round and round, often beyond the walls."""
    random = Random(10)
    scale = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=DTYPE)
    x_0 = scale * (2.0 * random.uniform(batch, 4) - 1.0)
    rate, phase = 0.3 + random.uniform(batch, 1, 2), 7.0 * random.uniform(batch, 1, 2)
    time = mpc.STEP * torch.arange(1, horizon + 1, dtype=DTYPE)[:, None]
    path = 3.0 * torch.sin(rate * time + phase)
    return x_0, torch.cat([path, torch.zeros_like(path)], -1)


def mpc_condensed(batch: int) -> Arguments:
    return {**mpc.condensed(*_masses(batch, 20))}


def mpc_stages(horizon: int) -> Callable[[int], Arguments]:
    return lambda batch: {**mpc.stages(*_masses(batch, horizon))}


def _large(seed: int, batch: int) -> tuple[Random, Arguments]:
    """1000 variables and a Q of condition number some hundred."""
    random = Random(seed)
    root = random.normal(batch, 1000, 1000) / 1000**0.5
    return random, {"Q": root @ root.mT + 0.03 * torch.eye(1000, dtype=DTYPE), "p": random.normal(batch, 1000)}


def large_simplex(batch: int) -> Arguments:
    _, arguments = _large(11, batch)
    return {**arguments, "A": torch.ones(1, 1000, dtype=DTYPE), "b": torch.ones(1, dtype=DTYPE), "lb": 0.0}


def large_box(batch: int) -> Arguments:
    random, arguments = _large(12, batch)
    G = random.normal(batch, 500, 1000) / 1000**0.5
    return {**arguments, "G": G, "h": random.uniform(batch, 500), "lb": -1.0, "ub": 1.0}


CASES = {
    "a": Case("RL projection, 6 variables, 24 rows, Q = I", projection, 256, ("p", "G")),
    "b1": Case("OptNet's benchmark, 100 variables, 100 rows", dense, 1, ("p", "Q", "G")),
    "b128": Case("OptNet's benchmark, 100 variables, 100 rows", dense, 128, ("p", "Q", "G"), 8),
    "c": Case("Sudoku 4 x 4, 64 variables >= 0, 40 learned equations", sudoku_4, 150, ("p", "A"), 12),
    "d": Case("TV denoising, 100 samples and 99 slacks, 198 rows", denoising, 50, ("p",), 6),
    "tv": Case("TV denoising without a weight on the slacks", total_variation, 50, ("p",), 6, definite=False),
    "e": Case("Sudoku 9 x 9, 729 variables >= 0, 324 learned equations", sudoku_9, 8, ("p", "A"), 3),
    "e-rules": Case("Sudoku 9 x 9, 729 variables >= 0, the rules (324, rank 249)", sudoku_rules, 8, ("p",), 3),
    "portfolio": Case("Portfolio, 200 assets, ten factors", portfolio, 32, ("p", "Q"), 8),
    "svm": Case("SVM dual, 300 points, RBF kernel", svm_rbf, 8, ("p", "Q"), 8),
    "svm-linear": Case(
        "SVM dual, 300 points, linear kernel: Q of rank 10", svm_linear, 1, ("p", "Q"), 8, definite=False
    ),
    "mpc": Case("MPC condensed, 20 steps: 40 inputs, 160 rows", mpc_condensed, 64, ("p", "Q"), 8),
    "mpc-20": Case("MPC, 20 steps: 120 variables, 80 equations", mpc_stages(20), 64, ("p", "A"), 8),
    "mpc-100": Case("MPC, 100 steps: 600 variables, 400 equations", mpc_stages(100), 64, ("p",), 3),
    "mpc-200": Case("MPC, 200 steps: 1200 variables, 800 equations", mpc_stages(200), 1, ("p",), 3),
    "simplex": Case("1000 variables on the simplex, dense Q", large_simplex, 1, ("p", "Q"), 3),
    "box": Case("1000 variables in a box, 500 rows, dense Q", large_box, 1, ("p", "G"), 3),
}


def perturbed(arguments: Arguments) -> Arguments:
    """p changed by one per cent: the next problem of a sequence."""
    noise = Random(6).normal(*arguments["p"].shape)
    return {**arguments, "p": arguments["p"] * (1.0 + 0.01 * noise)}


@dataclass(frozen=True)
class Bounded:
    """A case for packages that know matrices and bounds. Absent blocks have no rows, absent bounds are infinite."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor
    lb: Tensor
    ub: Tensor


def as_bounded(arguments: Arguments) -> Bounded:
    Q, p = arguments["Q"], arguments["p"]
    n = p.shape[-1]
    eye = torch.eye(n, dtype=p.dtype, device=p.device)
    if isinstance(Q, Diagonal):
        Q = torch.diag_embed(Q.d)
    elif not isinstance(Q, Tensor):
        Q = Q * eye
    G, A = arguments.get("G", eye[:0]), arguments.get("A", eye[:0])
    h, b = arguments.get("h", eye[0, :0]), arguments.get("b", eye[0, :0])
    bounds = [arguments.get("lb", -math.inf), arguments.get("ub", math.inf)]
    return Bounded(Q, p, G, h, A, b, *(torch.as_tensor(x, dtype=p.dtype, device=p.device).expand(n) for x in bounds))


@dataclass(frozen=True)
class Dense:
    """A case for packages that know Q, G and A as matrices only: finite bounds are rows of G, after its own."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


def as_dense(arguments: Arguments) -> Dense:
    problem = as_bounded(arguments)
    eye = torch.eye(problem.p.shape[-1], dtype=problem.p.dtype, device=problem.p.device)
    low, high = problem.lb.isfinite(), problem.ub.isfinite()
    G, h = problem.G, problem.h
    if bool(low.any() | high.any()):
        G = joined(G, torch.cat([-eye[low], eye[high]]), -2)
        h = joined(h, torch.cat([-problem.lb[low], problem.ub[high]]), -1)
    return Dense(problem.Q, problem.p, G, h, problem.A, problem.b)


def joined(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Along ``dim`` < 0, where one of the two may lack a batch dimension."""
    if first.dim() < second.dim():
        first = first.expand(len(second), *first.shape)
    elif second.dim() < first.dim():
        second = second.expand(len(first), *second.shape)
    return torch.cat([first, second], dim)
