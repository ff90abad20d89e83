"""How kernels are compiled. Imports numba: only modules that are themselves imported on demand may import this one."""

from __future__ import annotations

import sys
from typing import Any

import numba
from numba.core import event

#: What the user is told that is being compiled: by module, and by function where it comes later than the rest.
_WHAT = {
    "icnn_rl.agents.icnn_q.kernel": "the agent's update",
    "icnn_rl.nn._context_kernel": "the context layers",
    "icnn_rl.qp.kernel.dense": "the dense QP solver",
    "icnn_rl.qp.kernel.dense.inverse": "the gradients of the dense QP solver",
    "icnn_rl.qp.kernel.stagewise": "the QP solver for problems in stages",
    "icnn_rl.qp.kernel.tiny": "the QP solver for tiny problems",
    "icnn_rl.solvers.newton.kernel": "Newton's method for convex networks",
}


class _Announcer(event.Listener):
    """Says so before code of ours is compiled, which may take half a minute; not of what was kept, nor twice."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        module = function.__module__
        what = _WHAT.get(f"{module}.{function.__name__}", _WHAT.get(module))
        if what is not None and what not in self.told:
            self.told.add(what)
            print(f"icnn_rl: compiling {what}, once", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]


def kept(function: Any, **settings: Any) -> Any:
    """Compile at the first call, and keep the machine code for other processes where there is a folder to write to."""
    settings = {"nogil": True, "error_model": "numpy", **settings}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:
        return numba.njit(**settings)(function)


def inner(function: Any, **settings: Any) -> Any:
    """As :func:`jit`, for what only other compiled functions call and makes no arrays: nothing for Python to call,
    nothing kept, no references counted. Compiling takes two thirds of the time."""
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    numbers = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    every: dict[str, Any] = {**alone, **numbers, **settings}
    return numba.njit(**every)(function)


def jit(function: Any) -> Any:
    """:func:`kept`, with sums in any order, so that they fill vector registers; NaN and infinity stay what they are."""
    return kept(function, fastmath={"reassoc", "contract", "nsz"})
