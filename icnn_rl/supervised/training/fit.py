"""``fit``: the one training loop of all supervised experiments."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from icnn_rl.checks import check_positive_int, check_range
from icnn_rl.nn import NonNegativeLinear
from icnn_rl.supervised.training.batches import Batch, Data, batches, check_data, epoch_seed
from icnn_rl.supervised.training.checkpoint import Progress, Row
from icnn_rl.supervised.training.solve_counts import take_counts

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["Loss", "Metric", "evaluate", "falling", "fit"]

Loss = Callable[[Any, Batch], Tensor]
Metric = Callable[[Any, Batch], Tensor | float]


class _MakeOptimizer(Protocol):
    def __call__(self, params: Any, *, lr: float) -> Optimizer: ...


def fit(
    model: nn.Module,
    data: Data,
    *,
    validation: Data | None = None,
    epochs: int,
    batch_size: int,
    lr: float | Callable[[float], float],
    seed: int = 0,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
    optimizer: _MakeOptimizer = torch.optim.Adam,
    max_grad_norm: float | None = None,
    patience: int | None = None,
    monitor: str | None = None,
    maximize: bool = False,
    log_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress_bar: bool = True,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Minimise the mean of a loss over a data set, batch by batch.

    A data set is anything with a length and samples that are tensors, arrays or numbers, or tuples of them. A batch is
    a tuple with one tensor for every part of the sample, stacked along a new first dimension: always a tuple. It is
    moved to the device of the model's parameters. See :mod:`icnn_rl.supervised.training.batches`.

    Everything random in an epoch, its order and what the model draws, follows from ``seed`` and the number of the
    epoch; torch's global generator is left as it was found. Weights that must not be negative are projected after
    every update (``clamp_weights_`` of each ``NonNegativeLinear``). A model with a method ``parameter_groups(lr)``
    gives its parts learning rates of their own: it is called with 1, and ``lr`` times what it gives is the rate of an
    update.

    Args:
        model: is trained in place, and left in evaluation mode.
        validation: data that ``val/loss`` and the metrics are computed on after every epoch.
        epochs: passes over ``data``, those done before a resume included.
        lr: learning rate per update; or a function of the progress, which goes from 0 to 1 over all epochs.
        loss: (model, batch) -> the mean over the batch, a tensor without dimensions. None: ``model.loss(batch)``.
        metrics: name -> function of (model, batch) that returns a mean over the batch.
        optimizer: ``torch.optim.Adam`` and the like, or ``partial(torch.optim.Adam, betas=...)``.
        max_grad_norm: longer gradients are shortened to it.
        patience: stop after so many epochs without a new best, and put the best weights back.
        monitor: the key of the history that ``patience`` looks at; by default "val/loss", or "loss" without
            ``validation``. Low is good unless ``maximize``.
        log_dir: folder for TensorBoard.
        checkpoint: file, written after every epoch, whole or not at all.
        resume: go on from ``checkpoint`` if it is there. Otherwise an existing one is an error.
        progress_bar: show one, with the loss.
        on_epoch: called with the history so far after every epoch.

    Returns:
        One dictionary an epoch: "epoch" from 1 on; "loss", the mean over the epoch while the weights move; "val/loss"
        and "val/NAME" for each metric ("NAME" on ``data`` itself, without ``validation``); "solver/failed_fraction",
        of the problems solved in training, if the model counts (:class:`~icnn_rl.supervised.SolveCount`);
        "grad_norm", the mean; "lr", the last; "time" and "cpu_time", seconds by the clock and of the processor, for
        training in this epoch.

    Raises:
        ValueError: a wrong argument, or a checkpoint that is damaged or not of this run.
        FloatingPointError: the loss or its gradient is not finite. The model then holds the last weights at which
            both were.

    Example:
        >>> net = nn.Linear(3, 1)
        >>> mse = lambda model, batch: F.mse_loss(model(batch[0]), batch[1])
        >>> fit(net, list(zip(x, y)), epochs=10, batch_size=32, lr=1e-2, loss=mse)[-1]["loss"]
    """
    _check(data, validation, epochs, batch_size, lr, seed, max_grad_norm, patience)
    task = _Task(model, loss, dict(metrics or {}))
    update = _Update(task, optimizer, lr, max_grad_norm)
    settings = {"seed": seed, "batch_size": batch_size, "samples": len(data), "optimizer": _name(optimizer)}
    progress = Progress(settings)
    file = None if checkpoint is None else Path(checkpoint)
    if file is not None and file.exists():
        if not resume:
            raise ValueError(f"checkpoint: {file} exists. Pass resume=True to go on from it, or delete it.")
        progress.restore(file, model, update.optimizer)
        update.note_sound()
    key = monitor or ("val/loss" if validation is not None else "loss")
    steps = math.ceil(len(data) / batch_size)
    with _board(log_dir, progress.epoch) as log, _bar(progress_bar, epochs * steps, progress.epoch * steps) as bar:
        while progress.epoch < epochs and not _stalled(progress, patience):
            epoch = progress.epoch + 1
            with _random_state(epoch_seed(seed, epoch), update.device):
                row = _train(update, batches(data, batch_size, epoch_seed(seed, epoch)), epoch, epochs, steps, bar)
                if validation is not None:
                    row |= _prefixed("val/", evaluate(model, validation, batch_size, loss, metrics))
                elif metrics:
                    row |= evaluate(model, data, batch_size, _no_loss, metrics)
            progress.history.append(row)
            if key not in row:
                raise ValueError(f"monitor: no {key!r} in the history, which has {', '.join(row)}.")
            progress.note(-row[key] if maximize else row[key], model)
            log(row)
            if file is not None:
                progress.save(file, model, update.optimizer)
            if on_epoch is not None:
                on_epoch(progress.history)
    if patience is not None and progress.best_state is not None:
        model.load_state_dict(progress.best_state)
    model.eval()
    return progress.history


