"""The inner product of a tile of 4 queries and 16 vectors, in registers, compared with the queries' limits at once.

A matrix product writes its result and a second pass reads it to find the few pairs of interest. Here the products
never leave the registers: what comes out is one bit per pair. Compilers do not find this form from loops, so it is
emitted as vector instructions of LLVM, which every processor numba runs on has or imitates.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS, LANES = 4, 16
_WIDTH = 8  # floats per register
_PARTS = LANES // _WIDTH

_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_VECTOR = ir.VectorType(_F32, _WIDTH)


@intrinsic  # type: ignore[untyped-decorator]
def tile_below(typing: Any, stages: Any, norms: Any, limits: Any) -> Any:
    """Which pairs of a tile have a bound below their query's limit: a uint64, bit 16·row + lane.

    `stages`: for each, (queries, vectors, depth): addresses of (depth + 1)×4 and (depth + 1)×16 float32, the last
    coordinate for the comparison only. `norms`: address of 16, what the sums begin with; `limits`: address of 4.
    The sums of a stage go on in the next, which is reached only if a pair is still below.
    """
    return types.uint64(stages, types.uintp, types.uintp), _emit


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typing: Any, mask: Any) -> Any:
    """Position of the lowest bit that is set."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    norms, limits = (builder.inttoptr(a, _F32.as_pointer()) for a in arguments[1:])
    tile = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(_PARTS)] for _ in range(ROWS)]
    for part in range(_PARTS):
        first = _load(builder, norms, _I64(part * _WIDTH))
        for row in range(ROWS):
            builder.store(first, tile[row][part])
    result = cgutils.alloca_once_value(builder, _I64(0))
    done = builder.append_basic_block("done")
    for stage in cgutils.unpack_tuple(builder, arguments[0]):
        queries, vectors, depth = cgutils.unpack_tuple(builder, stage)
        queries, vectors = (builder.inttoptr(a, _F32.as_pointer()) for a in (queries, vectors))
        with cgutils.for_range(builder, depth) as loop:
            for row, part, product in _products(builder, queries, vectors, loop.index, tile):
                builder.store(product, tile[row][part])
        mask = _I64(0)
        for row, part, product in _products(builder, queries, vectors, depth, tile):
            limit = _splat(builder, builder.load(builder.gep(limits, [_I64(row)])))
            below = builder.bitcast(builder.fcmp_ordered("<", product, limit), ir.IntType(_WIDTH))
            mask = builder.or_(mask, builder.shl(builder.zext(below, _I64), _I64(row * LANES + part * _WIDTH)))
        builder.store(mask, result)
        some_left = builder.append_basic_block("some_left")
        builder.cbranch(builder.icmp_unsigned("!=", mask, _I64(0)), some_left, done)
        builder.position_at_end(some_left)
    builder.branch(done)
    builder.position_at_end(done)
    return builder.load(result)


def _products(builder: Any, queries: Any, vectors: Any, k: Any, tile: Any) -> Any:
    """Row, part and tile[row][part] + queries[k, row] · vectors[k, part], over the tile."""
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{_WIDTH}f32"
    )
    first = builder.mul(k, _I64(LANES))
    parts = [_load(builder, vectors, builder.add(first, _I64(p * _WIDTH))) for p in range(_PARTS)]
    for row in range(ROWS):
        at = builder.add(builder.mul(k, _I64(ROWS)), _I64(row))
        query = _splat(builder, builder.load(builder.gep(queries, [at])))
        for p, part in enumerate(parts):
            yield row, p, builder.call(fma, [query, part, builder.load(tile[row][p])])


def _load(builder: Any, pointer: Any, index: Any) -> Any:
    loaded = builder.load(builder.bitcast(builder.gep(pointer, [index]), _VECTOR.as_pointer()))
    loaded.align = 4
    return loaded


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), [0] * _WIDTH))
