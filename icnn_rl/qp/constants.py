"""The numbers that the torch path and the compiled kernels share. The kernels work in float64 and take that entry where
there is one for each dtype."""

import torch

#: How far to go towards the boundary of s, z >= 0.
BACK_OFF = 0.99
#: The least s and z to start from, relative to their mean.
LEAST = 0.3
#: Below this, relative, a violation or a negative multiplier is rounding.
SIGN = {torch.float64: 1e-12, torch.float32: 1e-5}
#: Active rows further than this, relative, from equality after one solve do not fit together.
UNMET = {torch.float64: 1e-5, torch.float32: 1e-3}
#: Where next to nothing stands in for 0.
TINY = {torch.float64: 1e-300, torch.float32: 1e-37}
#: Corrections of a point by its residual at most.
CORRECTIONS = 8

#: The e of the penalty problem to start from, in the unit of c^T Q^{-1} c.
PENALTY = 0.1
#: delta, what every e is raised by, in the same unit.
DELTA = 1e-10

#: A smallest pivot or eigenvalue of Q below this, relative, counts as 0; below minus ``NEGATIVE``, as negative.
SINGULAR = 1e-9
NEGATIVE = {torch.float64: 1e-12, torch.float32: 1e-5}

#: Errors are relative to at least this share of the problem's own units; rounding, relative.
FLOOR, ROUNDING = 1e-6, 1e-16
#: Of certificates: the share of the largest multiplier that is noise, the largest relative error, and the length, where
#: 1 is possible, below which a projection counts as 0.
NOISE, CERTIFIED, SHORT = 1e-11, 1e-8, 1e-7
