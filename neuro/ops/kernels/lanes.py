"""Arithmetic on vectors of 16 float32 values in compiled kernels, under the names of scalars.

LLVM does not vectorise a loop over many arrays: it gives up on checking that they do not overlap.
A row function written for a type `like` is compiled twice instead: for vectors, and for single
values, which are the rest of a row. Products and sums are not contracted, as in `spiking`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from neuro.ops.kernels.spiking import _like
from neuro.ops.kernels.vectors import Lanes, instruction, splat


def _compiled_as(function: Callable[..., Any]) -> Any:
    """Register what compiles calls of `function`."""
    # strict would compare annotations, which lambdas do not have
    return overload(
        function, jit_options={"forceinline": True, "error_model": "numpy"}, strict=False
    )


class _Mask(types.Type):
    """Numba type of a vector of truth values."""

    def __init__(self, count: int) -> None:
        super().__init__(name=f"Mask({count})")
        self.vector = ir.VectorType(ir.IntType(1), count)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, mask: _Mask):
        super().__init__(manager, mask, mask.vector)


@instruction
def _filled(_: Any, like: Lanes, value: Any) -> Any:
    """A vector of one float32 value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat(builder, like, args[1])

    return like(like, types.float32), generate


def _register(operation: Callable[..., Any], instruction: Any) -> None:
    """Make a binary operation available for two vectors, or a vector and a float32."""

    def choose(a: Any, b: Any) -> Callable[..., Any] | None:
        if isinstance(a, Lanes) and isinstance(b, Lanes):
            return lambda a, b: instruction(a, b)
        if isinstance(a, Lanes):
            return lambda a, b: instruction(a, _filled(a, b))
        if isinstance(b, Lanes):
            return lambda a, b: instruction(_filled(b, a), b)
        return None

    _compiled_as(operation)(choose)


def _arithmetic(name: str) -> Any:
    def apply(_: Any, a: Lanes, b: Lanes) -> Any:
        return a(a, b), lambda context, builder, signature, args: getattr(builder, name)(*args)

    return instruction(apply)


@instruction
def _at_least(_: Any, a: Lanes, b: Lanes) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered(">=", *args)

    return _Mask(a.count)(a, b), generate


@instruction
def _larger(_: Any, a: Lanes, b: Lanes) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), generate


@instruction
def _magnitude(_: Any, a: Lanes) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        positive = builder.fcmp_ordered(">=", args[0], a.filled(0))
        return builder.select(positive, args[0], builder.fneg(args[0]))

    return a(a), generate


@instruction
def _select(_: Any, mask: _Mask, a: Lanes, b: Lanes) -> Any:
    return a(mask, a, b), lambda context, builder, signature, args: builder.select(*args)


for _operation, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register(_operation, _arithmetic(_name))
_register(operator.ge, _at_least)
_register(max, _larger)


@_compiled_as(abs)
def _abs_of_lanes(x: Any) -> Callable[..., Any] | None:
    return (lambda x: _magnitude(x)) if isinstance(x, Lanes) else None


@_compiled_as(_like)
def _like_lanes(x: Any, value: Any) -> Callable[..., Any] | None:
    return (lambda x, value: _filled(x, value)) if isinstance(x, Lanes) else None


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, `b` elsewhere; for vectors and single values."""
    raise NotImplementedError("compiled code only")


@_compiled_as(where)
def _where(condition: Any, a: Any, b: Any) -> Callable[..., Any]:
    if isinstance(condition, _Mask):
        return lambda condition, a, b: _select(condition, a, b)
    return lambda condition, a, b: a if condition else b


def _element(builder: Any, element: Any, address: Any, index: Any) -> Any:
    """Pointer to value `index` of the float32 values at `address`, as one to `element`."""
    values = builder.inttoptr(address, ir.FloatType().as_pointer())
    return builder.bitcast(builder.gep(values, [index]), element.as_pointer())


@instruction
def read(_: Any, address: Any, index: Any, like: Any) -> Any:
    """Float32 values at an address (`array.ctypes.data`) from `index` on, as many as in `like`.

    Numba counts references to arrays but not addresses: in a loop with branches the counting of a
    dozen arrays takes several times as long as the arithmetic.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(like)
        loaded = builder.load(_element(builder, element, *args[:2]))
        loaded.align = 4  # rows are aligned to float32 only; LLVM would assume whole vectors
        return loaded

    return like(types.uintp, types.intp, like), generate


@instruction
def write(_: Any, values: Any, address: Any, index: Any) -> Any:
    """Store float32 values at an address from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(values)
        builder.store(args[0], _element(builder, element, *args[1:])).align = 4
        return context.get_dummy_value()

    return types.void(values, types.uintp, types.intp), generate
