import pytest

from scanseg.reporting.layout import make_grid


@pytest.mark.parametrize(
    "sizes",
    [[(40.0, 30.0), (35.0, 30.0), (35.0, 40.0)], [(1.0, 300.0)], [(500.0, 2.0)] * 3, [(7.0, 7.0)] * 2],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_panels_keep_their_aspect_and_scale_and_stay_inside(sizes, rows):
    grid = make_grid(sizes, rows=rows, footer=lambda width: 0.5)
    scales = set()
    for line in grid.rectangles:
        right_of_last = 0.0
        for (height, width), (left, bottom, wide, high) in zip(sizes, line, strict=True):
            assert left >= right_of_last - 1e-9
            assert left + wide <= 1 + 1e-9
            assert grid.below <= bottom < bottom + high <= grid.above + 1e-9
            assert high * grid.height / height == pytest.approx(wide * grid.width / width)
            scales.add(round(wide * grid.width / width, 9))
            right_of_last = left + wide
    assert len(scales) == 1
    tops = [line[0][1] for line in grid.rectangles]
    assert tops == sorted(tops, reverse=True)


def test_the_footer_knows_the_width():
    widths = []

    def footer(width):
        widths.append(width)
        return 2.0

    grid = make_grid([(1.0, 1.0)], footer=footer)
    assert widths == [grid.width]
    assert grid.below * grid.height == pytest.approx(2.0)