def falling(lr: float) -> Callable[[float], float]:
    """A learning rate for :func:`fit` that falls linearly to 0: lr (1 - progress)."""
    return lambda progress: lr * (1.0 - progress)


def evaluate(
    model: nn.Module,
    data: Data,
    batch_size: int,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Row:
    """Means of the loss and of the metrics over a data set, in evaluation mode and without gradients.

    Arguments as for :func:`fit`. Returns a dictionary with "loss" and the metrics' names.
    """
    task = _Task(model, loss, dict(metrics or {}))
    device = _device(model)
    functions: dict[str, Metric] = ({} if loss is _no_loss else {"loss": task.loss}) | task.metrics
    sums = dict.fromkeys(functions, 0.0)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches(data, batch_size):
                moved = tuple(part.to(device) for part in batch)
                for name, function in functions.items():
                    value = function(model, moved)
                    sums[name] += float(value.detach() if isinstance(value, Tensor) else value) * len(moved[0])
    finally:
        model.train(training)
        take_counts(model)  # what is reported is training's
    return {name: total / len(data) for name, total in sums.items()}


class _Task:
    """A model with its loss and metrics."""

    def __init__(self, model: nn.Module, loss: Loss | None, metrics: dict[str, Metric]) -> None:
        self.model, self.metrics = model, metrics
        if loss is None and not callable(getattr(model, "loss", None)):
            raise ValueError(f"loss: missing, and {type(model).__name__} has no method loss(batch).")
        self.loss: Loss = loss or (lambda model, batch: cast(Tensor, model.loss(batch)))
        if "loss" in metrics:
            raise ValueError("metrics: 'loss' is the loss's own name; choose another.")


class _Update:
    """One update of the weights, refused if loss or gradient are not finite."""

    def __init__(
        self,
        task: _Task,
        optimizer: _MakeOptimizer,
        lr: float | Callable[[float], float],
        max_grad_norm: float | None,
    ) -> None:
        self.task, self.max_grad_norm = task, max_grad_norm
        self.lr = lr if callable(lr) else lambda progress: lr
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError(f"model: {type(task.model).__name__} has no parameters to train.")
        self.device = _device(task.model)
        groups = getattr(task.model, "parameter_groups", None)
        # at a rate of 1 a group's rate is its share of the rate of an update, which may well start at 0
        self.optimizer = optimizer(groups(1.0) if callable(groups) else self.parameters, lr=1.0)
        self.shares = [group["lr"] for group in self.optimizer.param_groups]
        self.projected = [module for module in task.model.modules() if isinstance(module, NonNegativeLinear)]
        self.state = [t.detach() for t in chain(task.model.parameters(), task.model.buffers())]
        self.sound = [t.clone() for t in self.state]

    def note_sound(self) -> None:
        """Remember the present weights as good ones."""
        torch._foreach_copy_(self.sound, self.state)

    def __call__(self, batch: Batch, progress: float) -> tuple[float, float]:
        """The loss before the update, and the length of its gradient."""
        rate = self.lr(progress)
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = share * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(self.task.model, tuple(part.to(self.device) for part in batch))
        if not isinstance(loss, Tensor) or loss.dim() > 0 or not loss.requires_grad:
            raise ValueError("loss: expected a tensor without dimensions that depends on the model's parameters.")
        value, norm = float(loss.detach()), math.nan
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            grads = [p.grad for p in self.parameters if p.grad is not None]
            length = torch.nn.utils.get_total_norm(grads)
            norm = float(length)
        if not math.isfinite(norm):
            torch._foreach_copy_(self.state, self.sound)
            what = "its gradient is not finite" if math.isfinite(value) else str(value)
            raise FloatingPointError(f"loss: {what}. Look for NaN in the data, or lower lr or max_grad_norm.")
        self.note_sound()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, length)
        self.optimizer.step()
        for module in self.projected:
            module.clamp_weights_()
        return value, norm


