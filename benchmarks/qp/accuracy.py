"""How exact solve_qp is, by dtype: ``python -m benchmarks.qp.accuracy`` prints the table of docs/qp.md.

Errors against Clarabel at 1e-12, polished on its active set, on families of the tests whose rows have one minimiser,
one multiplier and no kink.
"""

from __future__ import annotations

import numpy as np
import torch

from icnn_rl.qp import PrimalDual, solve_qp
from icnn_rl.testing import qp_references as references
from icnn_rl.testing.qp_families import BY_NAME
from tests.unit.qp.test_qp_gradients import (
    backward,
    cast,
    expected_gradients,
    instance,
    leaves,
    natural_size,
    only,
    reduce_to,
    size_of,
    weights_of,
)
from tests.unit.qp.test_solve_qp import distance

FAMILIES = (
    "few_active",
    "many_active",
    "everything",
    "number_q",
    "bounds_only",
    "diagonal_box",
    "infinite",
    "dense_100",
)
MODES = {
    "float64": (torch.float64, PrimalDual()),
    "float32, iterated in float64": (torch.float32, PrimalDual()),
    'float32, iterated in float32 (dtype="input")': (torch.float32, PrimalDual(dtype="input")),
}


def errors(name: str, dtype: torch.dtype, solver: PrimalDual) -> tuple[float, float]:
    """Largest relative error of the minimiser and of its gradients with respect to all arguments."""
    arguments, data = instance(BY_NAME[name])
    if dtype != torch.float64:
        arguments = cast(arguments, dtype)
        data = references.dense(arguments)
    fresh, found = leaves(arguments)
    solution = solve_qp(**fresh, solver=solver)
    x = references.point_of(solution).x
    value = max(distance(x[row], references.solve(data[row]).point.x, data[row]) for row in range(len(x)))
    weights = [only(weight, "x") for weight in weights_of(BY_NAME[name])]
    expected = expected_gradients(BY_NAME[name], data, weights)
    worst = 0.0
    for argument, gradient in backward(solution, weights, found).items():
        reference = reduce_to(getattr(expected, argument), argument, found[argument], arguments[argument])
        natural = natural_size(solution, "x", data) / (size_of(found[argument]) or 1.0)
        scale = max(np.abs(reference).max(initial=0.0), natural)
        worst = max(worst, float(np.abs(gradient - reference).max(initial=0.0) / scale))
    return float(value), worst


def main() -> None:
    print("| | minimiser: median, largest | gradients: median, largest |\n|---|---|---|")
    for mode, (dtype, solver) in MODES.items():
        value, gradient = np.array([errors(name, dtype, solver) for name in FAMILIES]).T
        row = [f"{np.median(part):.0e}, {part.max():.0e}" for part in (value, gradient)]
        print(f"| {mode} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
