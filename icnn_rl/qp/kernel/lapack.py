"""LAPACK for numba: a few routines called by their addresses, which are ordinary arguments, so that what calls them can
be cached. The addresses are those that SciPy offers to Cython.

Matrices are C-contiguous and symmetric ones lie in their lower halves: what LAPACK, column by column, calls upper.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from icnn_rl.numba_support import imported

_I32 = ir.IntType(32)
_DATA = 4  # where numba keeps the pointer among the parts of an array
_MATRIX = types.Array(types.float64, 2, "C")
_VECTOR = types.Array(types.float64, 1, "C")


#: What sets the number of threads of OpenBLAS and returns the former one.
_THREADS = "openblas_set_num_threads_local", "scipy_openblas_set_num_threads_local"


@functools.cache
def addresses() -> tuple[int, int, int, int]:
    """Addresses of dpotrf, dsyrk, dtrsm and OpenBLAS's function for the number of threads; 0 for what is missing."""
    lapack, blas = (
        imported(f"scipy.linalg.cython_{name}") if imported("scipy") else None for name in ("lapack", "blas")
    )
    if lapack is None or blas is None:
        return 0, 0, 0, 0
    library = ctypes.CDLL(blas.__file__)
    setters = [
        ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _THREADS if hasattr(library, name)
    ]
    return _address(lapack, "dpotrf"), _address(blas, "dsyrk"), _address(blas, "dtrsm"), (setters or [0])[0] or 0


def _address(module: Any, name: str) -> int:
    capsule, python = module.__pyx_capi__[name], ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    assert address is not None
    return int(address)


def _inside(function: Any) -> Any:
    """Make it a function that only compiled functions can call: it gives its signature and builds its code."""
    return intrinsic(function)


def _call(builder: Any, address: Any, *arguments: Any) -> list[Any]:
    """Call a Fortran routine: all arguments are places. A letter, an LLVM number, or the parts of an array."""
    places = []
    for argument in arguments:
        if isinstance(argument, str):
            argument = ir.IntType(8)(ord(argument))
        pointer = isinstance(argument.type, ir.PointerType)
        places.append(argument if pointer else cgutils.alloca_once_value(builder, argument))
        if not pointer:
            builder.store(argument, places[-1])  # once is not enough inside a loop
    kind = ir.FunctionType(ir.VoidType(), [place.type for place in places])
    builder.call(builder.inttoptr(address, kind.as_pointer()), places)
    return places


def _data(builder: Any, array: Any) -> Any:
    return builder.extract_value(array, _DATA)


def _small(builder: Any, size: Any) -> Any:
    return builder.trunc(size, _I32)


@_inside
def potrf(typing: Any, address: Any, a: Any) -> Any:
    """Replace the lower half of a (n, n) by its Cholesky factor; returns 0 if there is one."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, matrix = values
        n = _small(builder, builder.extract_value(builder.extract_value(matrix, 5), 0))
        places = _call(builder, address, "U", n, _data(builder, matrix), n, _I32(0))
        return builder.sext(builder.load(places[-1]), ir.IntType(64))

    return types.int64(types.int64, _MATRIX), build


@_inside
def add_square(typing: Any, address: Any, b: Any, rows: Any, beta: Any, c: Any) -> Any:
    """c = beta c + B^T B in the lower half, by dsyrk: B the first ``rows`` rows of b (., n), c (n, n)."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, b, rows, beta, c = values
        n = _small(builder, builder.extract_value(builder.extract_value(c, 5), 0))
        k = _small(builder, rows)
        one = ir.DoubleType()(1.0)
        _call(builder, address, "U", "N", n, k, one, _data(builder, b), n, beta, _data(builder, c), n)
        return context.get_dummy_value()

    return types.void(types.int64, _MATRIX, types.int64, types.float64, _MATRIX), build


@_inside
def outer_square(typing: Any, address: Any, v: Any, c: Any) -> Any:
    """c = V V^T in the lower half, by dsyrk: v (q, n), c (q, q)."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, v, c = values
        shape = builder.extract_value(v, 5)
        q, n = (_small(builder, builder.extract_value(shape, i)) for i in range(2))
        one, zero = ir.DoubleType()(1.0), ir.DoubleType()(0.0)
        _call(builder, address, "U", "T", q, n, one, _data(builder, v), n, zero, _data(builder, c), q)
        return context.get_dummy_value()

    return types.void(types.int64, _MATRIX, _MATRIX), build


@_inside
def forward(typing: Any, address: Any, factor: Any, v: Any) -> Any:
    """Replace the rows v_i of v (q, n) by L^{-1} v_i, by dtrsm: factor = L (n, n)."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, factor, v = values
        shape = builder.extract_value(v, 5)
        q, n = (_small(builder, builder.extract_value(shape, i)) for i in range(2))
        one = ir.DoubleType()(1.0)
        _call(builder, address, "L", "U", "T", "N", n, q, one, _data(builder, factor), n, _data(builder, v), n)
        return context.get_dummy_value()

    return types.void(types.int64, _MATRIX, _MATRIX), build


@_inside
def set_threads(typing: Any, address: Any, number: Any) -> Any:
    """Let OpenBLAS use so many threads; returns how many it used. Waking a second one takes longer than what there is
    to do, and far longer where the processor is shared."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, number = values
        function = builder.inttoptr(address, ir.FunctionType(_I32, [_I32]).as_pointer())
        return builder.sext(builder.call(function, [_small(builder, number)]), ir.IntType(64))

    return types.int64(types.int64, types.int64), build


@_inside
def part(typing: Any, numbers: Any, start: Any, rows: Any, columns: Any) -> Any:
    """The matrix (rows, columns) at ``start`` of a vector that outlives it: a view that is not counted as one. Counting
    references to dozens of arrays at every call costs more than small problems do."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        numbers, start, rows, columns = values
        array = context.make_array(_MATRIX)(context, builder)
        size = ir.IntType(64)(8)
        data = builder.gep(_data(builder, numbers), [start])
        strides = [builder.mul(columns, size), size]
        populate_array(array, data=data, shape=[rows, columns], strides=strides, itemsize=size, meminfo=None)
        return array._getvalue()

    return _MATRIX(_VECTOR, types.int64, types.int64, types.int64), build
