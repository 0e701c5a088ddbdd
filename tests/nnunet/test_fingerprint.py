"""The fingerprint against nnU-Net's own on the same files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanseg.data.dataset import load_dataset
from scanseg.errors import DataError
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.types import Label

from .conftest import VOXELS, Prepared, first_cases

KEYS = ("spacings", "shapes_after_crop", "median_relative_size_after_cropping")


def assert_equal_to_stock(ours: dict[str, Any], theirs: dict[str, Any], *, tolerance: float) -> None:
    for key in KEYS:
        np.testing.assert_array_equal(np.array(ours[key], float), np.array(theirs[key], float))
    mine = ours["foreground_intensity_properties_per_channel"]
    other = theirs["foreground_intensity_properties_per_channel"]
    assert list(mine) == [str(channel) for channel in other]
    for channel, values in other.items():
        assert mine[str(channel)] == pytest.approx(values, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", ["hippocampus", "nuclei", "sagittal"])
def test_equals_stock_with_equal_voxels(name: str, request: pytest.FixtureRequest, stock: Any) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    theirs = stock(prepared.dataset).fingerprint(VOXELS)
    assert_equal_to_stock(prepared.fingerprint, theirs, tolerance=1e-12)


def test_fewer_voxels_differ_by_sampling_noise_only(hippocampus: Prepared) -> None:
    """Against all foreground voxels of all cases instead of a sample of them."""
    small = hippocampus.fingerprint["foreground_intensity_properties_per_channel"]["0"]
    large = make_fingerprint(hippocampus.dataset, orientation=None, voxels=20 * VOXELS)
    exact = large["foreground_intensity_properties_per_channel"]["0"]
    for key in ("mean", "median", "std", "percentile_99_5", "percentile_00_5"):
        assert small[key] == pytest.approx(exact[key], rel=0.02)


def test_real_anisotropic_data(test_data: Path, stock: Any) -> None:
    dataset = first_cases(load_dataset(test_data / "CardiacMR_Sunnybrook"), 3)
    ours = make_fingerprint(dataset, orientation=None, voxels=VOXELS)
    assert_equal_to_stock(ours, stock(dataset).fingerprint(VOXELS), tolerance=1e-12)


def test_refuses_a_channel_too_many(hippocampus: Prepared) -> None:
    wrong = replace(hippocampus.dataset, channel_names=("T1", "T2"))
    with pytest.raises(DataError, match="1 channels") as caught:
        make_fingerprint(wrong, orientation=None)
    assert caught.value.code == "E-CASE-CHANNELS"


def test_refuses_a_dataset_without_foreground(demo_data: Path, tmp_path: Path) -> None:
    from PIL import Image

    dataset = first_cases(load_dataset(demo_data / "nuclei"), 2)
    cases = []
    for case in dataset.cases:
        with Image.open(case.images[0]) as image:
            empty = Image.new("L", image.size)
        empty.save(tmp_path / f"{case.case_id}.png")
        cases.append(replace(case, label=tmp_path / f"{case.case_id}.png"))
    labels = (Label(0, "background"), Label(1, "nucleus"))
    with pytest.raises(DataError) as caught:
        make_fingerprint(replace(dataset, cases=tuple(cases), labels=labels), orientation=None)
    assert caught.value.code == "E-DATASET-BACKGROUND"


def test_reports_each_case(nuclei: Prepared) -> None:
    seen = []
    make_fingerprint(nuclei.dataset, orientation=None, voxels=1000, report=seen.append)
    assert [progress.done for progress in seen] == list(range(len(nuclei.dataset.cases) + 1))
    assert {progress.stage for progress in seen} == {"fingerprint"}
