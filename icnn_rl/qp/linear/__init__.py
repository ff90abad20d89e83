"""The linear systems of the method: the only place where anything is factored or solved, forward and backward.

    [ Q   A^T   C^T ] [dx ]   [rx]
    [ A    0     0  ] [dnu] = [ra]          E = diag(e),  0 <= e <= inf,
    [ C    0    -E  ] [dz ]   [rc]

With e = s / z it is an interior-point step; with e = 0 on a set of active rows and e = inf (dz = 0) on the others, the
optimality conditions on that set and, with other right-hand sides, their derivatives. Every e is raised by a small
delta, which keeps dependent rows from making the matrix singular; who needs the exact solution corrects it with its
residual (the proximal method of multipliers).

Ways to eliminate, and changes to problems where they are cheap:

* :mod:`.primal` factors H = Q + C^T W C, n x n, W = 1 / (E + delta). No equalities.
* :mod:`.schur` factors that and S = A H^{-1} A^T + delta, q x q: a few equalities.
* :mod:`.range` factors R M R^T + E, R = [A; G], M = (Q + bounds)^{-1}, for bounds and a diagonal, positive Q.
* :mod:`.dual` turns to the dual problem, min 1/2 y^T R Q^{-1} R^T y + c^T y with y = (nu, z), z >= 0: bounds only, and
  a matrix that is computed once.
* :mod:`.stagewise` factors [Q + C^T W C, A^T; A, -delta] stage by stage: problems whose variables, equations and rows
  come in stages, like optimal control.
* :mod:`.eliminate`: x = A^+ b + Z v with A Z = 0 removes the equalities.
* :mod:`.scale` equilibrates, :mod:`.cast` goes to float32, :mod:`.mixed` puts two systems together.

:mod:`.base` says what a system has to offer, :mod:`.select` which one a problem gets.

References:
    B. Amos, J. Z. Kolter, OptNet, ICML 2017, section 3.1. R. Schwan et al., PIQP: A proximal interior-point quadratic
    programming solver, CDC 2023 (the proximal terms).
"""
