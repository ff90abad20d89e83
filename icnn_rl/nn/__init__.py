"""Input-convex networks: scalar functions that are convex in some of their inputs."""

from icnn_rl.nn.activations import CONVEX_ACTIVATIONS, ConvexActivation, resolve_activation
from icnn_rl.nn.conv.energy import ConvEnergy
from icnn_rl.nn.conv.picnn import ConvPICNN, NonNegativeConv2d
from icnn_rl.nn.cvxpy_expression import to_cvxpy
from icnn_rl.nn.energy import ConvexLayer, EnsembleEnergy
from icnn_rl.nn.epigraph import NetworkProgram, to_linear_program, to_quadratic_program
from icnn_rl.nn.icnn import ICNN
from icnn_rl.nn.linear import NonNegativeLinear
from icnn_rl.nn.picnn import PICNN
from icnn_rl.nn.transport import gaussian_transport, initialise_gradient_map

__all__ = [
    "CONVEX_ACTIVATIONS",
    "ICNN",
    "PICNN",
    "ConvEnergy",
    "ConvPICNN",
    "ConvexActivation",
    "ConvexLayer",
    "EnsembleEnergy",
    "NetworkProgram",
    "NonNegativeConv2d",
    "NonNegativeLinear",
    "gaussian_transport",
    "initialise_gradient_map",
    "resolve_activation",
    "to_cvxpy",
    "to_linear_program",
    "to_quadratic_program",
]
