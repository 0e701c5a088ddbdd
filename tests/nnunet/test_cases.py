"""Reading of cases, in the dataset's orientation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from scanseg.errors import DataError
from scanseg.nnunet.cases import FLAT_SPACING, as_volume, read_case, training_cases
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.preprocess import preprocess_case

from .conftest import Prepared


def stored_as(source: Path, codes: str, target: Path) -> Path:
    """Writes the same anatomy with its axes in another order and direction."""
    image = nibabel.load(source)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(image.as_reoriented(turn), target)
    return target


@pytest.mark.parametrize("codes", ["LPS", "ASR", "SLP"])
def test_orientation_of_the_file_does_not_matter(sagittal: Prepared, tmp_path: Path, codes: str) -> None:
    case = sagittal.dataset.cases[1]
    own = "".join(nibabel.aff2axcodes(nibabel.load(case.images[0]).affine))
    turned = replace(
        case,
        images=(stored_as(case.images[0], codes, tmp_path / "image.nii.gz"),),
        label=stored_as(case.label, codes, tmp_path / "label.nii.gz"),
    )
    labels, found = sagittal.dataset.labels, []
    for item in (case, turned):
        image, indices = read_case(item, labels, orientation=own)
        found.append(preprocess_case(image, indices, sagittal.plan, "3d_fullres"))
    np.testing.assert_allclose(found[0].data, found[1].data, atol=1e-5)
    np.testing.assert_array_equal(found[0].seg, found[1].seg)
    prints = [
        make_fingerprint(replace(sagittal.dataset, cases=(item,)), orientation=own, voxels=1000)
        for item in (case, turned)
    ]
    np.testing.assert_allclose(prints[0]["spacings"], prints[1]["spacings"], rtol=1e-6)
    assert prints[0]["shapes_after_crop"] == prints[1]["shapes_after_crop"]


def test_flat_images_get_nnunets_first_axis() -> None:
    array, spacing = as_volume(np.zeros((3, 5, 7), np.float32), (0.5, 0.25))
    assert array.shape == (3, 1, 5, 7)
    assert spacing == (FLAT_SPACING, 0.5, 0.25)
    assert as_volume(array, spacing) == (array, spacing)
    assert as_volume(np.zeros((1, 2, 2)), (2000.0, 2000.0))[1][0] > 2000, "the first axis stays the coarsest"


def test_refuses_a_label_of_another_size(nuclei: Prepared, tmp_path: Path) -> None:
    case = nuclei.dataset.cases[0]
    with Image.open(case.label) as label:
        label.crop((0, 0, 50, 60)).save(tmp_path / "label.png")
    with pytest.raises(DataError, match=case.case_id) as caught:
        read_case(replace(case, label=tmp_path / "label.png"), nuclei.dataset.labels, orientation=None)
    assert caught.value.code == "E-CASE-SHAPE"


def test_unlabelled_cases_do_not_train(nuclei: Prepared) -> None:
    bare = tuple(replace(case, label=None) for case in nuclei.dataset.cases)
    with pytest.raises(DataError) as caught:
        training_cases(replace(nuclei.dataset, cases=bare))
    assert caught.value.code == "E-DATASET-EMPTY"
    mixed = replace(nuclei.dataset, cases=(*bare[:2], *reversed(nuclei.dataset.cases[2:])))
    assert training_cases(mixed) == list(nuclei.dataset.cases[2:])
    with pytest.raises(DataError) as caught:
        read_case(bare[0], nuclei.dataset.labels, orientation=None)
    assert caught.value.code == "E-CASE-UNLABELLED"
