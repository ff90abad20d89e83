"""Model-predictive control of a point mass in the plane as a quadratic programme, condensed and stage by stage.

    min  sum_k 1/2 (x_k - target_k)^T W (x_k - target_k) + 1/2 R |u_k|^2
    subject to  x_{k+1} = F x_k + E u_k,  |x_k| <= STATES,  |u_k| <= INPUT

x = (position, velocity) with four entries, u is the force with two. The mass drags, and its velocity is turned, so that
the two axes depend on each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.qp import Diagonal

DTYPE = torch.float64
#: Seconds a step.
STEP = 0.1
W = torch.tensor([1.0, 1.0, 0.1, 0.1], dtype=DTYPE)
R = 0.1
STATES = torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=DTYPE)
INPUT = 1.0


def plant() -> tuple[Tensor, Tensor]:
    """F (4, 4) and E (4, 2): the mass for a step, exact for a force that is constant during it."""
    rate = torch.zeros(6, 6, dtype=DTYPE)
    rate[:2, 2:4] = torch.eye(2)
    rate[2:4, 2:4] = torch.tensor([[-0.1, 0.2], [-0.2, -0.1]])
    rate[2:4, 4:] = torch.eye(2)
    moved = torch.matrix_exp(STEP * rate)
    return moved[:4, :4], moved[:4, 4:]


def condensed(x_0: Tensor, target: Tensor) -> dict[str, Tensor | float]:
    """z = (u_0, u_1, ...): the states are eliminated, X = free x_0 + forced z, and their bounds are rows of G.

    Args:
        x_0: (B, 4) where the mass is.
        target: (B, horizon, 4) where it should be at each step.
    """
    horizon = target.shape[1]
    F, E = plant()
    powers = [torch.eye(4, dtype=DTYPE)]
    for _ in range(horizon):
        powers.append(F @ powers[-1])
    free = torch.cat(powers[1:])
    zero = torch.zeros(4, 2, dtype=DTYPE)
    forced = torch.cat(
        [torch.cat([powers[k - j] @ E if j <= k else zero for j in range(horizon)], 1) for k in range(horizon)]
    )
    weights = W.repeat(horizon)
    drift = x_0 @ free.mT
    Q = forced.mT @ (weights[:, None] * forced) + R * torch.eye(2 * horizon, dtype=DTYPE)
    p = (weights * (drift - target.flatten(1))) @ forced
    limit = STATES.repeat(horizon)
    h = torch.cat([limit - drift, limit + drift], 1)
    return {"Q": Q, "p": p, "G": torch.cat([forced, -forced]), "h": h, "lb": -INPUT, "ub": INPUT}


def stages(x_0: Tensor, target: Tensor) -> dict[str, Tensor | Diagonal]:
    """z = (u_0, x_1, u_1, x_2, ...): the dynamics are equations, Q is diagonal. Arguments as for ``condensed``."""
    batch, horizon, _ = target.shape
    F, E = plant()
    A = torch.zeros(4 * horizon, 6 * horizon, dtype=DTYPE)
    for k in range(horizon):
        rows = slice(4 * k, 4 * k + 4)
        A[rows, 6 * k : 6 * k + 2] = -E
        A[rows, 6 * k + 2 : 6 * k + 6] = torch.eye(4)
        if k > 0:
            A[rows, 6 * k - 4 : 6 * k] = -F
    b = torch.cat([x_0 @ F.mT, x_0.new_zeros(batch, 4 * (horizon - 1))], 1)
    p = torch.cat([x_0.new_zeros(batch, horizon, 2), -W * target], 2).flatten(1)
    limit = torch.cat([torch.full((2,), INPUT, dtype=DTYPE), STATES]).repeat(horizon)
    weights = torch.cat([torch.full((2,), R, dtype=DTYPE), W]).repeat(horizon)
    return {"Q": Diagonal(weights), "p": p, "A": A, "b": b, "lb": -limit, "ub": limit}
