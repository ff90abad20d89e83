"""Convex minimisation over a network's inputs: solvers, gradients through the minimiser."""

from icnn_rl.solvers.adjoints import DualKKT, Implicit, ImplicitCG, Unrolled
from icnn_rl.solvers.bundle import Bundle, BundleEntropy
from icnn_rl.solvers.conjugate import Conjugate, conjugate, gradient_map
from icnn_rl.solvers.gradient import ProjectedGradient
from icnn_rl.solvers.minimize import minimize, solve
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.problem import Problem, Progress, Solver
from icnn_rl.solvers.proximal_bundle import ProximalBundle

__all__ = [
    "Bundle",
    "BundleEntropy",
    "Conjugate",
    "DualKKT",
    "Implicit",
    "ImplicitCG",
    "Problem",
    "Progress",
    "ProjectedGradient",
    "ProjectedNewton",
    "ProximalBundle",
    "Solver",
    "Unrolled",
    "conjugate",
    "gradient_map",
    "minimize",
    "solve",
]
