"""Any solver: the forward pass by a package of the user's choice, everything after it by ours.

The package qpsolvers speaks to more than twenty solvers in one way. What such a solver answers is taken as a proposal:
constraints whose multiplier exceeds their slack are taken as active, a few active-set steps and the corrections of
:mod:`icnn_rl.qp.driver` on that set supply the digits that the solver left out, and the residuals decide whether the
row is solved. The factor of that set then serves the gradients.

References:
    S. Caron et al., qpsolvers: Quadratic Programming Solvers in Python, https://github.com/qpsolvers/qpsolvers.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icnn_rl.checks import check_choice, check_range
from icnn_rl.qp.linear.base import Point
from icnn_rl.qp.problem import Problem
from icnn_rl.qp.settings import DEFAULT_TOL

__all__ = ["External"]


@dataclass(frozen=True, init=False)
class External:
    """Solve with a solver that the package qpsolvers knows: ``solve_qp(..., solver=External("piqp"))``.

    The rows go one after the other, in float64 and on the CPU. Statuses, residuals and gradients are ours: a row whose
    answer does not pass the check against the data is not SUCCESS, whatever the solver says of it, and infeasible or
    unbounded is what we find a proof of. A row without an answer is NaN in the residuals and multipliers.
    ``warm_start`` is not used; ``num_steps`` counts our own factorisations.

    Args:
        name: one of ``qpsolvers.available_solvers``.
        tol: as in :class:`icnn_rl.qp.PrimalDual`. Not passed on.
        options: what the solver itself understands, for instance ``max_iter=50`` or ``verbose=True``.

    Raises:
        ValueError: qpsolvers is not installed (``pip install -e '.[qpsolvers]'``), has no such solver, or, when
            solving, the solver does not know an option.

    Example:
        >>> solve_qp(1.0, torch.tensor([-1.0, -3.0]), lb=0.0, ub=2.0, solver=External("clarabel", max_iter=50)).value
        tensor([1., 2.])
    """

    name: str
    tol: float | None
    options: dict[str, Any] = field(hash=False)

    #: float32 input is solved in float64: it is what the solvers take.
    dtype: ClassVar[str] = "float64"

    def __init__(self, name: str = "clarabel", *, tol: float | None = None, **options: Any) -> None:
        check_choice("External.name", name, _qpsolvers().available_solvers)
        if tol is not None:
            check_range("External.tol", tol, 0.0, 1.0, open_low=True)
        for attribute, value in (("name", name), ("tol", tol), ("options", options)):
            object.__setattr__(self, attribute, value)

    def for_data(self, dtype: torch.dtype) -> External:
        """These settings with a number for ``tol``, for data that came in this dtype."""
        return self if self.tol is not None else External(self.name, tol=DEFAULT_TOL[dtype], **self.options)

    def answers(self, problem: Problem) -> Point:
        """The solver's answer to every problem; NaN where it gave none."""
        library, n, q = _qpsolvers(), problem.n, problem.b.shape[-1]
        rows = _Rows(problem, library, sparse=self.name not in library.dense_solvers)
        found = np.empty((problem.p.shape[0], n + q + problem.d.shape[-1]))
        for i in range(len(found)):
            found[i] = rows.unpacked(i, self._call(library, rows.packed(i)))
        stacked = torch.as_tensor(found).to(problem.p)
        x, nu, z = stacked[:, :n], stacked[:, n : n + q], stacked[:, n + q :]
        return Point(x, nu, z, problem.d - problem.Cx(x))

    def _call(self, library: Any, row: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say how the solver ended: the residuals will tell
            try:
                return library.solve_problem(row, self.name, **self.options)
            except (library.SolverError, library.ProblemError):
                return library.Solution(row)
            except (AttributeError, TypeError) as error:
                raise ValueError(f"External: {self.name} does not take the options {self.options}: {error}.") from error


def likely_active(problem: Problem, point: Point) -> Tensor:
    """(B, k): the rows with z > s once both are in one unit, z |c|^2 / curvature > s with the mean diagonal of Q."""
    curvature = problem.q_diagonal.mean(-1, keepdim=True)
    curvature = torch.where(curvature > 0, curvature, 1.0)
    active = point.z * problem.row_norms().square() > curvature * point.s
    return active if problem.present is None else active & (problem.present > 0)


class _Rows:
    """The rows of a batch in the form of qpsolvers, G z <= h, A z = b, lb <= z <= ub, and its answers in ours.

    Constraints that are absent are left out of G and are infinite among the bounds. Matrices shared by all rows are
    converted once.
    """

    def __init__(self, problem: Problem, library: Any, *, sparse: bool) -> None:
        problem = problem.dense()
        self.problem, self.library, self.sparse = problem, library, sparse
        q = torch.diag_embed(problem.Q) if problem.diagonal else problem.Q
        g, a = (part if isinstance(part, Tensor) else None for part in (problem.G, problem.A))
        self.Q, self.G, self.A = (self._matrices(part) for part in (q, g, a))
        self.p, self.b = _array(problem.p), _array(problem.b)
        present = torch.ones_like(problem.d) if problem.present is None else problem.present
        self.present = _array(present) > 0
        d = torch.where(present > 0, problem.d, torch.inf)
        self.h, self.lower, self.upper = (_array(part) for part in problem.blocks(d))

    def _matrices(self, part: Tensor | None) -> list[Any]:
        if part is None:
            return []
        convert = importlib.import_module("scipy.sparse").csc_matrix if self.sparse else np.asarray
        return [convert(matrix) for matrix in _array(part)]

    def packed(self, i: int) -> Any:
        problem, kept = self.problem, self.present[i, : self.problem.m]
        h, G = self.h[i], _at(self.G, i)
        if not kept.all():
            h, G = h[kept], G[kept] if kept.any() else None
        return self.library.Problem(
            _at(self.Q, i),
            self.p[i],
            G,
            None if G is None else h,
            _at(self.A, i),
            self.b[i] if self.A else None,
            -self.lower[i] if problem.lower else None,
            self.upper[i] if problem.upper else None,
        )

    def unpacked(self, i: int, solution: Any) -> NDArray[np.float64]:
        """x, nu and z in a row; multipliers that the solver does not report are zero."""
        problem, q = self.problem, self.b.shape[-1]
        if solution.x is None:
            return np.full(problem.n + q + self.present.shape[-1], np.nan)
        z_g = np.zeros(problem.m)
        kept = self.present[i, : problem.m]
        z_g[kept] = _or_zeros(solution.z, int(kept.sum()))
        z_box = _or_zeros(solution.z_box, problem.n)
        bounds = [np.maximum(-z_box, 0.0)] * problem.lower + [np.maximum(z_box, 0.0)] * problem.upper
        return np.concatenate((solution.x, _or_zeros(solution.y, q), z_g, *bounds))


def _qpsolvers() -> Any:
    try:
        return importlib.import_module("qpsolvers")
    except ImportError as error:
        raise ValueError(
            "External: needs the package qpsolvers, which is not installed. pip install -e '.[qpsolvers]' brings it "
            "together with Clarabel."
        ) from error


def _array(t: Tensor) -> NDArray[np.float64]:
    return t.detach().cpu().double().numpy()


def _at(matrices: list[Any], i: int) -> Any:
    """That of row i, that of all rows, or None."""
    return matrices[i if len(matrices) > 1 else 0] if matrices else None


def _or_zeros(values: Any, size: int) -> NDArray[np.float64]:
    return np.zeros(size) if values is None or len(values) == 0 else np.asarray(values, dtype=np.float64)
