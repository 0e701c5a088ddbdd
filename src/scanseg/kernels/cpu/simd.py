"""Explicit SIMD for Numba: a vector of float32 as a value type, and the few operations the scan needs.

LLVM lowers the vector to whatever the processor has: two AVX2 registers, two AVX-512 registers, four NEON
registers, four SSE registers. Nothing here names an instruction set. Numba's automatic vectoriser reaches a
fraction of this speed, because of `exp` and because of the layout of the state.

All memory is given as byte addresses, because Numba counts references to arrays with locked instructions, a
tenth of the time of a scan. `load`, `store` and `splat` work on float32 scratch; for tensors see `elements`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

F32 = np.float32
BLOCK = 8  # side of the square blocks that `read_transposed` turns
CACHE_LINE = 64

# Contraction, reassociation and other value-changing freedoms stay off: same input, same bits.
_OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True}
_WITHOUT_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}


F = TypeVar("F", bound=Callable[..., Any])


def primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an operation from a function that returns its Numba signature and its LLVM emitter.

    The operation takes the function's parameters except the first, Numba's typing context.
    """
    return cast(Callable[..., Any], intrinsic(function))


def inlined(function: F) -> F:
    """Compiles a function into each of its callers."""
    return cast(F, njit(forceinline=True, **_WITHOUT_WRAPPERS)(function))


def outlined(function: F) -> F:
    """Compiles a function that other kernels call."""
    return cast(F, njit(**_WITHOUT_WRAPPERS)(function))


def entry(function: F) -> F:
    """Compiles a function that Python calls."""
    return cast(F, njit(**_OPTIONS)(function))


def _channels_per_vector() -> int:
    """Returns 32 where registers hold 16 floats, else 16: two registers hide the latency of multiply-add."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return 32 if "+avx512f" in features.split(",") else 16


LANES = _channels_per_vector()
HALF = LANES // 2


class Vector(types.Type):
    """Numba type of `width` float32 values in registers."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"float32x{width}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), kind.width))


FLOAT, INT32, INT16 = ir.FloatType(), ir.IntType(32), ir.IntType(16)
wide, _half, _block = Vector(LANES), Vector(HALF), Vector(BLOCK)


def filled(kind: ir.Type, value: float) -> ir.Constant:
    """Returns the constant `value`, repeated if `kind` is a vector."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def vector_like(kind: ir.Type, element: ir.Type) -> ir.Type:
    """Returns `element`, as a vector of the same width if `kind` is a vector."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def shuffled(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(INT32, len(order)), order)
    return builder.shuffle_vector(first, second, mask)


def _call(builder: Any, name: str, *values: Any) -> Any:
    """Calls an LLVM intrinsic whose operands and result have one vector type."""
    kind = values[0].type
    signature = ir.FunctionType(kind, [kind] * len(values))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{kind.count}f32")
    return builder.call(function, values)


# Arithmetic: `+ - *` between vectors of one width, and what Python has no operator for.


def _define_operator(symbol: Any, instruction: str) -> None:
    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def type_of(context: Any) -> Any:
        return lambda x, y: x if isinstance(x, Vector) and x == y else None

    @lower_builtin(symbol, Vector, Vector)  # type: ignore[untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define_operator(_symbol, _instruction)


