"""Vectors of float32 values in compiled kernels, and spikes as bits of a word.

Numba vectorises a loop only as a whole, and would keep the running values of a short one in memory.
Values of LLVM's vector types stay in registers; LLVM splits a vector over as many of them as the
processor needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16  # float32 values of the shortest vector; rows are padded to a multiple of it

NO_BIT, ONE_BIT = np.uint64(0), np.uint64(1)


def instruction(generator: Any) -> Any:
    """Register an intrinsic; compiled code calls it without the first argument, the context."""
    return intrinsic(generator)


class Lanes(types.Type):
    """Numba type of a vector of `count` float32 values."""

    def __init__(self, count: int) -> None:
        super().__init__(name=f"Lanes({count})")
        self.vector = ir.VectorType(ir.FloatType(), count)
        self.count = count

    def filled(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.count)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes):
        super().__init__(manager, lanes, lanes.vector)


def _zeros(lanes: Lanes) -> Any:
    """Intrinsic that returns a vector of zeros."""

    def zeros(_: Any) -> Any:
        return lanes(), lambda context, builder, signature, args: lanes.filled(0)

    return instruction(zeros)


zeros_16, zeros_32, zeros_64 = (_zeros(Lanes(count)) for count in (16, 32, 64))


def _address(context: Any, builder: Any, lanes: Lanes, of: Any, array: Any, index: Any) -> Any:
    data = context.make_array(of)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), lanes.vector.as_pointer())


@instruction
def load(_: Any, array: Any, index: Any, like: Lanes) -> Any:
    """Load the values of a flat float32 array from `index` on, as many as `like` holds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(_address(context, builder, like, array, *args[:2]))
        loaded.align = 4  # rows are aligned to float32 only; LLVM would assume whole vectors
        return loaded

    return like(array, index, like), generate


@instruction
def store(_: Any, lanes: Lanes, array: Any, index: Any) -> Any:
    """Store the values of a vector in a flat float32 array from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, lanes, array, *args[1:])
        builder.store(args[0], address).align = 4
        return context.get_dummy_value()

    return types.void(lanes, array, index), generate


@instruction
def plus(_: Any, a: Lanes, b: Lanes) -> Any:
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


def splat(builder: Any, lanes: Lanes, value: Any) -> Any:
    """Code for a vector of one float32 value."""
    first = ir.Constant(ir.IntType(32), 0)
    one = builder.insert_element(ir.Constant(lanes.vector, ir.Undefined), value, first)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(one, one, everywhere)


@instruction
def scaled(_: Any, lanes: Lanes, factor: Any) -> Any:
    """A vector times a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], splat(builder, lanes, args[1]))

    return lanes(lanes, types.float32), generate


@instruction
def spikes_of(_: Any, word: Any, like: Lanes) -> Any:
    """The lowest bits of a word as 0 or 1, as many as `like` has values."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.trunc(args[0], ir.IntType(like.count))
        return builder.uitofp(
            builder.bitcast(bits, ir.VectorType(ir.IntType(1), like.count)), like.vector
        )

    return like(types.uint64, like), generate


def _differs(value: float) -> Any:
    """Intrinsic that compares 16 numbers with `value`; bit n of the result is set if n differs."""

    def differs(_: Any, lanes: Lanes) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            unequal = builder.fcmp_unordered("!=", args[0], lanes.filled(value))  # true for NaN
            return builder.zext(builder.bitcast(unequal, ir.IntType(LANES)), ir.IntType(64))

        return types.uint64(lanes), generate

    return instruction(differs)


not_zero, not_one = _differs(0), _differs(1)


@instruction
def lowest(_: Any, word: Any) -> Any:
    """Index of the lowest set bit of a word that is not zero."""
    certain = ir.Constant(ir.IntType(1), 1)  # the word is not zero, so no check is generated
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.cttz(
        args[0], certain
    )
