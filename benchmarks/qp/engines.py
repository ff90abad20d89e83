"""The packages that solve one programme a call: how each is given it, and given the next.

``data = engine.convert(problem)`` is not timed; ``engine.setup(data)`` and ``engine.solve()`` are, and for the next
programme ``engine.update(changed(data, next))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.qp.adapter import imported

Array = NDArray[np.float64]
#: One programme: Q, p, G, h, A, b, lb, ub.
Problem = dict[str, Array]
#: What the packages are asked for. It is compared with residuals: at 1e-12 the errors of PIQP's minimisers stay below
#: 1e-8, at 1e-10 they do not; next to a kink, where a multiplier and its slack are both small, they can be larger.
TOLERANCE = 1e-12


class Engine(Protocol):
    """A solver of one programme after the other. ``data`` are keyword arguments of the package."""

    def convert(self, problem: Problem) -> dict[str, Any]: ...

    def setup(self, data: dict[str, Any]) -> None: ...

    def update(self, data: dict[str, Any]) -> None:
        """Other values for some of what ``setup`` was given, of the same shapes."""

    def solve(self) -> tuple[Array, bool]:
        """z, and whether the package calls it solved. Not a view of what the next programme overwrites."""


class PiqpDense:
    """Starts every programme from the same point: only what was allocated is kept."""

    kkt = "dense_cholesky"
    solver = "DenseSolver"

    def __init__(self) -> None:
        self.piqp = imported("piqp")
        self.qp = getattr(self.piqp, self.solver)()
        settings = self.qp.settings
        settings.eps_abs = settings.eps_rel = TOLERANCE
        settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = TOLERANCE
        settings.kkt_solver = getattr(self.piqp.KKTSolver, self.kkt)

    def matrix(self, array: Array) -> Any:
        return np.asfortranarray(array)

    def setup(self, data: dict[str, Any]) -> None:
        self.qp.setup(**data)

    def update(self, data: dict[str, Any]) -> None:
        self.qp.update(**data)

    def convert(self, problem: Problem) -> dict[str, Any]:
        data: dict[str, Any] = {"P": self.matrix(problem["Q"]), "c": problem["p"]}
        if len(problem["b"]):
            data |= {"A": self.matrix(problem["A"]), "b": problem["b"]}
        if len(problem["h"]):
            data |= {"G": self.matrix(problem["G"]), "h_u": problem["h"]}
        if np.isfinite(problem["lb"]).any():
            data["x_l"] = problem["lb"]
        if np.isfinite(problem["ub"]).any():
            data["x_u"] = problem["ub"]
        return data

    def solve(self) -> tuple[Array, bool]:
        status = self.qp.solve()
        return self.qp.result.x.copy(), status == self.piqp.PIQP_SOLVED


class PiqpSparse(PiqpDense):
    kkt = "sparse_ldlt"
    solver = "SparseSolver"

    def matrix(self, array: Array) -> Any:
        return sparse.csc_matrix(array)


class PiqpMultistage(PiqpSparse):
    """Finds the blocks along the diagonal that the stages are."""

    kkt = "sparse_multistage"


class Daqp:
    """An active-set method; an update goes on from the last active set. The model points into the bounds that it was
    given, and does not keep them alive."""

    infinite = 1e30

    def __init__(self) -> None:
        self.qp = imported("daqp").Model()
        self.qp.settings = {"primal_tol": TOLERANCE}

    def convert(self, problem: Problem) -> dict[str, Any]:
        """Bounds are the first entries of bupper and blower; without bounds these have the length of A."""
        h, b = problem["h"], problem["b"]
        upper, lower = np.r_[h, b], np.r_[np.full(len(h), -np.inf), b]
        sense = np.r_[np.zeros(len(h)), np.full(len(b), 5)]
        if np.isfinite(np.r_[problem["lb"], problem["ub"]]).any():
            upper, lower = np.r_[problem["ub"], upper], np.r_[problem["lb"], lower]
            sense = np.r_[np.zeros(len(problem["ub"])), sense]
        return {
            "H": np.ascontiguousarray(problem["Q"]),
            "f": problem["p"],
            "A": np.concatenate([problem["G"], problem["A"]]),
            "bupper": upper.clip(-self.infinite, self.infinite),
            "blower": lower.clip(-self.infinite, self.infinite),
            "sense": sense.astype(np.int32),
        }

    def setup(self, data: dict[str, Any]) -> None:
        self.given = dict(data)
        self.qp.setup(**data)

    def update(self, data: dict[str, Any]) -> None:
        self.given |= data
        self.qp.update(**data)

    def solve(self) -> tuple[Array, bool]:
        z, _, flag, _ = self.qp.solve()
        return z, flag == 1


class Proxqp:
    """ProxSuite's dense solver; an update goes on from the last solution."""

    infinite = 1e20

    def __init__(self) -> None:
        self.module = imported("proxsuite").proxqp

    def convert(self, problem: Problem) -> dict[str, Any]:
        data = {"H": problem["Q"], "g": problem["p"]}
        if len(problem["b"]):
            data |= {"A": problem["A"], "b": problem["b"]}
        if len(problem["h"]):
            data |= {"C": problem["G"], "l": np.full(len(problem["h"]), -self.infinite), "u": problem["h"]}
        if np.isfinite(np.r_[problem["lb"], problem["ub"]]).any():
            bounds = (problem[name].clip(-self.infinite, self.infinite) for name in ("lb", "ub"))
            data |= dict(zip(("l_box", "u_box"), bounds, strict=True))
        return data

    def setup(self, data: dict[str, Any]) -> None:
        sizes = [len(data.get(name, ())) for name in ("g", "b", "u")]
        self.qp = self.module.dense.QP(*sizes, "l_box" in data)
        settings = self.qp.settings
        settings.eps_abs, settings.eps_rel = TOLERANCE, 0.0
        self.qp.init(**data)

    def update(self, data: dict[str, Any]) -> None:
        self.qp.settings.initial_guess = self.module.InitialGuess.WARM_START_WITH_PREVIOUS_RESULT
        self.qp.update(**data)

    def solve(self) -> tuple[Array, bool]:
        self.qp.solve()
        results = self.qp.results
        return results.x.copy(), results.info.status == self.module.QPSolverOutput.PROXQP_SOLVED


def changing(sequence: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each what is not the same in all of them."""
    first = sequence[0]
    names = [name for name in first if not all(_same(first[name], data[name]) for data in sequence)]
    return [{name: data[name] for name in names} for data in sequence]


def _same(one: Any, other: Any) -> bool:
    if sparse.issparse(one):
        return bool((one != other).nnz == 0)
    return np.array_equal(one, other)
