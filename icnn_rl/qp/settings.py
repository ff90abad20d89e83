"""Settings of the solver."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch

from icnn_rl.checks import check_choice, check_positive_int, check_range

__all__ = ["DEFAULT_TOL", "PrimalDual"]

#: What counts as solved if nobody says, by the dtype of the data.
DEFAULT_TOL = {torch.float64: 1e-9, torch.float32: 1e-6}


@dataclass(frozen=True)
class PrimalDual:
    """Settings of the primal-dual method.

    Args:
        tol: the largest residual of a row that counts as solved, see :class:`icnn_rl.qp.certificates.Residuals`.
            None: 1e-9 for float64 input and 1e-6 for float32, whose numbers agree with each other to 1e-7 at best.
        max_steps: factorisations a row may take, in all attempts together.
        dtype: where float32 input is iterated on: "float64", or "input", that is in float32 with corrections, residuals
            and derivatives in float64 from factors in float32. The result is as accurate either way.
        compiled: solve tiny problems (up to 16 variables, 128 inequalities and bounds, no equalities; Q positive
            definite; on a CPU, in float64) in a compiled kernel where numba is installed (``pip install -e
            '.[fast]'``). Solutions and statuses are the same; the time, most of it torch's price of calling an
            operation, and ``num_steps`` differ. The first such solve on a machine compiles, for some 20 s.
        dense: likewise solve what is left of these, and other dense problems of up to 600 variables, in a compiled
            interior-point kernel, a row at a time, on SciPy's LAPACK. What it does not solve goes to torch. Where more
            than one multiplier or minimiser is right it may report another one. The first such solve on a machine
            compiles for half a minute, and so, for less, does the first gradient.
        convex: "check" refuses a Q with a negative eigenvalue; beyond the rounding of its dtype, that is, 1e-12 of the
            largest in float64. "assume" takes your word for it that such eigenvalues are rounding of your own, however
            large: the identity is added to Q as often as lifts the lowest one to 0, and the solution is that of this Q.
    """

    tol: float | None = None
    max_steps: int = 100
    dtype: str = "float64"
    compiled: bool = True
    dense: bool = True
    convex: str = "check"

    def __post_init__(self) -> None:
        if self.tol is not None:
            check_range("PrimalDual.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("PrimalDual.max_steps", self.max_steps)
        check_choice("PrimalDual.dtype", self.dtype, ("float64", "input"))
        check_choice("PrimalDual.convex", self.convex, ("check", "assume"))

    def for_data(self, dtype: torch.dtype) -> PrimalDual:
        """These settings with a number for ``tol``, for data that came in this dtype."""
        return self if self.tol is not None else _with_tolerance(self, dtype)

    @property
    def tolerance(self) -> float:
        """``tol``; of float64 data where it is None."""
        return DEFAULT_TOL[torch.float64] if self.tol is None else self.tol


@functools.cache
def _with_tolerance(solver: PrimalDual, dtype: torch.dtype) -> PrimalDual:
    return dataclasses.replace(solver, tol=DEFAULT_TOL[dtype])
