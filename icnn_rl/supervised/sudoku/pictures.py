"""Pictures of what was learned."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from icnn_rl.figures import new_figure
from icnn_rl.supervised.sudoku import (
    SudokuDataset,
    SudokuModule,
    principal_angles,
)

__all__ = ["learned_rules", "wrong_boards"]


def learned_rules(model: SudokuModule) -> Figure:
    """A, the projection onto its rows, that of the true rules, and the angles between the two spaces."""
    figure, axes = new_figure(1, 4, (4.4, 3.8))
    A, true = model.A.detach().double(), model.true_rules().double()
    variable = "variable (row, column, digit)"
    for axis, matrix, title, rows in (
        (axes[0], A, "A", "equation"),
        (axes[1], _projection(A), "projection onto the rows of A", variable),
        (axes[2], _projection(true), "projection onto the true rules", variable),
    ):
        bound = float(matrix.abs().max())
        image = axis.imshow(
            matrix.numpy(), cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest"
        )
        axis.set(title=title, xlabel=variable, ylabel=rows)
        figure.colorbar(image, ax=axis, label="entry")
    axes[3].plot(torch.rad2deg(principal_angles(model)).numpy(), marker=".")
    axes[3].set(title="between the two spaces", xlabel="direction", ylabel="principal angle, degrees", ylim=(-2, 92))
    axes[3].grid(alpha=0.3)
    return figure


def _projection(A: Tensor) -> Tensor:
    """Of rank and space of the rows."""
    projection: Tensor = torch.linalg.pinv(A, rtol=1e-3) @ A
    return projection


def wrong_boards(test: SudokuDataset, solved: Tensor, right: Tensor) -> Figure:
    """Up to eight boards that are wrong: givens in black, what is wrong in red with the truth beside it."""
    wrong = (~right).nonzero().flatten()[:8].tolist()
    figure, axes = new_figure((len(wrong) + 3) // 4, min(len(wrong), 4), (3.2, 3.2))
    n = test.box**2
    for axis, i in zip(axes, wrong, strict=False):
        for r in range(n):
            for c in range(n):
                given, digit, truth = (int(board[i, r, c]) for board in (test.puzzles, solved, test.solutions))
                color = "black" if given else "tab:blue" if digit == truth else "tab:red"
                text = f"{digit}" if digit == truth else f"{digit}({truth})"
                axis.text(c + 0.5, r + 0.5, text, color=color, ha="center", va="center", fontsize=24 // test.box)
        for k in range(n + 1):
            width = 1.6 if k % test.box == 0 else 0.4
            axis.plot([0, n], [k, k], color="black", linewidth=width)
            axis.plot([k, k], [0, n], color="black", linewidth=width)
        axis.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xticks=[], yticks=[], title=f"test board {i}")
    for axis in axes[len(wrong) :]:
        axis.axis("off")
    meanings = {"black": "given", "tab:blue": "filled in, right", "tab:red": "filled in, wrong (the truth)"}
    patches = [Patch(color=color, label=label) for color, label in meanings.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=1 if len(wrong) == 1 else 3, fontsize="small")
    return figure
