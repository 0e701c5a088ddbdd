"""Time over length."""

from itertools import pairwise

import pytest

from scanseg.benchmarking.peers import no_kernel
from scanseg.errors import UsageError
from scanseg.pipeline import bench_growth


def test_a_small_range() -> None:
    if reason := no_kernel():
        pytest.skip(reason)
    document = bench_growth(smallest=5, largest=9, minutes=0.005)
    results = document.cases[0].results
    assert document.complete
    assert [result.length for result in results] == [32, 64, 128, 256, 512]
    assert results[0].ratios == {}
    for before, result in pairwise(results):
        expected = result.timings["forward"].median_ms / before.timings["forward"].median_ms
        assert result.ratios["forward"] == pytest.approx(expected, abs=1e-3)


def test_lengths_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2\^9 to 2\^8"):
        bench_growth(smallest=9, largest=8)
