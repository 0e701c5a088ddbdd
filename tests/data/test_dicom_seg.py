"""DICOM segmentations: what is written reads back the same, and other readers see it at the same place."""

import shutil
from collections import defaultdict
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import inv_ornt_aff

from scanseg.data import (
    Limits,
    read_image,
    read_label_map,
    reorient_array_back,
    reorient_image,
    same_geometry,
)
from scanseg.data.dicom_codes import property_of
from scanseg.data.dicom_deidentify import deidentify
from scanseg.errors import DataError, UsageError
from scanseg.types import Image, Label

pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.data.dicom_seg import Algorithm, write_segmentation
from scanseg.data.dicom_seg_read import common_grid, read_segmentation

LABELS = (Label(0, "background"), Label(1, "Anterior"), Label(200, "kidney_left"), Label(3, "never there"))
ALGORITHM = Algorithm("umamba_bot", "0.1", "ab" * 32)


@pytest.fixture(scope="module")
def mask(demo_data: Path) -> np.ndarray:
    """A real label map, one of whose values is 200."""
    path = sorted((demo_data / "hippocampus" / "labelsTs").iterdir())[0]
    found = read_label_map(path).array[4:20:3, 5:29:3, 2:33:3]
    return np.where(found == 2, 200, found)


@pytest.fixture
def series(tmp_path: Path, write_series, mask) -> Image:
    volume = np.random.default_rng(0).integers(0, 900, mask.shape).astype(np.int16)
    affine = np.array([[-0.9, 0, 0, 3], [0, 0, -2.0, 4], [0, -0.8, 0, 5], [0, 0, 0, 1.0]])
    write_series(tmp_path / "case", volume, affine)
    return read_image(tmp_path / "case")


def write(path: Path, mask: np.ndarray, series: Image, **options) -> None:
    assert series.path is not None
    write_segmentation(path, mask, LABELS, series.geometry, series.path, ALGORITHM, **options)


def test_48_orientations_come_back_exactly(tmp_path, write_series, mask):
    import highdicom

    upright = np.diag([0.9, 0.8, 2.0, 1.0])
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
        turned = nibabel.orientations.apply_orientation(mask.T, turn).T
        folder, path = tmp_path / "case", tmp_path / "mask.dcm"
        write_series(folder, turned.astype(np.int16), upright @ inv_ornt_aff(turn, mask.T.shape))
        image = read_image(folder)
        own = image.array[0].astype(np.int32)  # the image is the mask, so it lies where the image lies
        write(path, own, image)
        copy = read_segmentation(path, labels=LABELS, geometry=image.geometry)
        np.testing.assert_array_equal(copy.array, own)
        same = reorient_image(Image(copy.array[None], copy.geometry), "RAS")
        np.testing.assert_array_equal(same.array[0], mask, err_msg=f"{order} {signs}")
        back = reorient_array_back(same.array[0], image.geometry, "RAS")
        np.testing.assert_array_equal(back, own)
        if (signs, order) == ((-1, 1, 1), (2, 0, 1)):  # one of them by another reader
            theirs = highdicom.seg.segread(path).get_volume(combine_segments=True)
            place = np.diag([-1, -1, 1, 1]) @ theirs.affine @ [*np.argwhere(theirs.array == 2)[0], 1]
            index = np.round(np.linalg.inv(image.geometry.affine) @ place).astype(int)[:3]
            assert own[tuple(index[::-1])] == 200
        shutil.rmtree(folder)


def test_the_place_is_known_without_the_image(tmp_path, series, mask):
    write(tmp_path / "m.dcm", mask, series)
    alone = read_segmentation(tmp_path / "m.dcm")
    assert set(np.unique(alone.array)) == {0, 1, 2}
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    np.testing.assert_array_equal(alone.array > 0, mask[used[0] : used[-1] + 1] > 0)
    whole = np.linalg.inv(series.geometry.affine) @ alone.geometry.affine
    np.testing.assert_allclose(whole[:3, 3], [0, 0, used[0]], atol=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_and_a_full_mask(tmp_path, series, mask, value):
    write(tmp_path / "m.dcm", np.full_like(mask, value), series)
    copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=series.geometry)
    assert (copy.array == value).all()


def test_segments_are_coded_and_refer_to_the_images(tmp_path, series, mask):
    import pydicom

    write(tmp_path / "m.dcm", mask, series)
    found = pydicom.dcmread(tmp_path / "m.dcm")
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in found.SegmentSequence]
    assert [(k.CodeValue, k.CodingSchemeDesignator) for k in kinds] == [
        ("LABEL1", "99SCANSEG"),
        ("64033007", "SCT"),
        ("LABEL3", "99SCANSEG"),
    ]
    assert kinds[1].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert [item.SegmentLabel for item in found.SegmentSequence] == ["Anterior", "kidney_left", "never there"]
    assert {item.SegmentAlgorithmType for item in found.SegmentSequence} == {"AUTOMATIC"}
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "case").iterdir())]
    referred = found.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence} == {
        one.SOPInstanceUID for one in slices
    }
    assert found.StudyInstanceUID == slices[0].StudyInstanceUID
    assert found.SeriesInstanceUID != slices[0].SeriesInstanceUID


