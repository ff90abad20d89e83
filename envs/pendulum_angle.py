"""A pendulum that has to stay within an angle, although its reward calls it beyond."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from icnn_rl.constraints import ActionConstraint, Barrier, control_barrier
from icnn_rl.envs import drawing as draw
from icnn_rl.envs.project_action import constrained

Array = np.ndarray[Any, np.dtype[Any]]

DT = 0.05  # s
GRAVITY = 10.0  # 1 / s^2: g / l, with m = l = 1
TORQUE = 15.0  # N m at a = 1
LIMIT = 0.6  # rad from upright
BRAKING = 0.4  # s: the time constant kappa below
MARGIN = 1e-4  # rad inside the limit that the rows aim at: what rounding to float32 may cost is 100 times less
MAX_SPEED = 20.0  # rad/s, beyond what safe motion reaches


class PendulumAngle(gym.Env[Array, Array]):
    """An inverted pendulum that is to point at a goal beyond the angle it may reach.

    The state is the angle t from upright and its rate w. One step (semi-implicit Euler):

        w' = w + dt (g sin t + u_max a),    t' = t + dt w',    a in [-1, 1].

    Observation (3,) float32: t (rad), w (rad/s), the goal (rad), drawn from +-[0.8, 1.2] at every reset. Reward:
    -(t' - goal)^2 - 0.01 w'^2 - 0.01 a^2, so that the best safe motion ends at the limit and rests there. Episodes end
    after 200 steps by truncation, never before. At reset t is uniform within the limit and w among the rates that are
    safe there. ``info["constraint/state_violation"]`` is |t| - 0.6 rad: > 0 where the limit is crossed.
    """

    #: s, of a step.
    dt = DT

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        most = np.array([np.pi, MAX_SPEED, 1.2], np.float32)
        self.observation_space = spaces.Box(-most, most, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.angle = self.rate = self.goal = 0.0
        self._torque = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.angle = float(self.np_random.uniform(-0.9, 0.9) * LIMIT)
        least, most = (side * 0.9 * (LIMIT + side * -self.angle) / BRAKING for side in (-1.0, 1.0))
        self.rate = float(self.np_random.uniform(least, most))
        self.goal = float(self.np_random.choice([-1.0, 1.0]) * self.np_random.uniform(0.8, 1.2))
        self._torque = 0.0
        return self._observation(), self._info()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        push = float(np.clip(action[0], -1.0, 1.0))
        rate = self.rate + DT * (GRAVITY * np.sin(self.angle) + TORQUE * push)
        self.rate = float(np.clip(rate, -MAX_SPEED, MAX_SPEED))
        turned = self.angle + DT * self.rate
        self.angle = float((turned + np.pi) % (2.0 * np.pi) - np.pi)
        self._torque = push
        reward = -((self.angle - self.goal) ** 2) - 0.01 * self.rate**2 - 0.01 * push**2
        return self._observation(), reward, False, False, self._info()

    def render(self) -> Array | None:
        """(400, 400, 3) uint8: the range allowed, the goal, the pendulum (red outside), the torque as a bar below."""
        if self.render_mode is None:
            return None
        canvas = draw.Canvas(400, 1.3)
        canvas.sector((0.0, 0.0), 1.15, LIMIT, (226, 240, 228))
        for side in (-LIMIT, LIMIT):
            canvas.line((0.0, 0.0), _on_circle(side, 1.15), 0.012, draw.RED)
        canvas.disc(_on_circle(self.goal, 1.0), 0.05, draw.ORANGE)
        tip = _on_circle(self.angle, 1.0)
        colour = draw.RED if abs(self.angle) > LIMIT else draw.BLUE
        canvas.line((0.0, 0.0), tip, 0.05, draw.BLACK)
        canvas.disc(tip, 0.09, colour)
        canvas.disc((0.0, 0.0), 0.05, draw.BLACK)
        canvas.line((-0.8, -1.1), (0.8, -1.1), 0.01, draw.GREY)
        canvas.line((0.0, -1.1), (0.8 * self._torque, -1.1), 0.06, draw.BLUE)
        return canvas.picture()

    def _observation(self) -> Array:
        return np.array([self.angle, self.rate, self.goal], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"constraint/state_violation": abs(self.angle) - LIMIT}


def angle_limit() -> ActionConstraint:
    """Two rows that keep the angle within the limit for ever; they read the observation's entries 0 (t) and 1 (w).

    With B = limit - t the distance to the upper limit and kappa > 0 a time, the row is the control barrier

        -w' + B / (kappa + dt) >= 0,    w' = w + dt (g sin t + u_max a),

    which is affine in a and exact: w' is the rate after the step, so -w' stands for dB/dt, and the relative degree is
    one. (The lower limit is the same, mirrored.)

    Why the limit holds: the next distance B' = B - dt w' is at least kappa w', so B' >= 0 if w' >= 0; if w' < 0,
    B' > B. Why there is always an action: after a step, and at every start, kappa w <= B, and likewise below. The rows
    ask for a rate in [-(limit + t), limit - t] / (kappa + dt), which is an interval that holds 0. The most that has to
    be taken off the rate to get there is B / kappa - B / (kappa + dt) = dt B / (kappa (kappa + dt)), and gravity adds
    dt g sin t. So the actuator is strong enough if

        u_max >= g sin(limit) + 2 limit / (kappa (kappa + dt)) = 5.6 + 6.7 = 12.3,

    and it has 15. Two intervals, the rates asked for and the rates in reach, none of which lies wholly on one side of
    the other, meet. The limit aimed at is 1e-4 rad inside the true one, for the rounding of observations and actions.
    """
    return control_barrier(distances, 1.0 / (BRAKING + DT))


_SIDES = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # of the upper and the lower limit


def distances(obs: Tensor) -> Barrier:
    """To either limit, for observations (B, 3), what the motion without torque makes of their rates, and the slope of
    the rates after the step in a."""
    sides = _SIDES.to(obs)
    angle, rate = obs[..., 0:1], obs[..., 1:2]
    gain = (DT * TORQUE * sides).unsqueeze(-1).expand(*obs.shape[:-1], 2, 1)
    return Barrier(LIMIT - MARGIN + sides * angle, sides * (rate + DT * GRAVITY * angle.sin()), gain)


def pendulum_angle(render_mode: str | None = None, **settings: Any) -> gym.Env[Any, Any]:
    """:class:`PendulumAngle` under :func:`angle_limit`; ``project``, ``fallback`` and ``tol`` as everywhere."""
    return constrained(PendulumAngle(render_mode), angle_limit(), **settings)


pendulum_angle.metadata = PendulumAngle.metadata  # type: ignore[attr-defined]  # gymnasium.make looks here


def _on_circle(angle: float, radius: float) -> tuple[float, float]:
    """Angles count from upright, clockwise."""
    return radius * float(np.sin(angle)), radius * float(np.cos(angle))
