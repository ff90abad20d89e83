"""Sudoku without being told the rules: an OptNet layer that learns them from solved boards."""

from icnn_rl.supervised.sudoku.boards import (
    check_boards,
    count_solutions,
    generate,
    is_valid,
    one_hot,
    read_boards,
    rules,
    solve_exactly,
)
from icnn_rl.supervised.sudoku.module import (
    ConvNet,
    SudokuDataset,
    SudokuModule,
    cell_score,
    principal_angles,
    score,
    score_by_clues,
)

__all__ = [
    "ConvNet",
    "SudokuDataset",
    "SudokuModule",
    "cell_score",
    "check_boards",
    "count_solutions",
    "generate",
    "is_valid",
    "one_hot",
    "principal_angles",
    "read_boards",
    "rules",
    "score",
    "score_by_clues",
    "solve_exactly",
]
