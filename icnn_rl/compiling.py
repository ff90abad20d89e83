"""How kernels are compiled. Imports numba: only modules that are themselves imported on demand may import this one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile

#: What the user is told that is being compiled: by module or package, and by function where it comes later than the
#: rest.
_WHAT = {
    "icnn_rl.agents.icnn_q.kernel": "the agent's update",
    "icnn_rl.qp.kernel.dense": "the dense QP solver",
    "icnn_rl.qp.kernel.dense.rows.inverse": "the gradients of the dense QP solver",
    "icnn_rl.qp.kernel.stagewise": "the QP solver for problems in stages",
    "icnn_rl.qp.kernel.tiny": "the QP solver for tiny problems",
    "icnn_rl.solvers.newton.polytope_kernel": "Newton's method over polytopes",
    "icnn_rl.solvers.newton.kernel": "Newton's method for convex networks",
}


_OURS = __name__.partition(".")[0] + "."


class _Announcer(event.Listener):
    """Says so before code of ours is compiled, which may take half a minute; not of what was kept, nor twice."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        module = function.__module__
        places = (f"{module}.{function.__name__}", module, module.rpartition(".")[0])
        what = next((_WHAT[place] for place in places if place in _WHAT), None)
        if what is not None and what not in self.told:
            self.told.add(what)
            print(f"icnn_rl: compiling {what}, once", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]


class _Files(IndexDataCacheFile):
    """Machine code in files that are named by what it is for, and the index that finds them.

    Numba numbers the files. Of two processes that compile a function at the same time, one for float32 and one for
    float64, both take the first free number, and whoever comes later runs one's code under the other's name. Here one
    of the two may be missing from the index, and is compiled again.
    """

    def save(self, key: Any, data: Any) -> None:
        base = self._index_name.removesuffix(".nbi")
        overloads = self._load_index()  # type: ignore[no-untyped-call]
        if not overloads:  # what lies there is of an earlier version
            for old in Path(self._cache_path).glob(f"{glob.escape(base)}.*.nbc"):
                old.unlink(missing_ok=True)
        name = f"{base}.{hashlib.sha256(self._dump(key)).hexdigest()[:16]}.nbc"  # type: ignore[no-untyped-call]
        self._save_data(name, data)  # type: ignore[no-untyped-call]
        self._save_index({**overloads, key: name})  # type: ignore[no-untyped-call]


class _Cache(FunctionCache):
    """Numba's cache notices when a function's own file has changed, this one also when what it takes from others has:
    their numbers and their functions are part of its machine code."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        where = self._impl
        self._cache_file = _Files(self._cache_path, where.filename_base, where.locator.get_source_stamp())  # type: ignore[no-untyped-call]

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        own = super()._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        return (*own, imported_by(self._py_func.__globals__))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except (AttributeError, ImportError):  # it was kept by a version that had other names
            self.flush()  # type: ignore[no-untyped-call]
            return None


def imported_by(names: Mapping[str, Any]) -> str:
    """A digest of the numbers among the ``names`` of a module and of the files of ours that its functions are from, and
    of what these take from others in turn."""
    modules: set[str] = set()
    waiting = [names]
    while waiting:
        found = {str(getattr(value, "__module__", "")) for value in waiting.pop().values()}
        new = {module for module in found if module.startswith(_OURS) and module in sys.modules} - modules
        modules |= new
        waiting += [vars(sys.modules[module]) for module in new]
    digest = hashlib.sha256(repr(_numbers(names)).encode())
    for module in sorted(modules):
        digest.update(repr(_numbers(vars(sys.modules[module]))).encode())
        digest.update(Path(str(sys.modules[module].__file__)).read_bytes())
    return digest.hexdigest()


def _numbers(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((name, repr(value)) for name, value in names.items() if isinstance(value, int | float))


def kept(function: Any, **settings: Any) -> Any:
    """Compile at the first call, and keep the machine code for other processes where there is a folder to write to."""
    compiled = numba.njit(**{"nogil": True, "error_model": "numpy", **settings})(function)
    with contextlib.suppress(RuntimeError):  # there is no such folder
        compiled._cache = _Cache(function)
    return compiled


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
