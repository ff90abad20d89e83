"""Gradients through a minimiser: how d value / d parameters is computed, apart from how the value was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_positive_int, check_range
from icnn_rl.eager import batched, transformed
from icnn_rl.first_order import first_order
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.sets import ConvexSet
from icnn_rl.solution import Solution
from icnn_rl.solvers import derivatives
from icnn_rl.solvers.box_qp import times
from icnn_rl.solvers.bundle import Bundle, BundleEntropy, to_unit
from icnn_rl.solvers.conjugate_gradients import conjugate_gradients
from icnn_rl.solvers.problem import Problem
from icnn_rl.solvers.proximal_bundle import ProximalBundle

__all__ = ["DualKKT", "Implicit", "ImplicitCG", "Live", "Unrolled", "differentiable"]


@dataclass(frozen=True)
class Implicit:
    """Implicit function theorem at the solution, active bounds masked.

    With F the free coordinates, at a minimiser of f over a box

        d y_F = - H_FF^{-1} ( d g_F + H_FA d y_A ),        d y_A = d bound_A,

    H the Hessian and g the gradient of f in y. For BundleEntropy, which minimises f - tau H(w) inside the box, every
    coordinate is free and H gains tau / (w (1 - w)) / width^2 on its diagonal. The energy must be twice differentiable
    at the solution; for a piecewise-linear one use DualKKT. A coordinate that sits on a bound with zero gradient counts
    as fixed: the derivative along the bound, an element of the subdifferential.

    On other sets the active rows take the place of the bounds, and the tensors of the set get gradients as well.

    Args:
        damping: added to the Hessian, in its units; guards against a singular one.
    """

    damping: float = 1e-9

    def __post_init__(self) -> None:
        check_range("Implicit.damping", self.damping, 0.0, float("inf"))


@dataclass(frozen=True)
class ImplicitCG:
    """:class:`Implicit` for many variables: the Hessian is never formed, its systems are solved by conjugate gradients.

    A step costs one product of a Hessian with a vector, a backward pass through the gradient of f. Under BundleEntropy
    the system is S H S + I with S^2 = w (1 - w) width^2 / tau: well conditioned unless the entropy is far smaller than
    f's curvature, and a few steps do. No gradient for the bounds of the box.

    Args:
        tol: stop when the residual has fallen by this factor; below 1e-5 only in float64.
        max_steps: products at most; what they come to is used.
        damping: added to the Hessian, in its units.
    """

    tol: float = 1e-4
    max_steps: int = 30
    damping: float = 1e-9

    def __post_init__(self) -> None:
        check_range("ImplicitCG.tol", self.tol, 0.0, 1.0)
        check_positive_int("ImplicitCG.max_steps", self.max_steps)
        check_range("ImplicitCG.damping", self.damping, 0.0, float("inf"))


@dataclass(frozen=True)
class Unrolled:
    """Differentiate through the steps themselves (ProjectedGradient only). Memory grows with the number of steps."""


@dataclass(frozen=True)
class DualKKT:
    """The paper's gradient of the bundle method: differentiate the optimality conditions of the last model.

    Over the cuts with positive multipliers (G, h, lambda), with t the value where they meet and
    D = diag( tau / (w (1 - w)) ),

        [ D  G^T  0 ] [dw      ]       [ dG^T lambda ]
        [ G  0   -1 ] [dlambda ]  =  - [ dG w + dh   ]
        [ 0 -1^T  0 ] [dt      ]       [ 0           ]

    one small system for each sample, then a gradient of f and of its gradient at the cut points, which are held fixed.
    Exact for piecewise-linear energies; of curved ones the cuts miss the curvature: use Implicit.

    Args:
        threshold: cuts with a smaller multiplier count as inactive.
    """

    threshold: float = 1e-7

    def __post_init__(self) -> None:
        check_range("DualKKT.threshold", self.threshold, 0.0, 1.0)


class Live(NamedTuple):
    """The minimiser as a function of the problem, and f at the minimiser held fixed.

    value (..., n); fun (...): of failed rows of no meaning; grad (..., n): the gradient of f there, an element of the
    subdifferential on a kink, the one that makes it a minimum.
    """

    value: Tensor
    fun: Tensor
    grad: Tensor


def differentiable(
    adjoint: Implicit | ImplicitCG | DualKKT, problem: Problem, solver: Any, solution: Solution, domain: Any
) -> Live:
    """``solution.value`` with a gradient attached, of first order. Failed rows stay detached: they must not spoil the
    others."""
    live = _with_graph(adjoint, problem, solver, solution, domain)
    return live._replace(value=first_order(live.value))


def _with_graph(
    adjoint: Implicit | ImplicitCG | DualKKT, problem: Problem, solver: Any, solution: Solution, domain: Any
) -> Live:
    if isinstance(adjoint, DualKKT):
        if not isinstance(solver, BundleEntropy):
            raise ValueError(
                f"adjoint: DualKKT belongs to BundleEntropy, not to {type(solver).__name__}; use Implicit()."
            )
        return _through_bundle(adjoint, problem, solver, solution)
    if isinstance(solver, ProximalBundle) and not getattr(problem.energy, "smooth", False):
        raise ValueError(
            "adjoint: Implicit() needs second derivatives, and ProximalBundle's energy is not known to have any. Say "
            "`smooth = True` on the energy if it has, use adjoint=None if no gradient is needed, or BundleEntropy with "
            "DualKKT() on a box."
        )
    y = _finite_point(problem, solution)
    if problem.region is not None:
        if isinstance(adjoint, ImplicitCG):
            raise ValueError("adjoint: ImplicitCG() differentiates on a box; on other sets use Implicit().")
        f, g = derivatives.live_value_and_grad(problem.energy, y)
        return Live(_implicit_on_set(adjoint, problem, solution, domain.as_set(y.double()), y, g), f, g)
    tau = solver.entropy if isinstance(solver, BundleEntropy) else 0.0
    if isinstance(adjoint, ImplicitCG):
        if transformed():
            raise ValueError("adjoint: ImplicitCG() does not go with torch.func; use Implicit(), or torch.autograd.")
        f, g = derivatives.with_graph(problem.energy, y.requires_grad_())
        return Live(_implicit_cg(adjoint, problem, tau, solution, y, g), f, g)
    f, g = derivatives.live_value_and_grad(problem.energy, y)
    return Live(_implicit(adjoint, problem, tau, solution, domain, y, g), f, g)


def _implicit(
    adjoint: Implicit, problem: Problem, tau: float, solution: Solution, domain: Any, y: Tensor, gradient: Tensor
) -> Tensor:
    usable = ~solution.failed.unsqueeze(-1)
    _, g, hessian = problem.value_grad_hessian(y)
    lower, upper = domain.bounds(y)
    if tau > 0:
        root = _entropy_root(problem, tau, y)
        bound = torch.zeros_like(y)
    else:
        at_low, at_high = (y <= problem.lower) & (g >= 0), (y >= problem.upper) & (g <= 0)
        root = (~(at_low | at_high)).to(y.dtype)
        bound = torch.where(at_low, lower, torch.where(at_high, upper, y))  # live where the bounds are
    with torch.no_grad():
        matrix = root.unsqueeze(-1) * hessian * root.unsqueeze(-2)
        rounding = torch.finfo(y.dtype).eps * hessian.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        diagonal = 1.0 - root + (adjoint.damping + rounding) * root if tau == 0 else torch.ones_like(root)
        matrix = matrix + torch.diag_embed(diagonal)
        matrix = torch.where(usable.unsqueeze(-1), matrix, torch.eye(y.shape[-1], dtype=y.dtype, device=y.device))
    moved_bound = bound - bound.detach()
    pull = gradient - gradient.detach() + torch.matmul(hessian, moved_bound.unsqueeze(-1)).squeeze(-1)
    inner = torch.linalg.solve(matrix, (root * pull).unsqueeze(-1)).squeeze(-1)
    change = moved_bound - root * inner
    return torch.where(usable, y + change, solution.value.detach())


def _implicit_on_set(
    adjoint: Implicit, problem: Problem, solution: Solution, domain: ConvexSet, y: Tensor, gradient: Tensor
) -> Tensor:
    """The minimiser y of f over C also minimises its quadratic model there,

        y = argmin { 1/2 z^T H z + (g(y) - H y) . z : z in C },

    and moves like it: to first order, what changes f or C enters through g and the data of C alone.
    """
    failed = solution.failed.unsqueeze(-1)
    _, _, hessian = problem.value_grad_hessian(y)
    with torch.no_grad():
        eye = torch.eye(y.shape[-1], dtype=torch.float64, device=y.device)
        rounding = torch.finfo(y.dtype).eps * hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        hessian = hessian.double() + (adjoint.damping + rounding)[..., None, None] * eye
        hessian = torch.where(failed.unsqueeze(-1), eye, hessian)
    p = torch.where(failed, 0.0, gradient.double() - times(hessian, y.double()))
    guess = solution.state if isinstance(solution.state, ActiveSet) else None
    moved = domain.minimise(hessian, p, throw=False, warm_start=guess).value
    change = (moved - moved.detach()).nan_to_num(0.0).to(y.dtype)
    return torch.where(failed, solution.value.detach(), y + change)


def _entropy_root(problem: Problem, tau: float, y: Tensor) -> Tensor:
    """S with S^2 = w (1 - w) width^2 / tau: S (I + S H S)^{-1} S stays finite where a coordinate reaches the border."""
    w = to_unit(problem, y)
    return torch.sqrt(w * (1.0 - w) / tau) * problem.widths(y)


class _OptimalPoint(torch.autograd.Function):
    """y as a function of the live gradient at y: forward hands y through, backward solves the system above."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, y: Tensor, root: Tensor, apply: Any, adjoint: ImplicitCG) -> Tensor:
        ctx.save_for_backward(root)
        ctx.product, ctx.adjoint = apply, adjoint  # ctx.apply is taken
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if batched(grads[0]):
            raise RuntimeError("ImplicitCG: takes one gradient at a time, not is_grads_batched=True; use Implicit().")
        (root,) = ctx.saved_tensors
        inner = conjugate_gradients(ctx.product, root * grads[0], ctx.adjoint.tol, ctx.adjoint.max_steps)
        return -root * inner, None, None, None, None


