"""Convex sets, one for each problem of a batch: nearest and interior points, quadratics minimised over them."""

from icnn_rl.sets.convex_set import ConvexSet
from icnn_rl.sets.domains import Ball, Box, Domain, Polytope, Simplex, Unconstrained
from icnn_rl.sets.ellipsoid import Ellipsoid
from icnn_rl.sets.interior import Interior
from icnn_rl.sets.intersection import intersect
from icnn_rl.sets.minimum import Minimum

__all__ = [
    "Ball",
    "Box",
    "ConvexSet",
    "Domain",
    "Ellipsoid",
    "Interior",
    "Minimum",
    "Polytope",
    "Simplex",
    "Unconstrained",
    "intersect",
]
