"""``icnn-rl sudoku``: learn the rules from solved boards, and look at what was learned."""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from icnn_rl.cli.supervised_run import Run, new_figure, options_of, user_errors
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.plot import whole_numbers
from icnn_rl.supervised.sudoku import (
    ConvNet,
    SudokuDataset,
    SudokuModule,
    cell_score,
    principal_angles,
    score,
    score_by_clues,
)
from icnn_rl.supervised.training.data_files import find_file
from icnn_rl.supervised.training.fit import falling

__all__ = ["run"]

_SHARES = {"boards_solved": "boards solved", "cells_solved": "blank cells right"}


def run(args: argparse.Namespace) -> None:
    args = options_of(args)
    if args.model == "conv" and args.resolves:
        raise UserError(f"--resolves {args.resolves}: --model conv cannot solve again; leave it out or give 0.")
    with user_errors():
        train, test = _data(args)
        hull = _hull(args, train) if args.model == "hull" else None  # before the folder: it may refuse the boards
        run = Run(args)
        model = hull or _model(args)
        rate = falling(args.lr) if args.lr_decay else args.lr
        metrics = {"boards_solved": score, "cells_solved": cell_score}
        if args.model in ("hull", "true-rules"):  # nothing to train
            history = []
            run.save_model(model)
        else:
            units = {"loss": "mean squared error", "boards_solved": "share", "cells_solved": "share of blanks"}
            history = run.train(model, train, test, metrics, units, lr=rate)
    print(f"{len(train)} boards to train on, {len(test)} to test")
    model.eval()
    new = test.unseen(train)
    parts = torch.split(test.puzzles, args.batch_size)
    solved = torch.cat([model.solve(part, args.resolves) for part in parts])
    right = (solved == test.solutions).flatten(1).all(1)
    result: dict[str, object] = {
        "test_boards": len(test),
        "boards_solved": float(right.double().mean()),
        "test_boards_not_in_train": int(new.sum()),
        "boards_solved_not_in_train": float(right[new].double().mean()) if bool(new.any()) else None,
        "cells_solved": float((solved == test.solutions)[test.puzzles == 0].double().mean()),
        "train_cpu_seconds": sum(row["cpu_time"] for row in history),
    }
    if isinstance(model, SudokuModule) and model.learn:
        cosines = principal_angles(model).cos()
        result["rules_learned"] = f"{int((cosines > 0.99).sum())} of {len(cosines)} directions within 8 degrees"
        run.save_figure("rules", learned_rules(model))
    if not bool(right.all()):
        run.save_figure("wrong_boards", wrong_boards(test, solved, right))
    if args.box > 2:
        _report_by_clues(run, model, test)
    run.report(result)


def _report_by_clues(run: Run, model: SudokuModule | ConvNet, test: SudokuDataset) -> None:
    """clues.csv and clues.png: what is solved against the number of givens, without and with ``--resolves``."""
    resolves = sorted({0, run.args.resolves})
    rows = score_by_clues(model, test, resolves)
    run.write_table("clues", rows)
    figure, axes = new_figure(1, 2)
    for axis, what in zip(axes, ("boards_solved", "cells_solved"), strict=True):
        for k in resolves:
            axis.plot(
                [row["clues"] for row in rows], [row[f"{what}/{k}"] for row in rows], ".-", label=f"{k} re-solves"
            )
        axis.set(xlabel="givens of the board", ylabel=f"share of {_SHARES[what]}", ylim=(-0.02, 1.02))
        whole_numbers(axis)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")
    run.save_figure("clues", figure)


def _data(args: argparse.Namespace) -> tuple[SudokuDataset, SudokuDataset]:
    if args.data is None:
        data = SudokuDataset.generate(args.boards, args.box, tuple(args.clues), args.seed)
    else:
        data = SudokuDataset.load(find_file(str(args.data), args.data))
        if data.box != args.box:
            raise ValueError(f"--data {args.data}: holds boards of box size {data.box}; give --box {data.box}.")
    train, test = data.split(args.split)
    return train.first(args.limit), test.first(args.limit)


def _model(args: argparse.Namespace) -> SudokuModule | ConvNet:
    if args.model == "conv":
        return ConvNet(args.box, (args.channels,) * 10)
    init = "random" if args.model == "optnet" else "rules"
    return SudokuModule(args.box, args.constraints, args.q_penalty, init=init, learn=args.model != "true-rules")


def _hull(args: argparse.Namespace, train: SudokuDataset) -> SudokuModule:
    model = SudokuModule(args.box, args.constraints, args.q_penalty)
    model.fit_rules_(train.solutions)
    return model


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
