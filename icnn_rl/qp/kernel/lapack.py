"""LAPACK for numba: three routines called by their addresses, which are ordinary arguments, so that what calls them can
be cached. The addresses are those that SciPy offers to Cython.

Matrices are C-contiguous and symmetric ones lie in their lower halves: what LAPACK, column by column, calls upper.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32 = ir.IntType(32)
_DATA = 4  # where numba keeps the pointer among the parts of an array
_MATRIX = types.Array(types.float64, 2, "C")


@functools.cache
def addresses() -> tuple[int, int, int]:
    """Of dpotrf, dsyrk and dtrsm; zeros without SciPy."""
    if importlib.util.find_spec("scipy") is None:
        return 0, 0, 0
    lapack, blas = (importlib.import_module(f"scipy.linalg.cython_{name}") for name in ("lapack", "blas"))
    return _address(lapack, "dpotrf"), _address(blas, "dsyrk"), _address(blas, "dtrsm")


def _address(module: Any, name: str) -> int:
    capsule, python = module.__pyx_capi__[name], ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    assert address is not None
    return int(address)


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


@intrinsic
def potrf(typing: Any, address: Any, a: Any) -> Any:
    """Replace the lower half of a (n, n) by its Cholesky factor; returns 0 if there is one."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, matrix = values
        n = _small(builder, builder.extract_value(builder.extract_value(matrix, 5), 0))
        places = _call(builder, address, "U", n, _data(builder, matrix), n, _I32(0))
        return builder.sext(builder.load(places[-1]), ir.IntType(64))

    return types.int64(types.int64, _MATRIX), build


@intrinsic
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


@intrinsic
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


@intrinsic
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
