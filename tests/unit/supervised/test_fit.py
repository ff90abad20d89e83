"""The training loop: what a batch is, what is reported, how it stops, goes on and fails."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset, TensorDataset

from icnn_rl.nn import NonNegativeLinear
from icnn_rl.supervised import SolveCount, evaluate, fit
from icnn_rl.supervised.training.batches import batch_of, batches

SLOPE = torch.tensor([[1.0, -2.0, 3.0]])


def line(n=40, seed=0):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x @ SLOPE.T + 0.5)


class Model(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(3, 1)

    def loss(self, batch):
        return mse_loss(self(batch[0]), batch[1])


run = partial(fit, epochs=3, batch_size=8, lr=0.05, progress_bar=False)


class Pairs(Dataset):
    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


class TestBatches:
    @pytest.mark.parametrize(
        "wrap", [lambda d: d, lambda d: list(zip(*d.tensors, strict=True)), lambda d: Pairs(d.tensors)]
    )
    def test_every_kind_of_data_set_gives_the_same_batches(self, wrap):
        data = line()
        for ours, plain in zip(batches(wrap(data), 16, seed=3), batches(data, 16, seed=3), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))

    def test_a_batch_is_a_tuple_even_with_one_part(self):
        for data in (
            torch.arange(6.0).reshape(3, 2),
            list(torch.arange(6.0).reshape(3, 2)),
            [[0.0, 1.0], [2.0, 3.0]][:0] or [torch.zeros(2)] * 3,
        ):
            (part,) = batch_of(data, [0, 2])
            assert part.shape == (2, 2)

    def test_numbers_become_tensors(self):
        x, label = batch_of([(torch.zeros(2), 3), (torch.ones(2), 4)], [0, 1])
        assert x.shape == (2, 2)
        assert torch.equal(label, torch.tensor([3, 4]))

    def test_an_epoch_sees_every_sample_once_in_a_seeded_order(self):
        data = torch.arange(10)
        state = torch.get_rng_state()
        first, again, other = (torch.cat([b[0] for b in batches(data, 4, seed)]) for seed in (1, 1, 2))
        assert torch.equal(first.sort().values, data)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_samples_that_do_not_stack_are_named(self):
        with pytest.raises(ValueError, match=r"data: samples \[0, 1\] do not make a batch"):
            batch_of([torch.zeros(2), torch.zeros(3)], [0, 1])


class TestHistory:
    def test_it_learns(self):
        model = Model()
        history = run(model, line(), validation=line(seed=1), epochs=40, metrics={"bias": lambda m, b: m.bias})
        assert [row["epoch"] for row in history] == list(range(1, 41))
        assert set(history[0]) == {"epoch", "loss", "grad_norm", "lr", "time", "cpu_time", "val/loss", "val/bias"}
        assert history[-1]["val/loss"] < 0.05
        assert history[-1]["val/bias"] == pytest.approx(model.bias.item(), abs=1e-6)
        assert history[-1]["val/loss"] == pytest.approx(evaluate(model, line(seed=1), 7)["loss"], rel=1e-5)
        assert not model.training

    def test_metrics_without_validation_are_of_the_data(self):
        assert "one" in run(Model(), line(), metrics={"one": lambda m, b: 1.0})[-1]

    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x.numpy(), list])
    def test_every_kind_of_data_set_validates(self, wrap):
        def size(model, batch):
            return model(batch[0]).square().mean()

        rows = run(Model(), wrap(torch.randn(20, 3)), validation=wrap(torch.randn(6, 3)), epochs=2, loss=size)
        assert all(math.isfinite(row["val/loss"]) for row in rows)

    def test_the_mean_weights_a_short_last_batch_by_its_rows(self):
        model, data = Model(), line(10)
        row = run(model, data, epochs=1, batch_size=8, lr=1e-12, metrics={"rows": lambda m, b: len(b[0])})[0]
        assert row["loss"] == pytest.approx(evaluate(model, data, 10)["loss"], rel=1e-5)
        assert row["rows"] == pytest.approx((8 * 8 + 2 * 2) / 10)

    def test_failed_rows_are_counted(self):
        class Counted(Model):
            def __init__(self):
                super().__init__()
                self.solves = SolveCount()

            def forward(self, x):
                self.solves.add(torch.arange(len(x)) % 4)
                return super().forward(x)

        history = run(Counted(), line(), validation=line(seed=1))
        assert [row["solver/failed_fraction"] for row in history] == [0.75] * 3

    def test_the_rate_may_follow_the_progress(self):
        seen = []
        history = run(Model(), line(), lr=lambda progress: seen.append(progress) or 0.1 * (1 - progress))
        assert seen[0] == 0.0
        assert max(seen) == pytest.approx(14 / 15)
        assert history[-1]["lr"] == pytest.approx(0.1 / 15)

    def test_the_rate_may_start_at_0_and_parts_have_shares_of_it(self):
        class Parts(Model):
            def parameter_groups(self, lr):
                return [{"params": [self.weight], "lr": lr}, {"params": [self.bias], "lr": 10 * lr}]

        model, start = Parts(), Model()
        sgd = partial(run, model, line(), optimizer=torch.optim.SGD, batch_size=40)
        sgd(epochs=1, lr=lambda progress: progress)
        assert torch.equal(model.weight, start.weight)
        start.loss(line().tensors).backward()
        sgd(epochs=1, lr=0.01)
        torch.testing.assert_close(model.weight, start.weight - 0.01 * start.weight.grad)
        torch.testing.assert_close(model.bias, start.bias - 0.1 * start.bias.grad)

    def test_a_loss_a_callback_and_an_optimizer_of_ones_own(self):
        lengths = []
        history = run(
            nn.Linear(3, 1),
            line(),
            loss=lambda model, batch: (model(batch[0]) - batch[1]).abs().mean(),
            optimizer=partial(torch.optim.SGD, momentum=0.9),
            max_grad_norm=1.0,
            on_epoch=lambda rows: lengths.append(len(rows)),
        )
        assert lengths == [1, 2, 3]
        assert history[-1]["loss"] < history[0]["loss"]

    def test_weights_that_must_not_be_negative_are_projected(self):
        torch.manual_seed(0)
        model = nn.Sequential(NonNegativeLinear(3, 1))
        run(model, line(), epochs=5, loss=lambda m, b: mse_loss(m(b[0]), b[1]))
        assert model[0].weight[0, 1].item() == 0.0

    def test_tensorboard(self, tmp_path):
        run(Model(), line(), log_dir=tmp_path / "tb")
        assert next(f.name for f in (tmp_path / "tb").iterdir()).startswith("events")


class TestRandomness:
    def test_same_seed_same_weights_and_the_global_generator_is_left_alone(self):
        class Noisy(Model):
            def loss(self, batch):
                return super().loss((batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]))

        results = []
        for seed, other in ((0, 1), (0, 2), (1, 1)):
            model = Noisy()
            torch.manual_seed(other)
            state = torch.get_rng_state()
            run(model, line(), seed=seed)
            assert torch.equal(torch.get_rng_state(), state)
            results.append(model.weight.detach().clone())
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])


class TestStopping:
    def test_early_stopping_puts_the_best_weights_back(self):
        kept = []
        model = Model()
        history = run(
            model,
            line(),
            validation=line(seed=1),
            epochs=50,
            patience=2,
            metrics={"far": lambda m, b: (m.bias - 0.4).abs()},
            monitor="val/far",
            on_epoch=lambda rows: kept.append(model.weight.detach().clone()),
        )
        best = min(range(len(history)), key=lambda i: history[i]["val/far"])
        assert len(history) == best + 3 < 50
        assert torch.equal(model.weight, kept[best])

    def test_maximize(self):
        history = run(
            Model(), line(), epochs=20, patience=1, monitor="m", maximize=True, metrics={"m": lambda m, b: -1.0}
        )
        assert len(history) == 2

    def test_an_unknown_monitor_is_named(self):
        with pytest.raises(ValueError, match=r"monitor: no 'val/x' in the history, which has epoch, loss"):
            run(Model(), line(), monitor="val/x")


class TestResume:
    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
    def test_going_on_is_the_same_as_never_stopping(self, tmp_path, optimizer):
        options = {"validation": line(seed=1), "optimizer": optimizer, "lr": 0.02, "patience": 5}
        whole, parts = Model(), Model()
        full = run(whole, line(), epochs=5, **options)
        run(parts, line(), epochs=2, checkpoint=tmp_path / "c.pt", **options)
        parts = Model()
        with torch.no_grad():
            parts.weight.zero_()
        history = run(parts, line(), epochs=5, checkpoint=tmp_path / "c.pt", resume=True, **options)
        assert torch.equal(whole.weight, parts.weight)
        assert [{**row, "time": 0, "cpu_time": 0} for row in history] == [
            {**row, "time": 0, "cpu_time": 0} for row in full
        ]
        assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]

    def test_resume_without_a_checkpoint_starts(self, tmp_path):
        assert len(run(Model(), line(), checkpoint=tmp_path / "c.pt", resume=True)) == 3

    def test_an_existing_checkpoint_is_not_overwritten(self, tmp_path):
        run(Model(), line(), checkpoint=tmp_path / "c.pt")
        with pytest.raises(ValueError, match=r"checkpoint: .*c.pt exists. Pass resume=True"):
            run(Model(), line(), checkpoint=tmp_path / "c.pt")

    def test_another_run_is_refused(self, tmp_path):
        run(Model(), line(), checkpoint=tmp_path / "c.pt")
        with pytest.raises(ValueError, match=r"c.pt: its run had seed = 0, this one has 1"):
            run(Model(), line(), checkpoint=tmp_path / "c.pt", resume=True, seed=1)
        with pytest.raises(ValueError, match=r"c.pt: does not fit this model"):
            run(nn.Linear(3, 2), line(), loss=lambda m, b: m(b[0]).mean(), checkpoint=tmp_path / "c.pt", resume=True)

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no checkpoint"])
    def test_a_damaged_one_is_refused(self, tmp_path, damage):
        run(Model(), line(), checkpoint=tmp_path / "c.pt")
        (tmp_path / "c.pt").write_bytes(damage((tmp_path / "c.pt").read_bytes()))
        with pytest.raises(ValueError, match=r"c.pt: not a checkpoint"):
            run(Model(), line(), checkpoint=tmp_path / "c.pt", resume=True)


class TestTrouble:
    def test_a_nan_stops_with_the_last_sound_weights(self):
        class Normed(Model):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, x):
                return super().forward(self.norm(x))

        data = line()
        data.tensors[0][-1] = math.nan
        model = Normed()
        with pytest.raises(FloatingPointError, match=r"epoch 1, step \d of 5: loss: nan"):
            run(model, data)
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())

    def test_the_weights_are_those_before_the_update_that_broke_the_loss(self):
        model, seen = Model(), []

        def loss(m, batch):
            seen.append(m.weight.detach().clone())
            return m.loss(batch) * (math.inf if len(seen) == 4 else 1.0)

        with pytest.raises(FloatingPointError, match=r"epoch 1, step 4 of 5: loss: inf"):
            run(model, line(), loss=loss)
        assert torch.equal(model.weight, seen[2])

    def test_a_gradient_that_is_not_finite(self):
        model = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.zero_()
        with pytest.raises(FloatingPointError, match=r"step 1 of 5: loss: its gradient is not finite"):
            run(model, line(), loss=lambda m, b: m.weight.abs().sqrt().sum())
        assert not bool(model.weight.any())

    def test_a_failing_run_keeps_its_last_checkpoint(self, tmp_path):
        calls = []

        def loss(m, batch):
            calls.append(0)
            return m.loss(batch) * (math.nan if len(calls) > 12 else 1.0)

        with pytest.raises(FloatingPointError, match="epoch 3"):
            run(Model(), line(), loss=loss, checkpoint=tmp_path / "c.pt")
        assert len(run(Model(), line(), checkpoint=tmp_path / "c.pt", resume=True)) == 3

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"epochs": 0}, "epochs: expected an integer >= 1"),
            ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
            ({"lr": 0.0}, "lr: expected a number"),
            ({"seed": -1}, "seed: expected an integer >= 0"),
            ({"patience": 0}, "patience: expected"),
            ({"validation": []}, "validation: holds no samples"),
            ({"loss": lambda m, b: torch.zeros(())}, "loss: expected a tensor without dimensions"),
            ({"loss": lambda m, b: m(b[0])}, "loss: expected a tensor without dimensions"),
            ({"metrics": {"loss": lambda m, b: 0.0}}, "metrics: 'loss'"),
        ],
    )
    def test_wrong_arguments(self, changes, text):
        with pytest.raises(ValueError, match=text):
            run(Model(), line(), **changes)

    def test_a_model_without_loss_or_parameters(self):
        with pytest.raises(ValueError, match=r"loss: missing, and Linear has no method loss"):
            run(nn.Linear(3, 1), line())
        with pytest.raises(ValueError, match=r"model: ReLU has no parameters to train"):
            run(nn.ReLU(), line(), loss=lambda m, b: b[0].mean())
        with pytest.raises(ValueError, match=r"data: expected a data set with a length, got zip"):
            run(Model(), zip(torch.zeros(3, 3), torch.zeros(3, 1), strict=True))
