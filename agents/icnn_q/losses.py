"""The Bellman target, the loss, and the numbers that are logged of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "GRADIENT_KEY",
    "LOSS_KEYS",
    "TARGET_KEYS",
    "TD_RATE",
    "bellman_loss",
    "bellman_target",
    "loss_numbers",
    "on_bound",
]

#: Weight of the newest update in the running mean of the squared TD error.
TD_RATE = 0.01


#: Logged of the target's argmax, means over the rows of a batch.
TARGET_KEYS = (
    "solver/num_steps",
    "solver/gap",
    "solver/converged_fraction",
    "solver/failed_fraction",
    "solver/empty_fraction",
    "train/on_bound_fraction",
)


#: Logged of the loss, in units of 1 / reward_scale: see :func:`loss_numbers`; and the length of its gradient.
LOSS_KEYS = ("train/critic_loss", "train/td_error", "train/q_mean", "train/target_mean")


GRADIENT_KEY = "train/grad_norm"


def bellman_target(
    reward: Tensor, terminal: Tensor, discount: Tensor | float, next_value: Tensor, usable: Tensor
) -> tuple[Tensor, Tensor]:
    """r + gamma V(s'), and the rows that have it: (..., B) each. At the end of an episode r alone, whatever became of
    the search for V."""
    return torch.where(terminal, reward, reward + discount * next_value), usable | terminal


def bellman_loss(energies: Tensor, target: Tensor, usable: Tensor) -> Tensor:
    """sum_e mean_b ( -f_e(s_b, a_b) - target_b )^2 over the usable rows: (..., E, B), (..., B), (..., B) -> (...). NaN
    where none is."""
    error = torch.where(usable.unsqueeze(-2), energies + target.unsqueeze(-2), 0.0)
    return (error * error).sum((-2, -1)) / usable.sum(-1)


def loss_numbers(loss: Tensor, energies: Tensor, target: Tensor, usable: Tensor) -> Tensor:
    """What is logged of a loss: itself, the root mean square of the TD error, and the means of Q and of the target:
    (...), (..., E, B), (..., B), (..., B) -> (4, ...)."""
    loss, energies = loss.detach(), energies.detach()
    members = energies.shape[-2]
    mean_target = torch.where(usable, target, 0.0).sum(-1) / usable.sum(-1)
    return torch.stack((loss, (loss / members).sqrt(), -energies.mean((-2, -1)), mean_target))


def on_bound(actions: Tensor) -> Tensor:
    """The share of coordinates of scaled actions that lie on a bound of the box: (..., n) -> (...)."""
    return (actions.abs() >= 1.0).float().mean(-1)