def _implicit_cg(
    adjoint: ImplicitCG, problem: Problem, tau: float, solution: Solution, y: Tensor, gradient: Tensor
) -> Tensor:
    usable = ~solution.failed.unsqueeze(-1)
    with torch.no_grad():
        if tau > 0:
            root, own = _entropy_root(problem, tau, y), torch.ones_like(y)
        else:
            g = gradient
            free = ~(((y <= problem.lower) & (g >= 0)) | ((y >= problem.upper) & (g <= 0)))
            root, own = free.to(y.dtype), 1.0 - free.to(y.dtype) + adjoint.damping
        root = torch.where(usable, root, 0.0)

    def apply(v: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return own * v
        (product,) = torch.autograd.grad(gradient, y, root * v, retain_graph=True, materialize_grads=True)
        return own * v + root * product

    value: Tensor = _OptimalPoint.apply(gradient, y.detach(), root, apply, adjoint)  # type: ignore[no-untyped-call]
    return torch.where(usable, value, solution.value.detach())


def _finite_point(problem: Problem, solution: Solution) -> Tensor:
    """The value, and some point of the box for failed rows: derivatives at a NaN would be NaN even when multiplied by
    0."""
    y = solution.value.detach()
    if problem.region is not None:
        return torch.where(solution.failed.unsqueeze(-1), y.nan_to_num(0.0, 0.0, 0.0), y)
    return torch.where(solution.failed.unsqueeze(-1), problem.project(torch.zeros_like(y)), y)


class _BundleValue(torch.autograd.Function):
    """y as a function of the live cuts: forward hands the value through, backward solves the KKT system above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        values: Tensor,
        slopes: Tensor,
        y: Tensor,
        w: Tensor,
        multipliers: Tensor,
        active: Tensor,
        scale: Tensor,
    ) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, slopes, _, *rest = inputs
        ctx.save_for_backward(slopes, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v,) = grads
        slopes, w, multipliers, active, width_and_tau = ctx.saved_tensors
        width, tau = width_and_tau[..., :-1], width_and_tau[..., -1:]
        a, b = _kkt_solve(v * width, slopes, w * (1.0 - w) / tau, active)
        # y = lower + width w, so the incoming gradient is scaled by width; dw = -K^{-1} (dG^T lambda, d cut)
        return -b, -(multipliers.unsqueeze(-1) * a.unsqueeze(-2)), None, None, None, None, None


def _kkt_solve(v: Tensor, slopes: Tensor, inverse: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """First two blocks of the inverse KKT matrix applied to (v, 0, 0); repeated cuts share what belongs to them (least
    norm)."""
    on = active.to(v.dtype)
    g = slopes.masked_fill(~active.unsqueeze(-1), 0.0)
    schur = torch.matmul(g * inverse.unsqueeze(-2), g.mT)
    top = torch.cat((schur, on.unsqueeze(-1)), -1)
    bottom = torch.cat((on, torch.zeros_like(on[..., :1])), -1).unsqueeze(-2)
    matrix = torch.cat((top, bottom), -2)
    right = torch.cat((torch.matmul(g, (inverse * v).unsqueeze(-1)).squeeze(-1), torch.zeros_like(on[..., :1])), -1)
    b = torch.matmul(torch.linalg.pinv(matrix, hermitian=True), right.unsqueeze(-1)).squeeze(-1)[..., :-1] * on
    a = inverse * (v - (g * b.unsqueeze(-1)).sum(-2))
    return a, b


def _through_bundle(adjoint: DualKKT, problem: Problem, solver: BundleEntropy, solution: Solution) -> Live:
    bundle: Bundle = solution.state
    y = _finite_point(problem, solution)
    active = bundle.present & (bundle.multipliers > adjoint.threshold) & ~solution.failed.unsqueeze(-1)
    width = problem.widths(y).expand_as(y)
    cuts, grads = [], []
    with torch.enable_grad():
        for k in range(active.shape[-1]):
            point = torch.where(active[..., k, None], bundle.points[..., k, :], y)
            if not bool(active[..., k].any()):
                cuts.append(torch.zeros_like(y[..., 0]))
                grads.append(torch.zeros_like(y))
                continue
            f, g = derivatives.live_value_and_grad(problem.energy, point)
            cuts.append(f + (g * (y - point)).sum(-1))
            grads.append(g)
    values, slopes = torch.stack(cuts, -1), torch.stack(grads, -2)
    scale = torch.cat((width, torch.full_like(y[..., :1], solver.entropy)), -1)
    value: Tensor = _BundleValue.apply(  # type: ignore[no-untyped-call]
        values, slopes * width.unsqueeze(-2), y, to_unit(problem, y), bundle.multipliers, active, scale
    )
    share = bundle.multipliers * active
    return Live(
        torch.where(solution.failed.unsqueeze(-1), solution.value.detach(), value),
        (share * values).sum(-1),
        (share.unsqueeze(-1) * slopes).sum(-2),
    )
