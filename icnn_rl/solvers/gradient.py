"""Projected gradient methods: heavy ball, Adam, and Nesterov's acceleration with restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.checks import check_choice, check_positive_int, check_range
from icnn_rl.solvers.loop import grown
from icnn_rl.solvers.problem import Problem, Progress

__all__ = ["ProjectedGradient"]

METHODS = ("accelerated", "momentum", "adam")
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
_LIPSCHITZ_UP, _LIPSCHITZ_DOWN = 2.0, 0.9


class GradientState(NamedTuple):
    """Current iterate, the best point with its certificate, and the method's memory."""

    y: Tensor
    grad: Tensor
    best_y: Tensor
    best_grad: Tensor
    best_fun: Tensor
    lower: Tensor  # the best lower bound on min f that any gradient has certified
    scale: Tensor
    velocity: Tensor  # heavy ball: velocity; Adam: first moment; accelerated: the previous iterate
    second_moment: Tensor  # Adam only
    clock: Tensor  # steps; accelerated: steps since the last restart
    lipschitz: Tensor  # accelerated: estimate of the gradient's Lipschitz constant; else 1 / lr
    fun: Tensor


@dataclass(frozen=True)
class ProjectedGradient:
    """First-order minimisation on a box or a convex set, for energies without a cheap Hessian or with many variables.

    With P the projection, g the gradient and a the step length:

        "momentum"       v <- beta v - a g(y)                    y <- P( y + v )
        "adam"           m^, v^ of g(y)                          y <- P( y - a m^ / (sqrt(v^) + eps) )
        "accelerated"    w  = y + k / (k + 3) (y - y_prev)       y <- P( w - g(w) / L )

    that is, the heavy ball; Adam, with its bias-corrected moments (the released code of the ICNN paper uses a = 0.01);
    and Nesterov's method, with the Lipschitz constant L of each sample found by backtracking, and the memory dropped
    (k = 0) where f rises (O'Donoghue and Candes).

    ``lr`` is a, in units of y per unit of gradient; None takes 1/L: for "accelerated" L is found by itself, the others
    need a number. The best point seen is returned, with the best lower bound of all steps as certificate.

    Args:
        method: one of the above.
        lr: step length, or None (accelerated only).
        momentum: beta of the heavy ball.
        tol: stop when gap / (variation of f over the domain) is below this.
        max_steps: steps per row at most; a step costs one gradient, two for "accelerated".

    References:
        Y. Nesterov, Doklady 27, 1983; A. Beck, M. Teboulle, SIAM J. Imaging Sciences 2, 2009 (backtracking);
        B. O'Donoghue, E. Candes, Adaptive restart for accelerated gradient schemes, Found. Comput. Math. 15, 2015;
        D. Kingma, J. Ba, Adam, ICLR 2015.
    """

    method: str = "accelerated"
    lr: float | None = None
    momentum: float = 0.9
    tol: float = 1e-6
    max_steps: int = 500

    def __post_init__(self) -> None:
        check_choice("ProjectedGradient.method", self.method, METHODS)
        check_range("ProjectedGradient.tol", self.tol, 0.0, 1.0, open_low=True)
        check_range("ProjectedGradient.momentum", self.momentum, 0.0, 1.0)
        check_positive_int("ProjectedGradient.max_steps", self.max_steps)
        if self.lr is not None:
            check_range("ProjectedGradient.lr", self.lr, 0.0, float("inf"), open_low=True)
        elif self.method != "accelerated":
            raise ValueError(f"ProjectedGradient.lr: method {self.method!r} needs a step length, for instance lr=0.01.")

    def init(self, problem: Problem, y0: Tensor) -> GradientState:
        if self.method == "adam" and problem.region is not None:
            raise ValueError(
                "ProjectedGradient: adam scales every coordinate on its own; a projection on a set other than a box "
                "does not go with that, and the method would settle on a wrong point. Use method='accelerated'."
            )
        f, g = problem.value_and_grad(y0)
        width = problem.widths(y0).expand_as(y0)
        # A second gradient, an eighth of the box away: near a minimiser the first says nothing about how much f varies.
        probe = problem.project(y0 + torch.where(y0 - problem.lower > problem.upper - y0, -0.125, 0.125) * width)
        change = problem.value_and_grad(probe)[1] - g
        change = torch.where(torch.isfinite(change), change, 0.0)
        scale = ((g.abs() + change.abs()) * width).sum(-1)
        if self.lr is not None:
            lipschitz = torch.full_like(f, 1.0 / self.lr)
        else:
            tiny = torch.finfo(y0.dtype).tiny
            secant = change.norm(dim=-1) / (probe - y0).norm(dim=-1).clamp(min=tiny)
            lipschitz = torch.maximum(g.norm(dim=-1) / width.norm(dim=-1).clamp(min=tiny), secant).clamp(min=tiny)
        zero = torch.zeros_like(y0)
        memory = y0 if self.method == "accelerated" else zero
        lower = f - problem.gap(y0, g)
        return GradientState(y0, g, y0, g, f, lower, scale, memory, zero, torch.zeros_like(f), lipschitz, f)

    def step(self, problem: Problem, state: GradientState) -> GradientState:
        if self.method == "accelerated":
            return self._accelerated_step(problem, state)
        y, g = state.y, state.grad
        clock = state.clock + 1.0
        if self.method == "momentum":
            velocity, second = self.momentum * state.velocity - self._lr * g, state.second_moment
            moved = y + velocity
        else:
            velocity = _BETA1 * state.velocity + (1.0 - _BETA1) * g
            second = _BETA2 * state.second_moment + (1.0 - _BETA2) * g * g
            k = clock.unsqueeze(-1)
            unbiased, square = velocity / (1.0 - _BETA1**k), second / (1.0 - _BETA2**k)
            # the tiny number inside keeps the square root differentiable where a gradient is exactly zero
            moved = y - self._lr * unbiased / (torch.sqrt(square + torch.finfo(y.dtype).tiny) + _EPS)
        y = problem.project(moved)
        if self.method == "momentum":
            velocity = y - state.y  # what the projection cut off must not push again
        f, g = problem.value_and_grad(y)
        return self._remember(problem, state, y, f, g, velocity, second, clock, state.lipschitz)

    @property
    def _lr(self) -> float:
        assert self.lr is not None
        return self.lr

    def _accelerated_step(self, problem: Problem, state: GradientState) -> GradientState:
        push = (state.clock / (state.clock + 3.0)).unsqueeze(-1)
        w = problem.project(state.y + push * (state.y - state.velocity))
        f_w, g_w = problem.value_and_grad(w)
        y = problem.project(w - g_w / state.lipschitz.unsqueeze(-1))
        f, g = problem.value_and_grad(y)
        d = y - w
        noise = problem.noise(f_w, state.scale)
        bound = f_w + (g_w * d).sum(-1) + 0.5 * state.lipschitz * (d * d).sum(-1)
        short_enough = (f <= bound + noise) if self.lr is None else torch.ones_like(f, dtype=torch.bool)
        rises = f > state.fun + noise
        accept = short_enough & ~(rises & (state.clock > 0))
        row = accept.unsqueeze(-1)
        if self.lr is None:
            lipschitz = torch.where(short_enough, _LIPSCHITZ_DOWN * state.lipschitz, _LIPSCHITZ_UP * state.lipschitz)
        else:
            lipschitz = state.lipschitz
        # a step that is too long is tried again shorter; a step that makes f rise is tried again without memory
        clock = torch.where(accept, state.clock + 1.0, torch.where(short_enough, 0.0, state.clock))
        previous = torch.where(row, state.y, state.velocity)
        return self._remember(
            problem,
            state,
            torch.where(row, y, state.y),
            torch.where(accept, f, state.fun),
            torch.where(row, g, state.grad),
            previous,
            state.second_moment,
            clock,
            lipschitz,
        )

    def _remember(
        self,
        problem: Problem,
        state: GradientState,
        y: Tensor,
        f: Tensor,
        g: Tensor,
        velocity: Tensor,
        second: Tensor,
        clock: Tensor,
        lipschitz: Tensor,
    ) -> GradientState:
        better = f <= state.best_fun
        lower = torch.fmax(state.lower, f - problem.gap(y, g))
        scale = grown(state.scale, (g.abs() * problem.widths(y)).sum(-1))
        return GradientState(
            y,
            g,
            torch.where(better.unsqueeze(-1), y, state.best_y),
            torch.where(better.unsqueeze(-1), g, state.best_grad),
            torch.where(better, f, state.best_fun),
            lower,
            scale,
            velocity,
            second,
            clock,
            lipschitz,
            f,
        )

    def progress(self, problem: Problem, state: GradientState) -> Progress:
        gap = state.best_fun - state.lower
        residual = problem.residual(state.best_y, state.best_grad, gap, state.scale)
        noise = problem.noise(state.best_fun, state.scale)
        return Progress(state.best_fun, gap, residual, noise, torch.zeros_like(gap, dtype=torch.bool))

    def value(self, state: GradientState) -> Tensor:
        return state.best_y

    def extras(self, state: GradientState) -> Any:
        return None
