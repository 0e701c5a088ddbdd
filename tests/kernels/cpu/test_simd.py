"""The vector operations against NumPy and PyTorch."""

import numpy as np
import pytest
import torch

from scanseg.kernels.cpu import elements, simd
from scanseg.kernels.cpu.simd import BLOCK, F32, HALF, LANES


@simd.entry
def _arithmetic(x, y, out):
    a, b = simd.load(x, 0), simd.load(y, 0)
    simd.store(out, 0, a + b)
    simd.store(out, LANES, a - b)
    simd.store(out, 2 * LANES, a * b)
    simd.store(out, 3 * LANES, simd.divide(a, b))
    simd.store(out, 4 * LANES, simd.fma(a, b, simd.splat(x, 1)))
    simd.store(out, 5 * LANES, simd.where_negative(a, simd.absolute(b), simd.fill(F32(3.0))))
    simd.store(out, 6 * LANES, simd.bounded(a, simd.fill(F32(-0.5)), simd.fill(F32(0.5))))
    simd.store(out, 7 * LANES, simd.fold_fma(a, b, simd.load_half(x, 0)))
    elements.write(out + 4 * (7 * LANES + HALF), simd.sum_lanes(x, 0), np.float32)


def test_arithmetic_equals_numpy():
    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal(LANES).astype(np.float32) for _ in range(2))
    out = np.zeros(8 * LANES, np.float32)
    _arithmetic(*(array.ctypes.data for array in (x, y, out)))
    rows = out.reshape(8, LANES)
    expected = [
        x + y,
        x - y,
        x * y,
        x / y,
        x * y + x[1],
        np.where(x < 0, np.abs(y), 3),
        np.clip(x, -0.5, 0.5),
    ]
    np.testing.assert_allclose(rows[:7], expected, rtol=3e-7, atol=1e-7)
    np.testing.assert_allclose(
        rows[7, :HALF], (x * y)[:HALF] + (x * y)[HALF:] + x[:HALF], rtol=1e-6, atol=1e-6
    )
    assert rows[7, HALF] == pytest.approx(x[:HALF].sum(), rel=1e-6)


@simd.entry
def _sum_rows(rows, pitch, target):
    simd.sum_rows(rows, 3, pitch, target)


def test_rows_are_summed():
    pitch = HALF + 5
    rows = np.random.default_rng(0).standard_normal(3 + HALF * pitch).astype(np.float32)
    sums = np.zeros(HALF, np.float32)
    _sum_rows(rows.ctypes.data, pitch, sums.ctypes.data)
    expected = [rows[3 + k * pitch :][:HALF].sum(dtype=np.float64) for k in range(HALF)]
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)


@simd.entry
def _compare(x, y, out):
    a, b = simd.load(x, 0), simd.load(y, 0)
    simd.store(out, 0, simd.larger(a, b))
    return simd.all_at_most(a, b)


@pytest.mark.parametrize("lane", [0, 5, LANES - 1])
@pytest.mark.parametrize("above", [2.0, np.inf, np.nan])
def test_one_lane_above_is_noticed(lane, above):
    x, y, out = np.full(LANES, -1, np.float32), np.ones(LANES, np.float32), np.zeros(LANES, np.float32)
    x[1] = 1
    assert _compare(x.ctypes.data, y.ctypes.data, out.ctypes.data)
    x[lane] = above
    assert not _compare(x.ctypes.data, y.ctypes.data, out.ctypes.data)
    # Where one is not a number, the second.
    np.testing.assert_array_equal(out, np.where(x > y, x, y))


@simd.entry
def _narrow(source, target, count):
    for i in range(0, count, LANES):
        elements.write_lanes(target + 2 * i, elements.read_lanes(source + 4 * i, np.float32), np.uint16)


@simd.entry
def _narrow_one_by_one(source, target, count):
    for i in range(count):
        elements.write(target + 2 * i, elements.read(source + 4 * i, np.float32), np.uint16)


@pytest.mark.parametrize("narrow", [_narrow, _narrow_one_by_one], ids=["vector", "scalar"])
def test_bfloat16_rounds_as_pytorch(narrow):
    bits = torch.randint(
        -(2**31), 2**31, (1 << 14,), dtype=torch.int64, generator=torch.Generator().manual_seed(0)
    )
    ties = (torch.arange(-8, 8) << 16) + (0x3F80 << 16) + 0x8000
    values = torch.cat([bits, ties.repeat(LANES)]).to(torch.int32).view(torch.float32)
    result = torch.zeros(values.numel(), dtype=torch.bfloat16)
    narrow(values.data_ptr(), result.data_ptr(), values.numel())
    expected = values.to(torch.bfloat16)
    number = ~expected.isnan()
    assert torch.equal(result.view(torch.int16)[number], expected.view(torch.int16)[number])
    assert torch.equal(result.isnan(), expected.isnan())


@simd.entry
def _there_and_back(source, target, stride, tile, dtype):
    elements.read_transposed(source, stride, dtype, tile, 0, LANES)
    elements.write_transposed(target, stride, dtype, tile, 0, LANES)


@pytest.mark.parametrize(
    ("dtype", "token"), [(torch.float32, np.float32), (torch.bfloat16, np.uint16)], ids=str
)
def test_squares_are_transposed_and_nothing_beside_them_is_touched(dtype, token):
    source = torch.randn(BLOCK, BLOCK + 3).to(dtype)
    target = torch.zeros_like(source)
    tile = np.zeros(BLOCK * LANES, np.float32)
    _there_and_back(source.data_ptr(), target.data_ptr(), BLOCK + 3, tile.ctypes.data, token)
    turned = torch.from_numpy(tile).view(BLOCK, LANES)
    assert torch.equal(turned[:, :BLOCK], source[:, :BLOCK].float().T)
    assert not turned[:, BLOCK:].any()
    assert torch.equal(target[:, :BLOCK], source[:, :BLOCK])
    assert not target[:, BLOCK:].any()


@simd.entry
def _clear(address, count):
    simd.clear(address, count)


def test_clearing_stops_where_it_should():
    values = np.ones(4 * LANES, np.float32)
    _clear(values.ctypes.data + 4 * LANES, 2 * LANES)
    assert values.reshape(4, LANES).sum(1).tolist() == [LANES, 0, 0, LANES]


@simd.entry
def _layout(address, count):
    return simd.aligned(address), simd.behind(address, count)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 256])
def test_scratch_lies_apart_and_on_lines_of_the_cache(count):
    start, _ = _layout(1001, 0)
    _, end = _layout(start, count)
    assert 1001 <= start < 1001 + simd.CACHE_LINE
    assert start % simd.CACHE_LINE == end % simd.CACHE_LINE == 0
    assert 4 * count + simd.CACHE_LINE <= end - start + simd.CACHE_LINE - 1
    assert end - start < 4 * count + 2 * simd.CACHE_LINE


@simd.entry
def _ask(address):
    elements.prefetch(address)


@pytest.mark.parametrize("address", [0, 1, 2**63 - 1], ids=["null", "odd", "far"])
def test_asking_ahead_for_no_memory_does_nothing(address):
    _ask(address)
