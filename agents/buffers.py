"""Replay buffers that store the action which the environment executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from icnn_rl.checks import check_choice

__all__ = ["ExecutedActionDictReplayBuffer", "ExecutedActionNStepReplayBuffer", "ExecutedActionReplayBuffer"]

#: Where :class:`icnn_rl.envs.ProjectAction` puts the executed action, in the environment's units.
EXECUTED = "action/executed"


def executed_actions(given: np.ndarray, infos: Sequence[dict[str, Any]], space: spaces.Box) -> np.ndarray:
    """The actions that were executed, scaled to [-1, 1], where a wrapper tells of them; else those given: (B, n).

    Raises:
        ValueError: what the wrapper tells is not finite or has another size.
    """
    rows = np.array(given, dtype=np.float64)
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    for row, info in zip(rows, infos, strict=True):
        if EXECUTED in info:
            a = np.asarray(info[EXECUTED], dtype=np.float64).reshape(-1)
            if a.shape != low.shape or not np.isfinite(a).all():
                raise ValueError(f"{EXECUTED}: expected {len(low)} finite numbers, got {info[EXECUTED]}.")
            row[:] = np.clip(2.0 * (a - low) / (high - low) - 1.0, -1.0, 1.0)
    return rows


class ExecutedActionReplayBuffer(ReplayBuffer):
    """SB3's replay buffer; the action stored is ``infos[i]["action/executed"]``, where a wrapper put it.

    Off-policy algorithms hand in the action they asked for, with exploration noise and scaled to [-1, 1]. A wrapper
    that projects executes another one, to which reward and next state belong: stored is that one, scaled likewise,

        2 (a - low) / (high - low) - 1,     cut to [-1, 1].

    For PPO this would be wrong: its ratio compares densities of its own sample, of which the projection is a function
    that belongs to the environment; PPO's rollout buffer keeps the sample.

    Args:
        missing: what to do where the info has no such key: "given" stores the action handed in; "error" raises.
        (others): as in SB3's ReplayBuffer.

    Raises:
        ValueError: the action space is not a finite Box; an executed action is missing and ``missing`` is "error", is
            not finite, or has another size.
    """

    def __init__(self, *args: Any, missing: str = "given", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.observation_space, spaces.Dict) != isinstance(self, DictReplayBuffer):
            raise ValueError(
                f"observation_space: {type(self).__name__} is not for {type(self.observation_space).__name__} "
                "observations; for Dict observations use ExecutedActionDictReplayBuffer, for others "
                "ExecutedActionReplayBuffer."
            )
        self.missing = check_choice("missing", missing, ("given", "error"))
        space = self.action_space
        if not isinstance(space, spaces.Box) or not space.is_bounded() or not (space.low < space.high).all():
            raise ValueError(f"action_space: expected a finite Box, low < high in every coordinate, got {space}.")

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """As SB3's; ``action`` (n_envs, ...) is replaced by what was executed."""
        super().add(obs, next_obs, self._executed(action, infos), reward, done, infos)

    def _executed(self, action: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        if self.missing == "error":
            for i, info in enumerate(infos):
                if EXECUTED not in info:
                    raise ValueError(
                        f"infos[{i}]: lacks {EXECUTED!r}. Wrap the environment in icnn_rl.envs.ProjectAction, or use "
                        "missing='given'."
                    )
        assert isinstance(self.action_space, spaces.Box)
        return executed_actions(np.asarray(action).reshape(self.n_envs, self.action_dim), infos, self.action_space)


class ExecutedActionDictReplayBuffer(ExecutedActionReplayBuffer, DictReplayBuffer):
    """The same for Dict observations."""


class ExecutedActionNStepReplayBuffer(ExecutedActionReplayBuffer, NStepReplayBuffer):
    """The same with n-step returns. SB3 passes ``n_steps`` on to its own class only: give it here.

    Args:
        n_steps, gamma, as in SB3's NStepReplayBuffer, and ``missing``: by ``replay_buffer_kwargs``.
    """