def test_uids_are_new_unless_asked_for(tmp_path, series, mask):
    import pydicom

    seeds = [None, None, "job 7", "job 7", "job 8"]
    for number, seed in enumerate(seeds):
        write(tmp_path / f"{number}.dcm", mask, series, uid_seed=seed)
    uids = [pydicom.dcmread(tmp_path / f"{n}.dcm").SOPInstanceUID for n in range(len(seeds))]
    assert len(set(uids)) == 4
    assert uids[2] == uids[3]


def test_what_does_not_fit_is_refused(tmp_path, series, mask, demo_data):
    with pytest.raises(UsageError, match="no label"):
        write(tmp_path / "m.dcm", mask + 5, series)
    with pytest.raises(UsageError, match="on a DICOM series"):
        write(tmp_path / "m.dcm", mask[1:], series)
    nifti = read_image(sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0])
    with pytest.raises(UsageError, match="on a DICOM series"):
        write(tmp_path / "m.dcm", nifti.array[0].astype(int), nifti)
    assert not (tmp_path / "m.dcm").exists()


def test_another_grid_another_label_and_damage_are_refused(tmp_path, series, mask, write_series):
    path = tmp_path / "m.dcm"
    write(path, mask, series)
    moved = read_image(write_series(tmp_path / "b", mask.astype(np.int16), np.eye(4))[0].parent).geometry
    wider = replace(series.geometry, affine=series.geometry.affine @ np.diag([1.1, 1, 1, 1]))
    for options, code in (
        ({"geometry": wider}, "E-SEG-GEOMETRY"),
        ({"geometry": moved}, "E-SEG-GEOMETRY"),
        ({"labels": LABELS[:2]}, "E-SEG-LABEL"),
        ({"limits": Limits(voxels=50)}, "E-IMAGE-LIMIT"),
    ):
        with pytest.raises(DataError) as caught:
            read_segmentation(path, **options)
        assert caught.value.code == code
    whole = path.read_bytes()
    for cut in (0, 100, 500, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_segmentation(path)


def test_the_common_grid_holds_the_frames_of_all(tmp_path, series, mask):
    rows = (2, slice(1, 3), slice(3, 5))
    paths = []
    for number, held in enumerate(rows):
        part = np.zeros_like(mask)
        part[held] = 1
        paths.append(tmp_path / f"{number}.dcm")
        write(paths[-1], part, series)
    for order in permutations(paths):
        grid = common_grid(order)
        assert grid.shape == (4, *mask.shape[1:])
        expected = (series.geometry.affine @ [0, 0, 1, 1])[:3]
        np.testing.assert_allclose(grid.affine[:3, 3], expected, atol=1e-6)
        found = [read_segmentation(path, geometry=grid).array.any(axis=(1, 2)).tolist() for path in paths]
        assert found == [[False, True, False, False], [True, True, False, False], [False, False, True, True]]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_place_that_is_no_number_is_damage(tmp_path, series, mask, value):
    import pydicom

    write(tmp_path / "m.dcm", mask, series)
    document = pydicom.dcmread(tmp_path / "m.dcm")
    document.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[1] = value
    document.save_as(tmp_path / "m.dcm")
    for options in ({}, {"geometry": series.geometry}):
        with pytest.raises(DataError) as caught:
            read_segmentation(tmp_path / "m.dcm", **options)
        assert caught.value.code == "E-SEG-DAMAGED"


def test_an_image_is_no_segmentation(tmp_path, series):
    with pytest.raises(DataError) as caught:
        read_segmentation(tmp_path / "case" / "1.dcm")
    assert caught.value.code == "E-SEG-KIND"


def test_series_that_lack_what_they_should_have(tmp_path, write_series, mask):
    def change(_: int, one: Any) -> None:
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            del one[name]
        for name in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "SeriesNumber"):
            del one[name]
        del one.SliceThickness, one.FrameOfReferenceUID

    write_series(tmp_path / "case", mask.astype(np.int16), np.diag([1, 1, 2.5, 1.0]), change=change)
    image = read_image(tmp_path / "case")
    write(tmp_path / "m.dcm", mask, image)
    copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=image.geometry)
    np.testing.assert_array_equal(copy.array, mask)


def test_slices_thicker_than_their_distance(tmp_path, write_series, mask):
    def change(_: int, one: Any) -> None:
        one.SliceThickness = 5

    full = np.full_like(mask, 1)
    write_series(tmp_path / "case", mask.astype(np.int16), np.diag([1, 1, 2.5, 1.0]), change=change)
    image = read_image(tmp_path / "case")
    write(tmp_path / "m.dcm", full, image)
    alone = read_segmentation(tmp_path / "m.dcm")
    assert same_geometry(alone.geometry, image.geometry) == []
    np.testing.assert_array_equal(alone.array, full)


