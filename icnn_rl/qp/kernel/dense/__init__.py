"""Dense problems of any size, compiled, row by row of the batch: interior-point steps, made exact on the active set.

    min_x  1/2 x^T Q x + p^T x    subject to    A x = b,    C x <= d,    C = [G; -I; I].

A row is first equilibrated (Ruiz) and given units of length and cost, all powers of two, which rounds nothing. Then
come steps of the homogeneous self-dual interior-point method with Mehrotra's predictor and corrector: besides x, nu, z
and s they carry tau and kappa, and where tau goes to 0 they end in a proof that there is no solution. Once the rows
that the predictor takes for active are the same twice, active-set steps from there try to finish: the answer of a set
is one linear system, exact to rounding, and is verified. Every linear system is

    [ Q + rho   A^T      C^T       ] [dx ]   [rx]
    [ A        -delta              ] [dnu] = [ra]        E = S / Z, or 0 on an active set and infinite off it,
    [ C                -(E + delta)] [dz ]   [rc]

solved by H = Q + rho + C^T W C = L L^T with W = 1 / (E + delta) and by S = A H^{-1} A^T + delta, and corrected by its
residual against the same system without rho and delta.

References:
    D. Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, RAL-TR-2001-034, 2001.
    E. D. Andersen, C. Roos, T. Terlaky, On implementing a primal-dual interior-point method for conic quadratic
    optimization, Math. Program. 95, 2003.
    P. J. Goulart, Y. Chen, Clarabel: An interior-point solver for conic programs with quadratic objectives, 2024,
    section 3: the homogeneous embedding of a quadratic objective.
"""

from icnn_rl.qp.kernel.dense.records import KKT_DELTA, KKT_RHO, Found, Scales
from icnn_rl.qp.kernel.dense.rows import inverse, solve_rows

__all__ = ["KKT_DELTA", "KKT_RHO", "Found", "Scales", "inverse", "solve_rows"]
