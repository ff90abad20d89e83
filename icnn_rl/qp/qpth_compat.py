"""A stand-in for ``qpth.qp.QPFunction``: programs written for qpth run after a change of the import.

    from icnn_rl.qp.qpth_compat import QPFunction, QPSolvers        # was: from qpth.qp import QPFunction, QPSolvers

What differs is deliberate: a row without a solution raises SolveError instead of returning numbers, and gradients of
parameters that the batch shares are sums over it, not means. Sparse problems (``SpQPFunction``) are out of scope; give
a diagonal Q, bounds and shared matrices to :func:`icnn_rl.qp.solve_qp`, which makes use of them.
"""

from __future__ import annotations

import enum
import functools
from typing import Any, Protocol

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_positive_int, check_range
from icnn_rl.eager import eager
from icnn_rl.qp.api import solve_qp
from icnn_rl.qp.external import External
from icnn_rl.qp.settings import PrimalDual

__all__ = ["QPFunction", "QPSolvers"]

#: Dimensions of Q, p, G, h, A, b with a batch; one less without.
_DIMENSIONS = {"Q": 3, "p": 2, "G": 3, "h": 2, "A": 3, "b": 2}


class QPSolvers(enum.Enum):
    """PDIPM_BATCHED: all rows at once, by :class:`PrimalDual`. CVXPY: one after the other, by :class:`External`."""

    PDIPM_BATCHED = 1
    CVXPY = 2


class _Solve(Protocol):
    def __call__(self, Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor: ...


def QPFunction(  # noqa: N802  qpth's name
    eps: float = 1e-12,
    verbose: int = 0,
    notImprovedLim: int = 3,
    maxIter: int = 20,
    solver: QPSolvers = QPSolvers.PDIPM_BATCHED,
    check_Q_spd: bool = True,
    *,
    average_shared_gradients: bool = False,
) -> _Solve:
    """Return f(Q, p, G, h, A, b) -> z, differentiable, with z (batch, n) the minimiser of every row:

        min_z  1/2 z^T Q z + p^T z    subject to    G z <= h,  A z = b.

    Q is (batch, n, n) or (n, n), p (batch, n) or (n,), G (batch, m, n) or (m, n), h (batch, m) or (m,), A and b alike;
    what has no batch dimension is shared by all rows, and if nothing has one, batch is 1. An empty tensor, as
    ``torch.Tensor()``, leaves out G and h or A and b (None does too). All float32, or all float64, the dtype of z.

    Args:
        eps: residual at which a row counts as solved, here relative and not below 1e-9, which is the default; the
            corrections that follow go to rounding in any case.
        verbose, notImprovedLim: accepted and without effect. Nothing is printed; a row that is stuck is an error.
        maxIter: factorisations a row may take, if more than the 60 that ``PrimalDual`` allows: qpth returns what it
            has after so many steps, here a row cut short is an error.
        solver: see :class:`QPSolvers`.
        check_Q_spd: refuse a Q that is not positive definite. Without, positive semidefinite is enough.
        average_shared_gradients: divide gradients of what the rows share by the size of the batch, as qpth does. They
            are then not the gradients of the loss; it is there to repeat runs whose learning rates were tuned to it.

    Raises:
        ValueError: a wrong argument, here or in f; f raises NonConvexError, a ValueError, where Q has a negative
            eigenvalue.
        RuntimeError: from f, as in qpth: Q is not positive definite and ``check_Q_spd`` is set.
        SolveError: from f: a row was not solved; carries the solution and says why.

    Example:
        >>> e = torch.Tensor()
        >>> QPFunction()(torch.eye(2), torch.tensor([-1.0, -3.0]), torch.eye(2), torch.full((2,), 2.0), e, e)
        tensor([[1., 2.]])

    References:
        B. Amos, J. Z. Kolter, OptNet, ICML 2017; https://github.com/locuslab/qpth, version 0.0.18.
    """
    del verbose, notImprovedLim
    if not isinstance(solver, QPSolvers):
        raise ValueError(f"solver: expected one of {', '.join(map(str, QPSolvers))}, got {solver!r}.")
    tol = min(max(check_range("eps", eps, 0.0, float("inf")), PrimalDual().tolerance), 1.0)
    max_steps = max(check_positive_int("maxIter", maxIter), PrimalDual().max_steps)
    batched = solver is QPSolvers.PDIPM_BATCHED
    method = PrimalDual(tol=tol, max_steps=max_steps) if batched else External(tol=tol)
    return functools.partial(_solve, method, bool(check_Q_spd), bool(average_shared_gradients))


@eager("QPFunction")
def _solve(
    method: PrimalDual | External,
    check_spd: bool,
    average: bool,
    Q: Tensor,
    p: Tensor,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
) -> Tensor:
    given = {"Q": Q, "p": p, "G": G, "h": h, "A": A, "b": b}
    parts: dict[str, Any] = {name: t for name, t in given.items() if not _is_empty(t)}
    batch = _batch(parts)
    if check_spd and bool((torch.linalg.cholesky_ex(Q)[1] != 0).any()):
        raise RuntimeError(
            "Q is not SPD: it is not positive definite in some row. check_Q_spd=False admits semidefinite ones."
        )
    if average:
        parts = {name: t if t.dim() == _DIMENSIONS[name] else _average(t, batch) for name, t in parts.items()}
    if parts["p"].dim() == 1:
        parts["p"] = parts["p"].expand(batch, -1)
    return solve_qp(**parts, solver=method).value


def _is_empty(t: object) -> bool:
    return t is None or (isinstance(t, Tensor) and t.numel() == 0)


def _batch(parts: dict[str, Any]) -> int:
    """The number of rows; 1 if nothing has a batch dimension."""
    for name in ("Q", "p"):
        if name not in parts:
            raise ValueError(f"{name}: expected numbers, got an empty tensor, which only G and h or A and b can be.")
    sizes = [1]
    for name, t in parts.items():
        dims = _DIMENSIONS[name]
        if check_float_tensor(name, t).dim() not in (dims - 1, dims):
            raise ValueError(f"{name}: expected {dims} dimensions, or {dims - 1} if all rows share it, got {t.dim()}.")
        if t.dim() == dims:
            sizes.append(t.shape[0])
    return max(sizes)


def _average(shared: Tensor, batch: int) -> Tensor:
    """The same tensor; its gradient, a sum over the rows, is divided by their number."""
    out: Tensor = _Average.apply(shared, batch)  # type: ignore[no-untyped-call]
    return out


class _Average(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor, batch: int) -> Tensor:
        return t.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.batch = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.batch, None
