"""Between tensors in memory, float32 or bfloat16, and the registers and scratch of `simd`.

Addresses are in bytes; `dtype` is `np.float32` or `np.uint16`, the bits of a bfloat16.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from scanseg.kernels.cpu.simd import (
    BLOCK,
    FLOAT,
    INT16,
    INT32,
    LANES,
    filled,
    item_at,
    load_vector,
    primitive,
    shuffled,
    store_vector,
    vector_like,
    wide,
)


def _element(dtype: Any) -> ir.Type:
    """Returns the memory type: float32, or the 16 bits of a bfloat16."""
    return FLOAT if dtype.dtype == types.float32 else INT16


def _widen(builder: Any, value: Any) -> Any:
    """Turns bfloat16 bits into float32; float32 passes."""
    kind = value.type
    if (kind.element if isinstance(kind, ir.VectorType) else kind) == FLOAT:
        return value
    integers = vector_like(kind, INT32)
    bits = builder.shl(builder.zext(value, integers), filled(integers, 16))
    return builder.bitcast(bits, vector_like(kind, FLOAT))


def _narrow(builder: Any, value: Any, element: ir.Type) -> Any:
    """Rounds float32 to the nearest bfloat16, ties to even, NaN to a quiet NaN; float32 passes."""
    if element == FLOAT:
        return value
    integers = vector_like(value.type, INT32)
    bits = builder.bitcast(value, integers)
    odd = builder.and_(builder.lshr(bits, filled(integers, 16)), filled(integers, 1))
    rounded = builder.lshr(
        builder.add(bits, builder.add(odd, filled(integers, 0x7FFF))), filled(integers, 16)
    )
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), filled(integers, 0x7FC0), rounded)
    return builder.trunc(rounded, vector_like(value.type, INT16))


def _at(builder: Any, address: Any, element: ir.Type) -> Any:
    return builder.inttoptr(address, element.as_pointer())


@primitive
def read(context: Any, address: Any, dtype: Any) -> Any:
    """One element at `address`, as float32."""
    element = _element(dtype)
    return types.float32(types.intp, dtype), lambda c, builder, s, values: _widen(
        builder, builder.load(_at(builder, values[0], element))
    )


@primitive
def read_position(context: Any, address: Any) -> Any:
    """One int64 at `address`."""
    return types.intp(types.intp), lambda c, builder, s, values: builder.load(
        _at(builder, values[0], ir.IntType(64))
    )


@primitive
def write_position(context: Any, address: Any, value: Any) -> Any:
    """Stores one int64 at `address`."""
    return types.void(types.intp, types.intp), lambda c, builder, s, values: builder.store(
        values[1], _at(builder, values[0], ir.IntType(64))
    )


@primitive
def prefetch(context: Any, address: Any) -> Any:
    """Asks for the cache line at `address`, which need not be valid."""

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        # For reading, into all levels, data.
        flags = (ir.Constant(INT32, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(values[0], byte), *flags])

    return types.void(types.intp), emit


@primitive
def write(context: Any, address: Any, value: Any, dtype: Any) -> Any:
    """Stores one float32 at `address` as an element of `dtype`."""
    element = _element(dtype)

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        builder.store(_narrow(builder, values[1], element), _at(builder, values[0], element))

    return types.void(types.intp, types.float32, dtype), emit


@primitive
def read_lanes(context: Any, address: Any, dtype: Any) -> Any:
    """LANES elements from `address`."""
    kind = ir.VectorType(_element(dtype), LANES)
    return wide(types.intp, dtype), lambda c, builder, s, values: _widen(
        builder, load_vector(builder, _at(builder, values[0], kind.element), kind)
    )


@primitive
def write_lanes(context: Any, address: Any, x: Any, dtype: Any) -> Any:
    """Stores LANES elements at `address`."""
    element = _element(dtype)

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        store_vector(builder, _narrow(builder, values[1], element), _at(builder, values[0], element))

    return types.void(types.intp, wide, dtype), emit


@primitive
def copy_block(context: Any, address: Any, dtype: Any, target: Any) -> Any:
    """Copies BLOCK elements of a tensor to scratch."""
    kind = ir.VectorType(_element(dtype), BLOCK)

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        address, _, target = values
        value = _widen(builder, load_vector(builder, _at(builder, address, kind.element), kind))
        store_vector(builder, value, _at(builder, target, FLOAT))

    return types.void(types.intp, dtype, types.intp), emit


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Turns a square of BLOCK vectors in log2(BLOCK) rounds of swaps."""
    step = BLOCK // 2
    while step:
        low = [BLOCK + (k ^ step) if k & step else k for k in range(BLOCK)]
        high = [BLOCK + k if k & step else k ^ step for k in range(BLOCK)]
        for i in range(BLOCK):
            if not i & step:
                x, y = rows[i], rows[i | step]
                rows[i], rows[i | step] = shuffled(builder, x, y, low), shuffled(builder, x, y, high)
        step //= 2
    return rows


def _index(builder: Any, start: Any, stride: Any, i: int) -> Any:
    return builder.add(start, builder.mul(stride, ir.Constant(stride.type, i)))


@primitive
def read_transposed(
    context: Any, address: Any, stride: Any, dtype: Any, target: Any, index: Any, pitch: Any
) -> Any:
    """Scratch element [index + j * pitch + i] = the tensor's [i * stride + j], for a square of BLOCK."""
    kind = ir.VectorType(_element(dtype), BLOCK)
    size = 4 if kind.element == FLOAT else 2

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        address, stride, _, target, index, pitch = values
        stride = builder.mul(stride, ir.Constant(stride.type, size))
        rows = [_at(builder, _index(builder, address, stride, i), kind.element) for i in range(BLOCK)]
        rows = [_widen(builder, load_vector(builder, row, kind)) for row in rows]
        for j, row in enumerate(_transposed(builder, rows)):
            store_vector(builder, row, item_at(builder, target, _index(builder, index, pitch, j)))

    return types.void(types.intp, types.intp, dtype, types.intp, types.intp, types.intp), emit


@primitive
def write_transposed(
    context: Any, address: Any, stride: Any, dtype: Any, source: Any, index: Any, pitch: Any
) -> Any:
    """The inverse of `read_transposed`."""
    kind = ir.VectorType(FLOAT, BLOCK)
    element = _element(dtype)
    size = 4 if element == FLOAT else 2

    def emit(c: Any, builder: Any, s: Any, values: Any) -> None:
        address, stride, _, source, index, pitch = values
        stride = builder.mul(stride, ir.Constant(stride.type, size))
        items = [item_at(builder, source, _index(builder, index, pitch, j)) for j in range(BLOCK)]
        rows = [load_vector(builder, item, kind) for item in items]
        for i, row in enumerate(_transposed(builder, rows)):
            target = _at(builder, _index(builder, address, stride, i), element)
            store_vector(builder, _narrow(builder, row, element), target)

    return types.void(types.intp, types.intp, dtype, types.intp, types.intp, types.intp), emit