def _train(update: _Update, data: Iterator[Batch], epoch: int, epochs: int, steps: int, bar: tqdm[Any]) -> Row:
    """One epoch."""
    model = update.task.model
    model.train()
    take_counts(model)
    total = norms = rows = 0.0
    start, cpu_start = time.perf_counter(), time.process_time()
    for step, batch in enumerate(data):
        progress = (epoch - 1 + step / steps) / epochs
        try:
            value, norm = update(batch, progress)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {epoch}, step {step + 1} of {steps}: {error} The model holds the last weights at which both "
                "were finite."
            ) from None
        size = len(batch[0])
        total, norms, rows = total + value * size, norms + norm, rows + size
        bar.update()
        bar.set_postfix(epoch=epoch, loss=f"{total / rows:.4g}", refresh=False)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    failed, solved = take_counts(model)
    row = {"epoch": epoch, "loss": total / rows, "grad_norm": norms / steps, "lr": update.lr(progress)}
    row |= {"solver/failed_fraction": failed / solved} if solved else {}
    return row | {"time": seconds, "cpu_time": cpu_seconds}


def _no_loss(model: nn.Module, batch: Batch) -> Tensor:
    raise AssertionError("only a mark: no loss is wanted")


def _prefixed(prefix: str, row: Row) -> Row:
    return {prefix + name: value for name, value in row.items()}


def _stalled(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.epoch - progress.best_epoch >= patience


def _device(model: nn.Module) -> torch.device:
    return next(chain(model.parameters(), model.buffers()), torch.empty(0)).device


def _name(optimizer: Any) -> str:
    return str(getattr(getattr(optimizer, "func", optimizer), "__name__", optimizer))


@contextlib.contextmanager
def _random_state(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators start from ``seed`` inside and are as before outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _board(log_dir: str | Path | None, done: int) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row of the history to TensorBoard, or nowhere."""
    if log_dir is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always wanted

    writer = SummaryWriter(str(log_dir), purge_step=done + 1)

    def log(row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    try:
        yield log
    finally:
        writer.close()


@contextlib.contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[tqdm[Any]]:
    from tqdm.auto import tqdm  # of the extra train

    with tqdm(total=total, initial=done, disable=not show, unit="step", dynamic_ncols=True) as bar:
        yield bar


def _check(
    data: Data,
    validation: Data | None,
    epochs: int,
    batch_size: int,
    lr: object,
    seed: object,
    max_grad_norm: object,
    patience: int | None,
) -> None:
    check_data("data", data)
    if validation is not None:
        check_data("validation", validation)
    check_positive_int("epochs", epochs)
    check_positive_int("batch_size", batch_size)
    if not callable(lr):
        check_range("lr", lr, 0.0, math.inf, open_low=True)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}.")
    if max_grad_norm is not None:
        check_range("max_grad_norm", max_grad_norm, 0.0, math.inf, open_low=True)
    if patience is not None:
        check_positive_int("patience", patience)
