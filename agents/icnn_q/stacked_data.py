"""What stacked learners keep apart for each seed: its random streams and its transitions."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from icnn_rl.agents.icnn_q.batch import Batch

__all__ = ["StackedReplay", "Streams"]


class Streams:
    """The process's random generators as they stand now, to be drawn from later as if nothing else had drawn.

    Args:
        device: whose generator it is.
        own: for an agent without a seed, which leaves the process's generators as they are: seeds drawn from them, so
            that the next one's are others.

    Attributes:
        numpy: goes on where NumPy's global generator stands: exploration noise and replay indices.
        torch: goes on where PyTorch's generator of the device stands: target noise.
    """

    def __init__(self, device: torch.device, own: bool = False) -> None:
        self.device = device
        self.numpy = np.random.RandomState()  # the kind that SB3 draws from
        self.torch = torch.Generator(device)
        self._take()
        if own:
            self.numpy.seed(np.random.randint(2**32, dtype=np.uint64))  # noqa: NPY002
            self.torch.manual_seed(int(torch.randint(2**62, ())))

    def _take(self) -> None:
        self._python, self._cpu = random.getstate(), torch.get_rng_state()
        self.numpy.set_state(np.random.get_state())  # noqa: NPY002
        self.torch.set_state(torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else self._cpu)

    def _put(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self.numpy.get_state())  # noqa: NPY002
        torch.set_rng_state(self._cpu if self.device.type == "cuda" else self.torch.get_state())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.torch.get_state(), self.device)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the process draws from these streams, which go on from where it leaves them."""
        others = Streams(self.device)
        self._put()
        try:
            yield
        finally:
            self._take()
            others._put()


class StackedReplay:
    """The replay buffers of S agents on the device: one tensor (S, capacity, 2 o + n + 3), float32, or float64 where
    the observations have digits that float32 would lose.

    A row holds observation, next observation, action, reward, done, and whether a time limit ended the episode. All
    agents step together, so that one position serves them all.

    Args:
        buffers: the agents' own, of one environment each, all equally full. Their contents are copied.
        device: where the tensor lies.
    """

    def __init__(self, buffers: list[ReplayBuffer], device: torch.device) -> None:
        first = buffers[0]
        assert isinstance(first.observation_space, spaces.Box)
        o, n = int(np.prod(first.observation_space.shape)), first.action_dim
        self._widths = [o, o, n, 1, 1, 1]
        self.capacity, self.pos, self.full = first.buffer_size, first.pos, first.full
        dtype = np.float32 if np.can_cast(first.observations.dtype, np.float32) else np.float64
        self._next = np.zeros((len(buffers), sum(self._widths)), dtype=dtype)
        like = torch.from_numpy(self._next)
        self.rows = torch.zeros(len(buffers), self.capacity, sum(self._widths), device=device, dtype=like.dtype)
        self._timeouts = [buffer.handle_timeout_termination for buffer in buffers]
        for own, buffer in zip(self.rows, buffers, strict=True):
            widths = zip(_arrays(buffer), self._widths, strict=True)
            parts = [part[: len(self)].reshape(len(self), width) for part, width in widths]
            own[: len(self)] = torch.as_tensor(np.concatenate(parts, -1, dtype=dtype))

    def __len__(self) -> int:
        return self.capacity if self.full else self.pos

    def slot(self, seed: int) -> _Slot:
        """Where an agent puts its next transition."""
        return _Slot(self._next[seed], self._timeouts[seed])

    def commit(self) -> None:
        """Store the transitions that all slots have been given."""
        self.rows[:, self.pos].copy_(to_device(torch.from_numpy(self._next.copy()), self.rows.device))
        self.pos += 1
        if self.pos == self.capacity:
            self.full, self.pos = True, 0

    def gather(self, index: Tensor) -> Batch:
        """The transitions at ``index`` (S, B), int64."""
        offsets = torch.arange(0, self.rows.shape[0] * self.capacity, self.capacity, device=index.device)
        chosen = self.rows.flatten(0, 1)[index + offsets.unsqueeze(-1)]
        obs, next_obs, *rest = torch.split(chosen, self._widths, dim=-1)
        actions, rewards, dones, timeouts = (part.float() for part in rest)
        return Batch(obs, next_obs, actions, rewards.squeeze(-1), (dones * (1.0 - timeouts)).squeeze(-1))

    def write_to(self, buffer: ReplayBuffer, seed: int) -> None:
        """Bring an agent's own buffer up to date."""
        parts = torch.split(self.rows[seed, : len(self)].cpu(), self._widths, dim=-1)
        for array, part in zip(_arrays(buffer), parts, strict=True):
            array[: len(self)] = part.numpy().reshape(array[: len(self)].shape)
        buffer.pos, buffer.full = self.pos, self.full


class _Slot:
    """Looks like a replay buffer to SB3, and takes one transition. ``timeouts``: a time limit is no end."""

    def __init__(self, row: np.ndarray, timeouts: bool) -> None:
        self._row, self._timeouts = row, timeouts

    def add(
        self, obs: Any, next_obs: Any, action: Any, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        timeout = np.array([self._timeouts and info.get("TimeLimit.truncated", False) for info in infos])
        self._row[:] = np.concatenate([np.ravel(part) for part in (obs, next_obs, action, reward, done, timeout)])


def _arrays(buffer: ReplayBuffer) -> tuple[np.ndarray, ...]:
    """A buffer's arrays in the order of a row."""
    both = (buffer.observations, buffer.next_observations)
    return (*both, buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy from the host that the host does not wait for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
