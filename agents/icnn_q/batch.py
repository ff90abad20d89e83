"""What an update reads: transitions, the learners' own settings, random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

__all__ = ["Batch", "Draws", "Settings"]

#: Settings that learners may have of their own: attributes of an agent.
_OWN = (
    "gamma",
    "tau",
    "target_policy_noise",
    "target_noise_clip",
    "action_smoothing",
    "reward_factor",
    "target_gap",
)


class Batch(NamedTuple):
    """Transitions of S learners, B each. ``ended`` is true where the episode ended, and not by a time limit;
    ``discounts`` those of n-step returns, None: gamma."""

    obs: PyTorchObs  # (S, B, ..); of a lone agent (B, ..), or a dict of these
    next_obs: PyTorchObs
    actions: Tensor  # (S, B, n), scaled to [-1, 1]
    rewards: Tensor  # (S, B)
    ended: Tensor  # (S, B)
    discounts: Tensor | None = None  # (S, B)


class Settings:
    """Numbers that each learner has of its own, (S,) each, at fixed addresses on the device: what an update reads."""

    def __init__(self, learners: int, device: torch.device) -> None:
        self.columns = torch.zeros(len(_OWN), learners, device=device)
        #: Least and largest value of the next state that a target is made of, (S, 2); None: any.
        self.value_range: Tensor | None = None
        self._known: list[list[float]] = []
        self._at = {name: i for i, name in enumerate(_OWN)}

    def read(self, agents: Sequence[Any]) -> None:
        """Take over the agents' attributes of these names."""
        now = [[float(getattr(agent, name)) for agent in agents] for name in _OWN]
        if now != self._known:
            self._known = now
            self.columns.copy_(torch.tensor(now))

    def within(self, values: Tensor) -> Tensor:
        """Values (S, B) of the next states, moved into their range."""
        if self.value_range is None:
            return values
        return torch.minimum(torch.maximum(values, self.value_range[:, :1]), self.value_range[:, 1:])

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name not in self._at:
            raise AttributeError(name)
        return self.columns[self._at[name]]

    def any(self, name: str, s: int) -> bool:
        """Whether learner s has a number other than 0, without asking the device."""
        return self._known[self._at[name]][s] != 0.0

    def somewhere(self, name: str) -> bool:
        """Whether some learner has."""
        return any(number != 0.0 for number in self._known[self._at[name]])


class Draws(NamedTuple):
    """An update's random numbers."""

    noise: Tensor | None  # (S, B, n), on the target's action; None: none
    jitter: Tensor | None  # (S, B, n), on the stored actions; None: none
    members: Tensor | None  # (S, K), whose least is the target; None: all
