"""``icnn-rl sudoku``: learn the rules from solved boards, and look at what was learned."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from icnn_rl.cli.options import add_lr_decay, add_supervised
from icnn_rl.cli.parser import SubParsers
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.values import non_negative_int, positive_float, positive_int

if TYPE_CHECKING:
    from icnn_rl.cli.supervised_run import Run
    from icnn_rl.supervised.sudoku import ConvNet, SudokuDataset, SudokuModule

__all__ = ["register", "run"]

_SHARES = {"boards_solved": "boards solved", "cells_solved": "blank cells right"}


def register(commands: SubParsers) -> None:
    parser = add_supervised(
        commands, "sudoku", "learn Sudoku from solved boards alone", epochs=20, batch_size=150, lr=1e-3
    )
    parser.add_argument("--box", type=int, choices=(2, 3), default=2, help="2: boards of 4 x 4, 3: of 9 x 9")
    parser.add_argument(
        "--model",
        choices=("optnet", "hull", "rules", "true-rules", "conv"),
        default="optnet",
        help="optnet: start from random numbers; hull: the affine hull of the solved boards, no training; rules: start "
        "there; true-rules: the rules themselves, no training, as a control; conv: a convolutional net",
    )
    parser.add_argument(
        "--constraints", type=positive_int, default=None, help="learned equations; None: the rules' rank"
    )
    parser.add_argument(
        "--channels", type=positive_int, default=512, help="channels of each of conv's ten hidden layers"
    )
    parser.add_argument("--q-penalty", type=positive_float, default=0.1, help="weight q of the programme's |z|^2")
    parser.add_argument("--data", default=None, help="npz or text file of boards, also in ICNN_RL_DATA; None: generate")
    parser.add_argument("--boards", type=positive_int, default=10_000, help="how many to generate")
    parser.add_argument(
        "--clues", type=non_negative_int, nargs=2, default=(4, 10), help="fewest and most givens of generated boards"
    )
    parser.add_argument("--split", type=positive_float, default=0.9, help="share of the boards to train on")
    add_lr_decay(parser, False)
    parser.add_argument(
        "--resolves",
        type=non_negative_int,
        default=0,
        help="in the test, solve again so many times with the certain digits filled in",
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from icnn_rl.cli.supervised_run import Run, options_of, user_errors
    from icnn_rl.supervised.sudoku import SudokuModule, cell_score, principal_angles, score
    from icnn_rl.supervised.sudoku.pictures import learned_rules, wrong_boards
    from icnn_rl.supervised.training.fit import falling

    args = options_of(args)
    if args.model == "conv" and args.resolves:
        raise UserError(f"--resolves {args.resolves}: --model conv cannot solve again; leave it out or give 0.")
    with user_errors():
        train, test = _data(args)
        hull = (
            _hull(args, train) if args.model == "hull" else None
        )  # before the folder is made: it may refuse the boards
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
    from icnn_rl.figures import new_figure, whole_numbers
    from icnn_rl.supervised.sudoku import score_by_clues

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
    from icnn_rl.supervised.sudoku import SudokuDataset
    from icnn_rl.supervised.training.data_files import find_file

    if args.data is None:
        data = SudokuDataset.generate(args.boards, args.box, tuple(args.clues), args.seed)
    else:
        data = SudokuDataset.load(find_file(str(args.data), args.data))
        if data.box != args.box:
            raise ValueError(f"--data {args.data}: holds boards of box size {data.box}; give --box {data.box}.")
    train, test = data.split(args.split)
    return train.first(args.limit), test.first(args.limit)


def _model(args: argparse.Namespace) -> SudokuModule | ConvNet:
    from icnn_rl.supervised.sudoku import ConvNet, SudokuModule

    if args.model == "conv":
        return ConvNet(args.box, (args.channels,) * 10)
    init = "random" if args.model == "optnet" else "rules"
    return SudokuModule(args.box, args.constraints, args.q_penalty, init=init, learn=args.model != "true-rules")


def _hull(args: argparse.Namespace, train: SudokuDataset) -> SudokuModule:
    from icnn_rl.supervised.sudoku import SudokuModule

    model = SudokuModule(args.box, args.constraints, args.q_penalty)
    model.fit_rules_(train.solutions)
    return model
