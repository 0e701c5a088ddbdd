"""Maps over an image: closed forms of entropy, borders and shares."""

import numpy as np
import pytest

from scanseg.errors import UsageError
from scanseg.evaluation.maps import border_mask, coarsened, entropy_map, map_statistics


def test_entropy_is_that_of_the_formula():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), (5, 6)).transpose(2, 0, 1)
    expected = -(probabilities * np.log(probabilities)).sum(0) / np.log(4)
    assert entropy_map(probabilities) == pytest.approx(expected, rel=1e-5)


def test_certain_is_zero_and_all_alike_is_one():
    certain = np.zeros((3, 2, 2))
    certain[1] = 1
    assert not entropy_map(certain).any()
    assert entropy_map(np.full((3, 2, 2), 1 / 3)) == pytest.approx(np.ones((2, 2)))
    assert entropy_map(np.ones((1, 2))).tolist() == [0, 0]


def test_a_border_has_two_sides_along_every_axis():
    cube = np.zeros((5, 5, 5), int)
    cube[2, 2, 2] = 7
    border = border_mask(cube)
    assert border.sum() == 7  # the voxel and its six neighbours
    assert not border_mask(np.ones((3, 3))).any()
    assert border_mask(np.array([[1, 2], [1, 2]])).all()


def test_a_coarse_cell_holds_what_any_of_its_places_holds():
    mask = np.zeros((4, 6), bool)
    mask[3, 5] = mask[0, 0] = True
    assert coarsened(mask, (2, 3)).tolist() == [[True, False, False], [False, False, True]]
    assert np.array_equal(coarsened(mask, (4, 6)), mask)
    assert coarsened(mask, (1, 1)).all()
    with pytest.raises(UsageError, match="cannot be divided"):
        coarsened(mask, (3, 3))


def test_shares_follow_from_sums():
    values = np.array([[1.0, 1.0], [1.0, 5.0]])
    border = np.array([[False, False], [False, True]])
    found = map_statistics(values, border)
    assert found["share_at_borders"] == pytest.approx(5 / 8)
    assert found["share_of_places"] == 0.25
    assert found["concentration"] == pytest.approx(2.5)
    assert (found["mean"], found["max"], found["quantiles"]["median"]) == (2, 5, 1)
    assert map_statistics(np.ones((4, 4)), np.eye(4, dtype=bool))["concentration"] == pytest.approx(1)


def test_nothing_to_share_is_none():
    assert map_statistics(np.zeros((2, 2)), np.ones((2, 2), bool))["share_at_borders"] is None
    assert map_statistics(np.ones((2, 2)), np.zeros((2, 2), bool))["concentration"] is None
