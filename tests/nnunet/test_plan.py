"""The plan against nnU-Net's own planner, the overrides, the memory."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scanseg.data.dataset import load_dataset
from scanseg.errors import DataError, UsageError
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.plan import Configuration, Plan, make_plan
from scanseg.types import Label

from .conftest import VOXELS, Prepared, first_cases

GIB = 1024**3


def assert_same_plan(plan: Plan, theirs: dict[str, Any]) -> None:
    """Every value that nnU-Net plans, in our fields and in the dictionary that is kept."""
    trainable = {name for name in theirs["configurations"] if "cascade" not in name}
    assert set(plan.configurations) == trainable
    for name in trainable:
        mine = json.loads(plan.configurations[name].model_dump_json())
        stock = theirs["configurations"][name]
        network = stock["architecture"]["arch_kwargs"]
        for field in ("patch_size", "batch_size", "spacing", "use_mask_for_norm", "batch_dice"):
            assert mine[field] == stock[field], (name, field)
        for field in ("strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage_decoder"):
            assert mine[field] == network[field], (name, field)
        assert mine["n_conv_per_stage_encoder"] == network["n_conv_per_stage"]
        assert mine["normalization"] == stock["normalization_schemes"]
        assert mine["median_shape"] == stock["median_image_size_in_voxels"]
    assert {**plan.nnunet, "dataset_name": ""} == {**theirs, "dataset_name": ""}


@pytest.mark.parametrize("name", ["hippocampus", "nuclei", "sagittal"])
def test_equals_stock_planner(name: str, request: pytest.FixtureRequest, stock: Any) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    assert_same_plan(prepared.plan, stock(prepared.dataset).plan(prepared.fingerprint))


@pytest.mark.parametrize(
    "name",
    ["HippocampusMR_MSD", "NucleiMicroscopy_BBBC038", "CardiacMR_Sunnybrook", "PolypsEndoscopy_Kvasir"],
)
def test_equals_stock_planner_on_whole_datasets(name: str, test_data: Path, stock: Any) -> None:
    dataset = load_dataset(test_data / name)
    if name == "HippocampusMR_MSD":
        dataset = first_cases(dataset, 40)
    fingerprint = make_fingerprint(dataset, orientation=None, voxels=VOXELS)
    plan = make_plan(dataset, fingerprint, orientation=None)
    assert_same_plan(plan, stock(dataset).plan(fingerprint))


def large_volumes(prepared: Prepared, shape: tuple[int, ...] = (400, 512, 512)) -> dict[str, Any]:
    """The fingerprint as if the same patients had been scanned whole, so that nnU-Net plans a cascade."""
    cases = len(prepared.fingerprint["spacings"])
    return {
        **prepared.fingerprint,
        "spacings": [[1.0, 0.8, 0.8]] * cases,
        "shapes_after_crop": [list(shape)] * cases,
    }


def test_large_volumes_get_lowres_and_a_warning_about_the_cascade(hippocampus: Prepared, stock: Any) -> None:
    fingerprint = large_volumes(hippocampus)
    plan = make_plan(hippocampus.dataset, fingerprint, orientation="RAS")
    assert_same_plan(plan, stock(hippocampus.dataset).plan(fingerprint))
    assert plan.default_configuration == "3d_fullres"
    assert "3d_lowres" in plan.configurations
    assert any("cascade is not supported" in warning for warning in plan.warnings)


def test_default_configuration(hippocampus: Prepared, nuclei: Prepared) -> None:
    assert hippocampus.plan.default_configuration == "3d_fullres"
    assert set(hippocampus.plan.configurations) == {"3d_fullres", "2d"}
    assert nuclei.plan.default_configuration == "2d"
    assert set(nuclei.plan.configurations) == {"2d"}
    assert nuclei.plan.configuration().spatial_dims == 2


def test_every_value_has_a_reason(hippocampus: Prepared, sagittal: Prepared) -> None:
    for plan in (hippocampus.plan, sagittal.plan):
        for name in plan.configurations:
            for field in set(Configuration.model_fields) - {"name", "memory_source"}:
                assert plan.reasons[f"{name}.{field}"].endswith("."), (name, field)


def test_coarsest_axis_comes_first(sagittal: Prepared) -> None:
    assert sagittal.plan.transpose_forward == (2, 0, 1)
    full = sagittal.plan.configurations["3d_fullres"]
    assert full.spacing[0] == 5.0
    assert full.strides[1][0] == 1
    assert full.kernel_sizes[0][0] == 1


def test_leaves_environment_and_stdout_alone(hippocampus: Prepared, capsys: Any) -> None:
    before = dict(os.environ)
    make_plan(hippocampus.dataset, hippocampus.fingerprint, orientation=None)
    assert dict(os.environ) == before
    assert capsys.readouterr() == ("", "")


def test_leaves_a_users_own_workspace_alone(hippocampus: Prepared, monkeypatch: Any) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    before = dict(os.environ)
    make_plan(hippocampus.dataset, hippocampus.fingerprint, orientation=None)
    assert dict(os.environ) == before


def test_saves_and_loads(sagittal: Prepared, tmp_path: Path) -> None:
    sagittal.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == sagittal.plan


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema_version": 99}, "E-PLAN-VERSION"),
        ({"surprise": 1}, "E-PLAN-INVALID"),
        ({"in_channels": 0}, "E-PLAN-INVALID"),
        ({"labels": "none"}, "E-PLAN-INVALID"),
    ],
)
def test_refuses_a_wrong_file(nuclei: Prepared, tmp_path: Path, change: dict[str, Any], code: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**json.loads(nuclei.plan.model_dump_json()), **change}))
    with pytest.raises(DataError) as caught:
        Plan.load(path)
    assert caught.value.code == code


def test_unknown_configuration_lists_the_known(nuclei: Prepared) -> None:
    with pytest.raises(UsageError, match="2d"):
        nuclei.plan.configuration("3d_fullres")


def test_patch_given_by_hand_gets_what_stock_gives_it(hippocampus: Prepared) -> None:
    """Two sizes of volumes: the patch nnU-Net chose for one, set by hand for the other."""
    plans = [
        make_plan(hippocampus.dataset, large_volumes(hippocampus, shape), orientation=None)
        for shape in ((400, 512, 512), (900, 300, 180))
    ]
    patches = {f"{name}.patch_size": part.patch_size for name, part in plans[1].configurations.items()}
    patches.pop("3d_lowres.patch_size")
    fingerprint = large_volumes(hippocampus, (400, 512, 512))
    again = make_plan(hippocampus.dataset, fingerprint, orientation=None, overrides=patches)
    for name in ("3d_fullres", "2d"):
        assert plans[0].configurations[name].patch_size != plans[1].configurations[name].patch_size
        given = again.configurations[name].model_dump()
        chosen = plans[1].configurations[name].model_dump()
        assert {**given, "median_shape": ()} == {**chosen, "median_shape": ()}


def test_planned_patch_given_by_hand_changes_nothing(sagittal: Prepared) -> None:
    for name, planned in sagittal.plan.configurations.items():
        again = replan(sagittal, {f"{name}.patch_size": planned.patch_size})
        assert again.configurations[name] == planned


def replan(prepared: Prepared, overrides: dict[str, Any], **arguments: Any) -> Plan:
    return make_plan(
        prepared.dataset, prepared.fingerprint, orientation=None, overrides=overrides, **arguments
    )


def test_overrides_apply_where_they_fit(hippocampus: Prepared) -> None:
    plan = replan(hippocampus, {"patch_size": [32, 48, 32], "2d.batch_size": 5})
    assert plan.configurations["3d_fullres"].patch_size == (32, 48, 32)
    assert plan.configurations["2d"].patch_size == hippocampus.plan.configurations["2d"].patch_size
    assert plan.configurations["2d"].batch_size == 5
    assert plan.configurations["3d_fullres"].batch_size == 2
    assert plan.reasons["2d.batch_size"] == "Set by the user."
    sharp = replan(hippocampus, {"2d.sharpen_amount": 0.5, "sharpen_radius": 2}).configurations
    assert (sharp["2d"].sharpen_amount, sharp["2d"].sharpen_radius) == (0.5, 2.0)
    assert (sharp["3d_fullres"].sharpen_amount, sharp["3d_fullres"].sharpen_radius) == (0.0, 2.0)
    assert plan.nnunet == hippocampus.plan.nnunet


def test_spacing_override_goes_through_stock_planner(hippocampus: Prepared) -> None:
    plan = replan(hippocampus, {"spacing": [2, 2, 2]})
    assert plan.configurations["3d_fullres"].spacing == (2.0, 2.0, 2.0)
    assert plan.nnunet["configurations"]["3d_fullres"]["spacing"] == [2.0, 2.0, 2.0]
    assert plan.reasons["3d_fullres.spacing"] == "Set by the user."


def test_spacing_override_in_2d(nuclei: Prepared) -> None:
    plan = replan(nuclei, {"spacing": [2.0, 2.0]})
    assert plan.configuration().spacing == (2.0, 2.0)
    before, after = nuclei.plan.configuration().median_shape, plan.configuration().median_shape
    assert after == pytest.approx([size / 2 for size in before], abs=1)


@pytest.mark.parametrize(
    ("overrides", "code", "hint"),
    [
        ({"colour": 1}, "E-PLAN-OVERRIDE", "patch_size"),
        ({"batch_size": 0}, "E-PLAN-OVERRIDE", "whole numbers"),
        ({"sharpen_amount": -1}, "E-PLAN-OVERRIDE", "a number from 0"),
        ({"2d.sharpen_amount": True}, "E-PLAN-OVERRIDE", "a number from 0"),
        ({"sharpen_radius": 0}, "E-PLAN-OVERRIDE", "a number above 0"),
        ({"sharpen_radius": float("inf")}, "E-PLAN-OVERRIDE", "a number above 0"),
        ({"batch_size": True}, "E-PLAN-OVERRIDE", "whole numbers"),
        ({"patch_size": 64}, "E-PLAN-OVERRIDE", "2 or 3 numbers"),
        ({"patch_size": "64"}, "E-PLAN-OVERRIDE", "2 or 3 numbers"),
        ({"patch_size": [64.0, 64.0]}, "E-PLAN-OVERRIDE", "whole numbers"),
        ({"spacing": [1, 1]}, "E-PLAN-OVERRIDE", "3 numbers"),
        ({"spacing": [1, 1, 0]}, "E-PLAN-OVERRIDE", "positive"),
        ({"spacing": [1, 1, float("nan")]}, "E-PLAN-OVERRIDE", "positive"),
        ({"2d.spacing": [1, 1]}, "E-PLAN-OVERRIDE", "patch_size"),
        ({"3d_lowres.batch_size": 2}, "E-PLAN-OVERRIDE", "3d_fullres"),
        ({"3d_fullres.patch_size": [32, 32]}, "E-PLAN-OVERRIDE", "3d_fullres"),
        ({"patch_size": [33, 48, 32]}, "E-PLAN-PATCH", "40x48x32"),
    ],
)
def test_refuses_impossible_overrides(
    hippocampus: Prepared, overrides: dict[str, Any], code: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        replan(hippocampus, overrides)
    assert caught.value.code == code
    assert hint in caught.value.hint


def test_memory_is_that_of_the_network(hippocampus: Prepared) -> None:
    from scanseg.networks import training_memory_bytes

    planned = replan(hippocampus, {}, network="umamba_enc").configuration()
    expected = training_memory_bytes(
        "umamba_enc",
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        patch_size=planned.patch_size,
        batch_size=planned.batch_size,
        strides=planned.strides,
        kernel_sizes=planned.kernel_sizes,
    )
    assert planned.memory_bytes == expected.total_bytes
    assert "state-space layers take" in planned.memory_source


def test_given_memory_shrinks_batch_then_patch(hippocampus: Prepared) -> None:
    """What is chosen fits, and one step more would not."""
    plan = replan(hippocampus, {"2d.batch_size": 64}, network="umamba_enc", memory_gb=0.5)
    flat, full = plan.configurations["2d"], plan.configurations["3d_fullres"]
    assert flat.memory_bytes <= 0.5 * GIB
    assert full.memory_bytes <= 0.5 * GIB
    assert flat.patch_size == hippocampus.plan.configurations["2d"].patch_size
    assert 2 < flat.batch_size < 64
    larger = replan(hippocampus, {"2d.batch_size": flat.batch_size + 1}, network="umamba_enc")
    assert larger.configurations["2d"].memory_bytes > 0.5 * GIB
    assert full.patch_size != hippocampus.plan.configurations["3d_fullres"].patch_size
    assert plan.reasons["3d_fullres.patch_size"].startswith("Made smaller to fit 0.5 GiB with umamba_enc")
    assert plan.reasons["2d.batch_size"].startswith("Made smaller to fit 0.5 GiB with umamba_enc")


def test_enough_memory_changes_nothing(hippocampus: Prepared) -> None:
    assert replan(hippocampus, {}, memory_gb=500).configurations == hippocampus.plan.configurations


def test_impossible_memory_is_an_error(hippocampus: Prepared) -> None:
    with pytest.raises(UsageError) as caught:
        replan(hippocampus, {"patch_size": [16, 16, 16]}, memory_gb=0.0001)
    assert caught.value.code == "E-PLAN-MEMORY"


def test_too_little_free_memory_warns_and_proposes(hippocampus: Prepared, monkeypatch: Any) -> None:
    from scanseg.nnunet import memory

    monkeypatch.setattr(memory, "available_memory_bytes", lambda: (GIB // 2, "free on this machine"))
    plan = replan(hippocampus, {}, network="umamba_enc")
    assert plan.configurations["3d_fullres"].patch_size == (40, 56, 40)
    (warning,) = [text for text in plan.warnings if text.startswith("3d_fullres")]
    assert "It would fit with patch 40x56x40 ->" in warning
    assert "--memory 0.5" in warning


def test_free_memory_is_that_of_the_machine() -> None:
    from scanseg.nnunet.memory import available_memory_bytes

    amount, where = available_memory_bytes()
    assert 100 * 1024**2 < amount < 1e13
    assert where in ("free on the GPU", "free on this machine", "assumed")


def test_odd_label_and_channel_names() -> None:
    """Names that nnU-Net gives a meaning, or that occur twice, are still one class each."""
    from scanseg.nnunet.stock import dataset_json

    labels = [
        Label(value, name) for value, name in enumerate(("void", "ignore", "background", "liver", "liver"))
    ]
    made = dataset_json(("T1",), labels)["labels"]
    assert list(made.values()) == [0, 1, 2, 3, 4]
    assert "ignore" not in made


@pytest.mark.parametrize(("memory_gb", "code"), [(0, "E-PLAN-MEMORY"), (-1.0, "E-PLAN-MEMORY")])
def test_refuses_no_memory(nuclei: Prepared, memory_gb: float, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        replan(nuclei, {}, memory_gb=memory_gb)
    assert caught.value.code == code


def test_refuses_the_fingerprint_of_another_dataset(hippocampus: Prepared) -> None:
    for wrong in (
        {},
        {key: value for key, value in hippocampus.fingerprint.items() if key != "spatial_dims"},
        {**hippocampus.fingerprint, "spacings": []},
    ):
        with pytest.raises(DataError) as caught:
            make_plan(hippocampus.dataset, wrong, orientation=None)
        assert caught.value.code == "E-PLAN-FINGERPRINT"


def test_plans_in_threads(hippocampus: Prepared, nuclei: Prepared, sagittal: Prepared) -> None:
    prepared = [hippocampus, nuclei, sagittal] * 2
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda item: replan(item, {}), prepared))
    assert plans == [item.plan for item in prepared]
    assert not [name for name in os.environ if name.startswith("nnUNet_")]
