"""Settings of the solver."""

from __future__ import annotations

from dataclasses import dataclass

from icnn_rl._checks import check_choice, check_positive_int, check_range

__all__ = ["PrimalDual"]


@dataclass(frozen=True)
class PrimalDual:
    """Settings of the primal-dual method.

    Args:
        tol: the largest residual of a row that counts as solved, see :class:`icnn_rl.qp.certificates.Residuals`.
        max_steps: factorisations a row may take, in all attempts together.
        dtype: where float32 input is iterated on: "float64", or "input", that is in float32 with corrections, residuals
            and derivatives in float64 from factors in float32. The result is as accurate either way.
        compiled: solve tiny problems (up to 16 variables, 128 inequalities and bounds, no equalities; Q positive
            definite; on a CPU, in float64) in a compiled kernel where numba is installed (``pip install
            'icnn-rl[fast]'``). Solutions and statuses are the same; the time, most of it torch's price of calling an
            operation, and ``num_steps`` differ. The first such solve on a machine compiles, for some 20 s.
        dense: likewise solve dense problems of up to 600 variables in a compiled interior-point kernel, a row at a
            time, on LAPACK. It is new, and off by default: where more than one multiplier or minimiser is right it may
            report another than torch's path. What it leaves, and what does not pass the same check, goes to torch.
    """

    tol: float = 1e-9
    max_steps: int = 100
    dtype: str = "float64"
    compiled: bool = True
    dense: bool = False

    def __post_init__(self) -> None:
        check_range("PrimalDual.tol", self.tol, 0.0, 1.0, open_low=True)
        check_positive_int("PrimalDual.max_steps", self.max_steps)
        check_choice("PrimalDual.dtype", self.dtype, ("float64", "input"))
