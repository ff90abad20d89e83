"""Which problems go to the compiled kernel, :mod:`icnn_rl.solvers.newton.kernel`, and how. Without numba none does."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.numba_support import available
from icnn_rl.solution import Solution
from icnn_rl.solvers.newton.found import Found
from icnn_rl.solvers.newton.method import ProjectedNewton
from icnn_rl.solvers.newton.polytopes import newton_on_polytopes
from icnn_rl.solvers.newton.smoothed_start import STAGES
from icnn_rl.solvers.problem import Problem

#: Variables and units of the largest problems: the Hessian is summed in the first and second cache.
_LARGEST = 32, 1024

Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def _kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.solvers.newton.kernel")


def fits(problem: Problem, y: Tensor) -> bool:
    """Whether f over the box is for the kernel: one layer of squareplus units, finite bounds, on the CPU, and numba
    installed."""
    return problem.region is None and _fits_over_bounds(problem, y)


def fits_polytopes(problem: Problem, y: Tensor) -> bool:
    """Whether f over rows and bounds is for the kernel."""
    region = problem.region
    rows = region is not None and region.plain and region.set.G is not None and region.set.h is not None
    return rows and _fits_over_bounds(problem, y)


def _fits_over_bounds(problem: Problem, y: Tensor) -> bool:
    if not problem.finite or y.dim() != 2 or y.device.type != "cpu":
        return False
    if transformed():  # tensors hide their numbers
        return False
    form = _one_layer(problem)
    if form is None or y.dtype != form.offset.dtype or y.shape[0] == 0:
        return False
    units, n = form.offset.shape[0] * form.offset.shape[2], form.passthrough.shape[2]
    batch = max(form.offset.shape[1], form.linear.shape[0])
    return n <= _LARGEST[0] and units <= _LARGEST[1] and batch in (1, y.shape[0]) and available()


def newton(problem: Problem, y: Tensor, solver: ProjectedNewton, stages: int, atol: float) -> Solution:
    """Run ``solver`` from ``y`` on a problem that fits, after so many ``stages`` of
    :func:`~icnn_rl.solvers.newton.smoothed_start.smoothed_start`. A row is done once its certified gap is at most
    ``atol``, in f's units."""
    solution, found = to_be_found(y, *y.shape)
    energies, *box = _data(problem, y)
    newton_compiled(energies, box, solver, atol, found, stages)
    return solution


def to_be_found(like: Tensor, *shape: int) -> tuple[Solution, list[Array]]:
    """A solution (..., n) to be filled, and its arrays as :class:`~icnn_rl.solvers.newton.found.Found` has them."""
    reals, integers = like.new_empty(3, *shape[:-1]), torch.empty(2, *shape[:-1], dtype=torch.int64)
    value, (fun, gap, residual), (status, num_steps) = like.new_empty(shape), reals, integers
    solution = Solution(value, fun, gap, status, num_steps, residual)
    return solution, [part.numpy() for part in (value, fun, gap, residual, num_steps, status)]


def newton_on_set(problem: Problem, y: Tensor, solver: ProjectedNewton, atol: float) -> Solution | None:
    """``solver`` run over the problem's set from its point nearest to ``y``, for problems that fit; None where a
    programme on the way was not solved: a set may be empty."""
    region = problem.region
    assert region is not None
    assert region.set.G is not None
    assert region.set.h is not None
    energies, lower, upper, start = _data(problem, y)
    G, h = (part.numpy() for part in (region.set.G, region.set.h))
    one_for_all = G[None] if G.ndim == 2 else G, h[None] if h.ndim == 1 else h
    found = newton_on_polytopes(energies, (lower, upper), *one_for_all, np.arange(len(y)), start, solver, atol)
    if found is None:
        return None
    parts = (torch.from_numpy(np.asarray(part)) for part in found)
    value, fun, gap, residual, num_steps, status = parts
    return Solution(value, fun.to(y.dtype), gap.to(y.dtype), status, num_steps, residual.to(y.dtype))


def newton_compiled(
    energies: Sequence[Any],
    box: Sequence[Array],
    solver: ProjectedNewton,
    atol: float,
    found: Sequence[Array],
    stages: int = STAGES,
) -> None:
    """:func:`newton` for arrays that lie ready.

    Args:
        energies: the fields of the kernel's ``Energies``.
        box: lower and upper bounds, (B, n) or (1, n), and starting points (B, n).
        found: the fields of :class:`~icnn_rl.solvers.newton.found.Found`, filled.
    """
    kernel = _kernel()
    settings = float(solver.tol), atol, int(solver.max_steps), int(solver.model_solves)
    kernel.newton(kernel.Energies(*energies), *box, stages, *settings, Found(*found))


def _one_layer(problem: Problem) -> Any:
    """The energy's :class:`icnn_rl.nn.energy.OneLayer`, or None."""
    form = getattr(problem.energy, "one_layer", None)
    return None if form is None else form()


def _data(problem: Problem, y: Tensor) -> tuple[Any, Array, Array, Array]:
    """f, the bounds and the starting points as the kernel takes them."""
    form = _one_layer(problem)
    members, _, n = form.passthrough.shape
    gates = form.offset.new_ones(members, 1, n) if form.y_gate is None else form.y_gate
    tensors = (form.passthrough.mT, gates, form.offset, form.out_weight, form.linear, form.constant, form.quadratic)
    energies = (*map(_array, tensors), form.square_width)
    lower, upper = (b.expand(y.shape if b.dim() == 2 else (1, n)) for b in (problem.lower, problem.upper))
    return energies, _array(lower), _array(upper), _array(y)


def _array(t: Tensor) -> Array:
    return np.ascontiguousarray(t.detach().numpy())
