"""The layer that learns the rules, on few boards."""

from __future__ import annotations

import pytest
import torch

from icnn_rl.supervised import fit
from icnn_rl.supervised.sudoku import (
    ConvNet,
    SudokuDataset,
    SudokuModule,
    cell_score,
    check_boards,
    is_valid,
    one_hot,
    principal_angles,
    score,
)

BOARDS = SudokuDataset.generate(400, box=2, clues=(5, 10), seed=0)


class TestDataset:
    def test_samples_splits_and_counts(self):
        train, test = BOARDS.split(0.9)
        assert (len(train), len(test)) == (360, 40)
        assert torch.equal(test[0][0], BOARDS.puzzles[360])
        assert int(BOARDS.clues.min()) >= 5
        few = BOARDS.subset(BOARDS.clues == 5)
        assert 0 < len(few) < len(BOARDS)

    def test_unseen(self):
        train, test = BOARDS.split(0.5)
        assert not train.unseen(train).any()
        assert int(test.unseen(BOARDS.subset(torch.arange(200, 210))).sum()) <= 190

    def test_wrong_solutions_are_refused(self):
        with pytest.raises(ValueError, match="solutions: board 0 does not solve its puzzle"):
            SudokuDataset(BOARDS.puzzles[:1], BOARDS.solutions[:1] % 4 + 1, box=2)
        with pytest.raises(ValueError, match="puzzles, solutions: expected one shape"):
            SudokuDataset(BOARDS.puzzles[:1], BOARDS.solutions[:2], box=2)

    def test_the_papers_boards(self, data_folder):
        train, test = SudokuDataset.load(data_folder / "optnet_4x4.npz").split(0.9)
        assert (len(train), len(test), int(test.unseen(train).sum())) == (9000, 1000, 928)


