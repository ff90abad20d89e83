"""Hopper-v5 under limits, see :mod:`icnn_rl.envs.mujoco`."""

from __future__ import annotations

from typing import Any

from icnn_rl.constraints import box, power_limit
from icnn_rl.envs.mujoco import Env, drawn, limited

#: Where the velocities of thigh, leg and foot stand in the observation.
VELOCITIES = slice(8, 11)


@drawn
def hopper_m(max_power: float = 10.0, **settings: Any) -> Env:
    """Hopper-v5 under sum_i max(w_i a_i, 0) <= max_power; reads the observation's entries 8 to 10: qvel[3:6].

    Hopper's observation clips velocities to +-10 rad/s, and the limit is on the power that the clipped velocities say:
    of a joint that turns faster the true power, |qvel| a, may exceed it. So it is in the benchmark.
    """
    limit = power_limit(VELOCITIES, max_power, motoring_only=True)
    return limited("hopper_v5", "HopperEnv", limit, settings)


@drawn
def hopper_box(lower: float = -0.4, upper: float = 0.6, **settings: Any) -> Env:
    """Hopper-v5 under lower <= a_i <= upper; the same in every state, reads nothing.

    The action space stays [-1, 1]^3. A hop is a push with all the torque there is, in either direction, so the optimum
    lies on the limits; they are not symmetric, so that the middle of the set is not 0.
    """
    return limited("hopper_v5", "HopperEnv", box(lower, upper), settings)
