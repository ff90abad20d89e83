"""A small environment with a state-dependent constraint, and a stand-in for the wrapper that projects."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from icnn_rl.constraints import ActionConstraint, linear

LOW, HIGH = np.array([-2.0, 1.0], np.float32), np.array([4.0, 3.0], np.float32)


def budget(obs: Tensor) -> Tensor:
    """h(s) of a_1 + a_2 <= h(s); between 1 and 4, a set that is never empty and rarely everything."""
    return 2.5 + 1.5 * torch.sin(obs[..., :1])


BUDGET = linear([[1.0, 1.0]], budget)


class DriftEnv(gym.Env[Any, np.ndarray]):
    """A random walk of four numbers; reward -|a - target(s)|^2 with a target that the constraint often forbids. With
    ``as_dict`` the numbers are the part "raw" of a Dict, beside scaled ones."""

    def __init__(self, as_dict: bool = False) -> None:
        vector = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.as_dict = as_dict
        self.observation_space = spaces.Dict({"raw": vector, "net": vector}) if as_dict else vector
        self.action_space = spaces.Box(LOW, HIGH)

    def _obs(self) -> Any:
        return {"raw": self.x.copy(), "net": 0.1 * self.x} if self.as_dict else self.x.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=4).astype(np.float32), 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.all(action >= LOW - 1e-5), action
        assert np.all(action <= HIGH + 1e-5), action
        reward = -float((action[0] - 2.0) ** 2 + (action[1] - 2.0 - 0.5 * np.tanh(self.x[1])) ** 2)
        self.x = (0.9 * self.x + 0.5 * self.np_random.normal(size=4)).astype(np.float32)
        self.t += 1
        return self._obs(), reward, False, self.t >= 25, {}


class Projecting(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Executes the nearest action of the set within the bounds and says which in ``info``."""

    def __init__(self, env: gym.Env[Any, np.ndarray], constraint: ActionConstraint) -> None:
        super().__init__(env)
        self.constraint = constraint
        self.executed: list[np.ndarray] = []
        self.worst = -np.inf

    def _tensors(self) -> Any:
        obs = self.obs if isinstance(self.obs, dict) else {"": self.obs}
        parts = {key: torch.as_tensor(part, dtype=torch.float64).unsqueeze(0) for key, part in obs.items()}
        return parts if isinstance(self.obs, dict) else parts[""]

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.obs, info = self.env.reset(**kwargs)
        return self.obs, info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, wanted = self._tensors(), torch.as_tensor(action, dtype=torch.float64).unsqueeze(0)
        found = self.constraint.at(obs, 2)
        bounded = type(found)(G=found.G, h=found.h, lb=torch.as_tensor(LOW), ub=torch.as_tensor(HIGH)).to(wanted)
        executed = bounded.project(wanted).value.squeeze(0).numpy()
        self.worst = max(self.worst, float(self.constraint.violation(obs, torch.as_tensor(executed).unsqueeze(0))))
        self.executed.append(executed)
        self.obs, reward, terminated, truncated, info = self.env.step(executed)
        info["action/executed"] = executed
        info["constraint/violation_before"] = float(self.constraint.violation(obs, wanted))
        return self.obs, reward, terminated, truncated, info
