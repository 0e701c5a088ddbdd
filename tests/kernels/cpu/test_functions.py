"""The vector functions against float64, over their whole range."""

import numpy as np
import pytest

from scanseg.kernels.cpu.functions import (
    exp2,
    exp2_within,
    exp_minus_abs,
    sigmoid_from,
    softplus_from,
)
from scanseg.kernels.cpu.simd import LANES, entry, load, store


@entry
def _evaluate(count, x, power, sigmoid, softplus):
    for i in range(0, count, LANES):
        v = load(x, i)
        e = exp_minus_abs(v)
        store(power, i, exp2(v))
        store(sigmoid, i, sigmoid_from(v, e))
        store(softplus, i, softplus_from(v, e))


def _results(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    results = tuple(np.full_like(x, np.nan) for _ in range(3))
    _evaluate(x.size, *(array.ctypes.data for array in (x, *results)))
    return results


@pytest.mark.parametrize(
    ("low", "high", "error"), [(-1, 1, 3e-7), (-8, 8, 6e-7), (-80, 80, 6e-6), (-1e-4, 0, 2e-7)]
)
def test_relative_error(low, high, error):
    x = np.linspace(low, high, 1 << 14, dtype=np.float32)
    power, sigmoid, softplus = _results(x)
    exact = x.astype(np.float64)
    assert np.abs(power / np.exp2(exact) - 1).max() < error
    assert np.abs(sigmoid * (1 + np.exp(-exact)) - 1).max() < error
    assert np.abs(softplus / np.logaddexp(exact, 0) - 1).max() < error


def test_near_one_the_decay_keeps_its_distance_from_one():
    # A slow state forgets 1 - 2**x per step; that difference must be good, not only the power itself.
    x = -np.logspace(-5, -1, LANES * 64, dtype=np.float32)
    power, _, _ = _results(x)
    assert np.abs((1 - power.astype(np.float64)) - -np.expm1(x.astype(np.float64) * np.log(2))).max() < 7e-8


@entry
def _evaluate_within(count, x, power):
    for i in range(0, count, LANES):
        store(power, i, exp2_within(load(x, i)))


def test_without_the_limits_it_has_the_same_bits_between_them():
    x = np.concatenate([np.linspace(-126, 128, 1 << 14), [-126, -126, 128, 128] * LANES]).astype(np.float32)
    within = np.full_like(x, np.nan)
    _evaluate_within(x.size, x.ctypes.data, within.ctypes.data)
    assert np.array_equal(within.view(np.int32), _results(x)[0].view(np.int32))


def test_the_ends_of_the_range():
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 127.9, 128, 0] * LANES, dtype=np.float32)
    power, sigmoid, softplus = (values[:8] for values in _results(x))
    assert np.isnan([power[0], sigmoid[0], softplus[0]]).all()
    assert power[1] == power[3] == power[6] == np.inf
    assert 0 <= max(power[2], power[4], sigmoid[2], sigmoid[4], softplus[2], softplus[4]) < 1.2e-38
    assert power[5] == pytest.approx(2**127.9, rel=1e-5)
    assert (power[7], sigmoid[7]) == (1, 0.5)
    assert (sigmoid[1], softplus[1], softplus[3]) == (1, np.inf, np.float32(1e30))
