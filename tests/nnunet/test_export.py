"""Export against nnU-Net's own, and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from scanseg.errors import ModelError
from scanseg.nnunet import resample
from scanseg.nnunet.cases import read_case
from scanseg.nnunet.export import logits_to_label_map, logits_to_probabilities
from scanseg.nnunet.plan import Plan
from scanseg.nnunet.preprocess import preprocess_case
from scanseg.nnunet.resample import Resampler
from scanseg.nnunet.windows import predict_logits
from scanseg.types import Geometry, Image, Label

from .conftest import Prepared


def smooth_logits(shape: tuple[int, ...], classes: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((classes, *shape))
    smooth = [gaussian_filter(part, [min(2, size / 4) for size in shape]) for part in noise]
    return torch.from_numpy(np.stack(smooth).astype(np.float32) * 20)


def stock_export(
    plan: Plan, configuration: str, logits: torch.Tensor, properties: dict[str, Any]
) -> tuple[Any, Any]:
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )

    from scanseg.nnunet.stock import label_manager, managers

    plans, chosen, _ = managers(plan, configuration)
    label_map, probabilities = convert(
        logits.numpy(), plans, chosen, label_manager(plan), properties, True, num_threads_torch=1
    )
    return label_map, np.asarray(probabilities)


def with_classes(plan: Plan, count: int) -> Plan:
    return plan.model_copy(update={"labels": tuple(Label(value, f"c{value}") for value in range(count))})


def with_spacing(plan: Plan, configuration: str, spacing: tuple[float, ...]) -> Plan:
    """The plan with another target spacing, so that logits must be resampled."""
    nnunet = plan.model_dump()["nnunet"]
    nnunet["configurations"][configuration]["spacing"] = list(spacing)
    changed = plan.configurations[configuration].model_copy(update={"spacing": spacing})
    configurations = {**plan.configurations, configuration: changed}
    return plan.model_copy(update={"nnunet": nnunet, "configurations": configurations})


CASES = [
    ("hippocampus", "3d_fullres", (1.0, 1.0, 1.0)),
    ("hippocampus", "3d_fullres", (1.7, 0.8, 1.3)),
    ("hippocampus", "3d_fullres", (0.6, 0.6, 0.6)),
    ("sagittal", "3d_fullres", (5.0, 1.0, 1.1)),
    ("sagittal", "3d_fullres", (3.4, 1.3, 0.7)),
    ("sagittal", "2d", (0.8, 1.5)),
    ("nuclei", "2d", (1.0, 1.0)),
    ("nuclei", "2d", (1.6, 0.9)),
]


@pytest.mark.parametrize(("name", "configuration", "spacing"), CASES)
def test_equals_stock(
    name: str, configuration: str, spacing: tuple[float, ...], request: pytest.FixtureRequest
) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    plan = with_classes(with_spacing(prepared.plan, configuration, spacing), 5)
    image, _ = read_case(prepared.dataset.cases[1], prepared.dataset.labels, orientation=None)
    # A dark border, so that cropping has to be undone.
    image.array[:, :3] = 0
    image.array[..., -5:] = 0
    case = preprocess_case(image, None, plan, configuration)
    logits = smooth_logits(case.data.shape[1:], 5)
    expected, chances = stock_export(plan, configuration, logits, case.properties)
    label_map, probabilities = logits_to_label_map(
        logits, case.properties, plan, configuration, probabilities=True
    )
    if plan.spatial_dims == 2:
        expected, chances = expected[0], chances[:, 0]
    assert label_map.shape == image.geometry.shape
    assert label_map.dtype == expected.dtype == np.uint8
    assert len(np.unique(label_map)) == 5
    np.testing.assert_array_equal(label_map, expected)
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, chances, atol=2e-6)


def test_label_map_and_probabilities_of_one_class_at_a_time(sagittal: Prepared) -> None:
    image, _ = read_case(sagittal.dataset.cases[0], sagittal.dataset.labels, orientation=None)
    case = preprocess_case(image, None, sagittal.plan, "3d_fullres")
    logits = smooth_logits(case.data.shape[1:], 3)
    label_map, none = logits_to_label_map(logits, case.properties, sagittal.plan, "3d_fullres")
    assert none is None
    chances = np.stack(list(logits_to_probabilities(logits, case.properties, sagittal.plan, "3d_fullres")))
    np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(chances.argmax(0), label_map)


@pytest.mark.parametrize(("name", "configuration", "spacing"), [CASES[1], CASES[4], CASES[5], CASES[6]])
def test_logits_and_probabilities_in_files_change_nothing(
    name: str,
    configuration: str,
    spacing: tuple[float, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slab by slab, each released after use, from a network's logits to probabilities."""
    prepared: Prepared = request.getfixturevalue(name)
    plan = with_spacing(prepared.plan, configuration, spacing)
    image, _ = read_case(prepared.dataset.cases[1], prepared.dataset.labels, orientation=None)
    case = preprocess_case(image, None, plan, configuration)
    planned = plan.configurations[configuration]
    planned = planned.model_copy(update={"patch_size": (*planned.patch_size[:-2], 24, 32)})
    torch.manual_seed(0)
    module = (torch.nn.Conv2d if planned.spatial_dims == 2 else torch.nn.Conv3d)(1, 4, 3, padding=1)
    monkeypatch.setattr(resample, "_SLAB_BYTES", 2**16)
    made = []
    for limit in (2**30, 0):
        logits = predict_logits(
            module,
            torch.from_numpy(case.data),
            planned,
            device="cpu",
            memory_bytes=limit,
            folder=tmp_path,
        )
        made.append(
            logits_to_label_map(
                logits,
                case.properties,
                plan,
                configuration,
                probabilities=True,
                memory_bytes=limit,
                folder=tmp_path,
            )
        )
    (label_map, chances), (filed_map, filed_chances) = made
    assert len(np.unique(label_map)) > 1
    np.testing.assert_array_equal(filed_map, label_map)
    np.testing.assert_array_equal(filed_chances, chances)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "spacings"),
    [
        ((7, 9, 11), (16, 9, 5), ((2.0, 1.0, 1.0), (1.0, 1.0, 2.0))),
        ((5, 40, 30), (9, 33, 61), ((6.0, 1.0, 1.0), (3.3, 1.2, 0.5))),
        ((40, 30, 5), (33, 61, 9), ((1.0, 1.0, 6.0), (1.2, 0.5, 3.3))),
        ((1, 20, 20), (3, 31, 7), ((9.0, 1.0, 1.0), (3.0, 0.7, 3.0))),
        ((12, 1, 1), (7, 3, 5), ((1.0, 1.0, 1.0), (1.7, 0.3, 0.2))),
        ((6, 7, 8), (6, 7, 8), ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))),
    ],
)
def test_resampler_equals_stock(old: Any, new: Any, spacings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value by value, in slabs of one slice and in one slab."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    array = np.random.default_rng(0).standard_normal(old).astype(np.float32)
    expected = resample_data_or_seg_to_shape(
        array[None], new, *spacings, is_seg=False, order=1, order_z=0, force_separate_z=None
    )[0]
    for size in (1, 2**30):
        monkeypatch.setattr(resample, "_SLAB_BYTES", size)
        made = Resampler(old, new, *spacings)
        slabs = list(made.slabs())
        assert len(slabs) == (new[0] if size == 1 else 1)
        found = np.concatenate([made.resample(array, slab) for slab in slabs])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_resampling_a_linear_ramp_is_exact() -> None:
    """Linear interpolation reproduces a ramp away from the border."""
    ramp = np.arange(20, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    found = Resampler((20, 3, 3), (40, 3, 3), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0)).resample(ramp, slice(0, 40))
    np.testing.assert_allclose(found[1:-1, 1, 1], (np.arange(40)[1:-1] + 0.5) / 2 - 0.5, atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nonfinite_logits_are_never_a_mask(hippocampus: Prepared, poison: float) -> None:
    image, _ = read_case(hippocampus.dataset.cases[0], hippocampus.dataset.labels, orientation=None)
    case = preprocess_case(image, None, hippocampus.plan, "3d_fullres")
    logits = torch.zeros(3, *case.data.shape[1:])
    logits[2, 4, 5, 6] = poison
    with pytest.raises(ModelError) as caught:
        logits_to_label_map(logits, case.properties, hippocampus.plan, "3d_fullres")
    assert caught.value.code == "E-MODEL-NONFINITE"


def test_ties_go_to_the_first_class(hippocampus: Prepared) -> None:
    image, _ = read_case(hippocampus.dataset.cases[0], hippocampus.dataset.labels, orientation=None)
    case = preprocess_case(image, None, hippocampus.plan, "3d_fullres")
    label_map, _ = logits_to_label_map(
        torch.zeros(3, *case.data.shape[1:]), case.properties, hippocampus.plan, "3d_fullres"
    )
    assert not label_map.any()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 8), (3, 1, 70), (5, 7, 1), (41, 3, 53), (2, 97, 1), (13, 17, 19)]
)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.2, 3.0, 0.7), (6.0, 0.4, 0.4)])
def test_any_size_and_spacing_comes_back(sagittal: Prepared, shape: Any, spacing: Any) -> None:
    """From the image through all stages to a mask of exactly its shape."""
    voxels = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
    image = Image(voxels[None], Geometry(shape, spacing))
    for name, planned in sagittal.plan.configurations.items():
        case = preprocess_case(image, None, sagittal.plan, name)
        module = torch.nn.Conv2d(1, 3, 1) if planned.spatial_dims == 2 else torch.nn.Conv3d(1, 3, 1)
        small = planned.model_copy(update={"patch_size": (*planned.patch_size[:-2], 16, 16)})
        logits = predict_logits(module, torch.from_numpy(case.data), small, device="cpu")
        properties = json.loads(json.dumps(case.properties))
        label_map, _ = logits_to_label_map(logits, properties, sagittal.plan, name)
        assert label_map.shape == shape


MEASURE = """
import resource, sys
import numpy as np
from scanseg.nnunet.plan import Plan
from scanseg.nnunet.export import logits_to_label_map
from pathlib import Path
plan, classes = Plan.load(Path(sys.argv[1])), int(sys.argv[2])
properties = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": [200, 256, 256],
    "bbox_used_for_cropping": [[0, 200], [0, 256], [0, 256]],
    "shape_after_cropping_and_before_resampling": [200, 256, 256]}
small = np.random.default_rng(0).standard_normal((classes, 50, 64, 64)).astype(np.float32)
tiny = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": [2, 2, 2],
    "bbox_used_for_cropping": [[0, 2]] * 3, "shape_after_cropping_and_before_resampling": [2, 2, 2]}
logits_to_label_map(small[:, :2, :2, :2], tiny, plan, "3d_fullres")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
logits_to_label_map(small, properties, plan, "3d_fullres")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_is_bounded(hippocampus: Prepared, tmp_path: Any) -> None:
    """12 classes at 256 x 256 x 200 are 600 MB in float32, and nnU-Net takes twice that."""
    hippocampus.plan.save(tmp_path / "plan.json")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "plan.json"), "12"]
    peak_mb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak_mb < 150
