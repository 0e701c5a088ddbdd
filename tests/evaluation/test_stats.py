import json

import numpy as np
import pytest

from scanseg.data.image import read_label_map
from scanseg.evaluation.stats import mask_statistics
from scanseg.types import Geometry, Label

LABELS = [Label(0, "background"), Label(3, "organ"), Label(7, "lesion"), Label(9, "absent")]


def by_name(statistics):
    return {entry["name"]: entry for entry in statistics["labels"]}


def test_measures_a_known_volume():
    affine = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
    array = np.zeros((10, 12, 14), dtype=np.uint8)
    array[2:6, 3:9, 4:8] = 3
    array[9, 1, 1] = array[8, 2, 2] = 7  # touch by a corner: one component
    array[5, 11, 13] = 7
    geometry = Geometry(array.shape, (2.0, 0.5, 0.5), affine=affine)
    found = by_name(mask_statistics(array, LABELS, geometry))
    assert list(found) == ["organ", "lesion", "absent"]
    organ, lesion, absent = found.values()
    assert organ["voxels"] == 4 * 6 * 4
    assert organ["volume_ml"] == pytest.approx(96 * 0.5 / 1000)
    assert organ["components"] == 1
    assert organ["largest_ml"] == organ["volume_ml"]
    # Mean index x 5.5, y 5.5, z 3.5 through the affine.
    assert organ["centroid_mm"] == pytest.approx([10 - 0.5 * 5.5, -20 + 0.5 * 5.5, 5 + 2 * 3.5])
    assert organ["bounding_box"] == [[2, 6], [3, 9], [4, 8]]
    assert organ["touches_border"] is False
    assert (lesion["voxels"], lesion["components"]) == (3, 2)
    assert lesion["largest_ml"] == pytest.approx(2 * 0.5 / 1000)
    assert lesion["touches_border"] is True
    assert absent["voxels"] == absent["components"] == absent["volume_ml"] == 0
    assert absent["centroid_mm"] is absent["bounding_box"] is None
    assert absent["touches_border"] is False


@pytest.mark.parametrize(
    ("unit", "name", "size"), [("px", "area_px", 6.0), ("mm", "area_mm2", pytest.approx(6 * 0.06))]
)
def test_measures_an_area(unit, name, size):
    array = np.zeros((8, 9), dtype=np.uint8)
    array[2:4, 3:6] = 3
    spacing = (0.2, 0.3) if unit == "mm" else (1.0, 1.0)
    organ = by_name(mask_statistics(array, LABELS, Geometry(array.shape, spacing, unit=unit)))["organ"]
    assert organ[name] == size
    assert organ["centroid_px"] == [2.5, 4.0]
    assert "volume_ml" not in organ


def test_one_slice_does_not_touch_the_border_by_its_thickness():
    array = np.zeros((1, 8, 9), dtype=np.uint8)
    array[0, 2:4, 3:6] = 3
    organ = by_name(mask_statistics(array, LABELS, Geometry(array.shape, (5.0, 1.0, 1.0))))["organ"]
    assert organ["touches_border"] is False


def test_turning_the_array_with_its_affine_changes_no_place_in_mm():
    rng = np.random.default_rng(5)
    array = (rng.random((5, 6, 7)) < 0.3).astype(np.uint8) * 3
    affine = np.diag([0.7, 1.1, 3.0, 1.0])
    flipped = affine @ np.array([[-1.0, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    spacing = (3.0, 1.1, 0.7)
    first = mask_statistics(array, LABELS, Geometry(array.shape, spacing, affine=affine))
    second = mask_statistics(array[:, :, ::-1], LABELS, Geometry(array.shape, spacing, affine=flipped))
    for a, b in zip(first["labels"], second["labels"], strict=True):
        if a["voxels"]:
            assert a["centroid_mm"] == pytest.approx(b["centroid_mm"])
            assert (a["volume_ml"], a["components"]) == (b["volume_ml"], b["components"])


def test_real_masks_give_plausible_plain_values(demo_data):
    label_map = read_label_map(demo_data / "hippocampus" / "labelsTr" / "hippocampus_023.nii.gz")
    labels = [Label(0, "background"), Label(1, "Anterior"), Label(2, "Posterior")]
    statistics = json.loads(json.dumps(mask_statistics(label_map.array, labels, label_map.geometry)))
    for entry in statistics["labels"]:
        assert 0.5 < entry["volume_ml"] < 5
        assert entry["components"] >= 1
        assert 0 < entry["largest_ml"] <= entry["volume_ml"]
