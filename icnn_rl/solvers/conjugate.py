"""The Fenchel conjugate of a convex function, and the gradient map whose inverse its maximiser is.

    f*(y) = max_x  <x, y> - f(x),          the maximiser x = grad f*(y),          grad f(x) = y

f*(y) is minus the minimum of f(x) - <x, y>: the solvers, certificates and gradients are those of :mod:`.minimize`.
For a strictly convex f, x -> grad f(x) is one to one; where f is the potential of an optimal transport it is the map
of Brenier, and the maximiser is the map back.

References:
    R. T. Rockafellar, Convex Analysis, 1970, sections 12 and 26; A. V. Makkuva, A. Taghvaei, S. Oh, J. D. Lee, Optimal
    transport mapping via input convex neural networks, ICML 2020.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor, check_last_dim, check_same_kind
from icnn_rl.eager import eager, full_precision
from icnn_rl.sets import Domain, Unconstrained
from icnn_rl.solution import Solution, SolveError, Status
from icnn_rl.solvers import derivatives
from icnn_rl.solvers.adjoints import Unrolled
from icnn_rl.solvers.derivatives import EnergyFunction
from icnn_rl.solvers.minimize import Adjoint, check_adjoint, minimize, with_gradients
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.problem import Problem, Solver
from icnn_rl.solvers.proximal_bundle import ProximalBundle
from icnn_rl.solvers.unbounded import falling

__all__ = ["Conjugate", "conjugate", "gradient_map"]

_POLISH = 2  # further Newton steps: each squares what a gap of ``tol`` leaves, its root, in the maximiser


@dataclass(frozen=True)
class Conjugate:
    """f* at a batch of points, ``B`` in all, and what is known of each.

    Attributes:
        value: (B,) f*(y), from below: value <= f*(y) <= value + gap, up to rounding. inf where the status is
            DUAL_INFEASIBLE, for <x, y> - f(x) grows for ever along a ray; NaN at other failures.
        maximiser: (B, n) x with grad f(x) = y, or on the border of the domain; NaN where ``value`` is not finite.
        gap: (B,) certified; inf where nothing certifies: f is not known to be strongly convex and the domain is
            unbounded.
        status: (B,) int64, see :class:`icnn_rl.Status`. MAX_STEPS: the best point so far.
        num_steps: (B,) int64.
    """

    value: Tensor
    maximiser: Tensor
    gap: Tensor
    status: Tensor
    num_steps: Tensor

    @property
    def success(self) -> Tensor:
        """(B,) bool, true where the sample met its tolerance."""
        return self.status == Status.SUCCESS


@eager("conjugate")
def conjugate(
    f: EnergyFunction,
    y: Tensor,
    *,
    domain: Domain | None = None,
    solver: Solver | None = None,
    adjoint: Adjoint | str | None = "auto",
    warm_start: Tensor | None = None,
    throw: bool = True,
) -> Conjugate:
    """f*(y) = max_x <x, y> - f(x) over a domain, and the x that attains it, for every sample of a batch on its own.

    By the envelope theorem d f* = x . dy - df(x; theta), without a linear solve; d x is that of the implicit function
    theorem, H dx = dy - d grad f(x; theta) with H the Hessian of f at x.

    Args:
        f: convex x (B, n) -> (B,): an ``ICNN``, ``net.bind(context)`` of a ``PICNN``, or any callable. These networks
            are solved in float64 whatever their dtype, since f at a far point says too little in float32. Strongly
            convex ones (``strong_convexity`` > 0, ``quadratic_rank`` = n), and callables with an attribute
            ``curvature``, get certificates without a domain.
        y: (B, n) float32 or float64, in f's dtype.
        domain: where x may lie; all of R^n by default. The conjugate is then that of f with f = inf elsewhere.
        solver: ProjectedNewton() by default; without a domain, or on a Box, solved samples get two more steps, after
            which the maximiser is near rounding; on other sets it is as good as ``tol``. For energies that say they are
            not ``smooth`` ProximalBundle(), which needs a bounded domain and passes no gradient on. The conjugate of a
            ReLU network on all of R^n is a linear programme: ``to_linear_program(net.tilted(y))``.
        adjoint: of the maximiser, as in :func:`minimize`; with any but None the value has the envelope's gradient.
        warm_start: (B, n) points to begin from, for instance the maximisers of a similar batch; 0 by default.
        throw: raise if any sample failed; otherwise look at ``status``.

    Returns:
        A :class:`Conjugate` in the dtype of y, ``value`` and ``maximiser`` differentiable once, in y and in what f and
        the domain depend on. Failed samples pass no gradient on.

    Raises:
        SolveError: some sample did not succeed and ``throw`` is set; carries the solution of min f(x) - <x, y>.
        ValueError: a wrong argument.

    Example:
        >>> found = conjugate(lambda x: 0.5 * (x * x).sum(-1), torch.tensor([[3.0, 4.0]]))
        >>> found.value.detach(), found.maximiser.detach()
        (tensor([12.5000]), tensor([[3., 4.]]))
    """
    check_adjoint(adjoint)
    if isinstance(adjoint, Unrolled):
        raise ValueError("adjoint: Unrolled() does not go with conjugate; use Implicit().")
    check_last_dim("y", check_float_tensor("y", y), y.shape[-1] if y.dim() else 1)
    energy, start = _tilted(f, y), torch.zeros_like(y, requires_grad=False)
    if warm_start is not None:
        check_same_kind("warm_start", check_float_tensor("warm_start", warm_start), "y", y)
    if hasattr(energy, "double"):
        energy, start = energy.double(), start.double()
        warm_start = None if warm_start is None else warm_start.double()
    domain = Unconstrained() if domain is None else domain
    if solver is None:
        solver = ProjectedNewton() if energy.smooth else ProximalBundle()
    solution = minimize(energy, solver, start, domain=domain, adjoint=None, warm_start=warm_start, throw=False)
    problem = Problem(energy, domain, start)
    if getattr(energy, "convex", True):  # of others nothing is known but where the search ended
        solution = _without_maximum(problem, solution, start)
        if isinstance(solver, ProjectedNewton) and problem.region is None:
            solution = _polished(problem, solver, solution)
    if throw and not bool(solution.success.all()):
        raise SolveError(solution, "Solved was min f(x) - <x, y>, which is -f*(y).")
    return _reported(with_gradients(problem, solver, solution, domain, adjoint), y.dtype)


@full_precision
def gradient_map(f: EnergyFunction, x: Tensor) -> Tensor:
    """grad f(x), (B, n) -> (B, n): the transport map of the potential f. ``conjugate(f, y).maximiser`` leads back.

    Differentiable in x and in the parameters of f, as often as f is: the Jacobian is f's Hessian. On a kink, some
    element of the subdifferential.

    Example:
        >>> gradient_map(lambda x: (x**4).sum(-1), torch.tensor([[1.0, 2.0]])).detach()
        tensor([[ 4., 32.]])
    """
    check_float_tensor("x", x)
    gradient = derivatives.value_and_grad(f, x, differentiable=torch.is_grad_enabled())[1]
    return gradient


def _tilted(f: Any, y: Tensor) -> Any:
    """f(x) - <x, y>: in f's own form where it has one."""
    if not callable(f):
        raise ValueError(f"f: expected a callable x (B, n) -> (B,), got {type(f).__name__}.")
    if not hasattr(f, "tilted"):
        return _Tilted(f, y)
    if y.dim() < 2:
        raise ValueError(f"y: expected shape (B, n), got {tuple(y.shape)}. Give it a batch dimension.")
    try:
        return f.tilted(y)
    except ValueError as error:
        raise ValueError(f"y: does not fit f. {error}") from error


