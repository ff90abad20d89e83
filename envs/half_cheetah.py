"""HalfCheetah-v5 under limits, see :mod:`icnn_rl.envs.mujoco`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.constraints import box, linear, power_limit
from icnn_rl.envs.mujoco import Env, drawn, limited

#: Where the velocities of bthigh, bshin, bfoot, fthigh, fshin and ffoot stand in the observation.
VELOCITIES = slice(11, 17)


@drawn
def half_cheetah_o(max_power: float = 20.0, **settings: Any) -> Env:
    """HalfCheetah-v5 under sum_i |w_i a_i| <= max_power; reads the observation's entries 11 to 16: qvel[3:9]."""
    return limited("half_cheetah_v5", "HalfCheetahEnv", power_limit(VELOCITIES, max_power), settings)


@drawn
def half_cheetah_ma(max_power: float = 5.0, **settings: Any) -> Env:
    """HalfCheetah-v5 under w_1 a_1 sin(t_1 + t_2 + t_3) + w_4 a_4 sin(t_4 + t_5 + t_6) <= max_power.

    t are the angles of the joints bthigh, bshin, bfoot, fthigh, fshin, ffoot, entries 2 to 7 of the observation
    (qpos[3:9]); w_1 and w_4 are entries 11 and 14 (qvel[3] and qvel[6]).
    """
    return limited("half_cheetah_v5", "HalfCheetahEnv", linear(_Lifting(), (max_power,)), settings)


@drawn
def half_cheetah_box(limit: float = 0.5, **settings: Any) -> Env:
    """HalfCheetah-v5 under |a_i| <= limit; the same in every state, reads nothing.

    The action space stays [-1, 1]^6. Fast gaits of the cheetah drive most joints with all they have (about half of the
    coordinates of greedy actions lie on +-1), so at half the torque the optimum lies on the limit in most states.
    """
    return limited("half_cheetah_v5", "HalfCheetahEnv", box(-limit, limit), settings)


@dataclass(frozen=True)
class _Lifting:
    """The row of :func:`half_cheetah_ma`: observations (B, 17) -> (B, 1, 6)."""

    def __call__(self, obs: Tensor) -> Tensor:
        row = torch.zeros(*obs.shape[:-1], 1, 6, dtype=obs.dtype, device=obs.device)
        row[..., 0, 0] = obs[..., 11] * obs[..., 2:5].sum(-1).sin()
        row[..., 0, 3] = obs[..., 14] * obs[..., 5:8].sum(-1).sin()
        return row