@primitive
def fma(context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the processor can."""
    return x(x, x, x), lambda c, builder, s, values: _call(builder, "fmuladd", *values)


@primitive
def divide(context: Any, x: Any, y: Any) -> Any:
    """x / y."""
    return x(x, x), lambda c, builder, s, values: builder.fdiv(*values)


@primitive
def absolute(context: Any, x: Any) -> Any:
    """|x|."""
    return x(x), lambda c, builder, s, values: _call(builder, "fabs", *values)


@primitive
def where_negative(context: Any, x: Any, yes: Any, no: Any) -> Any:
    """`yes` where x < 0, else `no` (also where x is NaN)."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        x, yes, no = values
        return builder.select(builder.fcmp_ordered("<", x, filled(x.type, 0.0)), yes, no)

    return x(x, x, x), emit


@primitive
def larger(context: Any, x: Any, y: Any) -> Any:
    """The larger of x and y; y where one of them is NaN."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        x, y = values
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    return x(x, x), emit


@primitive
def all_at_most(context: Any, x: Any, y: Any) -> Any:
    """Whether x <= y in every lane; false where one of them is NaN."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        lanes = builder.fcmp_ordered("<=", *values)
        bits = ir.IntType(lanes.type.count)
        whole = builder.icmp_unsigned("==", builder.bitcast(lanes, bits), ir.Constant(bits, -1))
        return builder.zext(whole, ir.IntType(64))

    return types.intp(x, x), emit


@primitive
def bounded(context: Any, x: Any, low: Any, high: Any) -> Any:
    """x limited to [low, high]; NaN stays NaN."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        x, low, high = values
        x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
        return builder.select(builder.fcmp_ordered(">", x, high), high, x)

    return x(x, x, x), emit


@primitive
def times_power_of_two(context: Any, x: Any, shifted: Any) -> Any:
    """x * 2**n, where n stands in the low bits of `shifted` = n + 1.5 * 2**23."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        kind = values[0].type
        bits = vector_like(kind, INT32)
        x, shifted = (builder.bitcast(value, bits) for value in values)
        return builder.bitcast(builder.add(x, builder.shl(shifted, filled(bits, 23))), kind)

    return x(x, x), emit


@primitive
def fold_fma(context: Any, x: Any, y: Any, total: Any) -> Any:
    """total + x * y, the upper half of the product added to the lower; `total` is half as wide."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> Any:
        x, y, total = values
        for part in (list(range(HALF)), list(range(HALF, LANES))):
            total = _call(
                builder, "fmuladd", shuffled(builder, x, x, part), shuffled(builder, y, y, part), total
            )
        return total

    return _half(wide, wide, _half), emit


# Between registers and scratch: float32 at an address, indexed by element.


def item_at(builder: Any, address: Any, index: Any) -> Any:
    """Returns the pointer to an element of float32 scratch."""
    return builder.gep(builder.inttoptr(address, FLOAT.as_pointer()), [index])


def load_vector(builder: Any, pointer: Any, kind: ir.Type) -> Any:
    value = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    value.align = kind.element.get_abi_size(cpu_target.target_context.target_data)
    return value


def store_vector(builder: Any, value: Any, pointer: Any) -> None:
    kind = value.type
    instruction = builder.store(value, builder.bitcast(pointer, kind.as_pointer()))
    instruction.align = kind.element.get_abi_size(cpu_target.target_context.target_data)


def _loader(vector: Vector) -> Any:
    kind = ir.VectorType(FLOAT, vector.width)
    return lambda c, builder, s, values: load_vector(builder, item_at(builder, *values), kind)


@primitive
def load(context: Any, address: Any, index: Any) -> Any:
    """LANES values from element `index` on."""
    return wide(types.intp, types.intp), _loader(wide)


@primitive
def load_half(context: Any, address: Any, index: Any) -> Any:
    """HALF values from element `index` on."""
    return _half(types.intp, types.intp), _loader(_half)


@primitive
def store(context: Any, address: Any, index: Any, x: Any) -> Any:
    """Stores x from element `index` on."""
    return types.void(types.intp, types.intp, x), lambda c, builder, s, values: store_vector(
        builder, values[2], item_at(builder, values[0], values[1])
    )


def _broadcast(builder: Any, scalar: Any) -> Any:
    empty = ir.Constant(ir.VectorType(FLOAT, LANES), ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(INT32, 0))
    return shuffled(builder, first, empty, [0] * LANES)


@primitive
def splat(context: Any, address: Any, index: Any) -> Any:
    """Element `index` in all lanes."""
    return wide(types.intp, types.intp), lambda c, builder, s, values: _broadcast(
        builder, builder.load(item_at(builder, *values))
    )


@primitive
def fill(context: Any, value: Any) -> Any:
    """The number `value` in all lanes."""

    def emit(c: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _broadcast(builder, c.cast(builder, values[0], signature.args[0], types.float32))

    return wide(value), emit


@inlined
def clear(address: int, count: int) -> None:
    """Sets `count` elements, a multiple of LANES, to zero."""
    for i in range(0, count, LANES):
        store(address, i, fill(F32(0.0)))


@primitive
def sum_lanes(context: Any, address: Any, index: Any) -> Any:
    """The sum of HALF values from element `index` on, added in pairs."""

    def emit(c: Any, builder: Any, signature: Any, values: Any) -> Any:
        x = _loader(_half)(c, builder, signature, values)
        while x.type.count > 1:
            middle = x.type.count // 2
            upper = shuffled(builder, x, x, list(range(middle, 2 * middle)))
            x = builder.fadd(shuffled(builder, x, x, list(range(middle))), upper)
        return builder.extract_element(x, ir.Constant(INT32, 0))

    return types.float32(types.intp, types.intp), emit


@primitive
def sum_rows(context: Any, address: Any, index: Any, pitch: Any, target: Any) -> Any:
    """Scratch at `target` = the sums of HALF rows of HALF values, from elements index + k * pitch on."""
    kind = ir.VectorType(FLOAT, HALF)

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        address, index, pitch, target = values
        starts = [builder.add(index, builder.mul(pitch, ir.Constant(pitch.type, k))) for k in range(HALF)]
        rows = [load_vector(builder, item_at(builder, address, start), kind) for start in starts]
        # Each round adds the two halves of every row and puts two half-empty rows into one.
        while len(rows) > 1:
            step = len(rows) // 2
            own = [HALF + (lane ^ step) if lane & step else lane for lane in range(HALF)]
            other = [HALF + lane if lane & step else lane ^ step for lane in range(HALF)]
            pairs = zip(rows[:step], rows[step:], strict=True)
            rows = [
                builder.fadd(shuffled(builder, *pair, own), shuffled(builder, *pair, other)) for pair in pairs
            ]
        store_vector(builder, rows[0], builder.inttoptr(target, FLOAT.as_pointer()))

    return types.void(types.intp, types.intp, types.intp, types.intp), emit


@inlined
def aligned(address: int) -> int:
    """Returns the first address of a cache line from `address` on."""
    return (address + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@inlined
def behind(address: int, count: int) -> int:
    """Returns where scratch may lie behind `count` elements at `address`; a cache line stays free."""
    return address + (4 * count + 2 * CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE
