"""Hard constraints on actions: what may be done in a state, and the layers that keep a policy to it."""

from icnn_rl.constraints.base import (
    ActionConstraint,
    Barrier,
    ConstraintWarning,
    EmptySetError,
    Projection,
    ball,
    box,
    control_barrier,
    ellipsoid,
    l1_ball,
    linear,
    power_limit,
    rate_limit,
)
from icnn_rl.constraints.heads import ActionProjection, OptNetHead
from icnn_rl.constraints.text import parse_constraint

__all__ = [
    "ActionConstraint",
    "ActionProjection",
    "Barrier",
    "ConstraintWarning",
    "EmptySetError",
    "OptNetHead",
    "Projection",
    "ball",
    "box",
    "control_barrier",
    "ellipsoid",
    "l1_ball",
    "linear",
    "parse_constraint",
    "power_limit",
    "rate_limit",
]
