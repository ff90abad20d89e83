"""Vectors of a few numbers for numba: one number of each of ``LANES`` rows of a batch, in one register or two.

``a + b``, ``a * 2.0`` and the functions below act lane by lane; a mask is a vector of 1.0 and 0.0. In memory a vector
is a row of a (size, LANES) array. Plain loops over the lanes would do as well if numba could promise LLVM that its
arrays do not overlap. It cannot, and loops over what may overlap are not vectorised.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

LANES = 8

_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
#: a * b + c may be rounded once; nothing else is allowed, for NaN and infinity have to stay what they are.
_FLAGS = ("contract",)


class Lanes(types.Type):
    """The type of such a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


_LANES = Lanes()
_MATRIX = types.float64[:, ::1]
#: Where numba keeps the pointer among the parts of an array.
_DATA = 4


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def load(array: Any, i: int) -> Any:
    """The vector at ``array[i]``."""
    raise NotImplementedError("inside compiled functions only")


def store(array: Any, i: int, vector: Any) -> None:
    """``array[i] = vector``."""
    raise NotImplementedError("inside compiled functions only")


def splat(number: float) -> Any:
    """The number in all lanes."""
    raise NotImplementedError("inside compiled functions only")


def less(a: Any, b: Any) -> Any:
    """The mask of a < b: 0 where either is NaN."""
    raise NotImplementedError("inside compiled functions only")


def where(mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is set, else b."""
    raise NotImplementedError("inside compiled functions only")


def maximum(a: Any, b: Any) -> Any:
    """The larger one: a if b is NaN, and NaN if a is."""
    raise NotImplementedError("inside compiled functions only")


def sqrt(a: Any) -> Any:
    """The square root."""
    raise NotImplementedError("inside compiled functions only")


def magnitude(a: Any) -> Any:
    """The absolute value."""
    raise NotImplementedError("inside compiled functions only")


def count(mask: Any) -> int:
    """How many lanes of the mask are set."""
    raise NotImplementedError("inside compiled functions only")


def _define(function: Any, result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Any]], Any]:
    """Declare types of ``function``, and how to build it; a number among its arguments is spread over the lanes."""

    def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
        def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
            pairs = zip(call.args, values, strict=True)
            return build(builder, *(_spread(builder, v) if kind == types.float64 else v for kind, v in pairs))

        template = type("Template", (ConcreteTemplate,), {"key": function, "cases": [signature(result, *arguments)]})
        infer_global(function)(template)
        lower_builtin(function, *arguments)(lower)
        return build

    return decorate


def _spread(builder: Any, number: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _I32(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _intrinsic(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _pointer(builder: Any, array: Any, i: Any) -> Any:
    data = builder.extract_value(array, _DATA)
    start = builder.gep(data, [builder.mul(i, ir.Constant(i.type, LANES))])
    return builder.bitcast(start, _VECTOR.as_pointer())


def _bits(builder: Any, mask: Any) -> Any:
    return builder.fcmp_ordered("!=", mask, ir.Constant(_VECTOR, [0.0] * LANES))


def _binary(name: str) -> Callable[..., Any]:
    return lambda builder, a, b: getattr(builder, name)(a, b, flags=_FLAGS)


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    for _pair in ((_LANES, _LANES), (_LANES, types.float64), (types.float64, _LANES)):
        _define(_function, _LANES, *_pair)(_binary(_name))

_define(operator.neg, _LANES, _LANES)(lambda builder, a: builder.fneg(a))
_define(splat, _LANES, types.float64)(lambda builder, a: a)
_define(sqrt, _LANES, _LANES)(lambda builder, a: _intrinsic(builder, f"llvm.sqrt.v{LANES}f64", _VECTOR, a))
_define(magnitude, _LANES, _LANES)(lambda builder, a: _intrinsic(builder, f"llvm.fabs.v{LANES}f64", _VECTOR, a))


@_define(load, _LANES, _MATRIX, types.intp)
def _(builder: Any, array: Any, i: Any) -> Any:
    return builder.load(_pointer(builder, array, i), align=8)


@_define(store, types.void, _MATRIX, types.intp, _LANES)
def _(builder: Any, array: Any, i: Any, vector: Any) -> Any:
    builder.store(vector, _pointer(builder, array, i), align=8)
    return ir.Constant(ir.IntType(8).as_pointer(), None)


for _pair in ((_LANES, _LANES), (_LANES, types.float64), (types.float64, _LANES)):

    @_define(less, _LANES, *_pair)
    def _(builder: Any, a: Any, b: Any) -> Any:
        return builder.uitofp(builder.fcmp_ordered("<", a, b), _VECTOR)

    @_define(maximum, _LANES, *_pair)
    def _(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", a, b), b, a)


for _pair in ((_LANES, _LANES), (_LANES, types.float64), (types.float64, _LANES)):

    @_define(where, _LANES, _LANES, *_pair)
    def _(builder: Any, mask: Any, a: Any, b: Any) -> Any:
        return builder.select(_bits(builder, mask), a, b)


@_define(count, types.intp, _LANES)
def _(builder: Any, mask: Any) -> Any:
    bits = builder.bitcast(_bits(builder, mask), ir.IntType(LANES))
    number = _intrinsic(builder, f"llvm.ctpop.i{LANES}", ir.IntType(LANES), bits)
    return builder.zext(number, ir.IntType(64))
