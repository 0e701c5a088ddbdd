"""Orders that depend on the size alone: what they read, and that the inverse undoes them."""

import pytest
import torch

from scanseg.scans import CrossScan, cross_scan, inverse, raster


def test_cross_scan_reads_rows_columns_and_both_backwards() -> None:
    picture = torch.arange(6).view(2, 3)
    rows, columns, rows_back, columns_back = picture.flatten()[cross_scan(2, 3)]
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert columns.tolist() == picture.t().flatten().tolist()
    assert rows_back.tolist() == rows.tolist()[::-1]
    assert columns_back.tolist() == columns.tolist()[::-1]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (4, 6)])
def test_every_row_is_a_permutation(height: int, width: int) -> None:
    order = cross_scan(height, width)
    assert order.dtype == torch.int64
    assert order.shape == (4, height * width)
    assert torch.equal(order.sort(1).values, raster(height * width).expand(4, -1))


def test_the_inverse_undoes_an_order() -> None:
    order = torch.stack([torch.randperm(30) for _ in range(6)]).view(2, 3, 30)
    x = torch.randn(2, 3, 30)
    assert torch.equal(x.gather(-1, order).gather(-1, inverse(order)), x)
    assert torch.equal(inverse(inverse(order)), order)


def test_the_cross_scan_of_features_follows_their_size() -> None:
    assert torch.equal(CrossScan()(torch.zeros(2, 3, 5, 7)), cross_scan(3, 5))
    assert len(CrossScan().names) == 4
