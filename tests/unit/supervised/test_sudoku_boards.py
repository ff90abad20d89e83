"""Rules, exact solver, generator, files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from icnn_rl.supervised.sudoku import boards as sudoku_boards
from icnn_rl.supervised.sudoku import (
    check_boards,
    count_solutions,
    generate,
    is_valid,
    one_hot,
    read_boards,
    rules,
    solve_exactly,
)

SOLVED = torch.tensor([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]])
HARD = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"


def board(text):
    return torch.tensor([int(c) for c in text]).reshape(round(len(text) ** 0.5), -1)


def all_small_boards():
    """The 288 valid 4 x 4 boards: every permutation as the next row, as long as no column holds a digit twice."""
    boards = [()]
    for _ in range(4):
        longer = [(*top, row) for top in boards for row in itertools.permutations((1, 2, 3, 4))]
        boards = [b for b in longer if all(len({*column}) == len(b) for column in zip(*b, strict=True))]
    found = torch.tensor(boards)
    return found[is_valid(found)]


class TestRules:
    @pytest.mark.parametrize(("box", "rank"), [(2, 40), (3, 249)])
    def test_rank_and_solutions(self, box, rank):
        A = rules(box)
        _, solutions = generate(5, box, (box**4, box**4), seed=0)
        assert torch.linalg.matrix_rank(A.double()) == rank
        assert torch.equal(one_hot(solutions).flatten(1) @ A.T, torch.ones(5, len(A)))

    def test_they_hold_for_valid_boards_only(self):
        wrong = SOLVED.clone()
        wrong[0] = torch.tensor([2, 1, 3, 4])
        assert is_valid(torch.stack((SOLVED, wrong))).tolist() == [True, False]
        assert not torch.equal(rules(2) @ one_hot(wrong).flatten(), torch.ones(64))

    def test_is_valid(self):
        assert len(all_small_boards()) == 288
        assert not is_valid(torch.zeros(4, 4, dtype=torch.int64))
        assert is_valid(SOLVED, SOLVED * (SOLVED > 2))
        assert not is_valid(SOLVED, SOLVED % 4 + 1)
        with pytest.raises(ValueError, match=r"boards: expected shape \(..., N, N\).*got \(3, 5, 5\)"):
            is_valid(torch.ones(3, 5, 5))


class TestExactSolver:
    def test_all_small_boards_are_found(self):
        blank = torch.zeros(4, 4, dtype=torch.int64)
        assert count_solutions(blank, limit=1000) == 288
        assert count_solutions(blank) == 2

    def test_a_hard_board(self):
        solution = solve_exactly(board(HARD))
        assert is_valid(solution, board(HARD))
        assert count_solutions(board(HARD)) == 1

    def test_no_solution(self):
        puzzle = torch.zeros(4, 4, dtype=torch.int64)
        puzzle[0, :3] = torch.tensor([1, 2, 3])
        puzzle[1, 3] = 4
        assert solve_exactly(puzzle) is None
        assert count_solutions(puzzle) == 0

    def test_counts_agree_with_the_list_of_all_boards(self):
        everything = all_small_boards()
        generator = torch.Generator().manual_seed(0)
        for solution in everything[torch.randperm(288, generator=generator)[:20]]:
            puzzle = solution * (torch.rand(4, 4, generator=generator) < 0.3)
            agree = ((puzzle == 0) | (puzzle == everything)).flatten(1).all(1)
            assert count_solutions(puzzle, limit=1000) == int(agree.sum())

    def test_the_list_of_17_givens(self, data_folder):
        puzzles, solutions = read_boards(data_folder / "sudoku17_3000.txt")
        assert puzzles.shape == (3000, 9, 9)
        assert all(torch.equal(solve_exactly(p), s) for p, s in zip(puzzles[:20], solutions[:20], strict=True))


class TestGenerator:
    @pytest.mark.parametrize(("n", "box", "clues"), [(60, 2, (4, 10)), (4, 3, (30, 40))])
    def test_one_solution_and_the_givens_asked_for(self, n, box, clues):
        puzzles, solutions = generate(n, box, clues, seed=1)
        assert bool(is_valid(solutions, puzzles).all())
        assert all(count_solutions(puzzle) == 1 for puzzle in puzzles)
        givens = (puzzles > 0).flatten(1).sum(1)
        assert clues[0] <= int(givens.min()) <= int(givens.max()) <= clues[1]

    def test_it_is_seeded(self):
        first, again, other = (generate(5, 2, (4, 10), seed)[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_what_cannot_be(self, monkeypatch):
        monkeypatch.setattr(sudoku_boards, "_TRIES", 50)
        with pytest.raises(ValueError, match=r"clues: 50 boards in a row had more than 3 givens left"):
            generate(1, 2, (1, 3), seed=0)
        for clues in ((0, 4), (5, 4), (4, 17)):
            with pytest.raises(ValueError, match="clues: expected 0 < fewest <= most <= 16"):
                generate(1, 2, clues, seed=0)


class TestBadBoards:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (((0, 0), 5), "board 1 holds 5; expected digits 0 to 4"),
            (((0, 0), -1), "board 1 holds -1"),
            (((0, 0), 4), "board 1 contradicts itself: row 1 holds 4 twice"),
            (((0, 3), 0), None),
        ],
    )
    def test_each_is_named(self, change, text):
        boards = torch.stack((SOLVED, SOLVED))
        boards[1][change[0]] = change[1]
        if text is None:
            assert torch.equal(check_boards("b", boards, 2), boards)
        else:
            with pytest.raises(ValueError, match=f"b: {text}"):
                check_boards("b", boards, 2)

    def test_columns_boxes_shapes_and_nan(self):
        blank = torch.zeros(4, 4)
        for places, unit in ((((0, 0), (2, 0)), "column 1"), (((0, 2), (1, 3)), "box 2")):
            twice = blank.clone()
            for place in places:
                twice[place] = 3
            with pytest.raises(ValueError, match=f"contradicts itself: {unit} holds 3 twice"):
                check_boards("b", twice, 2)
        with pytest.raises(ValueError, match=r"b: expected boards \(..., 4, 4\) for box = 2, got shape \(9, 9\)"):
            check_boards("b", torch.zeros(9, 9), 2)
        with pytest.raises(ValueError, match="b: expected whole numbers 0 to 4"):
            check_boards("b", blank * float("nan"), 2)


class TestFiles:
    def test_npz_and_text(self, tmp_path):
        puzzles, solutions = generate(6, 2, (4, 10), seed=0)
        np.savez(tmp_path / "b.npz", puzzles=puzzles.numpy().astype(np.uint8), solutions=solutions.numpy())
        lines = [" ".join("".join(map(str, b.flatten().tolist())) for b in pair) for pair in zip(puzzles, solutions)]  # noqa: B905
        (tmp_path / "b.txt").write_text("\n".join(lines).replace("0", ".") + "\n")
        for name in ("b.npz", "b.txt"):
            assert all(
                torch.equal(a, b) for a, b in zip(read_boards(tmp_path / name), (puzzles, solutions), strict=True)
            )

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none.npz: no such file"):
            read_boards(tmp_path / "none.npz")

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("b.npz", b"PK no archive", "expected an npz file with puzzles and solutions"),
            ("b.npz", b"", "expected an npz file"),
            ("b.txt", b"1234", "line 1: expected 'puzzle solution'"),
            ("b.txt", b"12x4 1234", "line 1: expected 'puzzle solution'"),
            ("b.txt", b"123 123", "expected boards of one size"),
            ("b.txt", b"", "expected boards of one size, N.2 digits each, got none"),
            ("b.txt", b"\xff\xfe", "expected lines of digits"),
            ("b.txt", b"1000000000000000 1234341221434322", "solutions: board 0 contradicts itself"),
            ("b.txt", b"2000000000000000 1234341221434321", "the solution of board 0 does not solve its puzzle"),
        ],
    )
    def test_a_damaged_one_is_named(self, tmp_path, name, content, text):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: {text}"):
            read_boards(tmp_path / name)

    def test_an_archive_without_solutions_or_of_other_shapes(self, tmp_path):
        np.savez(tmp_path / "b.npz", puzzles=np.zeros((2, 4, 4)))
        with pytest.raises(ValueError, match=r"b.npz: expected an npz file with puzzles and solutions"):
            read_boards(tmp_path / "b.npz")
        solved = SOLVED.numpy()[None]
        np.savez(tmp_path / "b.npz", puzzles=solved, solutions=solved + 0.4)
        with pytest.raises(ValueError, match=r"b.npz: solutions: expected whole numbers 0 to 4"):
            read_boards(tmp_path / "b.npz")
        np.savez(tmp_path / "b.npz", puzzles=np.zeros((2, 4, 4)), solutions=np.zeros((3, 4, 4)))
        with pytest.raises(ValueError, match=r"b.npz: expected puzzles and solutions of one shape"):
            read_boards(tmp_path / "b.npz")
