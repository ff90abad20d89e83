"""Ridge regression of all entries on the observed ones, as a module whose numbers are saved with the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icnn_rl.checks import check_positive_int, check_range

__all__ = ["Regression"]

_MARGIN = 0.02  # predictions are kept this far inside [0, 1]: their logit is used


class Regression(nn.Module):
    """m(x) = mean_y + B A (x - mean_x), of rank r, cut to [0.02, 0.98]. Buffers, not parameters: fitted in closed form.

    Args:
        size: n, entries of x and of y; hidden entries of x are 0.
        rank: r.

    Shapes:
        (B, n) -> (B, n).
    """

    inner: Tensor
    outer: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.rank = check_positive_int("regression_rank", rank)
        self.register_buffer("inner", torch.zeros(rank, size))
        self.register_buffer("outer", torch.zeros(size, rank))
        self.register_buffer("mean_x", torch.zeros(size))
        self.register_buffer("mean_y", torch.full((size,), 0.5))

    @torch.no_grad()
    def fit_(self, y: Tensor, seen: Tensor, penalty: float) -> None:
        """Minimise |Y - X W|^2 + penalty |W|^2, X the seen columns of Y, both centred; keep ``rank`` directions.

        With X X^T = V diag(w) V^T, W = X^T V diag(1 / (w + penalty)) V^T Y: the factors are read off.

        Args:
            y: (N, n). seen: bool (n,). penalty: > 0, in units of y^2.
        """
        check_range("penalty", penalty, 0.0, float("inf"), open_low=True)
        full = y.double()
        x = full * seen
        self.mean_x.copy_(x.mean(0))
        self.mean_y.copy_(full.mean(0))
        x, full = x - x.mean(0), full - full.mean(0)
        w, v = torch.linalg.eigh(x @ x.mT)
        count = min(self.rank, len(w))
        w, v = w[-count:], v[:, -count:]
        self.inner.zero_()
        self.outer.zero_()
        self.inner[:count].copy_((x.mT @ v).mT)
        self.outer[:, :count].copy_(((v.mT @ full) / (w + penalty)[:, None]).mT)

    def forward(self, x: Tensor) -> Tensor:
        m = self.mean_y + (x - self.mean_x) @ self.inner.mT @ self.outer.mT
        return m.clamp(_MARGIN, 1.0 - _MARGIN)

    def extra_repr(self) -> str:
        return f"size={len(self.mean_y)}, rank={self.rank}"