def test_deidentified_series_can_be_segmented(tmp_path, series, mask):
    deidentify(tmp_path / "case", tmp_path / "out")
    image = read_image(tmp_path / "out" / "series_001")
    write(tmp_path / "m.dcm", mask, image)
    copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=series.geometry)
    np.testing.assert_array_equal(copy.array, mask)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_masks_lie_on_the_frames_of_an_enhanced_image(tmp_path, write_enhanced, mask, modality, shared):
    import highdicom
    import pydicom

    order = np.random.default_rng(1).permutation(len(mask)).tolist()
    affine = np.array([[-0.9, 0, 0, 3], [0, 0, -2.0, 4], [0, -0.8, 0, 5], [0, 0, 0, 1.0]])
    source = tmp_path / "case" / "1"
    write_enhanced(source, mask.astype(np.int16), affine, order=order, modality=modality, shared=shared)
    image = read_image(tmp_path / "case")
    own = image.array[0].astype(np.int32)  # the image is the mask, so it lies where the image lies
    write(tmp_path / "m.dcm", own, image)
    copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=image.geometry)
    np.testing.assert_array_equal(copy.array, own)
    theirs = highdicom.seg.segread(tmp_path / "m.dcm").get_volume(combine_segments=True)
    place = np.diag([-1, -1, 1, 1]) @ theirs.affine @ [*np.argwhere(theirs.array == 2)[0], 1]
    index = np.round(np.linalg.inv(image.geometry.affine) @ place).astype(int)[:3]
    assert own[tuple(index[::-1])] == 200
    enhanced, written = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "m.dcm")
    assert len(written.PerFrameFunctionalGroupsSequence) > 3
    for frame in written.PerFrameFunctionalGroupsSequence:
        referred = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert referred.ReferencedSOPInstanceUID == enhanced.SOPInstanceUID
        lies_on = enhanced.PerFrameFunctionalGroupsSequence[int(referred.ReferencedFrameNumber) - 1]
        expected = lies_on.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, expected, atol=1e-6)


def test_an_enhanced_image_in_an_archive_and_of_one_frame(tmp_path, write_enhanced, mask):
    write_enhanced(tmp_path / "case" / "1", mask.astype(np.int16), np.diag([1, 1, 2.5, 1.0]))
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "case")
    write_enhanced(tmp_path / "thin" / "1", mask[2:3].astype(np.int16), np.diag([1, 1, 2.5, 1.0]))
    for source, values in ((tmp_path / "packed.zip", mask), (tmp_path / "thin", mask[2:3])):
        image = read_image(source)
        write(tmp_path / "m.dcm", values, image)
        copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=image.geometry)
        np.testing.assert_array_equal(copy.array, values)


@pytest.mark.parametrize(
    "name", ["hippocampus_crop_study1", "jpegls_series", "mr_hitachi_series", "mr_siemens_series"]
)
def test_masks_of_real_series(test_data, tmp_path, name):
    image = read_image(test_data / "odd_files" / "dicom" / name)
    bright = np.where(image.array[0] > image.array.mean(), 200, 0)
    write(tmp_path / "m.dcm", bright, image)
    copy = read_segmentation(tmp_path / "m.dcm", labels=LABELS, geometry=image.geometry)
    np.testing.assert_array_equal(copy.array, bright)


def test_real_segmentations(test_data):
    folder = test_data / "odd_files" / "dicom"
    ours = read_segmentation(folder / "ct_3slice_with_seg" / "liver.dcm")
    theirs = read_label_map(folder / "ct_3slice_with_seg" / "liver_seg.nrrd")
    assert same_geometry(ours.geometry, theirs.geometry) == []
    np.testing.assert_array_equal(ours.array, theirs.array)
    with pytest.raises(DataError) as caught:
        read_segmentation(folder / "seg_image_ct_binary_overlap.dcm")
    assert caught.value.code == "E-SEG-OVERLAP"


def test_codes_are_those_of_the_standard():
    from pydicom.sr._concepts_dict import concepts

    from scanseg.data import dicom_codes

    known = defaultdict(set)
    for entry in concepts["SCT"].values():
        for code, (meaning, _) in entry.items():
            known[code].add(meaning.lower())
    for table in (dicom_codes._ANATOMICAL, dicom_codes._ABNORMAL, dicom_codes._TISSUES):
        for name, code in table.items():
            assert name in known[code]
    for code, meaning in (*dicom_codes._SIDES.values(), dicom_codes._ANATOMY, dicom_codes._CHANGED):
        assert meaning.lower() in known[code]


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("Liver", "Liver", None),
        ("kidneys", "Kidney", None),
        ("right-lung", "Lung", "Right"),
        ("left_ventricle", "Left ventricle", None),
        ("tumour", "Neoplasm", None),
        ("left", "left", None),
        ("left right kidney", "left right kidney", None),
        ("x" * 80, "x" * 64, None),
        ("", "label 5", None),
    ],
)
def test_names_and_codes(name, kind, side):
    found = property_of(name, 5)
    assert found.kind.meaning == kind
    assert (found.side and found.side.meaning) == side
    assert len(found.kind.value) <= 16
