"""A point mass whose goal lies behind discs that it must not enter."""

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
ACCELERATION = 8.0  # m/s^2 at a = 1, in either direction
ARENA = 2.0  # m: the walls are at +-2
SPEED = 2.0  # m/s, in either direction
BRAKING = 0.25  # s: the time constant kappa below
MARGIN = 1e-4  # m that the rows keep away from discs and walls: rounding to float32 costs 100 times less
#: x, y, radius (m)
DISCS = ((-0.5, 0.55, 0.5), (-0.3, -0.6, 0.45), (0.6, 0.05, 0.4))
_FENCE = 10.0  # m and m/s: where the numbers of an environment without its constraint end


class PointDiscs(gym.Env[Array, Array]):
    """A point mass in the plane that is to reach a goal behind three discs.

    The state is the position p and the velocity v. One step (semi-implicit Euler):

        v' = v + dt a_max a,    p' = p + dt v',    a in [-1, 1]^2.

    Observation (6,) float32: p (m), v (m/s), goal (m). Reward: -0.1 ||p' - goal|| - 0.001 ||a||^2, and 0.5 within
    0.15 m of the goal. The straight way leads through the discs. Episodes end after 200 steps by truncation, never
    before. At reset the point rests at the left, x in [-1.8, -1.4] and y in [-1, 1], and the goal lies at the right,
    x in [1.3, 1.7] and y in [-0.6, 0.6]. ``info["constraint/state_violation"]`` is the depth (m) in a disc or a wall,
    the largest of radius_j - ||p - c_j|| and |p_i| - 2: > 0 where one is entered.
    """

    #: s, of a step.
    dt = DT

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        most = np.array([_FENCE] * 4 + [ARENA] * 2, np.float32)
        self.observation_space = spaces.Box(-most, most, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position, self.velocity, self.goal = np.zeros(2), np.zeros(2), np.zeros(2)
        self._trail: list[Array] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.np_random.uniform((-1.8, -1.0), (-1.4, 1.0))
        self.velocity = np.zeros(2)
        self.goal = self.np_random.uniform((1.3, -0.6), (1.7, 0.6))
        self._trail = [self.position]
        return self._observation(), self._info()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        push = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self.velocity = np.clip(self.velocity + DT * ACCELERATION * push, -_FENCE, _FENCE)
        self.position = np.clip(self.position + DT * self.velocity, -_FENCE, _FENCE)
        self._trail.append(self.position)
        away = float(np.linalg.norm(self.position - self.goal))
        reward = -0.1 * away - 0.001 * float(push @ push) + 0.5 * (away <= 0.15)
        return self._observation(), reward, False, False, self._info()

    def render(self) -> Array | None:
        """(400, 400, 3) uint8: walls, discs, goal, the way so far, the point (red inside a disc) and its velocity."""
        if self.render_mode is None:
            return None
        canvas = draw.Canvas(400, 1.1 * ARENA)
        canvas.frame(ARENA, 0.03, draw.BLACK)
        for x, y, radius in DISCS:
            canvas.disc((x, y), radius, draw.GREY)
            canvas.ring((x, y), radius, 0.025, draw.RED)
        canvas.disc(self.goal, 0.15, draw.ORANGE, alpha=0.5)
        canvas.disc(self.goal, 0.03, draw.ORANGE)
        for start, end in zip(self._trail[:-1], self._trail[1:], strict=True):
            canvas.line(start, end, 0.02, draw.BLUE, alpha=0.5)
        canvas.line(self.position, self.position + 0.2 * self.velocity, 0.025, draw.BLACK)
        canvas.disc(self.position, 0.06, draw.RED if self._depth() > 0 else draw.BLUE)
        return canvas.picture()

    def _observation(self) -> Array:
        return np.concatenate((self.position, self.velocity, self.goal)).astype(np.float32)

    def _depth(self) -> float:
        """How deep the point is in a disc or a wall, m."""
        discs = max(radius - float(np.hypot(*(self.position - (x, y)))) for x, y, radius in DISCS)
        return max(discs, float(np.abs(self.position).max()) - ARENA)

    def _info(self) -> dict[str, Any]:
        return {"constraint/state_violation": self._depth()}


def stay_clear() -> ActionConstraint:
    """Rows that keep the point out of discs and walls for ever; they read the observation's entries 0 to 3.

    For the disc with centre c let B = ||p - c|| - radius be the distance to it, and n = (p - c) / ||p - c||. With a
    time kappa > 0 the row is the control barrier

        n^T v' + B / (kappa + dt) >= 0,    v' = v + dt a_max a,

    affine in a and exact: v' is the velocity after the step, so n^T v' stands for dB/dt, and the relative degree is
    one. The walls are the same with n along an axis, where B / (kappa + dt) is cut at v_max, which limits the speed to
    |v_i'| <= v_max. What a disc forbids in position is not convex; what it forbids in a, here and now, is a half-plane.

    Why no disc is entered: the distance to c is convex along the step, p' = p + dt v', so B' >= B + dt n^T v', which is
    at least kappa s' with s' = -n^T v', the closing speed; so B' >= 0 if s' >= 0, and if s' < 0, B' > B.

    Why there is always an action: along a straight line the radial speed grows, so with the new normal n' the closing
    speed -n'^T v' is at most s', and kappa (-n'^T v') <= B' holds after every step as it does at the start, at rest. In
    such a state *one* action satisfies all rows of all discs and walls together: the brake v'' = v' kappa / (kappa +
    dt). It takes |a_i| = |v_i'| / ((kappa + dt) a_max), so the actuator is strong enough if

        a_max >= v_max / (kappa + dt) = 6.7,

    and it has 8. What is aimed at is 1e-4 m away from discs and walls, for the rounding of observations and actions.
    """
    return control_barrier(clearances, 1.0 / (BRAKING + DT))


_CENTRES = torch.tensor([disc[:2] for disc in DISCS], dtype=torch.float64)
_RADII = torch.tensor([disc[2] + MARGIN for disc in DISCS], dtype=torch.float64)
_INWARD = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def clearances(obs: Tensor) -> Barrier:
    """Of three discs and four walls, for observations (B, 6): distances, what the velocity alone makes of their rates,
    and the slope of the rates after the step in a."""
    p, v = obs[..., None, 0:2], obs[..., None, 2:4]
    away = p - _CENTRES.to(obs)
    reach = away.norm(dim=-1)
    inward = _INWARD.to(obs)
    n = torch.cat((away / reach.clamp(min=1e-9).unsqueeze(-1), inward.expand(*obs.shape[:-1], 4, 2)), -2)
    room = ((p * inward).sum(-1) + (ARENA - MARGIN)).clamp(max=SPEED * (BRAKING + DT))
    value = torch.cat((reach - _RADII.to(obs), room), -1)
    return Barrier(value, (n * v).sum(-1), DT * ACCELERATION * n)


def point_discs(render_mode: str | None = None, **settings: Any) -> gym.Env[Any, Any]:
    """:class:`PointDiscs` under :func:`stay_clear`; ``project``, ``fallback`` and ``tol`` as everywhere."""
    return constrained(PointDiscs(render_mode), stay_clear(), **settings)


point_discs.metadata = PointDiscs.metadata  # type: ignore[attr-defined]  # gymnasium.make looks here