class TestModule:
    def test_shapes_and_ranges(self):
        model = SudokuModule(box=2)
        probs = model(BOARDS.puzzles[:5])
        assert probs.shape == (5, 4, 4, 4)
        assert 0 <= float(probs.detach().min()) <= float(probs.detach().max()) <= 1
        board = model.solve(BOARDS.puzzles[:5])
        assert board.dtype == torch.int64
        assert 1 <= int(board.min()) <= int(board.max()) <= 4
        assert is_valid(board).shape == (5,)
        assert model.solve(BOARDS.puzzles[0]).shape == (4, 4)
        given = BOARDS.puzzles[:5] > 0
        assert torch.equal(board[given], BOARDS.puzzles[:5][given])

    def test_it_learns_the_rules(self):
        train, test = BOARDS.split(0.8)
        model = SudokuModule(box=2, n_constraints=40, q_penalty=0.1)
        history = fit(
            model,
            train,
            validation=test,
            epochs=10,
            batch_size=20,
            lr=1e-2,
            progress_bar=False,
            metrics={"boards": score, "cells": cell_score},
        )
        assert history[-1]["val/loss"] < 0.08  # 0.19 is what a constant answer reaches
        assert history[-1]["val/cells"] > 0.75  # 0.25 is chance
        assert history[-1]["solver/failed_fraction"] == 0.0

    def test_the_gradient(self):
        model = SudokuModule(box=2, n_constraints=6).double()
        batch = (BOARDS.puzzles[:2], BOARDS.solutions[:2])

        def loss(A, z):
            return torch.func.functional_call(_Loss(model), {"model.layer.A": A, "model.layer.z0_free": z}, (batch,))

        parameters = [p.detach().requires_grad_() for p in (model.A, model.layer.z0_free)]
        assert torch.autograd.gradcheck(loss, parameters, eps=1e-7, atol=1e-6, fast_mode=True)

    @pytest.mark.parametrize("box", [2, 3])
    def test_the_true_rules_are_the_control(self, box):
        data = BOARDS.subset(slice(30)) if box == 2 else SudokuDataset.generate(2, 3, (45, 50), seed=0)
        model = SudokuModule(box=box, init="rules", learn=False)
        assert not list(model.parameters())
        z = model.relaxed(data.puzzles)
        torch.testing.assert_close(z.sum(-1), torch.ones_like(z[..., 0]))
        assert score(model, data.tensors) == 1.0

    def test_what_is_sure_is_written_in(self):
        model = SudokuModule(box=2, init="rules", learn=False)
        few = BOARDS.subset(BOARDS.clues == 5)
        filled = model._write_sure(few.puzzles, sure=0.9)
        assert torch.equal(filled[few.puzzles > 0], few.puzzles[few.puzzles > 0])
        assert bool(((filled > 0).flatten(1).sum(1) > few.clues).all())
        check_boards("filled", filled, 2)
        assert cell_score(model, few.tensors) <= float(
            (model.solve(few.puzzles, resolves=4) == few.solutions).double().mean()
        )

    def test_save_and_load(self, tmp_path):
        model = SudokuModule(box=2, n_constraints=7, q_penalty=0.2)
        model.save(tmp_path / "s.safetensors")
        again = SudokuModule.load(tmp_path / "s.safetensors")
        assert torch.equal(again(BOARDS.puzzles[:3]), model(BOARDS.puzzles[:3]))
        assert again.arguments() == model.arguments()

    def test_contradicting_puzzles_and_wrong_arguments(self):
        model = SudokuModule(box=2)
        with pytest.raises(ValueError, match="puzzles: board 0 contradicts itself: row 1 holds 1 twice"):
            model(torch.ones(1, 4, 4))
        with pytest.raises(ValueError, match=r"puzzles: expected boards \(..., 4, 4\)"):
            model.solve(torch.zeros(1, 9, 9))
        for wrong, text in (({"box": 0}, "box"), ({"q_penalty": 0.0}, "q_penalty"), ({"init": "x"}, "init")):
            with pytest.raises(ValueError, match=f"{text}: expected"):
                SudokuModule(**wrong)
        with pytest.raises(ValueError, match="n_constraints: the rules are 64 equations, got 40"):
            SudokuModule(init="rules", n_constraints=40)

    def test_rules_in_closed_form_are_the_true_rules(self):
        model = SudokuModule(box=2)
        model.fit_rules_(BOARDS.solutions)
        assert float(principal_angles(model).max()) < 1e-3
        gap = (one_hot(BOARDS.solutions).flatten(1) - 0.25) @ model.A.T
        assert float(gap.detach().abs().max()) < 1e-5
        control = SudokuModule(box=2, init="rules", learn=False)
        torch.testing.assert_close(model(BOARDS.puzzles[:20]), control(BOARDS.puzzles[:20]), rtol=0, atol=1e-3)

    def test_rules_in_closed_form_hold_after_training_too(self):
        model = SudokuModule(box=2)
        fit(model, BOARDS.subset(slice(60)), epochs=2, batch_size=20, lr=0.05, progress_bar=False)
        model.fit_rules_(BOARDS.solutions)
        gap = (one_hot(BOARDS.solutions).flatten(1) - model.layer.z0) @ model.A.T
        assert float(gap.detach().abs().max()) < 1e-5
        assert score(model, BOARDS.subset(slice(40)).tensors) == 1.0

    def test_rules_in_closed_form_refuse_too_few_boards(self):
        model = SudokuModule(box=2)
        before = model.A.detach().clone()
        with pytest.raises(ValueError, match="solutions: 5 boards leave 59 equations, expected n_constraints = 40"):
            model.fit_rules_(BOARDS.solutions[:5])
        assert torch.equal(model.A, before)
        with pytest.raises(ValueError, match="learn: False"):
            SudokuModule(box=2, init="rules", learn=False).fit_rules_(BOARDS.solutions)

    def test_as_many_equations_as_the_rules_have_rank(self):
        assert SudokuModule(box=2).n_constraints == 40
        assert SudokuModule(box=3).n_constraints == 249

    def test_scores(self):
        class Oracle(torch.nn.Module):
            def solve(self, puzzles):
                wrong = BOARDS.solutions[:4].clone()
                row, column = (BOARDS.puzzles[0] == 0).nonzero()[0].tolist()
                wrong[0, row, column] = wrong[0, row, column] % 4 + 1
                return wrong

        batch = (BOARDS.puzzles[:4], BOARDS.solutions[:4])
        assert score(Oracle(), batch) == 0.75
        assert cell_score(Oracle(), batch) == pytest.approx(1 - 1 / int((batch[0] == 0).sum()))


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        z = self.model.relaxed(batch[0])
        return ((z - one_hot(batch[1])) ** 2).mean()


def test_the_deep_convolutional_net_learns():
    """Ten layers of ReLU: started as torch does it, the answer never leaves 1/4, and the loss 3/16."""
    torch.manual_seed(0)
    net = ConvNet(2, (16,) * 10)
    history = fit(net, BOARDS, epochs=4, batch_size=40, lr=3e-3, seed=0, progress_bar=False)
    assert history[-1]["loss"] < 0.17
