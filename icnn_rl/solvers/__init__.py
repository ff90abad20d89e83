"""Convex minimisation over a network's inputs: solvers, domains, gradients through the minimiser."""

from icnn_rl.solvers.adjoints import DualKKT, Implicit, ImplicitCG, Unrolled
from icnn_rl.solvers.bundle import Bundle, BundleEntropy
from icnn_rl.solvers.domain import Ball, Box, Polytope, Simplex, Unconstrained
from icnn_rl.solvers.gradient import ProjectedGradient
from icnn_rl.solvers.minimize import minimize, solve
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.problem import Problem, Progress, Solver
from icnn_rl.solvers.proximal_bundle import ProximalBundle

__all__ = [
    "Ball",
    "Box",
    "Bundle",
    "BundleEntropy",
    "DualKKT",
    "Implicit",
    "ImplicitCG",
    "Polytope",
    "Problem",
    "Progress",
    "ProjectedGradient",
    "ProjectedNewton",
    "ProximalBundle",
    "Simplex",
    "Solver",
    "Unconstrained",
    "Unrolled",
    "minimize",
    "solve",
]
