"""Reacher-v5 under limits, see :mod:`icnn_rl.envs.mujoco`."""

from __future__ import annotations

from typing import Any

from icnn_rl.constraints import ball, power_limit
from icnn_rl.envs.mujoco import Env, drawn, limited

#: Where the velocities of joint0 and joint1 stand in the observation.
VELOCITIES = slice(6, 8)


@drawn
def reacher_o(max_power: float, **settings: Any) -> Env:
    """Reacher-v5 under |w_1 a_1| + |w_2 a_2| <= max_power; reads the observation's entries 6 and 7: qvel[0:2].

    Args:
        max_power: 0.3, 1 and 3 in Reacher-O03, -O10 and -O30.
    """
    return limited("reacher_v5", "ReacherEnv", power_limit(VELOCITIES, max_power), settings)


@drawn
def reacher_l2(size: float = 0.05, **settings: Any) -> Env:
    """Reacher-v5 under ||a||^2 <= size; the same in every state, reads nothing."""
    return limited("reacher_v5", "ReacherEnv", ball(size**0.5), settings)
