import numpy as np
import pytest

from scanseg.evaluation.boxes import joined, label_boxes


@pytest.mark.parametrize("scale", [1, 1_000_003])
def test_boxes_are_those_of_every_value_by_itself(scale):
    rng = np.random.default_rng(1)
    label_map = np.where(rng.random((7, 8, 9)) < 0.05, rng.integers(1, 6, (7, 8, 9)), 0).astype(np.int32)
    label_map = label_map * scale
    boxes = label_boxes(label_map, [value * scale for value in (1, 2, 3, 4)] + [7])
    assert set(boxes) == {value * scale for value in (1, 2, 3, 4)}
    for value, box in boxes.items():
        places = np.argwhere(label_map == value)
        assert [part.start for part in box] == places.min(axis=0).tolist()
        assert [part.stop for part in box] == (places.max(axis=0) + 1).tolist()


def test_nothing_to_find():
    assert label_boxes(np.zeros((3, 3), dtype=np.int32), []) == {}
    assert label_boxes(np.zeros((3, 3), dtype=np.int32), [1, 9000]) == {}


def test_joined_boxes_hold_both():
    first, second = (slice(1, 3), slice(4, 5)), (slice(2, 9), slice(0, 1))
    assert joined(first, second) == (slice(1, 9), slice(0, 5))
    assert joined(first, None) == joined(None, first) == first
    assert joined(None, None) is None