class _Tilted:
    """f(x) - <x, y> of any callable, with what is known of f."""

    def __init__(self, f: Any, y: Tensor) -> None:
        self.f, self.y = f, y
        self.smooth, self.convex = getattr(f, "smooth", True), getattr(f, "convex", True)
        self.curvature = getattr(f, "curvature", None)

    def __call__(self, x: Tensor) -> Tensor:
        f: Tensor = self.f(x)
        return f - (x * self.y).sum(-1)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f, g = derivatives.value_and_grad(self.f, x, differentiable=torch.is_grad_enabled())
        return f - (x * self.y).sum(-1), g - self.y

    def value_grad_hessian(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, g, hessian = derivatives.value_grad_hessian(self.f, x)
        return f - (x * self.y).sum(-1), g - self.y, hessian


def _without_maximum(problem: Problem, solution: Solution, start: Tensor) -> Solution:
    """A slope of f that y exceeds by next to nothing makes f* infinite and the search none the wiser: what is solved
    and not certified is looked at once more, to rounding."""
    doubtful = solution.success & torch.isinf(solution.gap)
    if problem.region is not None or problem.finite or not bool(doubtful.any()):
        return solution
    negative = min(1e-6, 1e3 * torch.finfo(start.dtype).eps)
    size = problem.value_and_grad(start)[1].norm(dim=-1)
    infinite = falling(problem, solution.value, start, doubtful, negative, size)
    status = torch.where(infinite, int(Status.DUAL_INFEASIBLE), solution.status)
    return dataclasses.replace(solution, status=status)


@torch.no_grad()
def _polished(problem: Problem, solver: ProjectedNewton, solution: Solution) -> Solution:
    """A few more steps of the solved samples, kept where they lower the residual."""
    if not bool(solution.success.any()):
        return solution
    before = state = solver.init(problem, solution.value)
    for _ in range(_POLISH):
        state = solver.step(problem, state)
    lower = solver.progress(problem, state).residual < solver.progress(problem, before).residual
    better = solution.success & lower
    return dataclasses.replace(
        solution,
        value=torch.where(better.unsqueeze(-1), state.y, solution.value),
        fun=torch.where(better, state.fun, solution.fun),
        gap=torch.where(better, state.gap.clamp(min=0.0), solution.gap),
    )


def _reported(solution: Solution, dtype: torch.dtype) -> Conjugate:
    """f* = -min, in the dtype that came; no number where there is none."""
    lost = solution.failed
    infinite = solution.status == Status.DUAL_INFEASIBLE
    value = torch.where(lost, torch.where(infinite, torch.inf, torch.nan).to(solution.fun), -solution.fun)
    return Conjugate(
        value=value.to(dtype),
        maximiser=torch.where(lost.unsqueeze(-1), torch.nan, solution.value).to(dtype),
        gap=torch.where(lost, torch.inf, solution.gap + 0.0).to(dtype),  # -0 is 0
        status=solution.status,
        num_steps=solution.num_steps,
    )
