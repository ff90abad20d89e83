"""How many of the problems that a model solved on its way were not solved."""

from __future__ import annotations

from torch import Tensor, nn

from icnn_rl.solution import Status

__all__ = ["SolveCount", "take_counts"]


class SolveCount:
    """A counter that a module keeps as its attribute ``solves`` and feeds from ``forward``.

    :func:`~icnn_rl.supervised.fit` finds it there and reports ``solver/failed_fraction``.

    Example:
        >>> count = SolveCount()
        >>> count.add(torch.tensor([0, 0, 1, 0]))  # statuses of a batch
        >>> count.take()
        (1, 4)
    """

    def __init__(self) -> None:
        self.failed = self.rows = 0

    def add(self, status: Tensor) -> None:
        """Count a batch, given ``solution.status``."""
        self.failed += int((status != int(Status.SUCCESS)).sum())
        self.rows += status.numel()

    def take(self) -> tuple[int, int]:
        """Failed rows and all rows since the last call."""
        counts = self.failed, self.rows
        self.failed = self.rows = 0
        return counts


def take_counts(model: nn.Module) -> tuple[int, int]:
    """The sums over a model's counters, which start again from zero."""
    counters = {id(c): c for c in (getattr(module, "solves", None) for module in model.modules())}
    taken = [counter.take() for counter in counters.values() if isinstance(counter, SolveCount)]
    return sum(failed for failed, _ in taken), sum(rows for _, rows in taken)
