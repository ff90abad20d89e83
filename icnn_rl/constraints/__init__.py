"""Hard constraints on actions: what may be done in a state, and the layers that keep a policy to it."""

from icnn_rl.constraints.base import ActionConstraint, Projection
from icnn_rl.constraints.box import box
from icnn_rl.constraints.control_barrier import Barrier, control_barrier
from icnn_rl.constraints.errors import ConstraintWarning, EmptySetError
from icnn_rl.constraints.fallback import Fallback
from icnn_rl.constraints.linear import linear
from icnn_rl.constraints.optnet import OptNetHead
from icnn_rl.constraints.power_limit import l1_ball, power_limit
from icnn_rl.constraints.projection import ActionProjection
from icnn_rl.constraints.quadratic import ball, ellipsoid
from icnn_rl.constraints.rate_limit import rate_limit
from icnn_rl.constraints.registry import register_constraint, unregister_constraint
from icnn_rl.constraints.text import parse_constraint

__all__ = [
    "ActionConstraint",
    "ActionProjection",
    "Barrier",
    "ConstraintWarning",
    "EmptySetError",
    "Fallback",
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
    "register_constraint",
    "unregister_constraint",
]
