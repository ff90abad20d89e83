"""Walker2d-v5 under limits, see :mod:`icnn_rl.envs.mujoco`."""

from __future__ import annotations

from typing import Any

from icnn_rl.constraints import power_limit
from icnn_rl.envs.mujoco import Env, drawn, limited

#: Where the velocities of thigh, leg and foot of either side stand in the observation.
VELOCITIES = slice(11, 17)


@drawn
def walker2d_m(max_power: float = 10.0, **settings: Any) -> Env:
    """Walker2d-v5 under sum_i max(w_i a_i, 0) <= max_power; reads the observation's entries 11 to 16: qvel[3:9].

    The velocities are clipped to +-10 rad/s, as for :func:`icnn_rl.envs.hopper.hopper_m`.
    """
    limit = power_limit(VELOCITIES, max_power, motoring_only=True)
    return limited("walker2d_v5", "Walker2dEnv", limit, settings)
