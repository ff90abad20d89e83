"""Many networks in one: an ensemble whose members form groups, one group for each of several learners."""

from __future__ import annotations

from torch import Tensor

from icnn_rl.nn.energy import EnsembleEnergy

__all__ = ["GroupMeans"]


class GroupMeans:
    """The mean of the members of each of S groups, for a batch of rows of its own each: y (S, B, n) -> (S, B).

    Members s E, .., s E + E - 1 make group s. A group's energy is that of :class:`EnsembleEnergy` with reduction
    "mean" and these members alone.

    Args:
        members: S E members with reduction "none", of B rows each.
        groups: S.

    Raises:
        ValueError: the members do not make so many groups of equal size, or are reduced already.
    """

    separable = False  # rows of different groups meet different weights

    def __init__(self, members: EnsembleEnergy, groups: int) -> None:
        total = members.linear.shape[0]
        if members.reduction != "none" or total % groups:
            raise ValueError(
                f"members: expected a multiple of {groups} with reduction 'none', got {total} with "
                f"{members.reduction!r}."
            )
        self.members, self.groups, self.size = members, groups, total // groups

    @property
    def smooth(self) -> bool:
        """Whether f is twice differentiable in y."""
        return self.members.smooth

    @property
    def curvature(self) -> Tensor:
        """m (S, B, n): f - 1/2 sum_j m_j y_j^2 is still convex."""
        return self._mean(self.members.curvature)

    def start(self) -> Tensor:
        """(S, B, n) of zeros: a starting point of the right shape, dtype and device."""
        return self.members.linear.new_zeros(self.groups, *self.members.linear.shape[1:])

    def __call__(self, y: Tensor) -> Tensor:
        return self.member_values(y).mean(1)

    def member_values(self, y: Tensor) -> Tensor:
        """(S, E, B): every member's value."""
        return self._grouped(self.members.member_values(self._spread(y)))

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f (S, B) and its gradient (S, B, n)."""
        f, g = self.members.value_and_grad(self._spread(y))
        return self._mean(f), self._mean(g)

    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (S, B), its gradient (S, B, n) and its Hessian (S, B, n, n)."""
        f, g, h = self.members.value_grad_hessian(self._spread(y))
        return self._mean(f), self._mean(g), self._mean(h)

    def blur(self, variance: Tensor) -> list[Tensor] | None:
        """As :meth:`EnsembleEnergy.blur`, for a variance () or (S, B, n)."""
        return self.members.blur(self._spread(variance) if variance.dim() == 3 else variance)

    def grad_hessian(self, y: Tensor, blur: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian of the average of f over the spread that ``blur`` stands for, nearly."""
        g, h = self.members.grad_hessian(self._spread(y), blur)
        return self._mean(g), self._mean(h)

    def _spread(self, y: Tensor) -> Tensor:
        """Every group's rows to each of its members: (S, B, n) -> (S E, B, n)."""
        return y.unsqueeze(1).expand(-1, self.size, -1, -1).flatten(0, 1)

    def _mean(self, parts: Tensor) -> Tensor:
        """(S E, ...) -> (S, ...)."""
        return self._grouped(parts).mean(1)

    def _grouped(self, parts: Tensor) -> Tensor:
        """(S E, ...) -> (S, E, ...)."""
        return parts.reshape(self.groups, -1, *parts.shape[1:])
