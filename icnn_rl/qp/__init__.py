"""Quadratic programmes as differentiable layers (OptNet): batched, structured, certified."""

from icnn_rl.qp.api import solve_qp
from icnn_rl.qp.driver import NonConvexError
from icnn_rl.qp.elastic import Elastic
from icnn_rl.qp.external import External
from icnn_rl.qp.layer import QPLayer
from icnn_rl.qp.mpc import MPCProblem, mpc_problem
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.qpth_compat import QPFunction, QPSolvers
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution
from icnn_rl.qp.sparse import Sparse
from icnn_rl.qp.total_variation import total_variation

__all__ = [
    "ActiveSet",
    "Diagonal",
    "Elastic",
    "External",
    "MPCProblem",
    "NonConvexError",
    "PrimalDual",
    "QPFunction",
    "QPLayer",
    "QPSolution",
    "QPSolvers",
    "Sparse",
    "mpc_problem",
    "solve_qp",
    "total_variation",
]
